"""FID (Heusel et al., arXiv 1706.08500) and KID (Binkowski et al., arXiv 1801.01401).

Both compare sets of images by Inception's features. FID of few images is biased upwards, so that
only sets of equal size compare; KID is not.
"""

from collections.abc import Sequence
import os

import cv2
import numpy as np
from scipy import linalg

from dfrec_jax import programs
from dfrec_jax.encoders.weights import read_arrays
from dfrec_jax.errors import InputError
from dfrec_jax.suite import inception

_BATCH = 8


class Features:
  """Inception's features of photographs, resized to 299 pixels as pytorch-fid does.

  Raises:
    InputError: the file does not hold Inception's weights.
  """

  def __init__(self, weights: str | os.PathLike):
    try:
      self._params = inception.from_torch_arrays(read_arrays(weights))
    except ValueError as error:
      raise InputError(f'{os.fspath(weights)} does not fit InceptionV3. {error}') from error
    self._apply = programs.jit(inception.InceptionV3().apply)

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """(n, 2048) float32 of n images (H, W, 3) uint8 of any size."""
    result = np.zeros((len(images), inception.FEATURES), np.float32)
    for start in range(0, len(images), _BATCH):
      chunk = images[start : start + _BATCH]
      batch = np.zeros((_BATCH, inception.SIDE, inception.SIDE, 3), np.float32)
      batch[: len(chunk)] = [resize(image) for image in chunk]
      features = self._apply({'params': self._params}, batch)
      result[start : start + len(chunk)] = np.asarray(features)[: len(chunk)]
    return result


def resize(image: np.ndarray) -> np.ndarray:
  """(H, W, 3) uint8 to (299, 299, 3) in [0, 1]: bilinear, without averaging when it shrinks."""
  size = (inception.SIDE, inception.SIDE)
  return cv2.resize(image.astype(np.float32) / 255, size, interpolation=cv2.INTER_LINEAR)


def crop_to_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
  """The part of an image (H, W, 3) within the bounding box of its mask; None of an empty one."""
  rows, columns = (np.flatnonzero((mask > 0.5).any(axis)) for axis in (1, 0))
  if not rows.size:
    return None
  return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """FID of features (n, D) and (m, D), n and m of 2 or more; NaN for fewer."""
  if min(len(a), len(b)) < 2:
    return float('nan')
  a, b = a.astype(np.float64), b.astype(np.float64)
  cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
  # tr((A B)^(1/2)) is the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2), which is
  # symmetric: no imaginary parts arise where few images leave A singular.
  values, vectors = linalg.eigh(cov_a)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.sqrt(np.maximum(linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
  gap = np.square(a.mean(0) - b.mean(0)).sum()
  return float(gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
  """KID of features (n, D) and (m, D): the unbiased squared MMD with the cubic kernel, all pairs.

  Usually given times 1,000. It may be negative. NaN for sets of fewer than 2.
  """
  if min(len(a), len(b)) < 2:
    return float('nan')
  a, b = a.astype(np.float64), b.astype(np.float64)
  kernel = lambda x, y: (x @ y.T / a.shape[1] + 1) ** 3

  def within(x):
    values = kernel(x, x)
    return (values.sum() - np.trace(values)) / (len(x) * (len(x) - 1))

  return float(within(a) + within(b) - 2 * kernel(a, b).mean())
