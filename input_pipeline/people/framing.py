"""Every photograph cut alike about its face, as the models see faces."""

import cv2
import numpy as np

from input_pipeline.people.mesh import OVAL
from input_pipeline.transforms import resize

# Side of the square crop by the face oval's larger side, and the height of the oval's middle in
# it: hair and neck show, and the eyes lie where the fixed alignment of face encoders has them.
MARGIN = 1.45
MIDDLE = 0.56
# Rows and columns of a framed picture from forehead to chin and between the cheeks, in how many
# parts: hair that hangs over a forehead counts like a shadow.
_FACE = (0.26, 0.8), (0.28, 0.72)
_PARTS = 4, 3


def frame_face(photo: np.ndarray, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Cuts the square about a face and resizes it; a crop made by the same rule stays as it is.

  Args:
    photo: (H, W, 3) uint8.
    points: (468, 2) the face mesh, x then y in pixels from the photograph's corner.
    size: side of the result in pixels.

  Returns:
    The crop (size, size, 3) uint8, mirrored beyond the photograph's borders, and the mesh in it,
    (468, 2) float32, whole numbers at the pixels' centres as OpenCV has them.
  """
  points = points.astype(np.float32)
  low, high = points[OVAL].min(0), points[OVAL].max(0)
  side = max(round(MARGIN * float((high - low).max())), 2)
  left, top = np.rint((low + high) / 2 - side * np.float32([0.5, MIDDLE])).astype(int).tolist()
  crop = _cut(photo, left, top, side)
  points = (points - np.float32([left, top])) * np.float32(size / side) - np.float32(0.5)
  return resize(crop, size), points


def face_light(picture: np.ndarray) -> np.ndarray:
  """(4, 3, 3) float32: mean colours of the parts of a framed face, complexion and light alike."""
  rows, columns = (
    slice(*(round(end * side) for end in ends))
    for ends, side in zip(_FACE, picture.shape[:2], strict=True)
  )
  parts = cv2.resize(picture[rows, columns], _PARTS[::-1], interpolation=cv2.INTER_AREA)
  return parts.astype(np.float32)


def _cut(photo: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
  height, width = photo.shape[:2]
  right, bottom = left + side, top + side
  inside = photo[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
  if inside.shape[:2] == (side, side):
    return inside
  beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
  return cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REFLECT_101)
