"""Finding every face of a picture, quickly enough that the model and not the search takes the time.

The cascade is that of `input_pipeline.prepare.faces.CascadeFinder`, by which training data is cut.
Its time goes into small windows on large images: so large faces are looked for in a small image,
and small ones in a larger image where there is no large one. What is found is the same: on 1,233
photographs of one person each (LFW, the London set, swaps) both find 1,229 of them or more, and
their sizes scatter by 4 to 5 % around the mesh's oval for both.

Of a large picture even smaller faces are looked for, in images of at most so many pixels that it
takes a bounded time; `QuickCascade.smallest_face` says how small.
"""

import math
import threading

import cv2
import numpy as np

from input_pipeline.prepare import faces
from input_pipeline.prepare.faces import Box, CascadeFinder, Face, FaceFinder, oval_in, overlap

_SMALLEST = 24  # Side of the smallest window, in pixels.
# Faces from a quarter of the smaller side on are looked for at this smaller side,
_FOR_LARGE, _STEP, _NEIGHBOURS = 100, 1.12, 4
# and those from a twelfth of it on at this one, in larger steps.
_FOR_SMALL, _SMALL_STEP, _SMALL_NEIGHBOURS = 288, 1.2, 3
_LARGEST_SMALL = 74  # Somewhat more than the smallest of the large ones is there.
# Still smaller ones are looked for where a twelfth is this many times the smallest one of use, at
# no more pixels than these, in windows of three steps: the cascade passes over every second place
# as long as a window is below 40 pixels, and over none beyond. So a chain of images, each three
# steps smaller than the one before, takes half of the time of one image.
_FAR_BELOW, _MOST_PIXELS = 2.0, 1_200_000
_TINY_STEP, _TINY_STEPS, _TINY_NEIGHBOURS = 1.2, 3, 1
# What is met there is looked at by itself, at this side in pixels, with so much room around it.
_JUDGED_SIDE, _ROOM, _JUDGED_STEP = 60, 1.6, 1.1
# Two boxes that share this much of the smaller one are one face.
_SAME = 0.5


def smallest_useful(image_size: int, margin: float) -> float:
  """The face whose crop has a third of the pixels a side that the model sees.

  Args:
    image_size: side of the model's images, in pixels.
    margin: side of a crop in units of the face oval's larger side.

  Returns:
    The oval's larger side, in pixels.
  """
  return image_size / 3 / margin


