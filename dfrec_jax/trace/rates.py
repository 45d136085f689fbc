"""How similar different people are: the rates at which a similarity comes about by chance."""

import numpy as np

# Similarities are counted in steps of 1 / STEPS from -1 to 1.
STEPS = 10_000
_LEVELS = 2 * STEPS + 1
# A gallery's photographs are all looked up among its people up to so many pairs, and else a fixed
# random sample of them, but not fewer than the second number.
_PAIRS = 200_000_000
_LEAST_QUERIES = 1_000
_QUERY_BLOCK, _PEOPLE_BLOCK = 256, 16_384


class Rates:
  """Similarities of people who are not the same, as a gallery shows them.

  A pair is a photograph of one person and the template of another, which is what a search compares.

  Attributes:
    counts: (2, levels) int64: of each level of similarity the pairs, and the photographs whose most
      similar other person has it.
  """

  def __init__(self, counts: np.ndarray):
    self.counts = counts
    self._reached = counts[:, ::-1].cumsum(1)[:, ::-1]

  @property
  def pairs(self) -> int:
    return int(self._reached[0, 0])

  @property
  def queries(self) -> int:
    return int(self._reached[1, 0])

  def false_match(self, similarity: float) -> float | None:
    """Share of the pairs of different people that are at least as similar; None without pairs."""
    return self._share(0, similarity)

  def best_match(self, similarity: float) -> float | None:
    """Share of the photographs whose most similar other person is at least as similar."""
    return self._share(1, similarity)

  def _share(self, kind: int, similarity: float) -> float | None:
    total = self._reached[kind, 0]
    return float(self._reached[kind, level(similarity)] / total) if total else None

  def summary(self) -> dict[str, float | int | None]:
    """Figures for `gallery.json`: how many, and mean and largest similarity of the pairs."""
    if not self.pairs:
      return {'pairs': 0, 'queries': 0, 'mean': None, 'largest': None}
    middles = (np.arange(_LEVELS) + 0.5) / STEPS - 1
    largest = (np.flatnonzero(self.counts[0])[-1] + 1) / STEPS - 1
    return {
      'pairs': self.pairs,
      'queries': self.queries,
      'mean': round(float(self.counts[0] @ middles / self.pairs), 4),
      'largest': round(min(float(largest), 1.0), 4),
    }


def level(similarity: np.ndarray | float) -> np.ndarray:
  """The step, from 0, that a similarity in [-1, 1] lies on or above."""
  steps = np.floor((np.asarray(similarity) + 1) * STEPS)
  return np.clip(steps, 0, _LEVELS - 1).astype(np.int32)


def measure(embeddings: np.ndarray, person_of: np.ndarray, templates: np.ndarray) -> Rates:
  """Looks up photographs of a gallery among the other people.

  Args:
    embeddings: (M, D) float32 of unit length, one a photograph.
    person_of: (M,) index of each photograph's person.
    templates: (P, D) float32 of unit length, one a person.
  """
  counts = np.zeros((2, _LEVELS), np.int64)
  people = len(templates)
  if people < 2:
    return Rates(counts)
  chosen = np.arange(len(embeddings))
  if (limit := max(_PAIRS // people, _LEAST_QUERIES)) < len(chosen):
    chosen = np.sort(np.random.default_rng(0).choice(chosen, limit, replace=False))
  for start in range(0, len(chosen), _QUERY_BLOCK):
    rows = chosen[start : start + _QUERY_BLOCK]
    queries, own = embeddings[rows], person_of[rows]
    best = np.full(len(rows), -1, np.int32)
    for first in range(0, people, _PEOPLE_BLOCK):
      levels = level(queries @ templates[first : first + _PEOPLE_BLOCK].T)
      mine = np.flatnonzero((own >= first) & (own < first + levels.shape[1]))
      counts[0] += np.bincount(levels.ravel(), minlength=_LEVELS)
      counts[0] -= np.bincount(levels[mine, own[mine] - first], minlength=_LEVELS)
      levels[mine, own[mine] - first] = -1
      best = np.maximum(best, levels.max(1))
    counts[1] += np.bincount(best, minlength=_LEVELS)
  return Rates(counts)


def one_in(rate: float | None, of: int) -> str:
  """A rate in words: `1 in 420`, or `fewer than 1 in 2,970` where none of so many has it."""
  if rate is None:
    return 'not known'
  if rate == 0:
    return f'fewer than 1 in {of:,}'
  # 1 in 1.4 differs from 1 in 1; of larger numbers the decimals say nothing.
  return f'1 in {1 / rate:,.0f}' if rate < 0.1 else f'1 in {1 / rate:.2g}'
