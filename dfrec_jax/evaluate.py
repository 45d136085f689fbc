"""Evaluation: each figure per attack and overall, next to copying the forged image."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import ml_collections
import numpy as np

from dfrec_jax import calibration, figures, metrics, programs, sharding
from dfrec_jax.checkpointing import EVALUATION, load_model, write_json
from dfrec_jax.encoders.registry import load_encoder
from dfrec_jax.errors import InputError
from dfrec_jax.measurements import (
  COLUMNS,
  PRISTINE,
  Embedder,
  format_table,
  measure,
  summarise,
  table,
)
from dfrec_jax.models.dfrec import DFREC
from dfrec_jax.recovery import Batch, Recovery, recover_batch
from dfrec_jax.suite import running
from dfrec_jax.suite.measuring import Remembered
from dfrec_jax.train_step import make_predict_step
from input_pipeline.loader import eval_batches
from input_pipeline.sources import Spread, make_source

Observer = Callable[[Sequence[Mapping[str, Any]], Sequence[Recovery]], None]
FACES = ('forged', 'mask', 'true mask', 'source', 'true source', 'target', 'true target')


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Result of an evaluation.

  Attributes:
    metrics: {'recovered': {group: {name: value}}, 'copy': {...}}; None where not defined.
    faces: rows of images under `FACES`, for the first examples of each attack.
    labels: a caption for each row.
    scores: of being forged, of the `pristine` and of the `forged` examples, each pristine
      photograph once.
    people: how many the pristine photographs show; None where the data does not say.
  """

  metrics: dict[str, dict[str, dict[str, Any]]]
  faces: list[list[np.ndarray]]
  labels: list[str]
  scores: dict[str, list[float]]
  people: int | None


def evaluate_checkpoint(config: ml_collections.ConfigDict, workdir: str, checkpoint: str) -> None:
  """Evaluates a checkpoint on the configuration's evaluation data; writes `WORKDIR/eval`.

  Beside `metrics.json` that is the suite of `config.suite`, where one process does everything.

  The model is the checkpoint's own: the configuration chooses data, batch size and encoder, so
  that a checkpoint can be evaluated on another data set than it was trained on.

  Raises:
    InputError: no such checkpoint, or the data cannot be used.
  """
  mesh = sharding.make_mesh(config.mesh)
  with jax.set_mesh(mesh):
    loaded = load_model(checkpoint, mesh=mesh)
    source = make_source(config.data, 'eval', seed=config.seed)
    logging.info('Evaluating step %d of %s.', loaded.step, loaded.path)
    evaluator = Evaluator(loaded.model, config, source, mesh)
    suite = None
    if config.suite.enabled and running.single_process():
      evaluator.embed = evaluator.embed and Remembered(evaluator.embed)
      suite = running.Suite(config, evaluator, loaded, source)
    result = evaluator(loaded.variables, observe=suite.add if suite else None)
    sha256 = calibration.weights_sha256(loaded.variables)
  record = calibration.make_record(
    result.scores,
    checkpoint=loaded.path,
    step=loaded.step,
    sha256=sha256,
    data=calibration.name_data(config.data),
    people=result.people,
  )
  if jax.process_index() == 0:
    folder = epath.Path(workdir) / EVALUATION
    write_json(folder / calibration.FILE, record)
    write_evaluation(result, folder)
    if suite:
      with jax.set_mesh(mesh):
        suite.write(folder)


def write_evaluation(result: Evaluation, folder: epath.Path) -> None:
  """Writes `metrics.json` and two figures into `folder`, and prints the table."""
  header, rows = table(result.metrics)
  write_json(folder / 'metrics.json', result.metrics)
  figures.save_figure(figures.table_figure(header, rows), folder / 'table.png')
  faces = figures.faces_figure(FACES, result.faces, labels=result.labels)
  figures.save_figure(faces, folder / 'faces.png')
  print(format_table(header, rows))
  print(f'Metrics: {folder / "metrics.json"}\nTable: {folder / "table.png"}')
  print(f'Faces: {folder / "faces.png"}')


