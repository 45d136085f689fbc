"""Nearest upsampling with the convolution behind it, in whichever form a device computes sooner."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dfrec_jax.models import layers

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


class UpsampledConv(nn.Module):
  """Nearest upsampling to twice the size, then a 3x3 convolution with bias, padded by one.

  Taps that fall on one small pixel are summed beforehand, which leaves 16 products of 36: either in
  the kernel of a transposed 4x4 convolution, or, `folded`, of a 2x2 convolution of four times the
  features, whose result is interleaved.

  Attributes:
    folded: which form; None folds on a CPU only.
  """

  features: int
  dtype: layers.Dtype = jnp.float32
  folded: bool | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param(
      'kernel',
      layers.named(layers.conv_init, *layers.CONV_AXES),
      (3, 3, x.shape[-1], self.features),
      jnp.float32,
    )
    bias = self.param(
      'bias', layers.named(nn.initializers.zeros, 'conv_out'), (self.features,), jnp.float32
    )
    x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
    if self.folded is None:
      x = jax.lax.platform_dependent(x, kernel, cpu=_folded_upsampling, default=_transposed)
    else:
      x = (_folded_upsampling if self.folded else _transposed)(x, kernel)
    return x + bias


def _transposed(x, kernel):
  shifts = [((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)) for i in (0, 1) for j in (0, 1)]
  wide = sum(jnp.pad(kernel, shift) for shift in shifts)
  return jax.lax.conv_general_dilated(
    x, wide, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=_LAYOUT
  )


def _folded_upsampling(x, kernel):
  batch, height, width, _ = x.shape
  # An even row and the one above it show two small rows, an even row and the one below it one; with
  # odd rows it is the other way round. Columns alike.
  fold = lambda k: ((k[0], k[1] + k[2]), (k[0] + k[1], k[2]))  # [parity][small row]
  by_row = fold(kernel)
  taps = [[[fold(by_row[r][i])[s][j] for r in (0, 1) for s in (0, 1)] for j in (0, 1)]
          for i in (0, 1)]  # fmt: skip
  folded = jnp.stack([jnp.stack([jnp.concatenate(t, -1) for t in row]) for row in taps])
  y = _convolve_2x2(x, folded).reshape(batch, height + 1, width + 1, 2, 2, -1)
  y = jnp.stack([y[:, :height, :, 0], y[:, 1:, :, 1]], axis=2)
  y = jnp.stack([y[:, :, :, :width, 0], y[:, :, :, 1:, 1]], axis=4)
  return y.reshape(batch, 2 * height, 2 * width, -1)


@jax.custom_vjp
def _convolve_2x2(x, kernel):
  return _pad_and_convolve(x, kernel)


def _convolve_2x2_backward(saved, g):
  """The kernel's gradient as four products: XLA's convolution for it takes ten times as long."""
  x, kernel = saved
  (x_gradient,) = jax.vjp(lambda x: _pad_and_convolve(x, kernel), x)[1](g)
  height, width = x.shape[1:3]
  rows = lambda image: image.reshape(-1, image.shape[-1])
  tap = lambda i, j: rows(x).T @ rows(g[:, 1 - i : 1 - i + height, 1 - j : 1 - j + width])
  return x_gradient, jnp.stack([jnp.stack([tap(i, j) for j in (0, 1)]) for i in (0, 1)])


_convolve_2x2.defvjp(
  lambda x, kernel: (_convolve_2x2(x, kernel), (x, kernel)), _convolve_2x2_backward
)


def _pad_and_convolve(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
  )
