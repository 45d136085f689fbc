"""DFREC's Identity Segmentation Module: where a source face was pasted, and whether one was.

DeepLabV3+ (Chen et al., arXiv 1802.02611) on EfficientNet, as in the published implementation.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dfrec_jax.models import layers
from dfrec_jax.models.efficientnet import EfficientNet


class ConvNormRelu(nn.Module):
  """A 1x1 convolution, after a depthwise 3x3 if `separable`; batch norm; ReLU."""

  features: int
  separable: bool = False
  dilation: int = 1
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if self.separable:
      x = layers.DepthwiseConv(3, dilation=self.dilation, dtype=self.dtype, name='depthwise')(x)
    x = layers.conv(self.features, 1, dtype=self.dtype, name='pointwise')(x)
    return nn.relu(layers.BatchNorm(dtype=self.dtype, name='norm')(x, train=train))


class AtrousPyramid(nn.Module):
  """Atrous spatial pyramid pooling: (B, h, w, C) to (B, h, w, features).

  Attributes:
    rates: dilations of the atrous branches.
    dropout: rate after the projection; draws from the stream `dropout`.
  """

  features: int
  rates: tuple[int, ...]
  dropout: float
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    branch = lambda name, **kwargs: ConvNormRelu(
      self.features, dtype=self.dtype, name=name, **kwargs
    )
    branches = [branch('pointwise')(x, train=train)]
    for index, rate in enumerate(self.rates):
      atrous = branch(f'atrous_{index}', separable=True, dilation=rate)
      branches.append(atrous(x, train=train))
    pooled = branch('pooled')(x.mean((1, 2), keepdims=True), train=train)
    branches.append(jnp.broadcast_to(pooled, branches[0].shape))
    x = branch('project')(jnp.concatenate(branches, -1), train=train)
    return nn.Dropout(self.dropout)(x, deterministic=not train)


class IdentitySegmentation(nn.Module):
  """The Identity Segmentation Module.

  Attributes:
    width, depth: EfficientNet's multipliers.
    aspp_channels: channels of the decoder.
    aspp_rates: dilations of the atrous branches.
    low_level_channels: channels that the stride-4 feature is projected to.
    drop_connect: of the encoder's last block.
    dropout: rate after the atrous pyramid and before the classifier.
  """

  width: float = 1.0
  depth: float = 1.0
  aspp_channels: int = 256
  aspp_rates: tuple[int, ...] = (12, 24, 36)
  low_level_channels: int = 48
  drop_connect: float = 0.2
  dropout: float = 0.5
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, forged: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
    """Segments and classifies images (B, H, W, 3) in [0, 1], H and W multiples of 16.

    Training draws from the random stream `dropout` and updates `batch_stats`.

    Returns:
      Mask logits (B, H, W, 1), positive where the source's face was pasted, and class logits
      (B, 2), pristine and forged; both float32.
    """
    encoder = EfficientNet(self.width, self.depth, self.drop_connect, self.dtype, name='encoder')
    features = encoder(forged, train=train)
    low_level, last = features[2], features[-1]
    module = lambda name, width, **kwargs: ConvNormRelu(
      width, dtype=self.dtype, name=name, **kwargs
    )

    x = AtrousPyramid(
      self.aspp_channels, self.aspp_rates, self.dropout, self.dtype, name='pyramid'
    )(last, train=train)
    x = module('refine', self.aspp_channels, separable=True)(x, train=train)
    x = layers.resize_align_corners(x, low_level.shape[1:3])
    low_level = module('low_level', self.low_level_channels)(low_level, train=train)
    x = jnp.concatenate([x, low_level], -1)  # (B, H/4, W/4, aspp + low_level)
    x = module('fuse', self.aspp_channels, separable=True)(x, train=train)
    # The logits are float32 whatever the type of the computation.
    x = layers.conv(1, 1, use_bias=True, name='mask_head')(x)
    mask_logits = layers.resize_align_corners(x, forged.shape[1:3])

    pooled = last.astype(jnp.float32).mean((1, 2))
    pooled = nn.Dropout(self.dropout)(pooled, deterministic=not train)
    class_logits = layers.dense(2, ('conv_in', None), name='class_head')(pooled)
    return mask_logits, class_logits
