"""EfficientNet (Tan and Le, arXiv 1905.11946) as an encoder of output stride 16."""

import math
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dfrec_jax.models import layers

DIVISOR = 8  # channels are multiples of it
MOMENTUM, EPSILON = 0.01, 1e-3  # of the batch norms
STEM = 32


class Stage(NamedTuple):
  """Blocks of one width, before the multipliers; `strides` and `expansion` as in the paper."""

  repeats: int
  kernel: int
  strides: int
  expansion: int
  features: int


# EfficientNet-B0.
STAGES = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)
# Beyond the first block of this stage strides become dilation, so the output stride stays 16.
DILATED_STAGE = 4


class Block(NamedTuple):
  """One inverted bottleneck, after the multipliers.

  `feature` says that its output is one of the encoder's six.
  """

  kernel: int
  strides: int
  expansion: int
  inputs: int
  features: int
  dilated: bool
  feature: bool


def round_features(features: int, width: float) -> int:
  """`features` times `width`, rounded to a multiple of 8 that is at least 90 % of the product."""
  product = features * width
  rounded = max(DIVISOR, int(product + DIVISOR / 2) // DIVISOR * DIVISOR)
  return rounded + DIVISOR if rounded < 0.9 * product else rounded


def blocks(width: float, depth: float) -> list[Block]:
  """The blocks of EfficientNet with these multipliers; every stage has at least one."""
  result, inputs = [], round_features(STEM, width)
  for index, stage in enumerate(STAGES):
    features = round_features(stage.features, width)
    repeats = math.ceil(stage.repeats * depth)
    for repeat in range(repeats):
      last = repeat == repeats - 1
      result.append(
        Block(
          kernel=stage.kernel,
          strides=1 if repeat else stage.strides,
          expansion=stage.expansion,
          inputs=inputs,
          features=features,
          dilated=index > DILATED_STAGE or (index == DILATED_STAGE and repeat > 0),
          # Strides 4 and 8 end with their stages, stride 16 with the last undilated block.
          feature=(index in (1, 2, len(STAGES) - 1) and last)
          or (index == DILATED_STAGE and repeat == 0),
        )
      )
      inputs = features
  return result


def same_padding(kernel: int, strides: int) -> layers.Padding:
  """TensorFlow's SAME for sides that are multiples of `strides`: any odd pixel goes last."""
  total = kernel - strides
  return ((total // 2, total - total // 2),) * 2


class SqueezeExcite(nn.Module):
  """Scales channels by a sigmoid of their global averages; (B, H, W, C) to the same.

  Attributes:
    features: width of the bottleneck.
  """

  features: int
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    gate = x.mean((1, 2), keepdims=True)
    gate = layers.conv(self.features, 1, use_bias=True, dtype=self.dtype, name='reduce')(gate)
    gate = layers.conv(x.shape[-1], 1, use_bias=True, dtype=self.dtype, name='expand')(
      nn.swish(gate)
    )
    return x * nn.sigmoid(gate)


class InvertedBottleneck(nn.Module):
  """Expansion, depthwise convolution, squeeze-and-excitation, projection, residual.

  Attributes:
    block: its shape.
    drop_connect: chance of dropping the branch in training.
  """

  block: Block
  drop_connect: float = 0.0
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    block, inputs = self.block, x
    width = block.inputs * block.expansion
    if block.expansion > 1:
      x = layers.conv(width, 1, dtype=self.dtype, name='expand')(x)
      x = nn.swish(_norm(self.dtype, 'expand_norm')(x, train=train))
    if block.dilated:
      strides, dilation, padding = 1, 2, block.kernel // 2 * 2
    else:
      strides, dilation = block.strides, 1
      padding = same_padding(block.kernel, block.strides)
    x = layers.DepthwiseConv(
      block.kernel, strides, dilation, padding, dtype=self.dtype, name='depthwise'
    )(x)
    x = nn.swish(_norm(self.dtype, 'depthwise_norm')(x, train=train))
    x = SqueezeExcite(max(1, block.inputs // 4), self.dtype, name='squeeze_excite')(x)
    x = layers.conv(block.features, 1, dtype=self.dtype, name='project')(x)
    x = _norm(self.dtype, 'project_norm')(x, train=train)
    # A block that had a stride before it was dilated has no residual either.
    if block.strides == 1 and block.inputs == block.features:
      x = layers.DropConnect(self.drop_connect)(x, train=train) + inputs
    return x


class EfficientNet(nn.Module):
  """EfficientNet without its head.

  Attributes:
    width, depth: multipliers of channels and blocks; 1 and 1 are B0.
    drop_connect: chance of dropping a residual branch at the last block; grows linearly from 0.
  """

  width: float = 1.0
  depth: float = 1.0
  drop_connect: float = 0.2
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
    """Features of images (B, H, W, 3), H and W multiples of 16.

    Returns:
      The image and features at strides 2, 4, 8, 16 and 16; with B0's width of 32, 24, 40, 112 and
      320 channels.

    Raises:
      ValueError: a side is not a multiple of 16.
    """
    if x.shape[1] % 16 or x.shape[2] % 16:
      raise ValueError(
        f'Image sides must be multiples of 16, not {x.shape[1]} x {x.shape[2]}: resize them.'
      )
    features = [x]
    stem = round_features(STEM, self.width)
    x = layers.conv(stem, 3, strides=2, padding=same_padding(3, 2), dtype=self.dtype, name='stem')(
      x.astype(self.dtype)
    )
    x = nn.swish(_norm(self.dtype, 'stem_norm')(x, train=train))
    features.append(x)
    plan = blocks(self.width, self.depth)
    for index, block in enumerate(plan):
      rate = self.drop_connect * index / len(plan)
      x = InvertedBottleneck(block, rate, self.dtype, name=f'block_{index}')(x, train=train)
      if block.feature:
        features.append(x)
    return features


def _norm(dtype: layers.Dtype, name: str) -> layers.BatchNorm:
  return layers.BatchNorm(MOMENTUM, EPSILON, dtype, name=name)
