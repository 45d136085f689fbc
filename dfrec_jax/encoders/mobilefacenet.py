"""MobileFaceNet (Chen et al. 2018, arXiv 1804.07573): an identity embedding of a face.

Frozen, its batch norms act with their running statistics, so each is folded into the convolution
before it when the weights are loaded. In training (`norms`) each follows its convolution.
"""

from collections.abc import Iterator, Mapping
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
STRIDE = 16  # pixels of the input for one of the last map
BATCH_NORM_EPSILON = 1e-5

# Inverted residuals: expansion, channels, repeats, stride of the first.
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class Features(NamedTuple):
  """What MobileFaceNet says of B aligned faces.

  Attributes:
    embedding: (B, 128) float32, not normalised.
    taps: the last map of each resolution, of the published network (B, 56, 56, 64),
      (B, 28, 28, 64), (B, 14, 14, 128) and (B, 7, 7, 512).
  """

  embedding: jax.Array
  taps: tuple[jax.Array, ...]


def scaled(channels: int, width: float) -> int:
  """Channels of a network `width` times as wide as the published one."""
  return max(round(channels * width), 1)


def _blocks(width: float = 1.0):
  """(expanded channels, channels, stride, joins its input) of each inverted residual."""
  blocks, inputs = [], scaled(STEM, width)
  for expansion, channels, repeats, first_stride in STAGES:
    channels = scaled(channels, width)
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


class Depthwise(nn.Module):
  """3x3 depthwise convolution, with bias or batch norm; fast on a CPU (`layers.DepthwiseConv`)."""

  strides: int = 1
  norms: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = layers.DepthwiseConv(3, strides=self.strides, dtype=self.dtype, name='conv')(x)
    if self.norms:
      return layers.BatchNorm(dtype=self.dtype, name='norm')(x, train=train)
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    return x + bias.astype(self.dtype)


class Pointwise(nn.Module):
  """1x1 convolution, with bias or batch norm.

  Written as a product: on a CPU that is twice as fast as XLA's convolution.
  """

  features: int
  norms: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', layers.dense_init, shape, jnp.float32)
    x = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.norms:
      return layers.BatchNorm(dtype=self.dtype, name='norm')(x, train=train)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    return x + bias.astype(self.dtype)


class InvertedResidual(nn.Module):
  """Expand, depthwise, project (MobileNetV2); the projection is linear."""

  expanded: int
  channels: int
  strides: int
  residual: bool
  norms: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    options = {'norms': self.norms, 'dtype': self.dtype}
    y = relu6(Pointwise(self.expanded, name='expand', **options)(x, train))
    y = relu6(Depthwise(self.strides, name='depthwise', **options)(y, train))
    y = Pointwise(self.channels, name='project', **options)(y, train)
    return x + y if self.residual else y


class MobileFaceNet(nn.Module):
  """Embeds aligned faces.

  Attributes:
    width: channels relative to the published network's.
    pool: side of the last map; the input's is 16 times that.
    norms: whether batch norms are there, for training, or folded into the convolutions.
    dtype: of the computation; pooling and embedding are float32 whatever it is.
  """

  width: float = 1.0
  pool: int = POOL
  norms: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, aligned: jax.Array, *, train: bool = False) -> Features:
    """`aligned`: (B, 112, 112, 3) RGB in [0, 1], aligned to `alignment.TEMPLATE_112`."""
    options = {'norms': self.norms, 'dtype': self.dtype}
    stem, last = scaled(STEM, self.width), scaled(LAST, self.width)
    x = (aligned - jnp.array(layers.IMAGENET_MEAN)) / jnp.array(layers.IMAGENET_STD)
    conv = {'strides': 2, 'use_bias': not self.norms, 'dtype': self.dtype, 'name': 'conv1'}
    x = layers.conv(stem, 3, **conv)(x)
    if self.norms:
      x = layers.BatchNorm(dtype=self.dtype, name='conv1_norm')(x, train=train)
    x = Depthwise(name='dw_conv_depthwise', **options)(relu6(x), train)
    x = Pointwise(stem, name='dw_conv_pointwise', **options)(nn.relu(x), train)
    x = nn.relu(x)
    taps = []
    for i, (expanded, channels, strides, residual) in enumerate(_blocks(self.width)):
      if strides > 1:
        taps.append(x)
      name = f'features_{i}'
      x = InvertedResidual(expanded, channels, strides, residual, name=name, **options)(x, train)
    x = relu6(Pointwise(last, name='conv2', **options)(x, train))  # (B, 7, 7, 512)
    taps.append(x)
    pool = self.param('gdconv', layers.conv_init, (self.pool, self.pool, 1, last), jnp.float32)
    pooled = (x.astype(jnp.float32) * pool[:, :, 0]).sum((1, 2))
    if self.norms:
      pooled = layers.BatchNorm(name='gdconv_norm')(pooled, train=train)
    embedding = nn.Dense(EMBEDDING, name='conv3')(pooled)
    if self.norms:
      embedding = layers.BatchNorm(name='conv3_norm')(embedding, train=train)
    return Features(embedding, tuple(taps))

  @property
  def size(self) -> int:
    """Side of the input in pixels."""
    return self.pool * STRIDE

  @staticmethod
  def from_pixels(images: jax.Array) -> jax.Array:
    """Images in [0, 1] as `__call__` takes them."""
    return images

  def residual_norms(self) -> Iterator[tuple[str, ...]]:
    """Paths in the parameters of the last batch norm of each residual branch."""
    for i, (*_, residual) in enumerate(BLOCKS):
      if residual:
        yield f'features_{i}', 'project', 'norm'


