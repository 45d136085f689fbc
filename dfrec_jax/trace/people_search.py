"""The most similar of many people: by the templates themselves, or by what faiss keeps of them."""

import pathlib
from typing import Any, Protocol

import numpy as np

from dfrec_jax.errors import InputError

# For more people than these an index of faiss is made unless another is asked for.
MANY_PEOPLE = 1_000_000
_QUERY_BLOCK, _PEOPLE_BLOCK = 64, 65_536


class PeopleSearch(Protocol):
  def nearest(self, queries: np.ndarray, count: int) -> list[np.ndarray]:
    """Indices of the `count` people (or fewer) most similar to each of the (n, D) queries."""


class ExactSearch:
  """Compares with everybody."""

  def __init__(self, templates: np.ndarray):
    """`templates`: (P, D) float32 of unit length."""
    self._templates = templates

  def nearest(self, queries: np.ndarray, count: int) -> list[np.ndarray]:
    found = []
    for start in range(0, len(queries), _QUERY_BLOCK):
      found.extend(self._nearest(queries[start : start + _QUERY_BLOCK], count))
    return found

  def _nearest(self, queries, count):
    indices = np.empty((len(queries), 0), np.int64)
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(self._templates), _PEOPLE_BLOCK):
      block = self._templates[start : start + _PEOPLE_BLOCK]
      new = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
      similarities = np.concatenate([best, queries @ block.T], 1)
      indices = np.concatenate([indices, new], 1)
      if similarities.shape[1] > count:
        kept = np.argpartition(-similarities, count - 1, axis=1)[:, :count]
        similarities = np.take_along_axis(similarities, kept, 1)
        indices = np.take_along_axis(indices, kept, 1)
      best = similarities
    return list(indices)


class FaissSearch:
  """Compares with everybody in 8 bits a number, by faiss (Douze et al., arXiv 2401.08281).

  It takes a quarter of the memory, and nobody is passed over, as people are in the cells of an
  inverted file that are not looked into.
  """

  def __init__(self, path: pathlib.Path, people: int, dimensions: int):
    """Reads an index.

    Raises:
      InputError: faiss is missing, or the file is damaged or of another gallery.
    """
    faiss = import_faiss()
    try:
      self._index = faiss.read_index(str(path))
      shape = self._index.ntotal, self._index.d
    except (RuntimeError, AttributeError) as error:
      raise InputError(f'{path} is damaged; make the gallery anew.') from error
    if shape != (people, dimensions):
      raise InputError(
        f'{path} indexes {shape[0]} people of {shape[1]} numbers, not {people} of {dimensions}; '
        'make the gallery anew.'
      )

  def nearest(self, queries: np.ndarray, count: int) -> list[np.ndarray]:
    _, indices = self._index.search(np.ascontiguousarray(queries, np.float32), count)
    return [row[row >= 0] for row in indices]


def write_faiss(templates: np.ndarray, path: pathlib.Path) -> None:
  """Writes an index of (P, D) templates; the same ones give the same file."""
  faiss = import_faiss()
  scalars = faiss.ScalarQuantizer
  index = faiss.IndexScalarQuantizer(
    templates.shape[1], scalars.QT_8bit, faiss.METRIC_INNER_PRODUCT
  )
  index.train(templates)
  index.add(templates)
  faiss.write_index(index, str(path))


def import_faiss() -> Any:
  """The library.

  Raises:
    InputError: it is not installed.
  """
  try:
    import faiss
  except ImportError as error:
    raise InputError(
      "An index of faiss needs the extra `faiss`: pip install -e '.[faiss]'; or make the gallery "
      'with --index=exact.'
    ) from error
  return faiss
