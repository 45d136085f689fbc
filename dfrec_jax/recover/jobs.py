"""An input on its way through the pipeline."""

from collections.abc import Sequence
import dataclasses
import hashlib

import numpy as np

from dfrec_jax.errors import InputError
from dfrec_jax.recover import inputs, photographs
from dfrec_jax.recover.crops import Crop, find_crops, warnings_of, whole_picture
from dfrec_jax.recover.finding import QuickCascade
from dfrec_jax.recover.outputs import folder_name
from dfrec_jax.recover.photographs import Photograph
from dfrec_jax.recover.recoverer import Prediction, Recoverer
from input_pipeline.prepare.faces import FaceFinder


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is to be done with the inputs.

  Attributes:
    seed: of the masking keys.
    finder: of faces, `cascade` or `mesh`; None where each input is the crop of a face.
    fps: frames of a video that are looked at, a second.
  """

  seed: int = 0
  finder: str | None = 'cascade'
  fps: float = 2.0


@dataclasses.dataclass
class Job:
  """A file, and what is known of it.

  Attributes:
    index: its place among the inputs.
    item, sha256, folder: the file, its content, and the name of its folder in OUT.
    photograph, crops: what was read and found, of an image.
    smallest_face: larger side of the smallest oval that was looked for, in pixels; None if unknown.
    seen: each crop at the model's size.
    warnings: of each face.
    predictions: what the model says of each crop, None before it does.
  """

  index: int
  item: inputs.Input
  sha256: str
  folder: str
  photograph: Photograph | None = None
  smallest_face: float | None = None
  crops: Sequence[Crop] = ()
  seen: Sequence[np.ndarray] = ()
  warnings: Sequence[list[str]] = ()
  predictions: list[Prediction | None] = dataclasses.field(default_factory=list)

  @classmethod
  def open(cls, index: int, item: inputs.Input) -> tuple['Job', bytes | None]:
    """A job with the file's content, which of a video is None.

    Raises:
      InputError: the file cannot be read.
    """
    if item.error:
      raise InputError(item.error)
    if item.kind == inputs.VIDEO:
      data, sha256 = None, photographs.file_sha256(item.path)
    else:
      data = photographs.read_bytes(item.path)
      sha256 = hashlib.sha256(data).hexdigest()
    return cls(index, item, sha256, folder_name(item.path, sha256)), data

  def look_at(self, data: bytes, finder: FaceFinder | None, recoverer: Recoverer) -> None:
    """Decodes an image, finds its faces and prepares them for the model.

    Args:
      data: the file's content.
      finder: of faces; None takes the whole picture as the crop of one.
      recoverer: tells the margin and the model's size.

    Raises:
      InputError: it is no image, or no crop of a face.
    """
    name = self.item.path
    self.photograph = photographs.read_photograph(name, data)
    pixels = self.photograph.pixels
    if finder is None:
      self.crops = [whole_picture(pixels, name)]
    else:
      self.crops = find_crops(pixels, finder, recoverer.margin)
      if isinstance(finder, QuickCascade):
        self.smallest_face = finder.smallest_face(pixels.shape)
    self.seen = [recoverer.shrink(crop.pixels) for crop in self.crops]
    self.warnings = [
      warnings_of(crop, recoverer.image_size, f'Face {number} of {name}', seen)
      for number, (crop, seen) in enumerate(zip(self.crops, self.seen, strict=True), 1)
    ]
    self.predictions = [None] * len(self.crops)

  @property
  def pixels(self) -> int:
    """How many it holds."""
    if self.photograph is None:
      return 0
    return sum(x.size // 3 for x in (self.photograph.pixels, *(c.pixels for c in self.crops)))
