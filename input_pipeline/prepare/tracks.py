"""Where to cut: one square for a photograph, or for a whole video, so that nothing jitters."""

from collections.abc import Mapping, Sequence
import dataclasses

import cv2
import numpy as np

from input_pipeline.prepare.faces import Box, Face, overlap, rivals
from input_pipeline.prepare.units import Unusable

# The face's centre lies below the middle of the crop, as in the crops that the fixed alignment in
# front of the identity encoder was measured on.
CENTRE_HEIGHT = 0.56
# A frame is left out where the face is further than this share of the crop's side from its place,
# or this much larger or smaller: it would be cut, or met elsewhere than in all other examples.
_LARGEST_SHIFT = 0.15
_LARGEST_SCALE = 1.33
_LEAST_OVERLAP = 0.1
_LEAST_FRAMES = 0.5


@dataclasses.dataclass(frozen=True)
class Square:
  """A square of an image, in whole pixels; it may reach over the border."""

  left: int
  top: int
  side: int


@dataclasses.dataclass(frozen=True)
class Track:
  """A face in a video.

  Attributes:
    square: where to cut, in every frame.
    inside: indices of the frames in which the face is in its place there.
  """

  square: Square
  inside: tuple[int, ...]


def square_around(box: Box, margin: float) -> Square:
  """The crop of a face.

  Args:
    box: of the face's oval.
    margin: the crop's side in units of the oval's larger side.
  """
  x, y, width, height = box
  side = margin * max(width, height)
  left, top = x + width / 2 - side / 2, y + height / 2 - CENTRE_HEIGHT * side
  return Square(round(left), round(top), max(round(side), 1))


def cut(image: np.ndarray, square: Square, size: int, *, mask: bool = False) -> np.ndarray:
  """Cuts a square and shrinks it to at most `size`.

  Args:
    image: (H, W, 3) or (H, W).
    square: may reach over the border: an image is continued there, a mask is zero.
    size: largest side of the result, in pixels; a smaller square keeps its size.
    mask: whether it is one.

  Raises:
    ValueError: the square lies beside the image.
  """
  height, width = image.shape[:2]
  right, bottom = square.left + square.side, square.top + square.side
  inner = image[max(square.top, 0) : max(bottom, 0), max(square.left, 0) : max(right, 0)]
  if not inner.size:
    raise ValueError(f'{square} lies beside an image of {width} x {height} pixels')
  borders = (
    max(-square.top, 0),
    max(bottom - height, 0),
    max(-square.left, 0),
    max(right - width, 0),
  )
  if any(borders):
    kind = cv2.BORDER_CONSTANT if mask else cv2.BORDER_REPLICATE
    inner = cv2.copyMakeBorder(inner, *borders, kind)
  if square.side > size:
    return cv2.resize(inner, (size, size), interpolation=cv2.INTER_AREA)
  return np.ascontiguousarray(inner)


def follow_face(
  path: str,
  indices: Sequence[int],
  faces: Mapping[int, list[Face]],
  regions: Mapping[int, Box],
  margin: float,
) -> Track:
  """Chooses one square for the frames of a video.

  Args:
    path: of the video, for errors.
    indices: of the frames.
    faces: what the finder found in each.
    regions: boxes of the masks, where there are masks: they say which face is meant, and where it
      is while the finder finds none.
    margin: of the crop.

  Raises:
    Unusable: there is no face in half of the frames, or several and nothing says which is meant.
  """
  chosen = _choose(path, indices, faces, regions)
  # A mask alone does not make a face: at least one must be seen.
  if chosen and len(chosen) < _LEAST_FRAMES * len(indices):
    chosen = {**_as_ovals(regions, chosen), **chosen}
  if not chosen or len(chosen) < _LEAST_FRAMES * len(indices):
    raise Unusable(path, 'no face')
  known = sorted(chosen)
  boxes = np.array([chosen[index] for index in known])
  centres, sizes = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:].max(1)
  centre, size = np.median(centres, 0), np.median(sizes)
  # Where the face was not found, it is between where it was before and after.
  shifts = np.stack([np.interp(indices, known, centres[:, k]) - centre[k] for k in (0, 1)], 1)
  scales = np.interp(indices, known, sizes) / size
  near = (np.abs(shifts) <= _LARGEST_SHIFT * margin * size).all(1)
  near &= (scales <= _LARGEST_SCALE) & (scales >= 1 / _LARGEST_SCALE)
  width, height = np.median(boxes[:, 2:], 0)
  box = (centre[0] - width / 2, centre[1] - height / 2, width, height)
  inside = tuple(index for index, ok in zip(indices, near, strict=True) if ok)
  return Track(square_around(box, margin), inside)


def _as_ovals(regions: Mapping[int, Box], ovals: Mapping[int, Box]) -> dict[int, Box]:
  """Ovals guessed from the boxes of masks, which may cover more than the face, or its mouth alone.

  A mask tells the oval's place and size as it does, in the median, where both are known; nothing
  where they never are.
  """
  both = [index for index in regions if index in ovals]
  if not both:
    return {}
  masks, faces = (np.array([boxes[index] for index in both]) for boxes in (regions, ovals))
  shift = np.median((faces[:, :2] - masks[:, :2]) / masks[:, 2:], 0)
  scale = np.median(faces[:, 2:] / masks[:, 2:], 0)
  guess = lambda box: (*(box[:2] + shift * box[2:]), *(scale * box[2:]))
  return {index: guess(np.array(box)) for index, box in regions.items()}


def _choose(path, indices, faces, regions) -> dict[int, Box]:
  """Which face is meant, in each frame that has one."""
  found = [faces[index][0].box for index in indices if faces[index]]
  usual = list(regions.values()) or found
  if not usual:
    return {}
  reference = tuple(np.median(np.array(usual), 0))
  chosen, ambiguous = {}, 0
  for index in indices:
    anchor = regions.get(index, reference)
    face = max(faces[index], key=lambda f: overlap(f.box, anchor), default=None)
    if face is None or overlap(face.box, anchor) < _LEAST_OVERLAP:
      continue
    chosen[index] = face.box
    ambiguous += rivals(faces[index], face)
  if not regions and ambiguous > len(chosen) / 2:
    raise Unusable(path, 'several faces')
  return chosen