class QuickCascade(CascadeFinder):
  """`CascadeFinder` at a fraction of its time, where there is a face. Not for several threads."""

  def __init__(self, smallest: float = 0.0):
    """`smallest`: larger side of the smallest oval that is of use, in pixels of a picture."""
    super().__init__()
    self._window = max(_SMALLEST, smallest / max(oval_in((0, 0, 1, 1))[2:]))

  def smallest_face(self, shape: tuple[int, ...]) -> float:
    """Larger side of the smallest oval that is looked for, in pixels of a picture.

    Args:
      shape: (height, width, ...) of the picture.
    """
    scale = self._tiny_scale(shape) or min(1.0, _FOR_SMALL / min(shape[:2]))
    return max(oval_in((0, 0, 1, 1))[2:]) * _SMALLEST / scale

  def find(self, image: np.ndarray) -> list[Face]:
    """As `faces.FaceFinder.find`: faces from `smallest_face` on."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, _FOR_LARGE / min(grey.shape))
    squares = self._look(_shrink(grey, scale), scale, _STEP, _NEIGHBOURS)
    if scale < 1:
      scale = min(1.0, _FOR_SMALL / min(grey.shape))
      rest = _without(_shrink(grey, scale), squares, scale)
      squares += self._look(rest, scale, _SMALL_STEP, _SMALL_NEIGHBOURS, _LARGEST_SMALL)
      squares += self._find_tiny(grey, squares)
    found: list[Face] = []
    for square in squares:
      face = Face(oval_in(square))
      if all(overlap(face.box, other.box) < _SAME for other in found):
        found.append(face)
    if not found:
      return super().find(image)
    return sorted(found, key=lambda face: (-face.area, face.box))

  def _tiny_scale(self, shape: tuple[int, ...]) -> float | None:
    """How much a picture is shrunk for the smallest windows; None where they are not looked at."""
    small = _FOR_SMALL / min(shape[:2])
    wanted = _SMALLEST / self._window
    affordable = math.sqrt(_MOST_PIXELS / (shape[0] * shape[1]))
    scale = min(wanted, affordable)
    return scale if wanted > _FAR_BELOW * small and scale > small else None

  def _find_tiny(self, grey: np.ndarray, known: list[Box]) -> list[Box]:
    """Squares of faces below a twelfth of the smaller side, in pixels of the picture."""
    scale, found = self._tiny_scale(grey.shape), []
    if scale is None:
      return found
    rest = _without(_shrink(grey, scale), known, scale)
    largest = round(_SMALLEST * _TINY_STEP ** (_TINY_STEPS - 1)) + 1
    while scale > _FOR_SMALL / min(grey.shape):
      for square in self._look(rest, scale, _TINY_STEP, _TINY_NEIGHBOURS, largest):
        if all(overlap(square, other) < _SAME for other in found):
          found += self._judge(grey, square)
      scale /= _TINY_STEP**_TINY_STEPS
      rest = _shrink(rest, _TINY_STEP**-_TINY_STEPS)
    return found

  def _judge(self, grey: np.ndarray, square: Box) -> list[Box]:
    """The face in a square and its surroundings as a stricter look has it, if it is one."""
    x, y, side, _ = square
    reach, scale = round(_ROOM * side / 2), _JUDGED_SIDE / side
    left, top = (max(round(v + side / 2) - reach, 0) for v in (x, y))
    part = grey[top : round(y + side / 2) + reach, left : round(x + side / 2) + reach]
    seen = self._look(_shrink(part, scale), scale, _JUDGED_STEP, _NEIGHBOURS)
    return [(left + a, top + b, *sides) for a, b, *sides in seen[:1]]

  def _look(
    self, grey: np.ndarray, scale: float, step: float, neighbours: int, largest: int = 0
  ) -> list[Box]:
    """Squares of the cascade in pixels of the picture, the largest first."""
    smallest = (_SMALLEST, _SMALLEST)
    sizes = {'minSize': smallest} | ({'maxSize': (largest, largest)} if largest else {})
    found = self._cascade.detectMultiScale(grey, step, neighbours, **sizes)
    squares = [tuple(float(v) / scale for v in square) for square in found]
    return sorted(squares, key=lambda square: (-square[2], square))


def make_finder(name: str, smallest: float = 0.0) -> FaceFinder:
  """A finder of one's own for a thread: `cascade`; or `mesh`, which the process shares.

  Args:
    name: of the finder.
    smallest: larger side of the smallest oval that is of use, in pixels; see `smallest_useful`.
      The mesh does not need it.

  Raises:
    InputError: an unknown name, or what the finder needs is not installed.
  """
  return QuickCascade(smallest) if name == 'cascade' else _OneAtATime(faces.make_finder(name))


class _OneAtATime:
  """A finder that threads share."""

  _lock = threading.Lock()

  def __init__(self, finder: FaceFinder):
    self._finder = finder

  def find(self, image: np.ndarray) -> list[Face]:
    with self._lock:
      return self._finder.find(image)


def _shrink(grey: np.ndarray, scale: float) -> np.ndarray:
  """The picture at another scale; always a copy."""
  if scale == 1:
    return grey.copy()
  kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=kind)


def _without(grey: np.ndarray, squares: list[Box], scale: float) -> np.ndarray:
  """Covers squares of the picture in an image of it: the cascade leaves windows of one grey."""
  for square in squares:
    x, y, side = (round(v * scale) for v in square[:3])
    grey[max(y, 0) : y + side, max(x, 0) : x + side] = 128
  return grey
