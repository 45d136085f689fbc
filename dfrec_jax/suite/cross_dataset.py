"""Trained on A, tested on B: every checkpoint on every data set."""

from collections.abc import Callable, Mapping
from typing import Any

from absl import logging
import jax
import ml_collections

from dfrec_jax import sharding
from dfrec_jax.checkpointing import load_model
from dfrec_jax.errors import InputError
from dfrec_jax.evaluate import Evaluator
from dfrec_jax.suite import protocols, summary
from dfrec_jax.suite.measuring import Remembered
from dfrec_jax.suite.summary import Rows
from input_pipeline.sources import Spread, make_source
from input_pipeline.triplets import WithPristine


def cross_matrix(
  checkpoints: Mapping[str, str],
  data: Mapping[str, ml_collections.ConfigDict],
  *,
  examples: int = 0,
  resamples: int = 1_000,
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
  """Evaluates each checkpoint on the evaluation split of each configuration.

  Args:
    checkpoints: name -> what `load_model` reads.
    data: name -> the configuration whose data, batch size and metric encoder are used.
    examples: of each data set, 0 for all.
    resamples: of the bootstrap.

  Returns:
    {checkpoint: {data set: {name: figure}}}, of forged photographs; the checkpoint
    `copy` hands back the forged photograph.

  Raises:
    InputError: a checkpoint or data set cannot be used, or a checkpoint is named `copy`.
  """
  if 'copy' in checkpoints:
    raise InputError('A checkpoint of the matrix is named copy, which is taken; use another name.')
  result = {name: {} for name in (*checkpoints, 'copy')}
  for data_name, config in data.items():
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
      source = make_source(config.data, 'eval', seed=config.seed)
      part = Spread(source, examples or len(source))
      for name, path in checkpoints.items():
        logging.info('%s on %s (%d examples)', name, data_name, len(part))
        loaded = load_model(path, mesh=mesh)
        evaluator = Evaluator(loaded.model, config, source, mesh)
        recover = protocols.batched(
          evaluator.recover(loaded.variables),
          batch_size=config.batch_size,
          image_size=loaded.model.image_size,
        )
        rows = _rows(recover, part, evaluator.embed and Remembered(evaluator.embed), config)
        figures = summary.summarise(rows, rows.groups(), resamples=resamples)
        result[name][data_name] = figures['recovered']['all']
        result['copy'][data_name] = figures['copy']['all']
  return result


def _rows(recover: Callable, source: Any, embed: Remembered | None, config) -> Rows:
  """The rows of all examples of `source` and of their targets as pristine."""
  everything, result = WithPristine(source), Rows()
  for start in range(0, len(everything), config.batch_size):
    chunk = range(start, min(start + config.batch_size, len(everything)))
    examples = [everything[i] for i in chunk]
    recovered = recover(examples, start // config.batch_size)
    rows = protocols.basic_rows(examples, recovered, embed, first=start)
    result.examples += rows.examples
    for method, of_method in rows.methods.items():
      result.methods.setdefault(method, []).extend(of_method)
    if embed:
      embed.forget()
  return result
