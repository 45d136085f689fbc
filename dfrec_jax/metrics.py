"""Image, mask and detection metrics, computed on the host at the data's own resolution.

Images are (H, W, 3) uint8, as they are saved; masks (H, W) float in [0, 1], thresholded at 0.5.
"""

import cv2
import numpy as np
from scipy import stats

# The PSNR of identical images is infinite, which no mean and no JSON can hold.
MAX_PSNR = 100.0


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
  """Peak signal-to-noise ratio in dB, at most 100; with a mask, over its pixels above 0.5.

  Returns NaN where the mask is empty.
  """
  error = np.square(a.astype(np.float64) - b.astype(np.float64))
  if mask is not None:
    error = error[mask > 0.5]
    if not error.size:
      return float('nan')
  mse = error.mean()
  if mse == 0:
    return MAX_PSNR
  return min(MAX_PSNR, 10 * np.log10(255.0**2 / mse))


def ssim(a: np.ndarray, b: np.ndarray, window: int = 7) -> float:
  """Structural similarity: a uniform 7x7 window, mean over channels, as scikit-image's default.

  Covariances are unbiased and the border that the window does not cover is left out. Raises
  ValueError for images smaller than the window.
  """
  return float(ssim_map(a, b, window).mean())


def ssim_map(a: np.ndarray, b: np.ndarray, window: int = 7) -> np.ndarray:
  """The values that `ssim` is the mean of, (H - window + 1, W - window + 1, 3)."""
  if min(a.shape[:2]) < window:
    raise ValueError(f'SSIM needs images of at least {window} px; this one is {a.shape[:2]}.')
  a, b = a.astype(np.float64), b.astype(np.float64)
  blur = lambda x: cv2.blur(x, (window, window))
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  unbiased = window**2 / (window**2 - 1)
  mean_a, mean_b = blur(a), blur(b)
  var_a = unbiased * (blur(a * a) - mean_a**2)
  var_b = unbiased * (blur(b * b) - mean_b**2)
  covariance = unbiased * (blur(a * b) - mean_a * mean_b)
  values = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
    (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
  )
  edge = window // 2
  return values[edge : a.shape[0] - edge, edge : a.shape[1] - edge]


def mask_overlap(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
  """Intersection over union and F1 of two masks (H, W); both 1 where both are empty."""
  p, t = predicted > 0.5, true > 0.5
  overlap, total = np.sum(p & t), np.sum(p) + np.sum(t)
  if total == 0:
    return 1.0, 1.0
  return float(overlap / (total - overlap)), float(2 * overlap / total)


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
  """Area under the ROC curve of scores (n,) for labels (n,) in {0, 1}, ties counted half.

  Returns NaN unless both labels occur.
  """
  positive = int(np.sum(labels == 1))
  negative = len(labels) - positive
  if not positive or not negative:
    return float('nan')
  ranks = stats.rankdata(scores)[labels == 1].sum()
  return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
  """Cosine of two vectors."""
  return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))
