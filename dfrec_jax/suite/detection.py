"""Real or fake: AUC, equal error rate, accuracy and calibration error, also of weighted examples.

Each function takes scores (n,) in [0, 1], labels (n,) in {0, 1} and weights (..., n), and answers
(...,) float64: the resamples of a bootstrap are rows of weights. A row that lacks one of the labels
gives NaN where both are needed.
"""

import numpy as np

THRESHOLD = 0.5
BINS = 15


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Area under the ROC curve, ties counted half."""
  false_alarms, hits = roc(scores, labels, weights)
  return np.trapezoid(hits, false_alarms, axis=-1)


def equal_error_rate(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Where the ROC curve, its points joined by lines, has as many false alarms as misses."""
  false_alarms, hits = roc(scores, labels, weights)
  excess = (1 - hits) - false_alarms  # falls from 1 to -1 along the curve
  after = np.argmax(excess <= 0, axis=-1)
  at = lambda x, i: np.take_along_axis(x, i[..., None], -1)[..., 0]
  first, last = at(excess, after - 1), at(excess, after)
  with np.errstate(invalid='ignore'):
    part = first / (first - last)
  before = at(false_alarms, after - 1)
  return before + part * (at(false_alarms, after) - before)


def accuracy(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Share of examples on their label's side of the threshold 0.5."""
  return _mean((scores > THRESHOLD) == (labels == 1), weights)


def calibration_error(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Expected calibration error (Guo et al., arXiv 1706.04599) of the score as a probability.

  The mean distance, over 15 bins of equal width, between a bin's mean score and its share of forged
  examples, each bin counted as often as it is filled.
  """
  bins = np.minimum((scores * BINS).astype(int), BINS - 1)
  member = np.eye(BINS)[bins]  # (n, bins)
  gap = (weights * (scores - labels)) @ member
  return np.abs(gap).sum(-1) / weights.sum(-1)


def roc(scores, labels, weights):
  """False alarm and hit rates (..., points) from the strictest threshold to the laxest."""
  order = np.argsort(-scores, kind='stable')
  scores, labels = scores[order], labels[order]
  weights = np.asarray(weights, np.float64)[..., order]
  last_of_tie = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
  rates = []
  with np.errstate(invalid='ignore'):
    for label in (0, 1):
      reached = np.cumsum(weights * (labels == label), axis=-1)[..., last_of_tie]
      rates.append(np.insert(reached / reached[..., -1:], 0, 0, axis=-1))
  return rates


def _mean(values, weights):
  with np.errstate(invalid='ignore'):
    return weights @ values.astype(np.float64) / weights.sum(-1)
