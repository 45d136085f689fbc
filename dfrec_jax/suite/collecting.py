"""Measures every method on the evaluation's examples, batch by batch."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from dfrec_jax import metrics
from dfrec_jax.recovery import Recovery
from dfrec_jax.suite import frechet, retrieval
from dfrec_jax.suite.baselines import Answer, Method
from dfrec_jax.suite.measuring import LandmarkMeasure, Remembered, fit, measure_example
from dfrec_jax.suite.perceptual import Distance
from dfrec_jax.suite.showcase import Showcase
from dfrec_jax.suite.summary import Rows

RECOVERED, TRUE = 'recovered', 'true'
Examples = Sequence[Mapping[str, Any]]
_KINDS = ('source', 'target')


@dataclasses.dataclass(frozen=True)
class Instruments:
  """What measures, beside what needs no network.

  Attributes:
    encoders: identity embeddings by a label; the empty label is the configuration's
      `metric_encoder`.
    lpips, inception, landmarks: None where they are not at hand.
  """

  encoders: Mapping[str, Remembered] = dataclasses.field(default_factory=dict)
  lpips: Distance | None = None
  inception: frechet.Features | None = None
  landmarks: LandmarkMeasure | None = None


class Collector:
  """Figures of all examples, of every method.

  Args:
    methods: name -> what answers instead of the model, given its recovery.
    rivals: name -> (examples, number of the batch) -> recoveries by another checkpoint.
    instruments: what measures.
  """

  def __init__(
    self,
    methods: Mapping[str, Method],
    rivals: Mapping[str, Callable[[Examples, int], list[Recovery]]],
    instruments: Instruments,
  ):
    self._methods, self._rivals, self._instruments = methods, rivals, instruments
    self._batches = 0
    names = (RECOVERED, *methods, *rivals)
    self._rows = Rows(methods={name: [] for name in names})
    # (encoder, method, kind) -> an embedding for each example; None where there is none.
    self._embeddings: dict[tuple[str, str, str], list] = defaultdict(list)
    # (method, figure's stem) -> features of forged examples.
    self._features: dict[tuple[str, str], list] = defaultdict(list)
    self.showcase = Showcase()

  def add(self, examples: Examples, recovered: Sequence[Recovery]) -> None:
    """Measures a batch; called once for each of them, in order."""
    answers = {RECOVERED: [Answer.of(r) for r in recovered]}
    for name, method in self._methods.items():
      answers[name] = [method(e, r) for e, r in zip(examples, recovered, strict=True)]
    for name, recover in self._rivals.items():
      answers[name] = [Answer.of(r) for r in recover(examples, self._batches)]
    self._batches += 1
    rows = {
      name: [measure_example(e, a) for e, a in zip(examples, given, strict=True)]
      for name, given in answers.items()
    }
    self._measure_landmarks(examples, answers, rows)
    self._measure_lpips(examples, answers, rows)
    self._keep_features(examples, answers)
    for label, encoder in self._instruments.encoders.items():
      self._embed(label, encoder, examples, answers, rows)
      encoder.forget()
    for i, example in enumerate(examples):
      number = len(self._rows.examples)
      people = {
        f'{role}_person': example.get(f'{role}_identity') or f'{role} of example {number}'
        for role in ('source', 'target')
      }
      meta = {'attack': example['attack'], 'label': int(example['label']), **people}
      self._rows.examples.append(meta)
      if meta['label'] == 1:
        self.showcase.add(number, example, {name: given[i] for name, given in answers.items()})
    for name, given in rows.items():
      self._rows.methods[name] += given

  def _measure_landmarks(self, examples, answers, rows):
    if self._instruments.landmarks is None:
      return
    for i, example in enumerate(examples):
      if example['label'] == 1:
        given = {name: of_method[i] for name, of_method in answers.items()}
        for name, figures in self._instruments.landmarks(example, given).items():
          rows[name][i] |= figures

  def _measure_lpips(self, examples, answers, rows):
    if self._instruments.lpips is None:
      return
    masks = [np.asarray(e['mask'], np.float32)[..., 0] for e in examples]
    for name, given in answers.items():
      targets = [a.target for a in given]
      whole, inside = self._instruments.lpips(targets, [e['target'] for e in examples], masks)
      for row, w, m in zip(rows[name], whole, inside, strict=True):
        figures = {'target_lpips': w, 'target_lpips_masked': m}
        row |= {k: float(v) for k, v in figures.items() if np.isfinite(v)}
      known = [i for i, a in enumerate(given) if a.source is not None and examples[i]['label'] == 1]
      sources = [given[i].source for i in known]
      true = [fit(examples[i]['source'], *given[i].source.shape[1::-1]) for i in known]
      whole, _ = self._instruments.lpips(sources, true, [masks[i] for i in known])
      for i, value in zip(known, whole, strict=True):
        if np.isfinite(value):
          rows[name][i]['source_lpips'] = float(value)

  def _keep_features(self, examples, answers):
    if self._instruments.inception is None:
      return
    forged = [i for i, e in enumerate(examples) if e['label'] == 1]
    masks = {i: np.asarray(examples[i]['mask'], np.float32)[..., 0] for i in forged}
    pictures = {(TRUE, kind): [examples[i][kind] for i in forged] for kind in _KINDS}
    for name, given in answers.items():
      pictures[name, 'target'] = [given[i].target for i in forged]
      if all(given[i].source is not None for i in forged):
        pictures[name, 'source'] = [given[i].source for i in forged]
    for (name, kind), images in pictures.items():
      self._features[name, kind].extend(self._instruments.inception(images))
      if kind == 'target':
        crops = (frechet.crop_to_mask(x, masks[i]) for x, i in zip(images, forged, strict=True))
        crops = [crop for crop in crops if crop is not None]
        self._features[name, 'target_masked'].extend(self._instruments.inception(crops))

  def _embed(self, label, encoder, examples, answers, rows):
    suffix = f'@{label}' if label else ''
    for kind in _KINDS:
      true = encoder([e[kind] for e in examples])
      self._embeddings[label, TRUE, kind] += list(true)
      for name, given in answers.items():
        pictures = {i: getattr(a, kind) for i, a in enumerate(given)}
        known = [i for i, picture in pictures.items() if picture is not None]
        found = (
          dict(zip(known, encoder([pictures[i] for i in known]), strict=True)) if known else {}
        )
        self._embeddings[label, name, kind] += [found.get(i) for i in range(len(examples))]
        for i, embedding in found.items():
          if kind == 'target' or examples[i]['label'] == 1:
            rows[name][i][f'{kind}_identity{suffix}'] = metrics.cosine(embedding, true[i])

  def finish(self) -> tuple[Rows, dict[str, dict[str, float]]]:
    """The rows, with ranks among all test people, and FID and KID of each method."""
    for label in self._instruments.encoders:
      self._rank(label)
    sets = {name: {} for name in self._rows.methods}
    for (name, stem), features in self._features.items():
      if name == TRUE or not features:
        continue
      kind, _, masked = stem.partition('_')
      ending = f'_{masked}' if masked else ''
      true = np.stack(self._features[TRUE, stem])
      features = np.stack(features)
      sets[name][f'{kind}_fid{ending}'] = frechet.frechet_distance(features, true)
      sets[name][f'{kind}_kid{ending}'] = 1000 * frechet.kernel_distance(features, true)
    return self._rows, sets

  def _rank(self, label):
    suffix = f'@{label}' if label else ''
    forged = [i for i, e in enumerate(self._rows.examples) if e['label'] == 1]
    if not forged:
      return
    true = {k: np.stack([self._embeddings[label, TRUE, k][i] for i in forged]) for k in _KINDS}
    people = {k: [self._rows.examples[i][f'{k}_person'] for i in forged] for k in _KINDS}
    everybody = retrieval.templates(
      np.concatenate([true[k] for k in _KINDS]), [p for k in _KINDS for p in people[k]]
    )
    for name, kind in ((n, k) for n in self._rows.methods for k in _KINDS):
      found = [(i, self._embeddings[label, name, kind][i]) for i in forged]
      found = [(i, embedding) for i, embedding in found if embedding is not None]
      if not found:
        continue
      queries = np.stack([embedding for _, embedding in found])
      wanted = [self._rows.examples[i][f'{kind}_person'] for i, _ in found]
      for ending, gallery in (('', (true[kind], people[kind])), ('_people', everybody)):
        ranks = retrieval.ranks(queries, wanted, *gallery)
        for (i, _), rank in zip(found, ranks, strict=True):
          for first in (1, 5):
            row = self._rows.methods[name][i]
            row[f'{kind}_top{first}{ending}{suffix}'] = float(rank < first)
