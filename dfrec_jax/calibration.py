"""What a score means: how many pristine photographs of the evaluation reach it.

Evaluation writes the scores as `eval/calibration.json`; a checkpoint carries them, as long as they
are of the same weights.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import ml_collections
import numpy as np

FILE = 'calibration.json'
_SCHEMA = 2
# The first one has a pristine score for each swap of a photograph, and counts no people.
_READABLE = (1, _SCHEMA)


def origin(example: Mapping[str, Any]) -> dict[str, str]:
  """What tells one example's photograph from another: its `content` and its `person`."""
  pixels = np.ascontiguousarray(example['forged'])
  content = hashlib.sha256(f'{pixels.shape}'.encode() + pixels.tobytes()).hexdigest()
  return {'content': content, 'person': example['target_identity']}


def distinct_scores(
  rows: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, list[float]], int | None]:
  """Scores of an evaluation, each pristine photograph counted once.

  A photograph is pristine as often as somebody was pasted onto it; counted so often, few people
  would pass for many.

  Args:
    rows: `score`, `label` (0 pristine, 1 forged) and what `origin` says of each example.

  Returns:
    The scores, `pristine` and `forged`, and how many people the pristine photographs show; None
    where it is not known of all.
  """
  pristine = {row['content']: row for row in reversed(rows) if row['label'] == 0}
  people = {row['person'] for row in pristine.values()}
  scores = {
    'pristine': [row['score'] for row in pristine.values()],
    'forged': [row['score'] for row in rows if row['label'] == 1],
  }
  return scores, len(people) if people and '' not in people else None


def make_record(
  scores: Mapping[str, Sequence[float]],
  *,
  checkpoint: str,
  step: int,
  sha256: str,
  data: str,
  people: int | None = None,
) -> dict[str, Any]:
  """The content of `calibration.json`.

  Args:
    scores: of the examples, `pristine` and `forged`, each in [0, 1]; of `distinct_scores`.
    checkpoint, step: what was evaluated.
    sha256: of its weights.
    data: what it was evaluated on, in words.
    people: how many the pristine photographs show, if it is known.
  """
  return {
    'schema': _SCHEMA,
    'checkpoint': checkpoint,
    'step': step,
    'sha256': sha256,
    'data': data,
    'people': people,
    **{kind: sorted(map(float, scores[kind])) for kind in ('pristine', 'forged')},
  }


def read_record(path: epath.PathLike) -> dict[str, Any] | None:
  """What `make_record` made, as a file holds it; None where there is none that can be read."""
  try:
    return parse_record(epath.Path(path).read_text())
  except (OSError, UnicodeDecodeError):
    return None


def parse_record(text: str) -> dict[str, Any] | None:
  """As `read_record`, of the content; None if it is not of this schema."""
  try:
    record = json.loads(text)
    if record['schema'] not in _READABLE or not isinstance(record['data'], str):
      return None
    people = record.get('people')
    if not (people is None or (type(people) is int and people > 0)):
      return None
    scores = [np.array(record[kind], np.float64) for kind in ('pristine', 'forged')]
    valid = all(s.ndim == 1 and ((s >= 0) & (s <= 1)).all() for s in scores)
    return record if valid and {'step', 'sha256'} <= set(record) else None
  except (ValueError, KeyError, TypeError):
    return None


def of_same_weights(record: Mapping[str, Any] | None, variables: Any) -> bool:
  """Whether a record is of a model's collections `params` and `batch_stats`."""
  return record is not None and record['sha256'] == weights_sha256(variables)


def weights_sha256(variables: Any) -> str:
  """SHA-256 of the collections `params` and `batch_stats`, the same in every kind of checkpoint.

  It is over the path, type, shape and bytes of each array, by path. With several processes all of
  them must call it.
  """
  digest = hashlib.sha256()
  collections = {name: variables.get(name, {}) for name in ('params', 'batch_stats')}
  named = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(collections)
  }
  for name in sorted(named):
    array = np.ascontiguousarray(_whole(named[name]))
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(array.data)
  return digest.hexdigest()


def _whole(array: Any) -> np.ndarray:
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def name_data(data: ml_collections.ConfigDict) -> str:
  """The evaluation data of a `config.data` section in words."""
  if data.kind == 'synthetic':
    return f'synthetic faces ({data.eval_examples})'
  # Of `people` without a list of their own, people of the training folder are held out.
  return f'{data.kind}: {data.eval or "held out"} of {data.root}'


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Scores of an evaluation.

  Attributes:
    data: what was evaluated on.
    pristine, forged: float64, sorted.
    people: how many the pristine photographs show; None where it is not known.
  """

  data: str
  pristine: np.ndarray
  forged: np.ndarray
  people: int | None = None

  @classmethod
  def of(cls, record: Mapping[str, Any] | None) -> 'Calibration | None':
    """From what `make_record` made; None without pristine scores."""
    if not record or not record['pristine']:
      return None
    scores = (np.sort(np.array(record[kind], np.float64)) for kind in ('pristine', 'forged'))
    return cls(record['data'], *scores, record.get('people'))

  def false_alarm_rate(self, score: float) -> float:
    """The share of pristine photographs that score at least as high."""
    reached = len(self.pristine) - np.searchsorted(self.pristine, score, side='left')
    return float(reached / len(self.pristine))

  def threshold(self, false_alarms: float) -> float:
    """The least score of a pristine photograph that at most this share of them reaches.

    Where that share is less than one photograph, or too many score alike, it is the next number
    above all of them.
    """
    allowed = int(np.floor(false_alarms * len(self.pristine) + 1e-9))
    for score in self.pristine[len(self.pristine) - allowed :]:
      if self.false_alarm_rate(score) <= false_alarms + 1e-12:
        return float(score)
    return float(np.nextafter(self.pristine[-1], np.inf))

  def summary(self) -> dict[str, Any]:
    """For results.json."""
    return {
      'data': self.data,
      'pristine': len(self.pristine),
      'forged': len(self.forged),
      'people': self.people,
    }
