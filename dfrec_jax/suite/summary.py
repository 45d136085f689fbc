"""From one row an example to figures of groups, with confidence intervals over people."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from dfrec_jax.measurements import PRISTINE
from dfrec_jax.suite import bootstrap, columns, detection

# Rows of weights at a time: AUC of 10,000 examples takes a gigabyte otherwise.
_CHUNK = 100
DETECTION = {
  'auc': detection.auc,
  'eer': detection.equal_error_rate,
  'accuracy': detection.accuracy,
  'calibration_error': detection.calibration_error,
}
Figure = dict[str, float | None]


@dataclasses.dataclass
class Rows:
  """The evaluation's examples.

  Attributes:
    examples: of each, `attack`, `label`, `source_person`, `target_person`.
    methods: of each method, the figures of each example by name; what is absent is not defined.
      `score` is the method's probability of a forgery.
  """

  examples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  methods: dict[str, list[dict[str, float]]] = dataclasses.field(default_factory=dict)

  def groups(self) -> dict[str, np.ndarray]:
    """Indices of `all` forged examples, of each attack, and of the pristine photographs."""
    labels = np.array([e['label'] for e in self.examples])
    attacks = np.array([e['attack'] for e in self.examples])
    forged = labels == 1
    named = {a: np.flatnonzero(forged & (attacks == a)) for a in sorted({*attacks[forged]})}
    return {'all': np.flatnonzero(forged), **named, PRISTINE: np.flatnonzero(~forged)}

  def values(self, method: str, name: str) -> np.ndarray:
    """A figure of all examples (n,) float64, NaN where it is not defined."""
    return np.array([row.get(name, np.nan) for row in self.methods[method]], np.float64)

  def names(self, method: str) -> list[str]:
    """The names of a method's figures, in the order of `columns.COLUMNS`, further ones last."""
    found = {name for row in self.methods[method] for name in row} - {'score'}
    order = {name: i for i, name in enumerate(columns.COLUMNS)}
    return sorted(found, key=lambda name: (order.get(name, len(order)), name))


def summarise(
  rows: Rows, groups: Mapping[str, np.ndarray], *, resamples: int, own_pristine: bool = False
) -> dict[str, dict[str, dict[str, Figure]]]:
  """Figures of each method and group.

  Args:
    rows: the examples.
    groups: indices of each group's examples; one of pristine photographs alone has no AUC.
    resamples: of the bootstrap.
    own_pristine: tell a group's forged photographs from the pristine ones of the people that were
      covered in it, as groups of people need, instead of from all.

  Returns:
    {method: {group: {name: {'value', 'low', 'high'}}}}; 'low' and 'high' bound 95 %.
  """
  result = {method: {} for method in rows.methods}
  pristine = np.array([i for i, e in enumerate(rows.examples) if e['label'] == 0], int)
  for group, indices in groups.items():
    weights = {
      role: bootstrap.person_weights(
        [rows.examples[i][f'{role}_person'] for i in indices], resamples
      )
      for role in ('source', 'target')
    }
    honest = not any(rows.examples[i]['label'] for i in indices)
    judged = indices if honest else np.union1d(indices, pristine)
    if own_pristine and not honest:
      covered = {rows.examples[i]['target_person'] for i in indices}
      judged = np.array([i for i in judged if rows.examples[i]['target_person'] in covered], int)
    judged_weights = bootstrap.person_weights(
      [rows.examples[i]['target_person'] for i in judged], resamples
    )
    for method in rows.methods:
      figures = {}
      for name in rows.names(method):
        if honest and name.startswith('source_'):
          continue  # Nobody was pasted into a pristine photograph.
        values = rows.values(method, name)[indices]
        figures[name] = mean_figure(values, weights[columns.person_of(name)])
        if name == 'target_psnr':
          figures['target_psnr_pooled'] = pooled_psnr(values, weights['target'])
      figures |= detection_figures(rows, method, judged, judged_weights, honest)
      result[method][group] = {
        name: figure for name, figure in figures.items() if figure['value'] is not None
      } | {'examples': {'value': len(indices), 'low': None, 'high': None}}
  return result


def mean_figure(values: np.ndarray, weights: np.ndarray) -> Figure:
  """The mean of what is defined of values (n,), with its interval by weights (R, n)."""
  if not np.isfinite(values).any():
    return figure(np.nan, (np.nan, np.nan))
  return figure(np.nanmean(values), bootstrap.interval(bootstrap.weighted_mean(values, weights)))


def pooled_psnr(values: np.ndarray, weights: np.ndarray) -> Figure:
  """The PSNR of the mean squared error of images whose PSNRs are (n,) values, in dB.

  A mean of PSNRs counts an image that nothing changed as 100 dB, whatever became of the others.
  """
  error = mean_figure(10 ** (-values / 10), weights)
  decibel = lambda x: None if x is None else -10 * float(np.log10(x))
  # The largest error is the lowest PSNR.
  return {
    'value': decibel(error['value']),
    'low': decibel(error['high']),
    'high': decibel(error['low']),
  }


def detection_figures(
  rows: Rows, method: str, judged: np.ndarray, weights: np.ndarray, one_label: bool
) -> dict[str, Figure]:
  """Real or fake of the examples `judged` (n,); only the accuracy where they have one label."""
  scores = rows.values(method, 'score')[judged]
  if not len(scores) or not np.isfinite(scores).all():
    return {}
  labels = np.array([rows.examples[i]['label'] for i in judged])
  figures = {}
  for name, function in DETECTION.items():
    if one_label and name != 'accuracy':
      continue
    drawn = [
      function(scores, labels, weights[start : start + _CHUNK])
      for start in range(0, len(weights), _CHUNK)
    ]
    value = function(scores, labels, np.ones((1, len(labels))))[0]
    figures[name] = figure(value, bootstrap.interval(np.concatenate([*drawn, np.zeros(0)])))
  return figures


def figure(value: float, bounds: Sequence[float] = (np.nan, np.nan)) -> Figure:
  """A figure as JSON holds it: None for what is not finite."""
  finite = lambda x: float(x) if np.isfinite(x) else None
  return {'value': finite(value), 'low': finite(bounds[0]), 'high': finite(bounds[1])}


def paired_difference(
  a: np.ndarray, b: np.ndarray, people: Sequence[str], resamples: int
) -> Figure:
  """The mean of a - b over examples (n,) that both methods saw, with its interval."""
  return mean_figure(a - b, bootstrap.person_weights(people, resamples))
