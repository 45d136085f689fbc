"""What the frames of a track say together: crops aligned and averaged."""

from collections.abc import Sequence

import cv2
import numpy as np

from input_pipeline.prepare.source_frames import sharpness, symmetry

_JUDGED_SIDE = 128  # Crops are judged and aligned at this size, whatever theirs is.
_LEAST_SYMMETRY = 0.05
# The part of a crop that frames are compared in, a face's oval: centre and half axes as shares of
# the side.
_OVAL = ((0.5, 0.56), (0.3, 0.38))
_STEPS, _PRECISION, _BLUR = 40, 1e-4, 5
_LEAST_CORRELATION = 0.6
_LARGEST_SHIFT, _LARGEST_CHANGE = 0.08, 0.15
# Tukey's biweight: values further from the median than this many deviations count nothing.
_TUKEY = 4.7
_LEAST_DEVIATION = 3.0  # grey levels: what compression does
STAY = np.eye(2, 3, dtype=np.float32)
_ROWS = 64  # computed together, so that memory stays small


def quality(crop: np.ndarray, score: float) -> float:
  """How much a frame counts: sharpness, frontality and the score of being forged, multiplied.

  Args:
    crop: (S, S, 3) uint8.
    score: in [0, 1].

  Returns:
    A number more than 0 that compares the frames of one track only.
  """
  small = cv2.resize(crop, (_JUDGED_SIDE, _JUDGED_SIDE), interpolation=cv2.INTER_AREA)
  # The square root of the variance: twice the contrast of edges is twice as sharp.
  sharp = np.sqrt(sharpness(small)) + 1.0
  return float(sharp * max(symmetry(small), _LEAST_SYMMETRY) * max(score, 1e-3))


def alignment(reference: np.ndarray, crop: np.ndarray) -> np.ndarray:
  """The affine transform that brings a crop onto the reference, by enhanced correlation.

  Evangelidis and Psarakis (2008), on the face alone. Where it fails, or would move the face further
  than a smooth square can be wrong, the crop stays where it is.

  Args:
    reference, crop: (S, S, 3) uint8 of one face, of any sides.

  Returns:
    (2, 3) float32, from places of the reference to places of the crop, as shares of the sides.
  """
  criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _PRECISION)
  try:
    correlation, found = cv2.findTransformECC(
      _judged(reference), _judged(crop), STAY.copy(), cv2.MOTION_AFFINE, criteria, _face(), _BLUR
    )
  except cv2.error:  # It did not converge, or a crop is of one colour.
    return STAY
  # From the centres of pixels to shares of the side.
  found[:, 2] = (found[:, 2] + 0.5 - found[:, :2] @ np.float32([0.5, 0.5])) / _JUDGED_SIDE
  # Where the middle goes: a transform turns and scales about the corner.
  middle = found @ np.float32([0.5, 0.5, 1]) - 0.5
  far = np.abs(middle).max() > _LARGEST_SHIFT or np.abs(found - STAY)[:, :2].max() > _LARGEST_CHANGE
  return STAY if far or correlation < _LEAST_CORRELATION else found


def move(image: np.ndarray, transform: np.ndarray, side: int) -> np.ndarray:
  """An image (S, S) or (S, S, 3) seen from the reference's square, at `side` pixels.

  Args:
    transform: of `alignment`.
  """
  own = image.shape[0]
  if own > side:
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    own = side
  # Pixels are squares: pixel i of n reaches from i / n to (i + 1) / n.
  linear = transform[:, :2] * (own / side)
  shift = own * (transform[:, :2] @ np.float32([0.5, 0.5]) / side + transform[:, 2]) - 0.5
  matrix = np.concatenate([linear, shift[:, None]], 1)
  flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
  return cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def likeness(reference: np.ndarray, crop: np.ndarray) -> float:
  """Correlation of the faces in two aligned crops (S, S, 3) uint8, in [-1, 1].

  It is low where something else is in front of the face, or light or expression are others.
  """
  inside = _face() > 0
  # Sums of integers are exact, in whatever order a processor adds them.
  x, y = (_judged(image)[inside].astype(np.int64) for image in (reference, crop))
  covariance = lambda a, b: float(len(a) * (a * b).sum() - a.sum() * b.sum())
  return covariance(x, y) / max(covariance(x, x) * covariance(y, y), 1.0) ** 0.5


def robust_mean(images: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
  """Weighted mean of aligned images without the values that are unlike the others.

  Tukey's biweight around the weighted median, pixel by pixel: a closed eye, a hand or a failed
  frame does not shine through.

  Args:
    images: n of one shape (S, S) or (S, S, C).
    weights: n, not negative, one at least positive.

  Returns:
    float32 of that shape.
  """
  weights = np.asarray(weights, np.float32).reshape(-1, *[1] * images[0].ndim)
  rows = []
  for top in range(0, len(images[0]), _ROWS):
    values = np.stack([image[top : top + _ROWS] for image in images]).astype(np.float32)
    distances = np.abs(values - _weighted_median(values, weights))
    usual = 1.4826 * _weighted_median(distances, weights)
    deviation = np.maximum(usual, _LEAST_DEVIATION)
    near = (1 - np.minimum(distances / (_TUKEY * deviation), 1) ** 2) ** 2
    factors = weights * near
    rows.append((factors * values).sum(0) / np.maximum(factors.sum(0), 1e-12))
  return np.concatenate(rows)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Over the first axis: the lowest value that has half of the weight up to it."""
  order = np.argsort(values, axis=0, kind='stable')
  below = np.cumsum(weights.ravel()[order], axis=0)
  middle = (below >= below[-1:] / 2).argmax(0)
  return np.take_along_axis(np.take_along_axis(values, order, 0), middle[None], 0)[0]


def _face() -> np.ndarray:
  """The oval of a face in its crop, (side, side) uint8, 255 inside."""
  centre, axes = ([round(share * _JUDGED_SIDE) for share in pair] for pair in _OVAL)
  empty = np.zeros((_JUDGED_SIDE, _JUDGED_SIDE), np.uint8)
  return cv2.ellipse(empty, centre, axes, 0, 0, 360, 255, cv2.FILLED)


def _judged(crop: np.ndarray) -> np.ndarray:
  grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
  return cv2.resize(grey, (_JUDGED_SIDE, _JUDGED_SIDE), interpolation=cv2.INTER_AREA)
