"""Strictness about the shapes of PyTorch tensors."""

from collections.abc import Mapping

import numpy as np

Shapes = dict[str, tuple[int, ...]]


def require(arrays: Mapping[str, np.ndarray], shapes: Shapes, network: str) -> None:
  """Demands exactly the tensors of `shapes`.

  Raises:
    ValueError: naming every missing, extra and misshapen tensor.
  """
  problems = [f'missing {name}' for name in shapes if name not in arrays]
  problems += [f'extra {name}' for name in arrays if name not in shapes]
  problems += [
    f'{name} has shape {np.shape(arrays[name])} instead of {shape}'
    for name, shape in shapes.items()
    if name in arrays and np.shape(arrays[name]) != shape
  ]
  if problems:
    raise ValueError(f'These are not the weights of the {network}: {"; ".join(problems)}.')


def size_of(arrays: Mapping[str, np.ndarray], name: str, axis: int, default: int) -> int:
  """The size of a tensor along an axis; `default` where it is missing or has no such axis."""
  shape = np.shape(arrays[name]) if name in arrays else ()
  return shape[axis] if -len(shape) <= axis < len(shape) else default


def conv(name: str, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> Shapes:
  """Shapes of a convolution's tensors."""
  weight = {f'{name}.weight': (outputs, inputs, kernel, kernel)}
  return {**weight, f'{name}.bias': (outputs,)} if bias else weight


def dense(name: str, inputs: int, outputs: int) -> Shapes:
  """Shapes of a linear layer's tensors."""
  return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def layer_norm(name: str, features: int) -> Shapes:
  """Shapes of a layer norm's tensors."""
  return {f'{name}.weight': (features,), f'{name}.bias': (features,)}


def batch_norm(name: str, features: int) -> Shapes:
  """Shapes of a batch norm's tensors, its step counter included."""
  running = {f'{name}.running_mean': (features,), f'{name}.running_var': (features,)}
  return {**layer_norm(name, features), **running, f'{name}.num_batches_tracked': ()}
