"""arcface_torch's tensors of IResNet: read for a frozen network, written of a trained one."""

from collections.abc import Iterator, Mapping
import math
import re
from typing import Any

import jax
import numpy as np

from dfrec_jax.encoders import weights
from dfrec_jax.encoders.iresnet import EMBEDDING, POOL, STEM, Depths, scaled_widths

BATCH_NORM_EPSILON = 1e-5


def depths(arrays: Mapping[str, Any]) -> Depths:
  """Blocks of each layer, from the tensors' names; a layer has at least one."""
  found = [1, 1, 1, 1]
  for name in arrays:
    if match := re.match(r'layer([1-4])\.(\d+)\.', name):
      layer = int(match[1]) - 1
      found[layer] = max(found[layer], int(match[2]) + 1)
  return tuple(found)


def sizes(arrays: Mapping[str, np.ndarray]) -> tuple[Depths, float, int]:
  """(depths, width, pool) of the network that has these tensors; the published where none tells.

  Args:
    arrays: tensors of arcface_torch's network by name.
  """
  stem, embedding = arrays.get('conv1.weight'), arrays.get('fc.weight')
  width = 1.0 if stem is None or stem.ndim != 4 else stem.shape[0] / STEM
  pool = POOL
  if embedding is not None and embedding.ndim == 2:
    last = scaled_widths(width)[-1]
    side = math.isqrt(embedding.shape[1] // last)
    # Of another number of values the shape itself is wrong, and is named as such.
    pool = side if side and side**2 * last == embedding.shape[1] else POOL
  return depths(arrays), width, pool


def tensor_shapes(
  depths: Depths, width: float = 1.0, pool: int = POOL
) -> dict[str, tuple[int, ...]]:
  """Name and shape of each tensor of the PyTorch network, step counters excepted."""
  widths = scaled_widths(width)
  shapes = {
    'conv1.weight': (widths[0], 3, 3, 3),
    'prelu.weight': (widths[0],),
    'fc.weight': (EMBEDDING, widths[-1] * pool**2),
    'fc.bias': (EMBEDDING,),
  }
  norms = {'bn1': widths[0], 'bn2': widths[-1], 'features': EMBEDDING}
  inputs = widths[0]
  for layer, (features, depth) in enumerate(zip(widths, depths, strict=True), start=1):
    for i in range(depth):
      block = f'layer{layer}.{i}'
      shapes[f'{block}.conv1.weight'] = (features, inputs, 3, 3)
      shapes[f'{block}.prelu.weight'] = (features,)
      shapes[f'{block}.conv2.weight'] = (features, features, 3, 3)
      norms |= {f'{block}.bn1': inputs, f'{block}.bn2': features, f'{block}.bn3': features}
      if i == 0:
        shapes[f'{block}.downsample.0.weight'] = (features, inputs, 1, 1)
        norms[f'{block}.downsample.1'] = features
      inputs = features
  for norm, features in norms.items():
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{norm}.{leaf}'] = (features,)
  return shapes


def from_torch_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of `IResNet(*sizes(arrays))` from arcface_torch's tensors, batch norms folded.

  Args:
    arrays: tensors by name; `num_batches_tracked` is ignored.

  Returns:
    Nested dictionary of float32 numpy arrays.

  Raises:
    ValueError: names every missing, unexpected and misshapen tensor.
  """
  arrays = {k: v for k, v in arrays.items() if not k.endswith('.num_batches_tracked')}
  found = sizes(arrays)
  weights.check_tensors('IResNet', arrays, tensor_shapes(*found))
  params = {
    'conv1': _folded(arrays, 'conv1', 'bn1'),
    'prelu': {'slope': arrays['prelu.weight']},
    'fc': _embedding(arrays),
  }
  for layer, depth in enumerate(found[0], start=1):
    blocks = [_block(arrays, f'layer{layer}.{i}') for i in range(depth)]
    params[f'layer{layer}_first'] = blocks[0]
    if depth > 1:
      params[f'layer{layer}_rest'] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks[1:])
  return jax.tree.map(lambda array: np.ascontiguousarray(array, np.float32), params)


def _block(arrays, name):
  scale, shift = weights.scale_and_shift(arrays, f'{name}.bn1', BATCH_NORM_EPSILON)
  params = {
    'bn1': {'scale': scale, 'shift': shift},
    'conv1': _folded(arrays, f'{name}.conv1', f'{name}.bn2'),
    'prelu': {'slope': arrays[f'{name}.prelu.weight']},
    'conv2': _folded(arrays, f'{name}.conv2', f'{name}.bn3'),
  }
  if f'{name}.downsample.0.weight' in arrays:
    params['downsample'] = _folded(arrays, f'{name}.downsample.0', f'{name}.downsample.1')
  return params


def _folded(arrays, conv, norm):
  """A convolution without bias and the batch norm after it, as one convolution."""
  scale, shift = weights.scale_and_shift(arrays, norm, BATCH_NORM_EPSILON)
  return {'kernel': arrays[f'{conv}.weight'].transpose(2, 3, 1, 0) * scale, 'bias': shift}


def _embedding(arrays):
  """The linear layer with the batch norms around it, for maps flattened with channels last."""
  before, shift_before = weights.scale_and_shift(arrays, 'bn2', BATCH_NORM_EPSILON)
  after, shift_after = weights.scale_and_shift(arrays, 'features', BATCH_NORM_EPSILON)
  weight = arrays['fc.weight'].reshape(EMBEDDING, len(before), -1)  # PyTorch: channels first
  bias = np.einsum('ecp,c->e', weight, shift_before) + arrays['fc.bias']
  kernel = weight * before[:, None] * after[:, None, None]
  kernel = kernel.transpose(2, 1, 0).reshape(-1, EMBEDDING)
  return {'kernel': kernel, 'bias': bias * after + shift_after}


def to_torch_arrays(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """arcface_torch's tensors of a network with batch norms: what `from_torch_arrays` reads.

  Args:
    variables: `params` and `batch_stats` of `IResNet(norms=True)`, of any sizes.

  Returns:
    float32 arrays by name, batch norms not folded.
  """
  params, stats = (jax.tree.map(np.asarray, variables[name]) for name in ('params', 'batch_stats'))
  channels = len(params['bn2']['scale'])
  kernel = params['fc']['kernel'].reshape(-1, channels, EMBEDDING)  # of each position
  one = np.ones(EMBEDDING, np.float32)  # a fixed scale, which is no parameter
  arrays = {
    'conv1.weight': params['conv1']['kernel'].transpose(3, 2, 0, 1),
    'prelu.weight': params['prelu']['slope'],
    'fc.weight': kernel.transpose(2, 1, 0).reshape(EMBEDDING, -1),
    'fc.bias': params['fc']['bias'],
    **weights.norm_arrays('bn1', params['bn1'], stats['bn1']),
    **weights.norm_arrays('bn2', params['bn2'], stats['bn2']),
    **weights.norm_arrays('features', {'scale': one, **params['features']}, stats['features']),
  }
  for layer in range(1, 5):
    for i, block in enumerate(_unstacked(params, stats, f'layer{layer}')):
      arrays |= _block_arrays(f'layer{layer}.{i}', *block)
  return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def _unstacked(params, stats, layer) -> Iterator[tuple[dict, dict]]:
  """Parameters and statistics of the blocks of a layer, one by one."""
  yield params[f'{layer}_first'], stats[f'{layer}_first']
  rest = f'{layer}_rest'
  if rest in params:
    for i in range(len(params[rest]['prelu']['slope'])):
      yield jax.tree.map(lambda array, i=i: array[i], (params[rest], stats[rest]))


def _block_arrays(prefix, params, stats):
  arrays = {f'{prefix}.prelu.weight': params['prelu']['slope']}
  convolutions = {'conv1': 'conv1', 'conv2': 'conv2', 'downsample': 'downsample.0'}
  norms = {'bn1': 'bn1', 'bn2': 'bn2', 'bn3': 'bn3', 'downsample_norm': 'downsample.1'}
  for ours in params:
    if ours in convolutions:
      kernel = params[ours]['kernel'].transpose(3, 2, 0, 1)
      arrays[f'{prefix}.{convolutions[ours]}.weight'] = kernel
    elif ours in norms:
      arrays |= weights.norm_arrays(f'{prefix}.{norms[ours]}', params[ours], stats[ours])
  return arrays
