"""The mesh, and the one table that maps logical axes to it.

`data` divides the examples alone. `fsdp` divides the examples and also the parameters, with the
optimizer's state and the averages, which XLA gathers where they are used. `tensor` divides the
heads and the hidden layers of the transformers, and the examples everywhere else: convolutions have
no use for it.
"""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec
import ml_collections

from dfrec_jax.errors import InputError
from dfrec_jax.models.partitioning import partition

AXES = ('data', 'fsdp', 'tensor')
# Parameters of fewer elements are replicated, whatever their names say: to gather a quarter of a
# megabyte takes as long as to start doing so, and most of the networks' tensors are that small.
DIVIDED_FROM = 2**16

# Logical axis -> mesh axes; None is whole.
RULES = (
  # Of activations.
  ('batch', AXES),  # of images and feature maps
  ('sequences', ('data', 'fsdp')),  # of tokens, whose heads and hidden layers `tensor` divides
  # Of parameters; the last two of activations too.
  ('embed', 'fsdp'),
  ('qkv_in', ('fsdp', 'tensor')),
  ('conv_in', None),
  ('conv_out', 'fsdp'),
  ('patch', None),
  ('position', None),
  ('layers', None),
  ('mlp', 'tensor'),
  ('heads', 'tensor'),
)


def make_mesh(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """The mesh (data, fsdp, tensor) of `config.mesh`; an axis of -1 takes the devices that are left.

  Args:
    config: size by axis.
    devices: all there are unless given.

  Raises:
    InputError: the axes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  sizes = {name: config[name] for name in AXES}
  free = [name for name, size in sizes.items() if size == -1]
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if len(free) == 1 and fixed > 0 and count % fixed == 0:
    sizes[free[0]] = count // fixed
  if math.prod(sizes.values()) != count or min(sizes.values()) < 1:
    raise InputError(
      f'The mesh {dict(config)} does not fit {count} device(s): its axes must multiply to '
      f'{count}, and at most one may be -1.'
    )
  # With explicit axes linen's logical constraints fail.
  kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
  # `make_mesh` would not divide one side of a slice's torus between two axes of the mesh.
  grid = mesh_utils.create_device_mesh(
    tuple(sizes.values()), devices, allow_split_physical_axes=True
  )
  return jax.sharding.Mesh(grid, AXES, axis_types=kinds)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Every device holds all of it."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The first dimension is divided over every device."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
  """Raises an InputError unless the devices share the batch equally."""
  if batch_size % mesh.size:
    raise InputError(
      f'config.batch_size is {batch_size}, which {mesh.size} devices cannot share equally; make it '
      f'a multiple of {mesh.size}.'
    )


def parameter_shardings(abstract_boxed: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shardings of a tree of boxed abstract variables, unboxed.

  Parameters of fewer than `DIVIDED_FROM` elements are replicated, and so is a dimension that its
  mesh axes do not divide.

  Raises:
    KeyError: a logical name is not in `RULES`.
  """
  rules = dict(RULES)

  def fit(array, names):
    names = names if math.prod(array.shape) >= DIVIDED_FROM else ()
    return NamedSharding(mesh, partition(array.shape, names, rules, mesh.shape))

  return jax.tree.map(fit, nn.unbox(abstract_boxed), nn.get_partition_spec(abstract_boxed))
