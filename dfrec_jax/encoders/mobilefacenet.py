"""MobileFaceNet (Chen et al. 2018, arXiv 1804.07573), frozen: an identity embedding of a face.

Batch norms act with their running statistics, so each is folded into the
convolution before it when the weights are loaded.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.encoders import weights
from dfrec_jax.models import layers

EMBEDDING = 128
STEM = 64
LAST = 512
POOL = 7  # side of the last map, and of the depthwise kernel that pools it
BATCH_NORM_EPSILON = 1e-5

# Inverted residuals: expansion, channels, repeats, stride of the first.
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class Features(NamedTuple):
  """What MobileFaceNet says of B aligned faces.

  Attributes:
    embedding: (B, 128) float32, not normalised.
    taps: the last map of each resolution, (B, 56, 56, 64), (B, 28, 28, 64), (B, 14, 14, 128) and
      (B, 7, 7, 512).
  """

  embedding: jax.Array
  taps: tuple[jax.Array, ...]


def _blocks():
  """(expanded channels, channels, stride, joins its input) of each inverted residual."""
  blocks, inputs = [], STEM
  for expansion, channels, repeats, first_stride in STAGES:
    for i in range(repeats):
      stride = first_stride if i == 0 else 1
      blocks.append((inputs * expansion, channels, stride, stride == 1 and inputs == channels))
      inputs = channels
  return blocks


BLOCKS = _blocks()


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
  """min(max(x, 0), 6), as PyTorch's. Its gradient is 0 at the ends."""
  return jnp.clip(x, 0, 6)


# The gradient of `jnp.clip` splits ties and reads the input: on a CPU this one, which reads the
# result only, makes a block's backward pass several times faster.
relu6.defvjp(
  lambda x: (relu6(x),) * 2, lambda y, ct: (jnp.where((y > 0) & (y < 6), ct, jnp.zeros_like(ct)),)
)


class BiasedDepthwise(nn.Module):
  """3x3 depthwise convolution with bias; runs fast on a CPU (`layers.DepthwiseConv`)."""

  strides: int = 1
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = layers.DepthwiseConv(3, strides=self.strides, dtype=self.dtype, name='conv')(x)
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    return x + bias.astype(self.dtype)


class InvertedResidual(nn.Module):
  """Expand, depthwise, project (MobileNetV2); the projection is linear."""

  expanded: int
  channels: int
  strides: int
  residual: bool
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    # 1x1 convolutions are written as products: on a CPU twice as fast as XLA's convolution.
    y = relu6(nn.Dense(self.expanded, dtype=self.dtype, name='expand')(x))
    y = relu6(BiasedDepthwise(self.strides, dtype=self.dtype, name='depthwise')(y))
    y = nn.Dense(self.channels, dtype=self.dtype, name='project')(y)
    return x + y if self.residual else y


class MobileFaceNet(nn.Module):
  """Embeds aligned faces.

  Attributes:
    dtype: of the computation; pooling and embedding are float32 whatever it is.
  """

  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, aligned: jax.Array) -> Features:
    """`aligned`: (B, 112, 112, 3) RGB in [0, 1], aligned to `alignment.TEMPLATE_112`."""
    x = (aligned - jnp.array(layers.IMAGENET_MEAN)) / jnp.array(layers.IMAGENET_STD)
    x = layers.conv(STEM, 3, strides=2, use_bias=True, dtype=self.dtype, name='conv1')(x)
    x = BiasedDepthwise(dtype=self.dtype, name='dw_conv_depthwise')(relu6(x))
    x = nn.Dense(STEM, dtype=self.dtype, name='dw_conv_pointwise')(nn.relu(x))
    x = nn.relu(x)
    taps = []
    for i, (expanded, channels, strides, residual) in enumerate(BLOCKS):
      if strides > 1:
        taps.append(x)
      block = InvertedResidual(
        expanded, channels, strides, residual, dtype=self.dtype, name=f'features_{i}'
      )
      x = block(x)
    x = relu6(nn.Dense(LAST, dtype=self.dtype, name='conv2')(x))  # (B, 7, 7, 512)
    taps.append(x)
    pool = self.param('gdconv', layers.conv_init, (POOL, POOL, 1, LAST), jnp.float32)
    pooled = (x.astype(jnp.float32) * pool[:, :, 0]).sum((1, 2))
    return Features(nn.Dense(EMBEDDING, name='conv3')(pooled), tuple(taps))


