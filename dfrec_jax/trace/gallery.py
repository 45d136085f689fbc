"""Known people to search among."""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from dfrec_jax.encoders.weights import weights_file
from dfrec_jax.errors import InputError
from dfrec_jax.recover.photographs import file_sha256
from dfrec_jax.trace import people_search, storage
from dfrec_jax.trace.embedding import FaceEncoder
from dfrec_jax.trace.framing import MARGIN, Framing, reframe

# More are compared in full precision than are asked for, lest rounding decide who is listed.
_SPARE = 8


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A person of the gallery who is among the most similar to a face.

  Attributes:
    person: name.
    photo: path of the person's most similar photograph below the indexed folder, POSIX.
    similarity: cosine of the face's embedding and the mean of the person's, in [-1, 1].
    false_match_rate: share of the gallery's pairs of different people (photograph and person) that
      are at least as similar; None where there are no pairs.
    pairs: how many these are: a rate of 0 means fewer than 1 in so many.
    best_match_rate: share of the gallery's photographs whose most similar *other* person is at
      least as similar: the chance that somebody who is not in the gallery gets such a first place.
    queries: how many photographs these are.
  """

  person: str
  photo: str
  similarity: float
  false_match_rate: float | None
  pairs: int = 0
  best_match_rate: float | None = None
  queries: int = 0


class Gallery:
  """Embedded photographs of known people.

  Attributes:
    folder: where it lies.
    framing: how faces are cut from photographs.
    people: names.
    warnings: sentences about the whole.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    stored: storage.Stored,
    encoder: Callable[[Sequence[np.ndarray]], np.ndarray],
  ):
    self.folder, self._stored, self._encoder = folder, stored, encoder
    self.framing: Framing = stored.framing
    self.people, self.warnings = stored.people, stored.warnings
    if stored.index == 'faiss':
      path = folder / storage.FAISS_FILE
      dimensions = stored.embeddings.shape[1]
      self._people = people_search.FaissSearch(path, len(stored.people), dimensions)
    else:
      self._people = people_search.ExactSearch(storage.templates(stored.embeddings, stored.starts))

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike,
    *,
    encoder_weights: str | os.PathLike | None = None,
    encoder: FaceEncoder | None = None,
  ) -> 'Gallery':
    """Reads a gallery and the encoder that made it.

    Args:
      folder: what `python -m dfrec_jax.trace index` wrote.
      encoder_weights: the file of the encoder's weights, or the name of a shipped one; None looks
        where they were when the gallery was made.
      encoder: one that is loaded already, in their place.

    Raises:
      InputError: the folder is no gallery or damaged, the weights are not there or others than
        those it was made with, or faiss is needed and missing.
    """
    folder = pathlib.Path(folder)
    stored = storage.read(folder)
    made_with = stored.encoder
    if encoder is None:
      path = pathlib.Path(weights_file(encoder_weights or made_with['weights']))
      if not path.is_file():
        raise InputError(
          f'The gallery {folder} was made with the encoder {made_with["name"]}, whose weights are '
          f'not at {path}; give their file with --encoder-weights.'
        )
      name, sha256 = made_with['name'], file_sha256(path)
    else:
      path, name, sha256 = encoder.weights, encoder.name, encoder.sha256
    if (name, sha256) != (made_with['name'], made_with['sha256']):
      raise InputError(
        f'The gallery {folder} was made with the encoder {made_with["name"]} of SHA-256 '
        f'{made_with["sha256"][:12]}..., and {path} is {sha256[:12]}...; give that file with '
        '--encoder-weights, or index the photographs anew.'
      )
    return cls(folder, stored, encoder or FaceEncoder(name, path))

  def embed(self, images: Sequence[np.ndarray], margin: float = MARGIN) -> np.ndarray:
    """Embeddings (n, D) float32 of unit length of face crops.

    Args:
      images: n crops (H, W, 3) uint8 RGB, square, of any sizes.
      margin: their side in units of the face oval's larger side.
    """
    if not len(images):
      return np.zeros((0, self._stored.embeddings.shape[1]), np.float32)
    return self._encoder([reframe(np.asarray(image, np.uint8), margin) for image in images])

  def search(self, embeddings: np.ndarray, top: int = 5) -> list[list[Candidate]]:
    """The people most similar to each of n faces, the best first.

    Args:
      embeddings: (n, D), of any length; a face may be the mean of several embeddings.
      top: how many people, at least 1; fewer where the gallery has fewer.

    Raises:
      ValueError: another shape, or `top` is less than 1.
    """
    embeddings = np.asarray(embeddings, np.float32)
    dimensions = self._stored.embeddings.shape[1]
    if embeddings.ndim != 2 or embeddings.shape[1] != dimensions or top < 1:
      raise ValueError(f'Expected (n, {dimensions}) and top >= 1: {embeddings.shape}, {top}.')
    queries = storage.unit(embeddings)
    found = self._people.nearest(queries, min(top + _SPARE, len(self.people)))
    return [self._ranked(query, few)[:top] for query, few in zip(queries, found, strict=True)]

  def summary(self) -> dict[str, Any]:
    """What the gallery is, for a record of results."""
    return {
      'path': str(self.folder),
      'sha256': file_sha256(self.folder / storage.DESCRIPTION),
      'encoder': {key: self._stored.encoder[key] for key in ('name', 'sha256')},
      'people': len(self.people),
      'photographs': len(self._stored.photographs),
      **self._stored.non_mates.summary(),
    }

  def _ranked(self, query: np.ndarray, people: np.ndarray) -> list[Candidate]:
    candidates = [self._candidate(query.astype(np.float64), index) for index in sorted(people)]
    return sorted(candidates, key=lambda candidate: -candidate.similarity)

  def _candidate(self, query: np.ndarray, index: int) -> Candidate:
    stored = self._stored
    start, end = stored.starts[index], stored.ends[index]
    own = stored.embeddings[start:end].astype(np.float64)
    similarity = round(float(query @ storage.unit(own.sum(0))), 6)
    return Candidate(
      person=stored.people[index],
      photo=stored.photographs[start + int(np.argmax(own @ query))],
      similarity=similarity,
      false_match_rate=stored.non_mates.false_match(similarity),
      pairs=stored.non_mates.pairs,
      best_match_rate=stored.non_mates.best_match(similarity),
      queries=stored.non_mates.queries,
    )
