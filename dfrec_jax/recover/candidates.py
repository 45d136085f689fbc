"""Which people of a gallery are the most similar to recovered faces."""

from collections.abc import Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

# Who is searched for each swapped face.
ROLES = ('source', 'target')
_LISTED = 5


class Gallery(Protocol):
  """What is needed of `dfrec_jax.trace.gallery.Gallery`."""

  def embed(self, images: Sequence[np.ndarray], margin: float) -> np.ndarray: ...

  def search(self, embeddings: np.ndarray, top: int = 5) -> list[list[Any]]: ...


def nearest_people(gallery: Gallery, embeddings: np.ndarray) -> list[list[dict[str, Any]]]:
  """For each of n embeddings (n, D) the most similar people, as results.json lists them."""
  found = gallery.search(embeddings, top=_LISTED)
  return [[dataclasses.asdict(person) for person in people] for people in found]
