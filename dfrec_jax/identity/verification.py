"""Verification: are two photographs of one person?

Accuracy is by the protocol of Labeled Faces in the Wild (Huang et al. 2007): ten folds of people,
as many pairs of different people as of the same, and for each fold the threshold that is best on
the nine others. ROC figures are over all pairs.
"""

from collections.abc import Callable, Sequence

import numpy as np

from dfrec_jax.encoders.registry import FrozenEncoder
from dfrec_jax.errors import InputError
from dfrec_jax.identity.people import People
from dfrec_jax.measurements import Embedder
from dfrec_jax.suite import detection

FOLDS = 10
FALSE_MATCH_RATE = 0.01
# Pairs grow with the square: of more photographs some people are left out.
_PHOTOGRAPHS = 3_000
# How many photographs are embedded at once.
READ_TOGETHER = 256
# Name -> heading and format of the printed table.
COLUMNS = {
  'accuracy': ('accuracy', '.3f'),
  'accuracy_deviation': ('+- (folds)', '.3f'),
  'auc': ('AUC', '.4f'),
  'true_match_rate': ('TAR at FAR 1e-2', '.3f'),
  'same': ('same', '.3f'),
  'different': ('different', '.3f'),
  'same_pairs': ('same pairs', 'd'),
  'people': ('people', 'd'),
  'photographs': ('photographs', 'd'),
}


def choose_photographs(person: np.ndarray, limit: int = _PHOTOGRAPHS) -> np.ndarray:
  """Indices of the photographs of some people, the same each time: at most about `limit`."""
  people = np.random.default_rng(0).permutation(np.unique(person))
  counts = np.bincount(person)[people]
  kept = people[: max(int(np.searchsorted(counts.cumsum(), limit, side='right')), 2)]
  return np.flatnonzero(np.isin(person, kept))


def embed_people(
  embed: Callable[[Sequence[np.ndarray]], np.ndarray], people: People
) -> tuple[np.ndarray, np.ndarray]:
  """Embeddings (n, D) of the photographs of `choose_photographs`, and their people (n,)."""
  chosen = choose_photographs(people.person)
  parts = [
    embed([people.picture(int(i)) for i in chosen[start : start + READ_TOGETHER]])
    for start in range(0, len(chosen), READ_TOGETHER)
  ]
  return np.concatenate(parts), people.person[chosen]


def check_people(person: np.ndarray) -> None:
  """Raises an InputError: too few of the people (n,) have two photographs for ten folds."""
  several = int((np.unique(person, return_counts=True)[1] > 1).sum())
  if several < FOLDS:
    raise InputError(
      f'Verification needs {FOLDS} people with two photographs or more, and these are {several}: '
      'give a folder of more people, or hold more out (config.data.held_out).'
    )


def verify(embeddings: np.ndarray, person: np.ndarray) -> dict[str, float]:
  """How well the embeddings tell people apart; deterministic.

  Args:
    embeddings: (n, D) of unit length.
    person: (n,) whose photograph each is.

  Returns:
    `accuracy` (mean over folds) and `accuracy_deviation` (between them), `auc`, `true_match_rate`
    at a false match rate of 0.01, `same` and `different` (mean cosines), `same_pairs`, `people`,
    `photographs`.

  Raises:
    InputError: there are too few people with two photographs for ten folds.
  """
  similarity = embeddings @ embeddings.T
  first, second = np.triu_indices(len(person), 1)
  scores, same = similarity[first, second], person[first] == person[second]
  check_people(person)
  different = scores[~same]
  threshold = np.quantile(different, 1 - FALSE_MATCH_RATE)
  accuracies = _accuracies(scores, same, person[first], person[second])
  return {
    'accuracy': float(accuracies.mean()),
    'accuracy_deviation': float(accuracies.std()),
    'auc': float(detection.auc(scores, same.astype(int), np.ones(len(scores)))),
    'true_match_rate': float((scores[same] > threshold).mean()),
    'same': float(scores[same].mean()),
    'different': float(different.mean()),
    'same_pairs': int(same.sum()),
    'people': len(np.unique(person)),
    'photographs': len(person),
  }


def verify_encoder(encoder: FrozenEncoder, people: People) -> dict[str, float]:
  """`verify` of a frozen encoder on some people."""
  return verify(*embed_people(Embedder(encoder), people))


def _accuracies(scores, same, first, second) -> np.ndarray:
  """Accuracy of each fold that has pairs; nobody is in two folds."""
  rng = np.random.default_rng(0)
  folds = _folds(first, second, same, rng)
  fold = folds[first]
  fold = np.where(fold == folds[second], fold, -1)  # pairs across folds belong to none
  pairs = []
  for i in range(FOLDS):
    positive, negative = (np.flatnonzero((fold == i) & (same == kind)) for kind in (True, False))
    count = min(len(positive), len(negative))
    pairs.append([rng.choice(indices, count, replace=False) for indices in (positive, negative)])
  accuracies = []
  for i in range(FOLDS):
    others = np.concatenate([np.concatenate(p) for j, p in enumerate(pairs) if j != i])
    threshold = _best_threshold(scores[others], same[others])
    here = np.concatenate(pairs[i])
    if not len(here):  # of few people, a fold may hold one
      continue
    accuracies.append(((scores[here] > threshold) == same[here]).mean())
  return np.array(accuracies)


def _folds(first, second, same, rng) -> np.ndarray:
  """The fold of each person's number; those with several photographs are dealt out evenly."""
  folds = np.zeros(max(first.max(), second.max()) + 1, int)
  several = np.unique(first[same])
  alone = np.setdiff1d(np.union1d(first, second), several)
  for people in (several, alone):
    folds[rng.permutation(people)] = np.arange(len(people)) % FOLDS
  return folds


def _best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
  """The middle of two neighbouring scores that divides same and different best."""
  order = np.argsort(scores)
  scores, same = scores[order], same[order]
  # Cutting before score i: the different ones below it and the same ones from it on are right.
  right = np.append(0, np.cumsum(~same)) + same.sum() - np.append(0, np.cumsum(same))
  cut = int(np.argmax(right[1:-1])) + 1
  return float((scores[cut - 1] + scores[cut]) / 2)
