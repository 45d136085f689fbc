"""The fixed face alignment: one similarity transform from crop to template.

Crops frame the face alike, so the mean positions of five landmarks stand for
every crop's own, and the warp is a constant linear map for each image size.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

# Mean eye centres, nose tip and mouth corners (x, y) of the crops, as fractions of their side.
MEAN_POINTS = np.array(
  [(0.3692, 0.4338), (0.6269, 0.4284), (0.5015, 0.5929), (0.3924, 0.7065), (0.6178, 0.7012)]
)
# Where ArcFace (Deng et al., arXiv 1801.07698) places them (x, y), in pixels of a 112 px image.
TEMPLATE_112 = np.array(
  [
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
  ]
)


def similarity_transform(source_points: np.ndarray, target_points: np.ndarray) -> np.ndarray:
  """Least-squares rotation, scale and translation (Umeyama, PAMI 1991), without reflection.

  Args:
    source_points: (n, 2) x, y; at least two of them distinct.
    target_points: (n, 2), where they should go.

  Returns:
    (2, 3) float64 M with `target ~ M[:, :2] @ source + M[:, 2]`.

  Raises:
    ValueError: the shapes differ, or the source points coincide.
  """
  source = np.asarray(source_points, np.float64)
  target = np.asarray(target_points, np.float64)
  if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
    raise ValueError(
      f'A similarity transform needs two (n, 2) arrays of points, not {source.shape} and '
      f'{target.shape}.'
    )
  # As complex numbers the transform is z -> a z + b, and least squares has a closed form.
  z, w = source @ (1, 1j), target @ (1, 1j)
  z_centred, w_centred = z - z.mean(), w - w.mean()
  spread = np.vdot(z_centred, z_centred).real
  if not spread > 0:
    raise ValueError('A similarity transform needs at least two distinct source points.')
  a = np.vdot(z_centred, w_centred) / spread
  b = w.mean() - a * z.mean()
  return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align_to_template(
  images: jax.Array,
  *,
  size: int = 112,
  points: np.ndarray | Sequence[Sequence[float]] = MEAN_POINTS,
) -> jax.Array:
  """Warps face crops to the template; differentiable in `images` (reverse mode).

  Bilinear sampling where integer indices are pixel centres and everything outside the image is 0:
  `cv2.warpAffine`'s convention, without its rounding of coordinates to 1/32 pixel. There is no
  low-pass filter.

  Args:
    images: (B, H, W, C) floats, any H and W.
    size: side of the result in pixels; the template scales with it.
    points: (5, 2) x, y of the landmarks as fractions of the image's sides.

  Returns:
    (B, size, size, C) float32.
  """
  batch, height, width, channels = images.shape
  fractions = tuple((float(x), float(y)) for x, y in points)
  # Pixels lead, so that each gathered row holds the whole batch: 3 times faster on a CPU.
  pixels = images.astype(jnp.float32).reshape(batch, height * width, channels).transpose(1, 0, 2)
  warped = _warp((height, width, size, fractions), pixels)  # (size * size, B, C)
  return warped.transpose(1, 0, 2).reshape(batch, size, size, channels)


def matching_side(size: int) -> int:
  """Side of the crop whose pixels are as large as those of its alignment to `size` pixels."""
  scale = similarity_transform(MEAN_POINTS, TEMPLATE_112 * (size / 112))[:, 0]
  return round(float(np.linalg.norm(scale)))


def align_filtered(images: jax.Array, *, size: int) -> jax.Array:
  """`align_to_template` of images that are first shrunk, with averages, to pixels of its size.

  The result then hardly depends on the images' size, however small `size` is. Arguments and result
  as there.
  """
  side = min(matching_side(size), *images.shape[1:3])
  shape = (len(images), side, side, images.shape[3])
  if shape != images.shape:
    images = jax.image.resize(images.astype(jnp.float32), shape, 'linear', antialias=True)
  return align_to_template(images, size=size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _warp(geometry, pixels):
  return _weighted_rows(*_sampling_tables(*geometry)[0], pixels)


# The transpose is a gather too: a scatter-add is slower, and on a GPU its sums differ between runs.
_warp.defvjp(
  lambda geometry, pixels: (_warp(geometry, pixels), None),
  lambda geometry, _, cotangent: (_weighted_rows(*_sampling_tables(*geometry)[1], cotangent),),
)


def _weighted_rows(indices, weights, rows):
  """sum_k weights[k, n] * rows[indices[k, n]] for tables (K, n) and rows (m, B, C)."""
  terms = (
    jnp.take(rows, i, axis=0, mode='clip') * w[:, None, None]
    for i, w in zip(indices, weights, strict=True)
  )
  return sum(terms)


@functools.lru_cache(maxsize=32)
def _sampling_tables(height, width, size, fractions):
  """((indices, weights) of the four neighbours, the same of the transposed map)."""
  scale = np.array([width, height])
  matrix = similarity_transform(np.array(fractions) * scale, TEMPLATE_112 * (size / 112))
  inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
  v, u = np.mgrid[:size, :size]
  x, y = inverse @ np.stack([u.ravel(), v.ravel(), np.ones(size * size)])
  left, top = np.floor(x).astype(int), np.floor(y).astype(int)
  indices, weights = [], []
  for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    indices.append(np.where(inside, i * width + j, 0))
    weights.append(np.where(inside, (1 - abs(y - i)) * (1 - abs(x - j)), 0))
  forward = np.array(indices, np.int32), np.array(weights, np.float32)
  return forward, _transposed(*forward, height * width)


def _transposed(indices, weights, rows):
  """Tables (K', rows) of the transpose of the linear map that tables (K, n) describe."""
  k, n = np.nonzero(weights)
  sources = indices[k, n]
  order = np.argsort(sources, kind='stable')
  sources, n, values = sources[order], n[order], weights[k, n][order]
  slot = np.arange(len(sources)) - np.searchsorted(sources, sources)  # 0, 1, ... within a source
  shape = (slot.max(initial=0) + 1, rows)
  table, table_weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
  table[slot, sources], table_weights[slot, sources] = n, values
  return table, table_weights
