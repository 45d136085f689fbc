"""Confidence intervals by bootstrap over people (Efron 1979; clusters are drawn, not examples).

Examples of one person resemble each other, so that drawing examples would promise too much.
"""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95


def person_weights(people: Sequence[str], resamples: int, seed: int = 0) -> np.ndarray:
  """How often each example counts in each resample of the people.

  Args:
    people: the person of each of n examples; every empty name is a person of its own.
    resamples: R, how often people are drawn, with replacement, as many as there are.
    seed: of the draws, which are the same for the same list.

  Returns:
    (R, n) float32.
  """
  names = [name or f'\0{i}' for i, name in enumerate(people)]
  if not names:
    return np.zeros((resamples, 0), np.float32)
  unique, person = np.unique(names, return_inverse=True)
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), resamples)
  return counts.astype(np.float32)[:, person]


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Means (...,) of values (n,) by weights (..., n); what is NaN is left out."""
  known = np.isfinite(values)
  weights = weights[..., known]
  total = weights.sum(-1)
  with np.errstate(invalid='ignore', divide='ignore'):
    return weights @ values[known] / total


def interval(values: np.ndarray) -> tuple[float, float]:
  """The percentile interval of a figure's resamples; NaN without finite ones."""
  finite = values[np.isfinite(values)]
  if not finite.size:
    return float('nan'), float('nan')
  low, high = np.percentile(finite, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
  return float(low), float(high)
