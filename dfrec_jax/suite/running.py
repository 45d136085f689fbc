"""The suite of one checkpoint, as `--mode=eval` runs it."""

from collections.abc import Mapping, Sequence
import functools
import hashlib
from typing import Any

from absl import logging
from etils import epath
import jax
import ml_collections
import numpy as np

from dfrec_jax import calibration
from dfrec_jax.checkpointing import LoadedModel, load_model, write_json
from dfrec_jax.encoders.registry import load_encoder
from dfrec_jax.encoders.weights import weights_file
from dfrec_jax.errors import InputError
from dfrec_jax.measurements import Embedder
from dfrec_jax.suite import baselines, landmark_error, page, protocols, summary
from dfrec_jax.suite.collecting import RECOVERED, Collector, Instruments
from dfrec_jax.suite.frechet import Features
from dfrec_jax.suite.image_quality import ms_ssim_window
from dfrec_jax.suite.measuring import LandmarkMeasure, Remembered
from dfrec_jax.suite.perceptual import Distance
from dfrec_jax.suite.summary import Rows
from input_pipeline.sources import Spread, make_source

SCHEMA = 1


class Suite:
  """Measures what an `Evaluator` recovers, and then the protocols.

  `add` observes the evaluation; `write` does the rest. Everything that can be wrong with the
  settings shows in the constructor.

  Args:
    config: the configuration; `config.suite` is its section.
    evaluator: the `Evaluator` of the checkpoint.
    loaded: the checkpoint.
    source: the evaluation's examples.

  Raises:
    InputError: a file, a checkpoint or a name of `config.suite` cannot be used.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, evaluator: Any, loaded: LoadedModel, source: Any
  ):
    self._config, self._settings, self._source = config, config.suite, source
    self._evaluator, self._loaded = evaluator, loaded
    self._groups = protocols.read_groups(self._settings.groups) if self._settings.groups else {}
    self._trained_with = _identity_encoder_of(loaded)
    self._encoders = _encoders(config, evaluator, self._trained_with)
    self._finder = _landmarks(self._settings)
    lpips, inception = self._settings.lpips, self._settings.inception
    instruments = Instruments(
      encoders=self._encoders,
      lpips=Distance(lpips.network, lpips.features, lpips.heads) if lpips.heads else None,
      inception=Features(inception) if inception else None,
      landmarks=LandmarkMeasure(self._finder) if self._finder else None,
    )
    self._collector = Collector(_methods(config), self._rivals(), instruments)
    self.add = self._collector.add

  def _rivals(self):
    named = baselines.named_pairs(self._settings.compare, 'config.suite.compare')
    rivals = {}
    for name, path in named.items():
      if name in ('recovered', 'copy', *baselines.METHODS):
        raise InputError(f'config.suite.compare names {name!r}, which is taken; use another name.')
      loaded = load_model(path, mesh=self._evaluator.mesh)
      rivals[name] = self._recoverer(self._evaluator.of_model(loaded.model), loaded)
    return rivals

  def _recoverer(self, evaluator, loaded):
    return protocols.batched(
      evaluator.recover(loaded.variables),
      batch_size=self._config.batch_size,
      image_size=loaded.model.image_size,
    )

  def write(self, folder: epath.Path) -> None:
    """Runs the protocols and writes `protocols.json`, `examples.csv` and `report.html`."""
    if self._finder:
      self._finder.close()
    rows, sets = self._collector.finish()
    robust = self._robustness()
    result = {
      'schema': SCHEMA,
      'checkpoint': self._loaded.path,
      'step': self._loaded.step,
      'data': calibration.name_data(self._config.data),
      'settings': self._describe(rows),
      **tables(rows, sets, self._groups, resamples=self._settings.resamples),
      'robustness': robust,
    }
    protocols.write_examples(rows, folder / protocols.EXAMPLES)
    place = page.write_page(result, rows, _choices(rows, self._collector.showcase), folder)
    # Last, since who finds it takes the suite for finished.
    write_json(folder / protocols.FILE, result)
    print(f'Protocols: {folder / protocols.FILE}\nExamples: {folder / protocols.EXAMPLES}')
    print(f'Report: {place}')

  def _robustness(self):
    examples = self._settings.robustness_examples
    if not examples:
      return None
    part = Spread(self._source, examples)
    return protocols.robustness_curves(
      self._recoverer(self._evaluator, self._loaded),
      part,
      self._encoders.get(''),
      resamples=self._settings.resamples,
      report=functools.partial(logging.info, 'Robustness on %d examples: %s', len(part)),
    )

  def _describe(self, rows: Rows) -> dict[str, Any]:
    side = min(self._source[0]['forged'].shape[:2])
    measures = self._config.metric_encoder.to_dict() if '' in self._encoders else None
    return {
      'resamples': self._settings.resamples,
      'ms_ssim_window': ms_ssim_window(side),
      'trained_with': self._trained_with,
      'measured_with': measures,
      'flatters': same_weights(self._trained_with, measures),
      'further_encoders': self._settings.encoders,
      'compared': self._settings.compare,
      'examples': len(rows.examples),
    }


def tables(
  rows: Rows,
  sets: Mapping[str, Mapping[str, float]],
  known: Mapping[str, Mapping[str, str]],
  *,
  resamples: int,
) -> dict[str, Any]:
  """`methods` and `groups` of `protocols.json`.

  Args:
    rows: of the examples.
    sets: FID and KID of each method over all forged examples.
    known: of people, see `protocols.read_groups`.
    resamples: of the bootstrap.
  """
  methods = summary.summarise(rows, rows.groups(), resamples=resamples)
  for name, figures in sets.items():
    methods[name]['all'] |= {key: summary.figure(value) for key, value in figures.items()}
  groups = protocols.group_indices(rows, known)
  if known and not groups:
    logging.warning('None of the people of the groups is in this evaluation: they are left out.')
  by_people = summary.summarise(rows, groups, resamples=resamples, own_pristine=True)
  shown = [name for name in (RECOVERED, 'copy') if name in by_people]
  return {'methods': methods, 'groups': {name: by_people[name] for name in shown}}


def _choices(rows: Rows, showcase):
  """Best, median and worst by the target's PSNR in the mask; whole where there are no masks."""
  masked = rows.values(RECOVERED, 'target_psnr_masked')
  whole = rows.values(RECOVERED, 'target_psnr')
  values, where = (masked, ' in the mask') if np.isfinite(masked).any() else (whole, '')
  captions = [
    f'{example["attack"]}, target {value:.1f} dB{where}'
    for example, value in zip(rows.examples, values, strict=True)
  ]
  return showcase.choose(values, captions)