def _convolutions(width: float = 1.0, pool: int = POOL):
  """(path in the parameters, convolution, batch norm, shape (O, I, kh, kw)), all but `conv3`."""
  stem, last = scaled(STEM, width), scaled(LAST, width)
  yield ('conv1',), 'conv1.0', 'conv1.1', (stem, 3, 3, 3)
  yield ('dw_conv_depthwise',), 'dw_conv.depthwise', 'dw_conv.bn1', (stem, 1, 3, 3)
  yield ('dw_conv_pointwise',), 'dw_conv.pointwise', 'dw_conv.bn2', (stem, stem, 1, 1)
  inputs = stem
  for i, (expanded, channels, _, _) in enumerate(_blocks(width)):
    block, prefix = f'features_{i}', f'features.{i}.conv'
    yield (block, 'expand'), f'{prefix}.0.0', f'{prefix}.0.1', (expanded, inputs, 1, 1)
    yield (block, 'depthwise'), f'{prefix}.1.0', f'{prefix}.1.1', (expanded, 1, 3, 3)
    yield (block, 'project'), f'{prefix}.2', f'{prefix}.3', (channels, expanded, 1, 1)
    inputs = channels
  yield ('conv2',), 'conv2.0', 'conv2.1', (last, inputs, 1, 1)
  yield ('gdconv',), 'gdconv.depthwise', 'gdconv.bn', (last, 1, pool, pool)


def sizes(arrays: Mapping[str, np.ndarray]) -> tuple[float, int]:
  """(width, pool) of the network that has these tensors; the published one's if they do not tell.

  Args:
    arrays: tensors of the PyTorch network by name.
  """
  stem, pool = arrays.get('conv1.0.weight'), arrays.get('gdconv.depthwise.weight')
  width = 1.0 if stem is None or stem.ndim != 4 else stem.shape[0] / STEM
  return width, POOL if pool is None or pool.ndim != 4 else pool.shape[-1]


def tensor_shapes(width: float = 1.0, pool: int = POOL) -> dict[str, tuple[int, ...]]:
  """Name and shape of each tensor of the PyTorch network, `num_batches_tracked` excepted."""
  shapes = {
    'conv3.weight': (EMBEDDING, scaled(LAST, width), 1, 1),
    'conv3.bias': (EMBEDDING,),
  }
  norms = [('bn', EMBEDDING)]
  for _, conv, norm, shape in _convolutions(width, pool):
    shapes[f'{conv}.weight'] = shape
    norms.append((norm, shape[0]))
  for norm, channels in norms:
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{norm}.{leaf}'] = (channels,)
  return shapes


def from_torch_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of `MobileFaceNet(*sizes(arrays))` from PyTorch's tensors, batch norms folded.

  Args:
    arrays: tensors by name, as github.com/foamliu/MobileFaceNet names them (convolutions O, I, kh,
      kw); `num_batches_tracked` is ignored.

  Returns:
    Nested dictionary of float32 numpy arrays.

  Raises:
    ValueError: names every missing, unexpected and misshapen tensor.
  """
  arrays = {k: v for k, v in arrays.items() if not k.endswith('.num_batches_tracked')}
  width, pool = sizes(arrays)
  weights.check_tensors('MobileFaceNet', arrays, tensor_shapes(width, pool))
  arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
  params: dict[str, Any] = {}
  for path, conv, norm, shape in _convolutions(width, pool):
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


def to_torch_arrays(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The tensors, in PyTorch naming, of a network with batch norms: what `from_torch_arrays` reads.

  Args:
    variables: `params` and `batch_stats` of `MobileFaceNet(norms=True)`, of any width.

  Returns:
    float32 arrays by name, batch norms not folded.
  """
  params, stats = (jax.tree.map(np.asarray, variables[name]) for name in ('params', 'batch_stats'))
  width, pool = params['conv1']['kernel'].shape[-1] / STEM, params['gdconv'].shape[0]
  arrays = {
    'conv3.weight': params['conv3']['kernel'].T[:, :, None, None],
    'conv3.bias': params['conv3']['bias'],
    **weights.norm_arrays('bn', params['conv3_norm'], stats['conv3_norm']),
  }
  for path, conv, norm, shape in _convolutions(width, pool):
    layer, of_norm = params, (*path, 'norm')
    for name in path:
      layer = layer[name]
    if path[0] in ('conv1', 'gdconv'):  # their batch norms lie beside them
      of_norm = (f'{path[0]}_norm',)
    kernel = layer if path[0] == 'gdconv' else layer.get('conv', layer)['kernel']
    kernel = kernel.T[:, :, None, None] if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
    arrays[f'{conv}.weight'] = kernel.reshape(shape)
    scale_and_bias, running = params, stats
    for name in of_norm:
      scale_and_bias, running = scale_and_bias[name], running[name]
    arrays |= weights.norm_arrays(norm, scale_and_bias, running)
  return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
