"""What a new run starts from: other than random parameters, a checkpoint or pretrained parts."""

from collections.abc import Mapping
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dfrec_jax import trees
from dfrec_jax.checkpointing import load_model
from dfrec_jax.convert.pretrained import apply_pretrained
from dfrec_jax.errors import InputError
from dfrec_jax.models.dfrec import DFREC
from dfrec_jax.train_state import TrainState


def apply(
  state: TrainState, config: ml_collections.ConfigDict, model: DFREC, mesh: jax.sharding.Mesh
) -> TrainState:
  """The state with the parameters of `config.init_from` and `config.pretrained`, where given.

  Raises:
    InputError: there is no such checkpoint or file, it does not fit the model, or both are given.
  """
  parts = {name: path for name, path in config.pretrained.items() if path}
  if config.init_from and parts:
    raise InputError(
      f'config.init_from replaces all that config.pretrained.{" and ".join(parts)} would set; give '
      'one of them.'
    )
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  if config.init_from:
    loaded = load_model(config.init_from, mesh=mesh)
    _require_same(config.init_from, loaded.variables, variables)
    logging.info('Starting from step %d of %s.', loaded.step, loaded.path)
    new = {name: loaded.variables.get(name, {}) for name in variables}
  elif parts:
    new, reports = apply_pretrained(variables, parts, model)
    for report in reports:
      logging.info('%s', report)
    new = jax.tree.map(_place, new, variables)
  else:
    return state
  # A copy, since a buffer that is donated twice is an error.
  return state.replace(**new, ema=jax.tree.map(jnp.copy, new))


def _place(new: Any, old: jax.Array) -> jax.Array:
  """`new` where `old` is; every process holds all of `new`."""
  if new is old:
    return old
  array = np.asarray(new)
  return jax.make_array_from_callback(old.shape, old.sharding, lambda index: array[index])


def _require_same(path: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
  if differing := trees.differences(given, wanted):
    raise InputError(
      f'{path} is of another model: {len(differing)} of its arrays do not fit, such as '
      f'{differing[0]}; give the config.model that lies beside it.'
    )
