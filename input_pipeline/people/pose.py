"""Where a head looks, estimated from its flat face mesh."""

import numpy as np

# A few points of the mesh on a generic head, which move little with expression: x to the image's
# right, y up, z towards the camera, about centimetres.
_HEAD = {
  1: (0.0, -1.1, 7.5),  # tip of the nose
  168: (0.0, 3.3, 5.2),  # its bridge
  10: (0.0, 8.3, 4.5),  # top of the forehead
  33: (-4.4, 2.7, 3.2),  # outer and inner corners of the eyes
  263: (4.4, 2.7, 3.2),
  133: (-1.9, 2.6, 3.8),
  362: (1.9, 2.6, 3.8),
  61: (-2.5, -4.3, 4.3),  # corners of the mouth
  291: (2.5, -4.3, 4.3),
  234: (-7.7, 0.7, -2.4),  # before the ears
  454: (7.7, 0.7, -2.4),
}
HEAD_POINTS = tuple(_HEAD)
HEAD_SHAPE = np.float32(list(_HEAD.values()))
_EYE_CORNERS = (33, 263)
_MOUTH = ((13, 14), (61, 291))  # its height between the lips, its width
# How unlike two photographs are, by degree of yaw, pitch and roll and by the mouth's height and
# width over the eyes' distance. The swap undoes roll, but for the light.
_UNLIKE = np.float32([1, 1, 0.4, 80, 60])


def head_pose(points: np.ndarray) -> np.ndarray:
  """Yaw, pitch and roll, of a scaled orthographic view of a generic head.

  Args:
    points: (n, 468, 2) face meshes.

  Returns:
    (n, 3) float32 degrees: looking to the image's right, looking up, and turned clockwise.
  """
  seen = points[:, list(HEAD_POINTS)].astype(np.float32) * np.float32([1, -1])
  seen = seen - seen.mean(1, keepdims=True)
  inverse = np.linalg.pinv(HEAD_SHAPE - HEAD_SHAPE.mean(0))  # (3, points)
  view = np.swapaxes(inverse @ seen, 1, 2)  # (n, 2, 3): a scaled rotation's first two rows
  rows = view / np.maximum(np.linalg.norm(view, axis=2, keepdims=True), 1e-6)
  right, up = rows[:, 0], rows[:, 1]
  # The image of the axis that points out of the face; its length is the sine of its angle.
  yaw = np.arcsin(np.clip(right[:, 2], -1, 1))
  pitch = np.arcsin(np.clip(up[:, 2], -1, 1))
  roll = np.arctan2(right[:, 1] - up[:, 0], right[:, 0] + up[:, 1])
  return np.degrees(np.stack([yaw, pitch, roll], 1)).astype(np.float32)


def likeness(points: np.ndarray) -> np.ndarray:
  """(n, 5) float32 for (n, 468, 2) meshes: photographs that are near in it swap well.

  Euclidean distance counts degrees of the head's pose. The mouth counts too: the texture of a
  smile stretches badly over closed lips.
  """
  points = points.astype(np.float32)
  eyes, *mouth = (
    np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in (_EYE_CORNERS, *_MOUTH)
  )
  mouth = np.stack(mouth, 1) / np.maximum(eyes, 1e-3)[:, None]
  return np.concatenate([head_pose(points), mouth], 1) * _UNLIKE
