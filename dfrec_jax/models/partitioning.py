"""Where the models ask for their activations to live.

The models know logical names alone; which mesh axes these are is said by whoever traces them, with
`flax.linen.logical_axis_rules(dfrec_jax.sharding.RULES)`.
"""

from collections.abc import Mapping, Sequence
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """`x`, divided over the mesh as the rules say of its dimensions' names.

  Without a mesh (`jax.set_mesh`) or rules it is `x` itself. The gradient is divided alike.

  Args:
    x: an array under `jax.jit`.
    *names: logical names of the leading dimensions; None, and dimensions beyond them, are whole.

  Raises:
    KeyError: a name is not in the rules. linen's own constraint would leave that dimension whole.
  """
  spec = division(x.shape, *names)
  return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def division(shape: Sequence[int], *names: str | None) -> PartitionSpec | None:
  """How `constrain` divides an array of this shape; None without rules or several devices."""
  mesh, rules = jax.sharding.get_abstract_mesh(), dict(nn.get_logical_axis_rules())
  if mesh.empty or mesh.size == 1 or not rules:
    return None
  return partition(shape, names, rules, mesh.shape)


def parts(shape: Sequence[int], *names: str | None) -> tuple[int, ...]:
  """How many parts `constrain` makes of each dimension of an array of this shape."""
  spec = division(shape, *names) or (None,) * len(shape)
  extents = jax.sharding.get_abstract_mesh().shape
  axes = [(entry,) if isinstance(entry, str) else entry or () for entry in spec]
  return tuple(math.prod(extents[axis] for axis in of_dimension) for of_dimension in axes)


def on_one_device() -> bool:
  """Whether the program that is being traced can only be for one device.

  Without a mesh its arguments or results may be divided all the same, as `plan_state`'s are.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return jax.device_count() == 1 if mesh.empty else mesh.size == 1


def platform() -> str:
  """What the program that is being traced is for: `cpu`, `gpu` or `tpu`.

  The mesh knows, whose devices need not be of this machine; without one it is what JAX finds here.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def partition(
  shape: Sequence[int],
  names: Sequence[str | None],
  rules: Mapping[str, str | Sequence[str] | None],
  extents: Mapping[str, int],
) -> PartitionSpec:
  """How an array of this shape is divided.

  A dimension is divided over as many of its mesh axes, in their order, as divide its size and as no
  dimension before it uses.

  Args:
    shape: of the array.
    names: logical names of the leading dimensions.
    rules: logical name -> mesh axes.
    extents: size by mesh axis.
  """
  used, spec = set(), []
  for size, name in zip(shape, (*names, *(None,) * len(shape)), strict=False):
    wanted = (rules[name] if name is not None else None) or ()
    kept = []
    for axis in (wanted,) if isinstance(wanted, str) else wanted:
      if axis in used or size % math.prod((extents[a] for a in kept), start=extents[axis]):
        break
      kept.append(axis)
    used.update(kept)
    spec.append(tuple(kept) if len(kept) > 1 else (kept[0] if kept else None))
  return PartitionSpec(*spec)


def interleave(a: jax.Array, b: jax.Array) -> jax.Array:
  """Two arrays (B, ...) in one, (2 B, ...): a[0], b[0], a[1], b[1], ...

  One after the other, half of each would have to move to another device.
  """
  return jnp.stack([a, b], axis=1).reshape(2 * len(a), *a.shape[1:])


def separate(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The inverse of `interleave`."""
  x = x.reshape(-1, 2, *x.shape[1:])
  return x[:, 0], x[:, 1]
