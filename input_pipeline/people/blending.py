"""Making a drawn face fit the photograph under it: colour, gradients, softness, edges."""

import cv2
import numpy as np

# How much the spread of a colour channel may change.
_GAINS = (0.7, 1.4)
# How much larger than typical a step at the outline may be: the rest is hair or background, whose
# colour has no place in the face.
_LARGEST_STEP = 2.0


def feather(covered: np.ndarray, inset: float, width: float) -> np.ndarray:
  """Weight of a pasted face, rising smoothly from its outline inwards.

  Args:
    covered: (h, w) bool where the face is drawn.
    inset: how far inside the outline the weight is still 0, in pixels.
    width: over how many pixels it rises to 1, at least one.

  Returns:
    (h, w) float32 in [0, 1].
  """
  padded = np.pad(covered, 1).astype(np.uint8)  # The picture's border is an outline too.
  depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
  rise = np.clip((depth - np.float32(inset)) * np.float32(1 / max(width, 1)), 0, 1)
  weight = rise * rise * (3 - 2 * rise)
  return np.where(weight > 1 / 255, weight, 0)


def match_colour(
  face: np.ndarray, below: np.ndarray, weight: np.ndarray, strength: float
) -> np.ndarray:
  """Moves mean and spread of the face's Lab channels towards those of what it covers.

  Reinhard et al., Color Transfer between Images, 2001.

  Args:
    face, below: (h, w, 3) float32 RGB in [0, 1].
    weight: (h, w) float32, what counts.
    strength: 0 leaves the face, 1 moves it all the way.
  """
  ours, theirs = (cv2.cvtColor(image, cv2.COLOR_RGB2Lab) for image in (face, below))
  inside = weight > 0.5
  if not inside.any():
    return face
  (our_mean, our_spread), (their_mean, their_spread) = (
    cv2.meanStdDev(lab, mask=inside.astype(np.uint8)) for lab in (ours, theirs)
  )
  gain = np.clip(their_spread / np.maximum(our_spread, 0.5), *_GAINS)
  gain = 1 + strength * (gain - 1)
  offset = our_mean + strength * (their_mean - our_mean) - gain * our_mean
  moved = cv2.transform(ours, np.hstack([np.diag(gain[:, 0]), offset]).astype(np.float32))
  return np.clip(cv2.cvtColor(moved, cv2.COLOR_Lab2RGB), 0, 1)


def border_steps(
  face: np.ndarray, below: np.ndarray, points: np.ndarray, reach: float
) -> np.ndarray:
  """What the face lacks of the photograph at its outline: (b, 3) float32, without outliers.

  Args:
    face, below: (h, w, 3) float32 RGB in [0, 1].
    points: (b, 2) float32 x, y of the outline in them.
    reach: side of the square over which colours are averaged, in pixels.
  """
  side = 2 * max(round(reach / 2), 1) + 1
  gap = cv2.blur(below - face, (side, side))
  height, width = gap.shape[:2]
  x, y = np.clip(np.rint(points).astype(int).T, 0, [[width - 1], [height - 1]])
  steps = gap[y, x]
  middle = np.median(steps, 0)
  typical = np.median(np.abs(steps - middle), 0)
  return np.clip(steps, middle - _LARGEST_STEP * typical, middle + _LARGEST_STEP * typical)


def soften(face: np.ndarray, factor: float, smooth: bool) -> np.ndarray:
  """The look of a generator of lower resolution, `factor` times: blurred, or made small and back.

  Args:
    face: (h, w, 3) float32.
    factor: 1 or more.
    smooth: blur instead of resampling.
  """
  if smooth:
    return cv2.GaussianBlur(face, (0, 0), 0.5 * factor)
  height, width = face.shape[:2]
  small = (max(round(width / factor), 1), max(round(height / factor), 1))
  small = cv2.resize(face, small, interpolation=cv2.INTER_AREA)
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
