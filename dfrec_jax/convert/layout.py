"""How PyTorch and linen lay out the same tensors, and strict conversion by table.

A network's converter is a table that maps each PyTorch name to a `Tensor`: the collection, the
path in it, and the kind of layout. `conv`, `dense`, `batch_norm`, ... make the rows of one layer;
`from_torch` and `to_torch` apply a table. Only numpy is needed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Tensor(NamedTuple):
  """Where a PyTorch tensor goes.

  Attributes:
    collection: `params`, `batch_stats`, or `unused` for what no network here reads.
    path: keys in that collection.
    kind: `conv`, `dense`, or `same` where both libraries agree.
  """

  collection: str
  path: tuple[str, ...]
  kind: str = 'same'


Table = dict[str, Tensor]


def conv_from_torch(weight: np.ndarray) -> np.ndarray:
  """(out, in, height, width) to (height, width, in, out).

  Depthwise kernels, (channels, 1, k, k) to (k, k, 1, channels), are the same case.
  """
  return np.transpose(weight, (2, 3, 1, 0))


def conv_to_torch(kernel: np.ndarray) -> np.ndarray:
  """(height, width, in, out) to (out, in, height, width)."""
  return np.transpose(kernel, (3, 2, 0, 1))


def dense_from_torch(weight: np.ndarray) -> np.ndarray:
  """(out, in) to (in, out)."""
  return np.transpose(weight)


def dense_to_torch(kernel: np.ndarray) -> np.ndarray:
  """(in, out) to (out, in)."""
  return np.transpose(kernel)


# kind -> (dimensions, PyTorch to linen, linen to PyTorch).
_KINDS = {
  'conv': (4, conv_from_torch, conv_to_torch),
  'dense': (2, dense_from_torch, dense_to_torch),
  'same': (None, np.asarray, np.asarray),
}


def conv(name: str, path: str, *, bias: bool = False) -> Table:
  """Rows of a convolution; `path` separates modules with '/'."""
  return _weight(name, path, 'conv', bias)


def dense(name: str, path: str, *, bias: bool = True) -> Table:
  """Rows of a linear layer."""
  return _weight(name, path, 'dense', bias)


def layer_norm(name: str, path: str) -> Table:
  """Rows of a layer norm."""
  return {
    f'{name}.weight': Tensor('params', (*path.split('/'), 'scale')),
    f'{name}.bias': Tensor('params', (*path.split('/'), 'bias')),
  }


def batch_norm(name: str, path: str) -> Table:
  """Rows of a batch norm, its step counter among the unused."""
  keys = path.split('/')
  return {
    **layer_norm(name, path),
    f'{name}.running_mean': Tensor('batch_stats', (*keys, 'mean')),
    f'{name}.running_var': Tensor('batch_stats', (*keys, 'var')),
    **unused(f'{name}.num_batches_tracked'),
  }


def same(name: str, path: str) -> Table:
  """The row of a parameter that both libraries lay out alike."""
  return {name: Tensor('params', tuple(path.split('/')))}


def unused(*names: str) -> Table:
  """Rows of tensors that are kept for the way back, under their PyTorch names split at dots."""
  return {name: Tensor('unused', tuple(name.split('.'))) for name in names}


def _weight(name: str, path: str, kind: str, bias: bool) -> Table:
  keys = tuple(path.split('/'))
  rows = {f'{name}.weight': Tensor('params', (*keys, 'kernel'), kind)}
  if bias:
    rows[f'{name}.bias'] = Tensor('params', (*keys, 'bias'))
  return rows


def from_torch(arrays: Mapping[str, np.ndarray], table: Table, network: str) -> dict[str, Any]:
  """The collections of nested arrays that `table` makes of PyTorch tensors.

  Raises:
    ValueError: naming every missing and extra tensor, and those of a wrong rank.
  """
  problems = [f'missing {name}' for name in table if name not in arrays]
  problems += [f'extra {name}' for name in arrays if name not in table]
  for name, tensor in table.items():
    rank = _KINDS[tensor.kind][0]
    if rank and name in arrays and np.ndim(arrays[name]) != rank:
      problems.append(f'{name} of shape {np.shape(arrays[name])} instead of {rank} dimensions')
  if problems:
    raise ValueError(f'These are not the weights of the {network}: {"; ".join(problems)}.')
  variables = {}
  for name, (collection, path, kind) in table.items():
    node = variables.setdefault(collection, {})
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = _KINDS[kind][1](np.asarray(arrays[name])).copy(order='C')
  return variables


def to_torch(
  variables: Mapping[str, Any],
  table: Table,
  network: str,
  fill: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
  """The PyTorch tensors, in the table's order: the inverse of `from_torch`.

  Integers become int64, which is PyTorch's type for them and not JAX's.

  Args:
    variables: collections; other ones than the table's are ignored. A model that was trained here
      has no `unused`: then step counters are 0.
    table: rows of the network.
    network: its name, for errors.
    fill: the other unused tensors of a model that was trained here.

  Raises:
    ValueError: naming every array that `table` expects and `variables` lacks, or the reverse.
  """
  wanted = {(tensor.collection, *tensor.path): name for name, tensor in table.items()}
  collections = {path[0] for path in wanted}
  leaves = {path: leaf for path, leaf in _leaves(variables) if path[0] in collections}
  if 'unused' not in variables:
    for path, name in wanted.items():
      if name.endswith('.num_batches_tracked'):
        leaves[path] = np.zeros((), np.int64)
      elif fill and name in fill:
        leaves[path] = fill[name]
  problems = [f'missing {"/".join(path)}' for path in wanted if path not in leaves]
  problems += [f'extra {"/".join(path)}' for path in leaves if path not in wanted]
  if problems:
    raise ValueError(f'These are not the variables of the {network}: {"; ".join(problems)}.')
  arrays = {}
  for path, name in wanted.items():
    array = _KINDS[table[name].kind][2](np.asarray(leaves[path]))
    if np.issubdtype(array.dtype, np.integer):
      array = array.astype(np.int64)
    arrays[name] = array.copy(order='C')
  return arrays


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()):
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, (*path, key))
    else:
      yield (*path, key), value
