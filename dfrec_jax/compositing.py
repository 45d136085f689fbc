"""Where the recovered target replaces the forged image."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Probabilities of the mask below which compositing keeps the input, above which it replaces it.
_SURELY_OUT, _SURELY_IN = 0.1, 0.9


def composite_mask(mask: jax.Array, dilation: int, softness: float) -> jax.Array:
  """Where the recovered target replaces the input: the mask, dilated and with a soft edge.

  Exactly 0 at more than `dilation + 3 * softness` pixels (rounded up) from any mask above 0.1.

  Args:
    mask: (B, H, W, 1) in [0, 1].
    dilation: pixels by which it grows, in a square.
    softness: standard deviation of the Gaussian edge in pixels; 0 for none.

  Returns:
    (B, H, W, 1) in [0, 1], of the mask's type.
  """
  # A sigmoid is never quite 0: what is surely out must be, or nothing would stay untouched.
  x = jnp.clip((mask.astype(jnp.float32) - _SURELY_OUT) / (_SURELY_IN - _SURELY_OUT), 0, 1)
  x = _dilate(x, dilation)
  if softness > 0:
    radius = int(np.ceil(3 * softness))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / softness) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
      x = _blur(x, kernel, axis)
  return jnp.clip(x, 0, 1).astype(mask.dtype)


def fill_holes(mask: jax.Array, radius: int) -> jax.Array:
  """The mask with holes and notches of up to twice `radius` pixels filled: a closing by a square.

  Args:
    mask: (B, H, W, 1) in [0, 1].
    radius: pixels by which it grows and shrinks again.

  Returns:
    (B, H, W, 1) in [0, 1], nowhere below `mask`.
  """
  # Room to grow: what lies between the mask and the image's edge is no hole.
  room = ((0, 0), (radius, radius), (radius, radius), (0, 0))
  filled = -_dilate(-_dilate(jnp.pad(mask, room), radius), radius)
  return filled[:, radius : filled.shape[1] - radius, radius : filled.shape[2] - radius]


def _dilate(x, pixels):
  """Each pixel's largest neighbour in a square; what is beyond the edges does not count."""
  side = 2 * pixels + 1
  return nn.max_pool(nn.max_pool(x, (side, 1), padding='SAME'), (1, side), padding='SAME')


def _blur(x, kernel, axis):
  """Convolves an axis with an odd kernel; beyond the edges the image goes on as it ends."""
  length = x.shape[axis]
  radius = len(kernel) // 2
  # A banded matrix: one product, fast everywhere.
  band = np.zeros((length, length), np.float32)
  for offset, weight in zip(range(-radius, radius + 1), kernel, strict=True):
    np.add.at(band, (np.arange(length), np.clip(np.arange(length) + offset, 0, length - 1)), weight)
  return jnp.moveaxis(jnp.tensordot(x, band, axes=(axis, 1), precision='highest'), -1, axis)
