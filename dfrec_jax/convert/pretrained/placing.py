"""Strict placing of a file's tensors into a tree of variables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from flax import traverse_util
import numpy as np

from dfrec_jax.convert import layout
from dfrec_jax.errors import InputError

Path = tuple[str, ...]
Shape = tuple[int, ...]


class Row(NamedTuple):
  """Where a PyTorch tensor goes.

  Attributes:
    path: keys of the leaf, its collection first and its network second.
    kind: in `KINDS`.
    layer: of a leaf that is stacked along a leading axis of layers.
  """

  path: Path
  kind: str = 'same'
  layer: int | None = None


Rows = dict[str, Row]


class Kind(NamedTuple):
  """How the libraries lay out a tensor: PyTorch's to ours, and our shape to PyTorch's."""

  from_torch: Callable[[np.ndarray], np.ndarray]
  torch_shape: Callable[[Shape], Shape]


def _patches_shape(shape):
  side = round((shape[0] / 3) ** 0.5)
  return shape[1], 3, side, side


KINDS = {
  'same': Kind(np.asarray, lambda shape: shape),
  'dense': Kind(layout.dense_from_torch, lambda shape: shape[::-1]),
  'conv': Kind(layout.conv_from_torch, lambda shape: (shape[3], shape[2], *shape[:2])),
  # A convolution of stride and kernel `patch` is a product with flattened patches.
  'patches': Kind(
    lambda weight: layout.conv_from_torch(weight).reshape(-1, len(weight)), _patches_shape
  ),
}


def rows_of(table: layout.Table, network: str, layer: int | None = None) -> Rows:
  """The rows of a table whose paths begin within `network`; those of `unused` are left out."""
  return {
    name: Row((tensor.collection, network, *tensor.path), tensor.kind, layer)
    for name, tensor in table.items()
    if tensor.collection != 'unused'
  }


def flatten(variables: Mapping[str, Any]) -> dict[Path, Any]:
  """The leaves by path."""
  return traverse_util.flatten_dict(variables)


def name_of(path: Path) -> str:
  """A leaf as a report names it, without its collection."""
  return '/'.join(path[1:])


def expected_shape(row: Row, leaves: Mapping[Path, Any]) -> Shape:
  """The shape that PyTorch's tensor must have to fit the model."""
  shape = tuple(leaves[row.path].shape)
  return KINDS[row.kind].torch_shape(shape if row.layer is None else shape[1:])


def require(
  arrays: Mapping[str, np.ndarray],
  rows: Rows,
  leaves: Mapping[Path, Any],
  *,
  what: str,
  path: str,
  unexpected: Iterable[str] = (),
) -> None:
  """Raises one InputError that names every missing, unexpected and misshapen tensor."""
  problems = [f'missing {name}' for name in rows if name not in arrays]
  problems += [f'unexpected {name}' for name in unexpected]
  for name, row in rows.items():
    if name in arrays and arrays[name].shape != (shape := expected_shape(row, leaves)):
      problems.append(f'{name} has shape {arrays[name].shape} instead of {shape}')
  if problems:
    raise InputError(f'{path} is no {what} that fits the model: {"; ".join(problems)}.')


def converted(
  arrays: Mapping[str, np.ndarray], rows: Rows, leaves: Mapping[Path, Any]
) -> dict[Path, np.ndarray]:
  """The new leaves, of tensors that `require` has passed; layers are stacked in their order."""
  found: dict[Path, dict[int | None, np.ndarray]] = {}
  for name, row in rows.items():
    found.setdefault(row.path, {})[row.layer] = KINDS[row.kind].from_torch(arrays[name])
  new = {}
  for path, layers in found.items():
    array = layers[None] if None in layers else np.stack([layers[i] for i in range(len(layers))])
    new[path] = np.ascontiguousarray(array, leaves[path].dtype)
  return new


def replaced(leaves: Mapping[Path, Any], new: Mapping[Path, np.ndarray]) -> dict[str, Any]:
  """The tree of `leaves` with those of `new` instead."""
  return traverse_util.unflatten_dict({**leaves, **new})
