"""Source Identity Reconstruction Module (SIRM): who was pasted.

An Attention U-Net (Oktay et al., arXiv 1804.03999, with a second gate of its own) reads the pasted
face. Its bottleneck splits into a source half, decoded to the source's photograph, and a target
half, which helps the TIRM (DFREC, arXiv 2412.07260, section 3.2).
"""

from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from dfrec_jax.models import layers
from dfrec_jax.models.remat import rematerialise
from dfrec_jax.models.upsampling import UpsampledConv

FUSIONS = ('concat', 'add', 'sequence')
STRIDE = 16  # of the bottleneck


@struct.dataclass
class SourceOutputs:
  """What the SIRM says.

  Attributes:
    source: (B, H, W, 3) float32, the source's photograph; in [0, 1] outside training.
    target_tokens: of the target, for the TIRM's decoder. Fusion `concat`: (B, tokens, h * w);
      else a map (B, h, w, C / 2), h = H / 16.
    source_identity, target_identity: (B, C / 2), spatial means of the halves.
  """

  source: jax.Array
  target_tokens: jax.Array
  source_identity: jax.Array
  target_identity: jax.Array


class SourceReconstruction(nn.Module):
  """SIRM.

  Attributes:
    widths: channels of the five stages; the last splits into source and target halves.
    fusion: how the TIRM takes the target half, which decides its form: `concat` (published), `add`
      or `sequence`.
    token_count: with `concat`, the number of target tokens: the patches that the TIRM keeps.
    residual: add a correction to a given image, at first none, instead of a sigmoid's picture.
    remat: what of each stage is recomputed in the backward pass, a name of `remat.POLICIES`.
  """

  widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 1024)
  fusion: str = 'concat'
  token_count: int = 98
  residual: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, masked_image: jax.Array, start: jax.Array, *, train: bool) -> SourceOutputs:
    """Maps the pasted face to the source.

    Args:
      masked_image: (B, H, W, 3) mask x forged image; H and W are multiples of 16.
      start: (B, H, W, 3) in [0, 1], what is corrected; read only if `residual`.
      train: batch norms use the batch's statistics, and the result is not clipped.

    Raises:
      ValueError: for sides that are no multiples of 16, or an unknown fusion.
    """
    height, width = masked_image.shape[1:3]
    if height % STRIDE or width % STRIDE:
      raise ValueError(f'The image is {height}x{width}, but its sides must be multiples of 16.')
    if self.fusion not in FUSIONS:
      raise ValueError(f'Unknown fusion {self.fusion!r}; the fusions are {", ".join(FUSIONS)}.')
    again = lambda module: rematerialise(module, self.remat, static_argnums=(2,))
    double_conv, decoder_stage = again(DoubleConv), again(_DecoderStage)

    x = masked_image.astype(self.dtype)
    skips = []
    for stage, channels in enumerate(self.widths, 1):
      x = max_pool(x) if skips else x
      x = double_conv(channels, dtype=self.dtype, name=f'encoder_{stage}')(x, train)
      skips.append(x)
    half = self.widths[-1] // 2
    source, target = x[..., :half], x[..., half:]  # (B, h, w, C / 2) each

    token_channels = self.token_count if self.fusion == 'concat' else half
    tokens = double_conv(token_channels, dtype=self.dtype, name='target')(target, train)
    if self.fusion == 'concat':
      tokens = tokens.reshape(*tokens.shape[:1], -1, token_channels).swapaxes(1, 2)

    x = source
    for stage in (4, 3, 2, 1):
      x = decoder_stage(self.widths[stage - 1], dtype=self.dtype, name=f'decoder_{stage}')(
        (x, skips[stage - 1]), train
      )
    return SourceOutputs(
      source=self._picture(x, start, train),
      target_tokens=tokens,
      source_identity=source.astype(jnp.float32).mean((1, 2)),
      target_identity=target.astype(jnp.float32).mean((1, 2)),
    )

  def _picture(self, x, start, train):
    init = nn.initializers.zeros if self.residual else layers.conv_init
    output = nn.Conv(
      3,
      (1, 1),
      kernel_init=layers.named(init, *layers.CONV_AXES[:3], None),
      bias_init=layers.named(nn.initializers.zeros, None),
      name='output',
    )
    x = output(x.astype(jnp.float32))
    if not self.residual:
      return nn.sigmoid(x)
    picture = start.astype(jnp.float32) + x
    # Clipped values have no gradient, so that training would never mend them.
    return picture if train else jnp.clip(picture, 0, 1)


class DoubleConv(nn.Module):
  """Twice: 3x3 convolution with bias, batch norm, ReLU."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    for i in (1, 2):
      x = _conv_norm(x, self.features, 3, train, self.dtype, str(i))
      x = nn.relu(x)
    return x


class _DecoderStage(nn.Module):
  """Upsamples, gates the skip, joins both."""

  features: int
  dtype: Any

  @nn.compact
  def __call__(self, inputs: tuple[jax.Array, jax.Array], train: bool) -> jax.Array:
    x, skip = inputs
    x = UpsampledConv(self.features, dtype=self.dtype, name='conv_up')(x)
    x = nn.relu(layers.BatchNorm(dtype=self.dtype, name='norm_up')(x, train=train))
    skip = _Gate(self.features // 2, self.dtype, name='gate')(skip, x, train)
    joined = jnp.concatenate([skip, x], axis=-1)
    return DoubleConv(self.features, self.dtype, name='join')(joined, train)


class _Gate(nn.Module):
  """Attends to the skip `x` twice: guided by the decoder's `g`, and by itself."""

  features: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, g: jax.Array, train: bool) -> jax.Array:
    project = lambda y, features, name: _conv_norm(y, features, 1, train, self.dtype, name)
    guided = nn.relu(project(g, self.features, 'guide') + project(x, self.features, 'skip'))
    guided = project(guided, 1, 'guided')
    alone = project(x, self.features, 'alone')
    alone = layers.conv(1, 1, dtype=self.dtype, name='alone_weight')(alone)
    return x * (nn.sigmoid(guided) + nn.sigmoid(alone))


def _conv_norm(x, features, kernel, train, dtype, name):
  x = layers.conv(features, kernel, use_bias=True, dtype=dtype, name=f'conv_{name}')(x)
  return layers.BatchNorm(dtype=dtype, name=f'norm_{name}')(x, train=train)


def max_pool(x: jax.Array) -> jax.Array:
  """2x2 max pooling of (B, H, W, C) to (B, H / 2, W / 2, C).

  The gradient goes to the first of equal maxima, in raster order, as PyTorch's and that of XLA's
  windowed maximum do: outside the mask the image is flat and ties are the rule. On a CPU this is
  15 times as fast as the windowed one with its gradient.
  """
  first = lambda a, b: jnp.where(b > a, b, a)
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = first(x[:, :, :, :, 0], x[:, :, :, :, 1])
  return first(x[:, :, 0], x[:, :, 1])
