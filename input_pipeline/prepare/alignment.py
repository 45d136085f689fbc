"""Whether a fake shows the frames of its target."""

from collections.abc import Mapping

import cv2
import numpy as np

# Beside the face, a forged frame is nearer to its own target frame than to another one by at least
# this factor, or differs from it by no more than compression does (grey levels).
_OWN_RATIO = 0.7
_COMPRESSION_NOISE = 4.0
_REACH = 9  # Pixels around a mask that a fake may have touched too.
# The face's oval in its crop, and what a fake may touch around it: centre and half axes as shares
# of the side.
_OVAL = ((0.5, 0.56), (0.36, 0.42))


def same_frames(
  forged: Mapping[int, np.ndarray],
  targets: Mapping[int, np.ndarray],
  masks: Mapping[int, np.ndarray],
) -> bool:
  """Whether forged and target crops of equal index are of the same moment.

  A fake that was cut out of another stretch of its target's video is unlike it in hair, shoulders
  and background too. One frame, or a scene in which nothing moves, gets the benefit of the doubt.

  Args:
    forged, targets: (S, S, 3) uint8 by index; each forged frame has a target.
    masks: (S, S) uint8 of what was pasted, for the frames of which it is known.
  """
  indices = sorted(forged)
  if len(indices) < 2:
    return True
  # The frame half of the video away is the least likely to look the same.
  others = (indices[len(indices) // 2 :] + indices)[: len(indices)]
  outside = {i: _outside(forged[i].shape[0], masks.get(i)) for i in indices}
  own = np.median([_distance(forged[i], targets[i], outside[i]) for i in indices])
  other = [
    _distance(forged[i], targets[j], outside[i]) for i, j in zip(indices, others, strict=True)
  ]
  return bool(own <= max(_COMPRESSION_NOISE, _OWN_RATIO * np.median(other)))


def _outside(side: int, mask: np.ndarray | None) -> np.ndarray:
  """(S, S) bool: what a fake leaves alone."""
  centre, axes = ([round(share * side) for share in pair] for pair in _OVAL)
  face = cv2.ellipse(np.zeros((side, side), np.uint8), centre, axes, 0, 0, 360, 255, cv2.FILLED)
  if mask is not None:
    face |= cv2.dilate(mask, np.ones((_REACH, _REACH), np.uint8))
  return face == 0


def _distance(forged: np.ndarray, target: np.ndarray, where: np.ndarray) -> float:
  difference = np.abs(forged.astype(np.int16) - target)[where]
  return float(difference.mean()) if difference.size else 0.0