def _identity_encoder_of(loaded: LoadedModel) -> dict[str, str] | None:
  """The name and weights of the face encoder that taught a model; None if none did."""
  # A converted model need not say how it was trained.
  loss = loaded.config.get('loss')
  if loss is None:
    return None
  if loss.weights.identity or loss.weights.attribute:
    return loss.identity_encoder.to_dict()
  if loss.weights.perceptual and loss.perceptual_encoder.name != 'vgg19':
    return loss.perceptual_encoder.to_dict()
  return None


def same_weights(one: Mapping[str, str] | None, other: Mapping[str, str] | None) -> bool:
  """Whether two encoders, each `name` and `weights`, are one, whatever their files are called."""
  if one is None or other is None or one['name'] != other['name']:
    return False
  digests = [_digest(encoder['weights']) for encoder in (one, other)]
  return one['weights'] == other['weights'] or (digests[0] is not None and len({*digests}) == 1)


def _digest(weights: str) -> str | None:
  """SHA-256 of a file of weights; None where it is not on this machine."""
  try:
    with open(weights_file(weights), 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError:
    return None


def _encoders(config, evaluator, trained_with) -> dict[str, Remembered]:
  """The metric encoder, as the evaluator has it, under no label, and the further ones.

  The one that trained the model is among them, under `training`, if it is on this machine and
  another: what it sees, and the other does not, is no recovery.
  """
  encoders = {'': evaluator.embed} if evaluator.embed is not None else {}
  further = baselines.named_pairs(config.suite.encoders, 'config.suite.encoders')
  is_here = trained_with is not None and _digest(trained_with['weights']) is not None
  if encoders and is_here and not same_weights(trained_with, config.metric_encoder):
    further.setdefault('training', '{name}:{weights}'.format(**trained_with))
  for label, value in further.items():
    name, _, weights = value.partition(':')
    encoders[label] = Remembered(Embedder(load_encoder(name, weights)))
  return encoders


def _methods(config):
  train = functools.partial(make_source, config.data, 'train', seed=config.seed)
  names: Sequence[str] = tuple(config.suite.baselines)
  try:
    return baselines.make_methods(names, train, config.suite.nearest_examples)
  except InputError as error:
    if 'nearest' not in names or set(names) - set(baselines.METHODS):
      raise
    # A data set that is only tested on need not have a training split.
    logging.warning('The baseline nearest is left out: %s', error)
    return baselines.make_methods([name for name in names if name != 'nearest'], train, 0)


def _landmarks(settings):
  if not settings.landmarks or not landmark_error.available():
    return None
  finder = landmark_error.MeshLandmarks()
  try:
    finder(np.zeros((64, 64, 3), np.uint8))
  except InputError as error:
    logging.warning('Landmark errors are left out: %s', error)
    return None
  return finder


def single_process() -> bool:
  """Whether the suite can run: it keeps pictures and embeddings of every example in one process."""
  return jax.process_count() == 1
