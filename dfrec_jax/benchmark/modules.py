"""The networks of a model by themselves, exactly as the model builds and calls them."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax import sharding
from dfrec_jax.benchmark.flops import MODULES
from dfrec_jax.models.dfrec import DFREC

# Arguments through which a gradient goes on to another network: the SIRM's tokens in the TIRM.
_THROUGH = {'tirm': (4,)}


@dataclasses.dataclass(frozen=True)
class Call:
  """How the model called one of its networks.

  Attributes:
    name: `ism`, `sirm` or `tirm`.
    module: the network.
    args: shapes of its arguments.
    train: whether it was called for training.
  """

  name: str
  module: nn.Module
  args: tuple[jax.ShapeDtypeStruct, ...]
  train: bool

  def forward(self) -> Callable[..., Any]:
    """The function (variables, key, *args) -> outputs of recovery."""

    @nn.logical_axis_rules(sharding.RULES)
    def run(variables, key, *args):
      return self.module.apply(variables, *args, train=False)

    return run

  def gradients(self) -> Callable[..., Any]:
    """The function (variables, key, *args) -> gradients, statistics: forward and backward.

    The gradients are those of the parameters and of the arguments that lead to another network, of
    the mean square of all outputs.
    """
    through = tuple(i for i in _THROUGH.get(self.name, ()) if i < len(self.args))

    @nn.logical_axis_rules(sharding.RULES)
    def run(variables, key, *args):
      def loss(params, *differentiated):
        given = list(args)
        for index, value in zip(through, differentiated, strict=True):
          given[index] = value
        outputs, updated = self.module.apply(
          {**variables, 'params': params},
          *given,
          train=True,
          rngs={'dropout': key},
          mutable=['batch_stats'],
        )
        leaves = [x for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(jnp.square(x.astype(jnp.float32)).mean() for x in leaves), updated

      differentiated = [args[index] for index in through]
      positions = tuple(range(1 + len(through)))
      return jax.grad(loss, positions, has_aux=True)(variables['params'], *differentiated)

    return run

  def example(self, rows: jax.sharding.Sharding) -> tuple[jax.Array, ...]:
    """Arguments of these shapes: uniform in [0, 1); indices share out the patches at random."""
    generator = np.random.default_rng(0)
    counts = [x.shape[1] for x in self.args if jnp.issubdtype(x.dtype, jnp.integer)]
    arrays, first = [], 0
    for x in self.args:
      if jnp.issubdtype(x.dtype, jnp.integer):
        order = np.random.default_rng(1).permuted(
          np.tile(np.arange(sum(counts)), (x.shape[0], 1)), axis=1
        )
        value, first = np.sort(order[:, first : first + x.shape[1]], axis=1), first + x.shape[1]
      else:
        value = generator.random(x.shape, np.float32)
      arrays.append(jax.device_put(value.astype(x.dtype), rows))
    return tuple(arrays)


def calls(model: DFREC, batch: int, *, train: bool, twins: bool = False) -> dict[str, Call]:
  """The calls that the model makes of its networks for a batch; nothing is computed."""
  found = {}

  def note(call, args, kwargs, context):
    module = context.module
    if len(module.path) == 1 and module.name in MODULES and context.method_name == '__call__':
      shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in args)
      found[module.name] = Call(module.name, module.clone(parent=None), shapes, kwargs['train'])
    return call(*args, **kwargs)

  side = model.image_size
  images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
  mask = jax.ShapeDtypeStruct((batch, side, side, 1), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))

  def run(images, mask, key):
    rngs = dict(zip(('params', 'masking', 'dropout'), jax.random.split(key, 3), strict=True))
    extra = {'twins': images if twins else None, 'guide': mask} if train else {}
    model.init(rngs, images, train=train, **extra)

  with nn.intercept_methods(note):
    jax.eval_shape(run, images, mask, key)
  return found