def _convolutions():
  """(path in the parameters, convolution, batch norm, shape (O, I, kh, kw)), all but `conv3`."""
  yield ('conv1',), 'conv1.0', 'conv1.1', (STEM, 3, 3, 3)
  yield ('dw_conv_depthwise',), 'dw_conv.depthwise', 'dw_conv.bn1', (STEM, 1, 3, 3)
  yield ('dw_conv_pointwise',), 'dw_conv.pointwise', 'dw_conv.bn2', (STEM, STEM, 1, 1)
  inputs = STEM
  for i, (expanded, channels, _, _) in enumerate(BLOCKS):
    block, prefix = f'features_{i}', f'features.{i}.conv'
    yield (block, 'expand'), f'{prefix}.0.0', f'{prefix}.0.1', (expanded, inputs, 1, 1)
    yield (block, 'depthwise'), f'{prefix}.1.0', f'{prefix}.1.1', (expanded, 1, 3, 3)
    yield (block, 'project'), f'{prefix}.2', f'{prefix}.3', (channels, expanded, 1, 1)
    inputs = channels
  yield ('conv2',), 'conv2.0', 'conv2.1', (LAST, inputs, 1, 1)
  yield ('gdconv',), 'gdconv.depthwise', 'gdconv.bn', (LAST, 1, POOL, POOL)


def tensor_shapes() -> dict[str, tuple[int, ...]]:
  """Name and shape of each tensor of the PyTorch network, `num_batches_tracked` excepted."""
  shapes = {'conv3.weight': (EMBEDDING, LAST, 1, 1), 'conv3.bias': (EMBEDDING,)}
  norms = [('bn', EMBEDDING)]
  for _, conv, norm, shape in _convolutions():
    shapes[f'{conv}.weight'] = shape
    norms.append((norm, shape[0]))
  for norm, channels in norms:
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{norm}.{leaf}'] = (channels,)
  return shapes


def from_torch_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of `MobileFaceNet` from the tensors of the PyTorch network, batch norms folded.

  Args:
    arrays: tensors by name, as github.com/foamliu/MobileFaceNet names them (convolutions O, I, kh,
      kw); `num_batches_tracked` is ignored.

  Returns:
    Nested dictionary of float32 numpy arrays.

  Raises:
    ValueError: names every missing, unexpected and misshapen tensor.
  """
  arrays = {k: v for k, v in arrays.items() if not k.endswith('.num_batches_tracked')}
  weights.check_tensors('MobileFaceNet', arrays, tensor_shapes())
  arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
  params: dict[str, Any] = {}
  for path, conv, norm, shape in _convolutions():
    scale, shift = weights.scale_and_shift(arrays, norm, BATCH_NORM_EPSILON)
    weight = arrays[f'{conv}.weight'] * scale[:, None, None, None]
    *blocks, layer = path
    parent = params
    for block in blocks:
      parent = parent.setdefault(block, {})
    if layer == 'gdconv':  # its shift goes into the bias of `conv3`
      params['gdconv'], pooled_shift = weight.transpose(2, 3, 1, 0), shift
    elif shape[1:] == (1, 3, 3):
      parent[layer] = {'conv': {'kernel': weight.transpose(2, 3, 1, 0)}, 'bias': shift}
    elif shape[2:] == (1, 1):
      parent[layer] = {'kernel': weight[:, :, 0, 0].T, 'bias': shift}
    else:
      parent[layer] = {'kernel': weight.transpose(2, 3, 1, 0), 'bias': shift}
  weight, (scale, shift) = (
    arrays['conv3.weight'][:, :, 0, 0],
    weights.scale_and_shift(arrays, 'bn', BATCH_NORM_EPSILON),
  )
  bias = (weight @ pooled_shift + arrays['conv3.bias']) * scale + shift
  params['conv3'] = {'kernel': (weight * scale[:, None]).T, 'bias': bias}
  return jax.tree.map(lambda array: np.ascontiguousarray(array, np.float32), params)
