"""What a new run starts from: other than random parameters, a checkpoint or pretrained parts."""

from collections.abc import Mapping
import json
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dfrec_jax import checkpointing, trees
from dfrec_jax.convert.pretrained import apply_pretrained
from dfrec_jax.errors import InputError
from dfrec_jax.models.dfrec import DFREC
from dfrec_jax.train_state import TrainState

COLLECTIONS = ('params', 'batch_stats')


def read(
  config: ml_collections.ConfigDict,
  model: DFREC,
  abstract: TrainState,
  mesh: jax.sharding.Mesh,
) -> dict[str, Any] | None:
  """The variables that `config.init_from` or `config.pretrained` give, for `start`; None for none.

  Nothing is computed, so that what is wrong is said before the state is initialised.

  Args:
    config: of the run.
    model: of the run.
    abstract: shapes of the run's state, of `plan_state`.
    mesh: where the state will live.

  Returns:
    The collections `params` and `batch_stats`. What a pretrained part leaves as initialised is
    still a `jax.ShapeDtypeStruct`.

  Raises:
    InputError: there is no such checkpoint or file, it does not fit the model, or both are given.
  """
  parts = {name: path for name, path in config.pretrained.items() if path}
  if {'ism', 'efficientnet'} <= set(parts):
    raise InputError(
      'config.pretrained.ism replaces all that config.pretrained.efficientnet would set; give one '
      'of them.'
    )
  if config.init_from and parts:
    raise InputError(
      f'config.init_from replaces all that config.pretrained.{" and ".join(parts)} would set; give '
      'one of them.'
    )
  variables = {name: getattr(abstract, name) for name in COLLECTIONS}
  if config.init_from:
    loaded = checkpointing.load_model(config.init_from, mesh=mesh)
    _require_same(config, loaded, variables)
    logging.info('Starting from step %d of %s.', loaded.step, loaded.path)
    return {name: loaded.variables.get(name, {}) for name in COLLECTIONS}
  if not parts:
    return None
  if path := parts.pop('ism', ''):
    variables = _with_segmentation(variables, path, model, mesh)
  variables, reports = apply_pretrained(variables, parts, model)
  for report in reports:
    logging.info('%s', report)
  return variables


def start(state: TrainState, given: Mapping[str, Any] | None) -> TrainState:
  """The freshly initialised state with the variables of `read`, in its shards."""
  if given is None:
    return state
  new = {name: jax.tree.map(_place, given[name], getattr(state, name)) for name in COLLECTIONS}
  # A copy, since a buffer that is donated twice is an error.
  return state.replace(**new, ema=jax.tree.map(jnp.copy, new))


def _place(given: Any, old: jax.Array) -> jax.Array:
  """`given` where `old` is; every process holds all of an array that is no JAX array yet."""
  if isinstance(given, jax.ShapeDtypeStruct):
    return old
  if isinstance(given, jax.Array):
    return jax.device_put(given, old.sharding)
  array = np.asarray(given, old.dtype)
  return jax.make_array_from_callback(old.shape, old.sharding, lambda index: array[index])


def _with_segmentation(variables, path, model, mesh):
  """The variables with the ISM of a checkpoint, of a model whose other networks may be others."""
  loaded = checkpointing.load_model(path, mesh=mesh)
  of = lambda tree: {name: {'ism': tree[name]['ism']} for name in COLLECTIONS}
  differing = trees.differences(of(loaded.variables), of(variables))
  was, asked = loaded.model.input_normalisation, model.input_normalisation
  if was != asked:
    differing = [f'input_normalisation={was} there and {asked} here']
  if differing:
    raise InputError(
      f'config.pretrained.ism={path} has another segmentation ({"; ".join(differing[:5])}); give '
      'the config.model.size and input_normalisation that lie beside it.'
    )
  logging.info('Taking the segmentation of step %d of %s.', loaded.step, loaded.path)
  return {name: {**variables[name], **part} for name, part in of(loaded.variables).items()}


def _require_same(config, loaded, variables) -> None:
  """Refuses other settings too: some change what weights mean and not their shapes."""
  was = json.loads(loaded.config.model.to_json())
  asked = json.loads(config.model.to_json())
  differing = checkpointing.differing_settings(was, asked)
  if not differing:
    given = {name: loaded.variables.get(name, {}) for name in COLLECTIONS}
    differing = trees.differences(given, variables)
  else:
    differing = [f'{name}={was.get(name)} there and {asked[name]} here' for name in differing]
  if differing:
    raise InputError(
      f'config.init_from={config.init_from} is of another model ({"; ".join(differing[:5])}); give '
      'the config.model that lies beside it.'
    )
