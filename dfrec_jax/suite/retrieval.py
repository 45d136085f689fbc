"""Finding a person among all test people by a recovered face."""

from collections.abc import Sequence

import numpy as np


def ranks(
  queries: np.ndarray, people: Sequence[str], gallery: np.ndarray, known: Sequence[str]
) -> np.ndarray:
  """The rank of the right person for each query, 0 for the first place.

  A rank counts the entries of other people that are more similar than the most similar entry of
  the right one, or just as similar: a query that is like everybody finds nobody.

  Args:
    queries: (n, D) embeddings of recovered faces.
    people: whom each query should find.
    gallery: (m, D) embeddings of photographs.
    known: the person of each entry.

  Returns:
    (n,) float64; NaN for a person who is not in the gallery.
  """
  known = np.asarray(known)
  similar = _unit(queries) @ _unit(gallery).T  # (n, m)
  result = np.full(len(queries), np.nan)
  for i, person in enumerate(people):
    own = known == person
    if own.any():
      result[i] = np.sum(similar[i, ~own] >= similar[i, own].max())
  return result


def templates(embeddings: np.ndarray, people: Sequence[str]) -> tuple[np.ndarray, list[str]]:
  """One entry a person: the mean of the unit embeddings of the person's photographs."""
  names, person = np.unique(np.asarray(people), return_inverse=True)
  sums = np.zeros((len(names), embeddings.shape[1]))
  np.add.at(sums, person, _unit(embeddings))
  return sums, names.tolist()


def _unit(x):
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
