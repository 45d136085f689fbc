"""Finding faces: one interface, two finders.

A face's box is that of its oval, brows to chin and cheek to cheek, as the 468-point mesh bounds it.
"""

import dataclasses
import functools
from typing import Protocol

import cv2
import numpy as np

from dfrec_jax.errors import InputError

Box = tuple[float, float, float, float]  # x, y, width, height in pixels

# The oval in a box of OpenCV's `alt2` cascade: x, y, width and height in units of the box's side.
# Measured on the Face Research Lab London Set against the mesh; standard deviations 0.02 to 0.04.
_OVAL_IN_CASCADE = (0.084, 0.078, 0.837, 0.992)
_LARGEST_SIDE = 640  # Images are shrunk to it before the cascade looks at them.
_SMALLEST_FACE = 1 / 12  # of the smaller side
# Of two faces, the second counts as a person of its own from this share of the first one's area.
_RIVAL_AREA = 0.5


@dataclasses.dataclass(frozen=True)
class Face:
  """A face in an image.

  Attributes:
    box: its oval's box, in pixels; may reach over the border.
    points: (468, 2) float32 landmarks, x then y, in pixels, where the finder makes them.
  """

  box: Box
  points: np.ndarray | None = None

  @property
  def area(self) -> float:
    return self.box[2] * self.box[3]


class FaceFinder(Protocol):
  """Finds the faces of an image."""

  def find(self, image: np.ndarray) -> list[Face]:
    """Args: image: (H, W, 3) uint8 RGB. Returns: its faces, the largest first."""


class CascadeFinder:
  """OpenCV's frontal-face cascade (Viola and Jones 2001), whose model comes in OpenCV 4's wheel."""

  def __init__(self):
    data = getattr(cv2, 'data', None)
    path = f'{data.haarcascades if data else ""}haarcascade_frontalface_alt2.xml'
    self._cascade = cv2.CascadeClassifier(path)
    if self._cascade.empty():
      raise InputError(
        f'OpenCV {cv2.__version__} has no face cascades; install opencv-python-headless<5, or use '
        'the finder mesh.'
      )

  def find(self, image: np.ndarray) -> list[Face]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, _LARGEST_SIDE / max(grey.shape))
    if scale < 1:
      grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    smallest = max(24, round(_SMALLEST_FACE * min(grey.shape)))
    boxes = self._cascade.detectMultiScale(grey, 1.1, 4, minSize=(smallest, smallest))
    faces = [Face(oval_in(tuple(float(v) / scale for v in box))) for box in boxes]
    return sorted(faces, key=lambda face: -face.area)


def oval_in(square: Box) -> Box:
  """The box of the face's oval in a square of the cascade."""
  x, y, side, _ = square
  left, top, width, height = _OVAL_IN_CASCADE
  return x + left * side, y + top * side, width * side, height * side


def intersection(a: Box, b: Box) -> float:
  """Area that two boxes share."""
  width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
  height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
  return max(width, 0) * max(height, 0)


def overlap(a: Box, b: Box) -> float:
  """Intersection of two boxes as a share of the smaller one."""
  return intersection(a, b) / max(min(a[2] * a[3], b[2] * b[3]), 1e-9)


@functools.lru_cache
def make_finder(name: str) -> FaceFinder:
  """The finder of this process: `cascade`, or `mesh` (see `landmarks.MeshFinder`).

  Raises:
    InputError: an unknown name, or what the finder needs is not installed.
  """
  if name == 'cascade':
    return CascadeFinder()
  if name == 'mesh':
    from input_pipeline.prepare.landmarks import MeshFinder

    return MeshFinder()
  raise InputError(f'There is no face finder {name!r}; it is cascade or mesh.')


def only_face(faces: list[Face]) -> Face | str:
  """The one person of a photograph, or why there is none: `no face` or `several faces`.

  Small faces in the background do not count.
  """
  if not faces:
    return 'no face'
  if len(faces) > 1 and faces[1].area >= _RIVAL_AREA * faces[0].area:
    return 'several faces'
  return faces[0]


def rivals(faces: list[Face], chosen: Face) -> bool:
  """Whether another face is about as large as the chosen one."""
  return any(f is not chosen and f.area >= _RIVAL_AREA * chosen.area for f in faces)
