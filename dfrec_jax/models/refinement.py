"""Smooths what the TIRM fills patch by patch. Not published."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dfrec_jax.models import layers
from dfrec_jax.models.partitioning import constrain
from dfrec_jax.models.upsampling import UpsampledConv

_BLOCK = 2  # Side of the pixels that it sees as one, for speed.


class Refinement(nn.Module):
  """Corrects the filled image: across the borders of patches, and where forged detail is left.

  A U-Net of two scales, half and a quarter of the image's side, both multiples of 4.

  Attributes:
    features: of the finer scale; the coarser has twice as many.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, filled: jax.Array, forged: jax.Array, where: jax.Array) -> jax.Array:
    """The corrected image (B, H, W, 3) float32, at first `filled`; not clipped.

    Args:
      filled: (B, H, W, 3), the forged image with its masked patches replaced.
      forged: (B, H, W, 3) in [0, 1].
      where: (B, H, W, 1) in [0, 1], how far a pixel may be corrected.
    """

    def conv(x, features, name):
      x = layers.conv(features, 3, use_bias=True, dtype=self.dtype, name=name)(x)
      return constrain(nn.relu(x), 'batch')

    x = jnp.concatenate([forged - 0.5, filled - forged, where - 0.5], axis=-1)
    fine = blocks_to_channels(x.astype(self.dtype))
    fine = conv(conv(fine, self.features, 'fine_1'), self.features, 'fine_2')
    coarse = nn.avg_pool(fine, (2, 2), (2, 2))
    coarse = conv(conv(coarse, 2 * self.features, 'coarse_1'), 2 * self.features, 'coarse_2')
    up = UpsampledConv(self.features, dtype=self.dtype, name='conv_up')(coarse)
    up = constrain(nn.relu(up), 'batch')
    x = conv(jnp.concatenate([fine, up], axis=-1), self.features, 'join')
    output = nn.Conv(
      3 * _BLOCK**2,
      (3, 3),
      padding=1,
      kernel_init=layers.named(nn.initializers.zeros, *layers.CONV_AXES[:3], None),
      bias_init=layers.named(nn.initializers.zeros, None),
      name='output',
    )
    return filled + where * channels_to_blocks(output(x.astype(jnp.float32)))


def blocks_to_channels(x: jax.Array) -> jax.Array:
  """(B, H, W, C) to (B, H / 2, W / 2, 4 C), in the order of PyTorch's `pixel_unshuffle`."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, channels)
  x = x.transpose(0, 1, 3, 5, 2, 4)
  return x.reshape(batch, height // _BLOCK, width // _BLOCK, -1)


def channels_to_blocks(x: jax.Array) -> jax.Array:
  """The inverse of `blocks_to_channels`."""
  batch, height, width, _ = x.shape
  x = x.reshape(batch, height, width, -1, _BLOCK, _BLOCK).transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(batch, height * _BLOCK, width * _BLOCK, -1)
