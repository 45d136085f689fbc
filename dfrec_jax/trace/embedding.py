"""The encoder that a gallery is made with, known again by its weights."""

from collections.abc import Sequence
import os

import numpy as np

from dfrec_jax import shipped
from dfrec_jax.encoders import registry
from dfrec_jax.encoders import weights as weight_files
from dfrec_jax.errors import InputError
from dfrec_jax.measurements import Embedder
from dfrec_jax.recover.photographs import file_sha256


class FaceEncoder:
  """A face encoder with the SHA-256 of its weights, by which a gallery knows it again.

  Attributes:
    name: one of `registry.ENCODERS`.
    weights: its file, as an absolute path, or a name of `shipped.ENCODERS`.
    sha256: of that file.
  """

  def __init__(self, name: str, weights: str | os.PathLike):
    """Reads the weights; the first call compiles.

    Raises:
      InputError: the name is unknown, it embeds no faces, or the file does not hold its weights.
    """
    if not os.fspath(weights):
      raise InputError(
        f'The weights of the encoder {name} are needed: give their file with --encoder-weights.'
      )
    file = weight_files.weights_file(weights)
    if not os.path.isfile(file):
      raise InputError(f'There is no weights file {file}; correct --encoder-weights.')
    encoder = registry.load_encoder(name, file)
    self._embed = Embedder(encoder)
    self.name = name
    # By its name a shipped encoder is found wherever the package lies.
    self.weights = weights if weights in shipped.ENCODERS else os.path.abspath(file)
    self.sha256 = file_sha256(file)

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Embeddings (n, D) float32 of unit length of n framed faces (SIDE, SIDE, 3) uint8."""
    return self._embed(images)
