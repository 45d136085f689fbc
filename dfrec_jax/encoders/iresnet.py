"""IResNet, the residual network of ArcFace (Deng et al., arXiv 1801.07698, section 3), frozen.

The structure is that of insightface's arcface_torch. Batch norms act with their running statistics:
one after a convolution is folded into it, one before a padded convolution is a scale and a shift.
"""

from collections.abc import Mapping
import re
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.encoders import weights
from dfrec_jax.models import layers

EMBEDDING = 512
WIDTHS = (64, 128, 256, 512)
SIZE = 112  # of the aligned face
LAST = 7  # side of the last map, whose every position the embedding weighs
BATCH_NORM_EPSILON = 1e-5


class Features(NamedTuple):
  """What IResNet says of B aligned faces.

  Attributes:
    embedding: (B, 512) float32, not normalised.
    taps: the last map of each resolution, (B, 112, 112, 64), (B, 56, 56, 64), (B, 28, 28, 128),
      (B, 14, 14, 256) and (B, 7, 7, 512).
  """

  embedding: jax.Array
  taps: tuple[jax.Array, ...]


class PReLU(nn.Module):
  """max(x, 0) + slope * min(x, 0), a slope a channel."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    slope = self.param('slope', nn.initializers.constant(0.25), x.shape[-1:], jnp.float32)
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class Affine(nn.Module):
  """scale x + shift, of each channel."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:], jnp.float32)
    shift = self.param('shift', nn.initializers.zeros, x.shape[-1:], jnp.float32)
    return x * scale.astype(x.dtype) + shift.astype(x.dtype)


class Block(nn.Module):
  """Affine, convolution, PReLU, convolution, added to the input, or to its projection at stride 2.

  Attributes:
    features: channels of the result.
    strides: of the second convolution.
  """

  features: int
  strides: int = 1
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv = lambda kernel, strides, name: layers.conv(
      self.features, kernel, strides=strides, use_bias=True, dtype=self.dtype, name=name
    )
    y = Affine(name='bn1')(x)
    y = PReLU(name='prelu')(conv(3, 1, 'conv1')(y))
    y = conv(3, self.strides, 'conv2')(y)
    return y + (x if self.strides == 1 else conv(1, self.strides, 'downsample')(x))


class IResNet(nn.Module):
  """Embeds aligned faces. The parameters of blocks in a row are stacked along a leading axis.

  Attributes:
    depths: blocks of the four layers: 3, 4, 14, 3 in IResNet-50 and 3, 13, 30, 3 in IResNet-100.
    dtype: of the computation; the embedding is float32 whatever it is.
  """

  depths: tuple[int, int, int, int]
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, aligned: jax.Array) -> Features:
    """`aligned`: (B, 112, 112, 3) RGB in [-1, 1], aligned to `alignment.TEMPLATE_112`."""
    x = layers.conv(WIDTHS[0], 3, use_bias=True, dtype=self.dtype, name='conv1')(aligned)
    x = PReLU(name='prelu')(x)
    taps = [x]
    for i, (width, depth) in enumerate(zip(WIDTHS, self.depths, strict=True)):
      x = Block(width, 2, self.dtype, name=f'layer{i + 1}_first')(x)
      if depth > 1:
        x = self._repeat(Block(width, 1, self.dtype, name=f'layer{i + 1}_rest'), depth - 1, x)
      taps.append(x)
    flat = x.astype(jnp.float32).reshape(len(x), -1)  # (B, 7 * 7 * 512)
    return Features(nn.Dense(EMBEDDING, name='fc')(flat), tuple(taps))

  def _repeat(self, block, repeats, x):
    # A loop compiles in a fraction of the time of its blocks one by one.
    scan = nn.scan(
      lambda block, x, _: (block(x), None),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=repeats,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return scan(block, x, None)[0]


def depths(arrays: Mapping[str, np.ndarray]) -> tuple[int, int, int, int]:
  """Blocks of each layer, from the tensors' names; a layer has at least one."""
  found = [1, 1, 1, 1]
  for name in arrays:
    if match := re.match(r'layer([1-4])\.(\d+)\.', name):
      layer = int(match[1]) - 1
      found[layer] = max(found[layer], int(match[2]) + 1)
  return tuple(found)


def tensor_shapes(depths: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
  """Name and shape of each tensor of the PyTorch network, step counters excepted."""
  shapes = {
    'conv1.weight': (WIDTHS[0], 3, 3, 3),
    'prelu.weight': (WIDTHS[0],),
    'fc.weight': (EMBEDDING, WIDTHS[-1] * LAST**2),
    'fc.bias': (EMBEDDING,),
  }
  norms = {'bn1': WIDTHS[0], 'bn2': WIDTHS[-1], 'features': EMBEDDING}
  inputs = WIDTHS[0]
  for layer, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), start=1):
    for i in range(depth):
      block = f'layer{layer}.{i}'
      shapes[f'{block}.conv1.weight'] = (width, inputs, 3, 3)
      shapes[f'{block}.prelu.weight'] = (width,)
      shapes[f'{block}.conv2.weight'] = (width, width, 3, 3)
      norms |= {f'{block}.bn1': inputs, f'{block}.bn2': width, f'{block}.bn3': width}
      if i == 0:
        shapes[f'{block}.downsample.0.weight'] = (width, inputs, 1, 1)
        norms[f'{block}.downsample.1'] = width
      inputs = width
  for norm, features in norms.items():
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{norm}.{leaf}'] = (features,)
  return shapes


def from_torch_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of `IResNet(depths(arrays))` from arcface_torch's tensors, batch norms folded.

  Args:
    arrays: tensors by name; `num_batches_tracked` is ignored.

  Returns:
    Nested dictionary of float32 numpy arrays.

  Raises:
    ValueError: names every missing, unexpected and misshapen tensor.
  """
  arrays = {k: v for k, v in arrays.items() if not k.endswith('.num_batches_tracked')}
  found = depths(arrays)
  weights.check_tensors('IResNet', arrays, tensor_shapes(found))
  params = {
    'conv1': _folded(arrays, 'conv1', 'bn1'),
    'prelu': {'slope': arrays['prelu.weight']},
    'fc': _embedding(arrays),
  }
  for layer, depth in enumerate(found, start=1):
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
  weight = arrays['fc.weight'].reshape(EMBEDDING, WIDTHS[-1], LAST**2)  # PyTorch: channels first
  bias = np.einsum('ecp,c->e', weight, shift_before) + arrays['fc.bias']
  kernel = weight * before[:, None] * after[:, None, None]
  kernel = kernel.transpose(2, 1, 0).reshape(-1, EMBEDDING)
  return {'kernel': kernel, 'bias': bias * after + shift_after}