class Evaluator:
  """Evaluates variables of a model on a source; compiles once, ahead or at the first batch.

  Attributes:
    embed: measures identity; None where the configuration names no encoder.
    mesh: the devices.

  Raises:
    InputError: the encoder that measures identity cannot be loaded.
  """

  def __init__(
    self,
    model: DFREC,
    config: ml_collections.ConfigDict,
    source: Any,
    mesh: jax.sharding.Mesh,
  ):
    self._model, self._config, self._source, self.mesh = model, config, source, mesh
    self._rows = sharding.batch_sharding(mesh)
    self._predict = programs.jit(make_predict_step(model), out_shardings=self._rows)
    sharding.check_batch_size(config.batch_size, mesh)
    encoder = config.metric_encoder
    self.embed = Embedder(load_encoder(encoder.name, encoder.weights)) if encoder.weights else None
    _check_best_metric(config.checkpoint.best_metric, self.embed is not None)

  def of_model(self, model: DFREC) -> 'Evaluator':
    """The like of another model."""
    return Evaluator(model, self._config, self._source, self.mesh)

  def compile_ahead(self, variables: Any) -> None:
    """Compiles for variables of these shapes and shardings while the caller goes on."""
    side = self._model.image_size
    forged = jax.ShapeDtypeStruct(
      (self._config.batch_size, side, side, 3), np.uint8, sharding=self._rows
    )
    self._predict = programs.compile_ahead(self._predict, variables, forged, jax.random.key(0))

  def recover(self, variables: Any) -> Callable[[Batch, int], list[Recovery]]:
    """The function (batch, number of the batch) -> recoveries of its examples."""
    key = jax.random.key(self._config.seed)
    return lambda batch, number: recover_batch(
      functools.partial(self._predict, variables),
      batch,
      place=lambda x: jax.make_array_from_process_local_data(self._rows, x),
      key=jax.random.fold_in(key, number),
      model=self._model,
    )

  def __call__(
    self,
    variables: Any,
    *,
    examples: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    observe: Observer | None = None,
  ) -> Evaluation | None:
    """Evaluates on `examples` of the source, 0 for all; None if given up."""
    config, model = self._config, self._model
    batches = eval_batches(
      Spread(self._source, examples or len(self._source)),
      batch_size=config.batch_size,
      image_size=model.image_size,
    )
    return evaluate(
      self.recover(variables),
      batches,
      self.embed,
      figure_rows=config.figure_rows,
      should_stop=should_stop,
      observe=observe,
    )


def _check_best_metric(name: str, measures_identity: bool) -> None:
  if name not in COLUMNS:
    raise InputError(
      f'config.checkpoint.best_metric is {name!r}; the metrics are {", ".join(COLUMNS)}.'
    )
  if name.endswith('_identity') and not measures_identity:
    raise InputError(
      f'config.checkpoint.best_metric is {name}, which needs config.metric_encoder.weights.'
    )


def evaluate(
  recover: Callable[[Batch, int], list[Recovery]],
  batches: Iterable[Batch],
  embed: Embedder | None,
  *,
  figure_rows: int,
  should_stop: Callable[[], bool],
  observe: Observer | None = None,
) -> Evaluation | None:
  """Evaluates over all processes; each of them returns the whole result.

  Args:
    recover: (batch, number of the batch) -> recoveries of its examples.
    batches: this process' padded batches, equally many in each process.
    embed: measures identity; the identity figures are None without.
    figure_rows: examples shown, the attacks in turn.
    should_stop: asked before each batch; the evaluation is given up once it is true.
    observe: shown each batch's examples and recoveries.

  Returns:
    The result; None if given up.
  """
  rows, shown = [], defaultdict(list)
  for number, batch in enumerate(batches):
    if should_stop():
      return None
    recovered = recover(batch, number)
    examples = batch[1]
    measured = measure(examples, recovered, embed)
    rows += [row | calibration.origin(e) for row, e in zip(measured, examples, strict=True)]
    if observe:
      observe(examples, recovered)
    for example, recovery in zip(examples, recovered, strict=True):
      of_attack = shown[example['attack']]
      if len(of_attack) < figure_rows:
        of_attack.append((example, recovery))
  faces, labels = _faces(shown, figure_rows)
  rows = _gather(rows)
  return Evaluation(summarise(rows), faces, labels, *calibration.distinct_scores(rows))


def _gather(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The rows of all processes, in every process."""
  if jax.process_count() == 1:
    return rows
  encoded = np.frombuffer(json.dumps(rows).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array([encoded.size]))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: encoded.size] = encoded
  everything = multihost_utils.process_allgather(padded)
  return [
    row
    for part, size in zip(everything, sizes.ravel(), strict=True)
    for row in json.loads(part[: int(size)].tobytes())
  ]


def _faces(shown: Mapping[str, list], limit: int) -> tuple[list[list[np.ndarray]], list[str]]:
  """Rows of faces and their captions, the attacks in turn, pristine photographs last."""
  attacks: Sequence[str] = sorted(shown, key=lambda name: (name == PRISTINE, name))
  depth = max((len(of_attack) for of_attack in shown.values()), default=0)
  chosen = [
    (attack, *shown[attack][turn])
    for turn in range(depth)
    for attack in attacks
    if turn < len(shown[attack])
  ][:limit]
  faces, labels = [], []
  for attack, example, r in chosen:
    true_mask = np.asarray(example['mask'], np.float32)[..., 0]
    masks = [figures.mask_image(r.mask), figures.mask_image(true_mask)]
    people = [r.source, example['source'], r.target, example['target']]
    faces.append([example['forged'], *masks, *people])
    psnr = metrics.psnr(r.target, example['target'])
    labels.append(f'{attack}, score {r.score:.2f}, target {psnr:.1f} dB')
  return faces, labels
