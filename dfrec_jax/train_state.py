"""What a training run is, apart from its data: parameters, statistics, optimizer, averages."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import optax

from dfrec_jax import sharding


@struct.dataclass
class TrainState:
  """The state of training; all of it is saved.

  Attributes:
    step: steps done, int32.
    params, batch_stats: the model's variables.
    opt_state: the optimizer's state.
    ema: {'params', 'batch_stats'}: moving averages, with which the model is evaluated.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any


def plan_state(
  init_variables: Callable[[jax.Array], Any],
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> tuple[Callable[[jax.Array], TrainState], TrainState]:
  """Says what the state will be, without computing it, and how to initialise it.

  Args:
    init_variables: key -> the model's variables, boxed with logical axis names.
    tx: the optimizer.
    mesh: where the state will live.

  Returns:
    The function key -> state, which initialises it directly in its shards, so that no device ever
    holds all of a large one; and the state's `jax.ShapeDtypeStruct`s with their shardings, which is
    what a checkpoint is restored into.
  """

  def init(key):
    variables = nn.unbox(init_variables(key))
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    # A copy, since a buffer that is donated twice is an error.
    ema = jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats})
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params), ema)

  key = jax.random.key(0)  # Its value is not used.
  abstract = jax.eval_shape(init, key)
  boxed = jax.eval_shape(init_variables, key)
  variables = sharding.parameter_shardings(boxed, mesh)
  params, batch_stats = variables['params'], variables.get('batch_stats', {})
  everywhere = sharding.replicated(mesh)
  shardings = TrainState(
    step=everywhere,
    params=params,
    batch_stats=batch_stats,
    opt_state=optax.tree_utils.tree_map_params(
      tx,
      lambda _, parameter: parameter,
      abstract.opt_state,
      params,
      transform_non_params=lambda _: everywhere,
    ),
    ema={'params': params, 'batch_stats': batch_stats},
  )
  # Hundreds of random draws run once: on a CPU, optimising them takes four times their compilation.
  options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
  initialise = jax.jit(init, out_shardings=shardings, compiler_options=options)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
  )
  return initialise, abstract


def update_average(average: Any, new: Any, decay: float, step: jax.Array) -> Any:
  """Exponential moving average, of a shorter memory in the first steps."""
  step = step.astype(jnp.float32)
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, average, new)
