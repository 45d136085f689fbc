"""The mesh, and the one table that maps logical axes to it.

`data` divides the examples alone; `fsdp` divides the examples and also the parameters, which XLA
gathers where they are used.
"""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import NamedSharding, PartitionSpec
import ml_collections
import numpy as np

from dfrec_jax.errors import InputError

# Logical axis -> mesh axes; None is replicated.
RULES = (
  ('batch', ('data', 'fsdp')),
  ('embed', 'fsdp'),
  ('mlp', None),
  ('heads', None),
  ('conv_in', None),
  ('conv_out', 'fsdp'),
  ('patch', None),
  ('position', None),
  ('layers', None),
)


def make_mesh(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """The mesh (data, fsdp) of `config.mesh`; an axis of -1 takes the devices that are left.

  Args:
    config: size by axis.
    devices: all there are unless given.

  Raises:
    InputError: the axes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  sizes = {'data': config.data, 'fsdp': config.fsdp}
  free = [name for name, size in sizes.items() if size == -1]
  fixed = int(np.prod([size for size in sizes.values() if size != -1]))
  if len(free) == 1 and fixed > 0 and count % fixed == 0:
    sizes[free[0]] = count // fixed
  if np.prod(list(sizes.values())) != count or min(sizes.values()) < 1:
    raise InputError(
      f'The mesh {dict(config)} does not fit {count} device(s): its axes must multiply to '
      f'{count}, and at most one may be -1.'
    )
  # `make_mesh` defaults to explicit axes, with which linen's logical constraints fail.
  kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
  return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Every device holds all of it."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The first dimension is divided over every device."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
  """Raises an InputError unless the devices share the batch equally."""
  if batch_size % mesh.size:
    raise InputError(
      f'config.batch_size is {batch_size}, which {mesh.size} devices cannot share equally; make it '
      f'a multiple of {mesh.size}.'
    )


def parameter_shardings(abstract_boxed: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shardings of a tree of boxed abstract variables, unboxed.

  A dimension that its mesh axes do not divide is replicated.
  """
  logical = nn.get_partition_spec(abstract_boxed)
  physical = nn.logical_to_mesh_sharding(logical, mesh, RULES)

  def fit(array, sharding):
    spec = tuple(sharding.spec) + (None,) * (array.ndim - len(sharding.spec))
    kept = (
      axes if axes is None or size % _extent(mesh, axes) == 0 else None
      for size, axes in zip(array.shape, spec, strict=True)
    )
    return NamedSharding(mesh, PartitionSpec(*kept))

  return jax.tree.map(fit, nn.unbox(abstract_boxed), physical)


def _extent(mesh: jax.sharding.Mesh, axes: str | tuple[str, ...]) -> int:
  names = (axes,) if isinstance(axes, str) else axes
  return int(np.prod([mesh.shape[name] for name in names]))
