"""Which frame of a video shows a person best."""

from collections.abc import Mapping

import cv2
import numpy as np

_SIDE = 64  # of the crop that is judged; rows and columns of the face in it
_ROWS, _COLUMNS, _LARGEST_SHIFT = slice(19, 51), (14, 50), 4
_DARK = 16.0  # Grey levels: below, the logarithm would show noise alone.
# Of the frames, this share that looks most straight into the camera is compared for sharpness.
_FRONTAL_SHARE = 0.25


def frontal_sharpest(crops: Mapping[int, np.ndarray]) -> int:
  """The index of the sharpest of the most frontal frames.

  Args:
    crops: (H, W, 3) uint8 of one face, by index; one at least.
  """
  order = sorted(crops, key=lambda index: -symmetry(crops[index]))
  frontal = order[: max(1, round(_FRONTAL_SHARE * len(order)))]
  return max(frontal, key=lambda index: sharpness(crops[index]))


def symmetry(crop: np.ndarray) -> float:
  """Correlation of brows, eyes and mouth with their mirror image: near 1 for a frontal face.

  What is compared is the strength of horizontal edges, of the logarithm of grey, since light from
  one side does not turn a head; the best of some small shifts counts, since a crop is not centred
  to the pixel. On crops of LFW its rank correlation with the nose's distance from the middle of the
  eyes is about -0.6.
  """
  small = cv2.resize(
    cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA
  )
  small = np.log(cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1) + _DARK)
  edges = cv2.GaussianBlur(np.abs(cv2.Sobel(small, -1, 0, 1)), (0, 0), 1)[_ROWS]
  (left, right), reach = _COLUMNS, _LARGEST_SHIFT
  template = np.ascontiguousarray(edges[:, left:right])
  mirrored = np.ascontiguousarray(edges[:, ::-1][:, left - reach : right + reach])
  return float(cv2.matchTemplate(mirrored, template, cv2.TM_CCOEFF_NORMED).max())


def sharpness(crop: np.ndarray) -> float:
  """Variance of the Laplacian in the middle of the crop, after Pech-Pacheco et al. (2000)."""
  height, width = crop.shape[:2]
  middle = crop[height // 5 : -(height // 5) or None, width // 5 : -(width // 5) or None]
  return float(cv2.Laplacian(cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
