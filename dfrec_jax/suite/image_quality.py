"""Image quality beyond `dfrec_jax.metrics`: MS-SSIM, SSIM in a mask, detail, boundaries of masks.

Images are (H, W, 3) uint8; masks (H, W) float in [0, 1], thresholded at 0.5. What is not defined,
as of an empty mask, is NaN.
"""

import math

import cv2
import numpy as np

from dfrec_jax import metrics

# Of the five scales, from fine to coarse (Wang, Simoncelli & Bovik, Asilomar 2003).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SIGMA = 1.5
# Of the image's diagonal, as in the DAVIS benchmark (Perazzi et al., CVPR 2016).
BOUNDARY_TOLERANCE = 0.008


def ssim_in_mask(a: np.ndarray, b: np.ndarray, mask: np.ndarray, window: int = 7) -> float:
  """Mean of the SSIM over the windows whose centre is in the mask, which the border has none of."""
  edge = window // 2
  inside = mask[edge : mask.shape[0] - edge, edge : mask.shape[1] - edge] > 0.5
  return float(metrics.ssim_map(a, b, window)[inside].mean()) if inside.any() else math.nan


def ms_ssim_window(side: int) -> int | None:
  """Side of the Gaussian window for an image whose shorter side is `side`; None if too small.

  It is Wang's 11 pixels above 160, where five scales leave room for it, and 7 above 96.
  """
  return next((w for w in (11, 7) if side > (w - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1)), None)


def ms_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
  """Multi-scale structural similarity, mean over channels (Wang, Simoncelli & Bovik 2003).

  The window is Gaussian with deviation 1.5, see `ms_ssim_window`; negative contrast terms count as
  zero.

  Args:
    a, b: (H, W, 3) uint8.
    mask: weights the terms' means, shrunk with the images; NaN where it is empty.

  Returns:
    NaN for sides of 96 pixels or less.
  """
  window = ms_ssim_window(min(a.shape[:2]))
  if window is None or (mask is not None and not (mask > 0.5).any()):
    return math.nan
  a, b = a.astype(np.float64), b.astype(np.float64)
  weight = np.ones(a.shape[:2]) if mask is None else (mask > 0.5).astype(np.float64)
  result = np.ones(3)
  for scale, exponent in enumerate(MS_SSIM_WEIGHTS):
    if scale:
      a, b, weight = (_halve(x) for x in (a, b, weight))
    luminance, contrast = _ssim_terms(a, b, window)
    edge = window // 2
    inside = weight[edge : weight.shape[0] - edge, edge : weight.shape[1] - edge]
    if not inside.any():
      return math.nan
    last = scale == len(MS_SSIM_WEIGHTS) - 1
    term = np.average(
      (luminance * contrast if last else contrast).reshape(-1, 3), axis=0, weights=inside.ravel()
    )
    result *= np.maximum(term, 0) ** exponent
  return float(result.mean())


def _ssim_terms(a, b, window):
  """Luminance and contrast-structure of each window that lies inside of the images."""
  edge = window // 2
  x = np.arange(window) - edge
  kernel = np.exp(-(x**2) / (2 * _SIGMA**2))
  kernel /= kernel.sum()

  def blur(image):
    return cv2.sepFilter2D(image, -1, kernel, kernel)[
      edge : image.shape[0] - edge, edge : image.shape[1] - edge
    ]

  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  mean_a, mean_b = blur(a), blur(b)
  var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
  covariance = blur(a * b) - mean_a * mean_b
  luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  return luminance, (2 * covariance + c2) / (var_a + var_b + c2)


def _halve(image):
  """Means of 2x2 pixels; an odd side gets a zero before its first pixel, as pytorch-msssim does."""
  height, width = (side + side % 2 for side in image.shape[:2])
  odd = [(side % 2, 0) for side in image.shape[:2]]
  padded = np.pad(image, [*odd, *[(0, 0)] * (image.ndim - 2)])
  return padded.reshape(height // 2, 2, width // 2, 2, *image.shape[2:]).mean((1, 3))


def detail(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
  """Fine detail of an image in units of the reference's: 1 is as sharp, less is blurred.

  It is the ratio of the Laplacians' root mean squares. A network that fools an encoder with regular
  patterns shows in values well above 1.
  """
  energy = []
  for picture in (image, reference):
    laplacian = np.square(cv2.Laplacian(picture.astype(np.float32), cv2.CV_32F, ksize=1))
    values = laplacian if mask is None else laplacian[mask > 0.5]
    energy.append(float(values.mean()) if values.size else math.nan)
  return math.sqrt(energy[0] / energy[1]) if energy[1] > 0 else math.nan


def boundary_f1(predicted: np.ndarray, true: np.ndarray) -> float:
  """F1 of the masks' boundaries (Perazzi et al., CVPR 2016), which count as met within a tolerance.

  The tolerance is 0.8 % of the diagonal, rounded up to whole pixels. Both empty gives 1, one of
  them 0.
  """
  found, wanted = (_boundary(mask) for mask in (predicted, true))
  if not found.any() or not wanted.any():
    return float(not found.any() and not wanted.any())
  tolerance = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*true.shape))
  near = lambda edge: (
    cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    <= tolerance + 1e-4
  )
  precision, recall = near(wanted)[found].mean(), near(found)[wanted].mean()
  return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _boundary(mask):
  """Pixels of the mask that have a neighbour, above, below, left or right, outside of it."""
  inside = (mask > 0.5).astype(np.uint8)
  cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
  # What lies outside of the picture is no boundary.
  eroded = cv2.erode(inside, cross, borderType=cv2.BORDER_CONSTANT, borderValue=1)
  return inside.astype(bool) & ~eroded.astype(bool)
