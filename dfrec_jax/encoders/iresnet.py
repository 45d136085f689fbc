"""IResNet, the residual network of ArcFace (Deng et al., arXiv 1801.07698, section 3).

The structure is that of insightface's arcface_torch. Frozen, its batch norms act with their running
statistics: one after a convolution is folded into it, one before a padded convolution is a scale
and a shift. In training (`norms`) they are there; the dropout before the embedding is not.
"""

from collections.abc import Iterator, Mapping
import re
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dfrec_jax.errors import InputError
from dfrec_jax.models import layers

EMBEDDING = 512
WIDTHS = (64, 128, 256, 512)
STEM = WIDTHS[0]
POOL = 7  # side of the last map, whose every position the embedding weighs
STRIDE = 16  # pixels of the input for one of the last map

Depths = tuple[int, int, int, int]
# Blocks of the four layers of arcface_torch's networks.
DEPTHS: Mapping[str, Depths] = {
  '18': (2, 2, 2, 2),
  '34': (3, 4, 6, 3),
  '50': (3, 4, 14, 3),
  '100': (3, 13, 30, 3),
  '200': (6, 26, 60, 6),
}


class Features(NamedTuple):
  """What IResNet says of B aligned faces.

  Attributes:
    embedding: (B, 512) float32, not normalised.
    taps: the last map of each resolution, of the published network (B, 112, 112, 64),
      (B, 56, 56, 64), (B, 28, 28, 128), (B, 14, 14, 256) and (B, 7, 7, 512).
  """

  embedding: jax.Array
  taps: tuple[jax.Array, ...]


def parse_depth(depth: str) -> Depths:
  """Blocks of the four layers, of a name of `DEPTHS` or of numbers such as '2-2-2-2'.

  Raises:
    InputError: it is neither.
  """
  if depth in DEPTHS:
    return DEPTHS[depth]
  if not re.fullmatch(r'[1-9][0-9]?(-[1-9][0-9]?){3}', depth):
    raise InputError(
      f'config.model.depth is {depth!r}; it is {", ".join(DEPTHS)}, or the blocks of the four '
      'layers, each from 1 to 99, joined by dashes: 2-2-2-2.'
    )
  return tuple(int(blocks) for blocks in depth.split('-'))


def scaled_widths(width: float) -> tuple[int, ...]:
  """Channels of the four layers of a network `width` times as wide as the published one."""
  return tuple(max(round(channels * width), 1) for channels in WIDTHS)


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


def _convolve(x, features, kernel, strides, names, *, norms, dtype, train):
  """A convolution and the batch norm after it, which is folded into it where there are none."""
  conv, norm = names
  options = {'strides': strides, 'use_bias': not norms, 'dtype': dtype, 'name': conv}
  x = layers.conv(features, kernel, **options)(x)
  return layers.BatchNorm(dtype=dtype, name=norm)(x, train=train) if norms else x


class Block(nn.Module):
  """Norm, convolution, PReLU, convolution, added to the input, or to its projection at stride 2.

  Attributes:
    features: channels of the result.
    strides: of the second convolution.
    norms, dtype: of `IResNet`.
  """

  features: int
  strides: int = 1
  norms: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    options = {'norms': self.norms, 'dtype': self.dtype, 'train': train}
    if self.norms:
      y = layers.BatchNorm(dtype=self.dtype, name='bn1')(x, train=train)
    else:
      y = Affine(name='bn1')(x)
    y = _convolve(y, self.features, 3, 1, ('conv1', 'bn2'), **options)
    y = PReLU(name='prelu')(y)
    y = _convolve(y, self.features, 3, self.strides, ('conv2', 'bn3'), **options)
    if self.strides > 1:
      names = 'downsample', 'downsample_norm'
      x = _convolve(x, self.features, 1, self.strides, names, **options)
    return y + x


class IResNet(nn.Module):
  """Embeds aligned faces. The variables of blocks in a row are stacked along a leading axis.

  Attributes:
    depths: blocks of the four layers, see `DEPTHS`.
    width: channels relative to the published network's; the embedding has 512 whatever it is.
    pool: side of the last map; the input's is 16 times that.
    norms: whether batch norms are there, for training, or folded into the layers beside them.
    dtype: of the computation; the embedding is float32 whatever it is.
  """

  depths: Depths
  width: float = 1.0
  pool: int = POOL
  norms: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, aligned: jax.Array, *, train: bool = False) -> Features:
    """`aligned`: (B, 112, 112, 3) RGB in [-1, 1], aligned to `alignment.TEMPLATE_112`."""
    options = {'norms': self.norms, 'dtype': self.dtype}
    widths = scaled_widths(self.width)
    x = _convolve(aligned, widths[0], 3, 1, ('conv1', 'bn1'), train=train, **options)
    x = PReLU(name='prelu')(x)
    taps = [x]
    for i, (width, depth) in enumerate(zip(widths, self.depths, strict=True), start=1):
      x = Block(width, 2, name=f'layer{i}_first', **options)(x, train)
      if depth > 1:
        x = self._repeat(Block(width, name=f'layer{i}_rest', **options), depth - 1, x, train)
      taps.append(x)
    x = x.astype(jnp.float32)
    if self.norms:
      x = layers.BatchNorm(name='bn2')(x, train=train)
    flat = x.reshape(len(x), -1)  # (B, 7 * 7 * 512)
    embedding = layers.dense(EMBEDDING, (None, 'conv_out'), name='fc')(flat)
    if self.norms:
      # arcface_torch fixes the scale of this one to 1.
      embedding = layers.BatchNorm(use_scale=False, name='features')(embedding, train=train)
    return Features(embedding, tuple(taps))

  def _repeat(self, block, repeats, x, train):
    # A loop compiles in a fraction of the time of its blocks one by one.
    scan = nn.scan(
      lambda block, x, _: (block(x, train), None),
      variable_axes={'params': 0, 'batch_stats': 0},
      split_rngs={'params': True},
      length=repeats,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return scan(block, x, None)[0]

  @property
  def size(self) -> int:
    """Side of the input in pixels."""
    return self.pool * STRIDE

  @staticmethod
  def from_pixels(images: jax.Array) -> jax.Array:
    """Images in [0, 1] as `__call__` takes them."""
    return 2 * images - 1

  def residual_norms(self) -> Iterator[tuple[str, ...]]:
    """Paths in the parameters of the last batch norm of each residual branch."""
    for layer, depth in enumerate(self.depths, start=1):
      yield f'layer{layer}_first', 'bn3'
      if depth > 1:
        yield f'layer{layer}_rest', 'bn3'
