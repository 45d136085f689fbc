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


def _class_head() -> nn.Dense:
  """Class logits, equal at first: those of random features would have to be unlearned."""
  return nn.Dense(
    2,
    kernel_init=layers.named(nn.initializers.zeros, 'conv_in', None),
    bias_init=layers.named(nn.initializers.zeros, None),
    name='class_head',
  )


class DetailBranch(nn.Module):
  """A plain convolutional pyramid beside the encoder, which adds to both kinds of logits.

  It is not in the published network. EfficientNet's thin separable layers learn seams slowly when
  they start from nothing; dense 3x3 convolutions at full resolution learn them many times sooner.

  Attributes:
    channels: of its five stages, at strides 1, 2, 4, 8 and 16.
  """

  channels: tuple[int, int, int, int, int]
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
    """Maps (B, H, W, 3) to mask logits (B, H/2, W/2, 1) and class logits (B, 2), float32."""

    def block(x, features, name, kernel=3, strides=1):
      padding = ((0, 1), (0, 1)) if strides == 2 else None
      y = layers.conv(
        features, kernel, strides=strides, padding=padding, dtype=self.dtype, name=f'conv_{name}'
      )(x)
      return nn.relu(layers.BatchNorm(dtype=self.dtype, name=f'norm_{name}')(y, train=train))

    stages = []
    for index, features in enumerate(self.channels):
      x = block(x, features, f'{index}_0', strides=2 if index else 1)
      x = block(x, features, f'{index}_1') if index > 1 else x
      stages.append(x)
    repeat = lambda y, times: y.repeat(times, axis=1).repeat(times, axis=2)
    fused = jnp.concatenate([stages[2], repeat(stages[3], 2), repeat(stages[4], 4)], -1)
    fused = block(fused, self.channels[2], 'fuse', kernel=1)
    # Edges need the stage before: at stride 4 a face is a few cells wide.
    fine = jnp.concatenate([stages[1], repeat(fused, 2)], -1)
    fine = block(fine, self.channels[1], 'fine', kernel=1).astype(jnp.float32)
    fused = fused.astype(jnp.float32)
    coarse = stages[4].astype(jnp.float32)
    # A maximum finds a seam wherever it is; a mean tells how much of the face differs.
    means = fused.mean((1, 2)), coarse.mean((1, 2))
    summary = jnp.concatenate([means[0], layers.spatial_max(fused), means[1]], -1)
    mask_logits = layers.conv(1, 1, use_bias=True, name='mask_head')(fine)
    return mask_logits, _class_head()(summary)


class IdentitySegmentation(nn.Module):
  """The Identity Segmentation Module.

  Attributes:
    width, depth: EfficientNet's multipliers.
    aspp_channels: channels of the decoder.
    aspp_rates: dilations of the atrous branches.
    low_level_channels: channels that the stride-4 feature is projected to.
    drop_connect: of the encoder's last block.
    detail_channels: of the `DetailBranch`; empty for none, as published.
    dropout: rate after the atrous pyramid and before the classifier.
  """

  width: float = 1.0
  depth: float = 1.0
  aspp_channels: int = 256
  aspp_rates: tuple[int, ...] = (12, 24, 36)
  low_level_channels: int = 48
  detail_channels: tuple[int, ...] = ()
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
    detail_class = 0.0
    if self.detail_channels:
      detail = DetailBranch(self.detail_channels, self.dtype, name='detail')
      detail_mask, detail_class = detail(forged, train=train)
      mask_logits += jax.image.resize(detail_mask, mask_logits.shape, 'linear', antialias=False)

    pooled = last.astype(jnp.float32).mean((1, 2))
    pooled = nn.Dropout(self.dropout)(pooled, deterministic=not train)
    class_logits = _class_head()(pooled)
    return mask_logits, class_logits + detail_class
