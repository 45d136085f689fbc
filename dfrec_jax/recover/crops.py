"""Cutting faces out of a picture, and putting recovered ones back."""

import dataclasses

import cv2
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.prepare.faces import Box, Face, FaceFinder
from input_pipeline.prepare.source_frames import symmetry
from input_pipeline.prepare.tracks import Square, cut, square_around
from input_pipeline.transforms import resize

# A larger crop is shrunk to it: models see a tenth of it, and several of them must fit in memory.
LARGEST_SIDE = 2048
_LEAST_PICTURE = 16  # Side in pixels below which no finder looks for faces.
# A picture more elongated than this is no crop of a face.
_LARGEST_ASPECT = 2.0
_FEATHER = 0.06  # Width of the soft edge, a share of the square's side.

# A mask smaller than this share of the crop is almost empty; a face takes a quarter to a third.
_LEAST_MASK = 0.03

# A face is unusual where it is less symmetric or sharp than this: so are 1 % of 1,200 frontal press
# photographs (LFW).
_LEAST_SYMMETRY = 0.07
_LEAST_SHARPNESS = 0.195
# Where there are landmarks: how far the tip of the nose may be from the middle between the cheeks,
# in units of half their distance. None of the same crops is further.
_LARGEST_TURN = 0.45
_NOSE, _CHEEKS = 1, (234, 454)  # points of the 468-point mesh
# Both are measured at this side, in pixels, so that they mean the same for crops of all sizes.
_JUDGED_SIDE, _MIDDLE = 96, slice(24, 76)
# Sharpness: the detail finer than 1 pixel as a share of that finer than 4.
_FINE, _COARSE = 1.0, 4.0
_FLAT = 0.5  # Grey levels: below, there is no detail to compare.


@dataclasses.dataclass(frozen=True)
class Crop:
  """A face and the square around it.

  Attributes:
    box: of the face's oval (x, y, width, height) in pixels of the picture; the whole picture where
      it is a crop already.
    square: what was cut, in pixels of the picture; may reach over its border.
    pixels: (S, S, 3) uint8; S is the square's side, at most `LARGEST_SIDE`.
    face: as the finder gave it; None of a picture that is a crop already.
  """

  box: Box
  square: Square
  pixels: np.ndarray
  face: Face | None = None


def find_crops(picture: np.ndarray, finder: FaceFinder, margin: float) -> list[Crop]:
  """The faces of a picture (H, W, 3) uint8, the largest first.

  Args:
    finder: finds the faces; see `finding.make_finder`. Not to be shared between threads.
    margin: the square's side in units of the oval's larger side, as stored with the checkpoint.
  """
  if min(picture.shape[:2]) < _LEAST_PICTURE:
    return []
  crops = []
  for face in finder.find(picture):
    square = square_around(face.box, margin)
    crops.append(Crop(face.box, square, cut(picture, square, LARGEST_SIDE), face))
  return crops


def whole_picture(picture: np.ndarray, name: str = 'The picture') -> Crop:
  """A picture (H, W, 3) uint8 that is a crop already; made square by continuing its border.

  Raises:
    InputError: it is so elongated that it cannot be one.
  """
  height, width = picture.shape[:2]
  side = max(height, width)
  if side > _LARGEST_ASPECT * min(height, width):
    raise InputError(
      f'{name} is {width} x {height} pixels, which is no crop of a face; leave out '
      '--already-cropped.'
    )
  square = middle_square(picture)
  return Crop((0.0, 0.0, float(width), float(height)), square, cut(picture, square, LARGEST_SIDE))


def middle_square(picture: np.ndarray) -> Square:
  """The smallest square around a picture (H, W, 3), in its middle."""
  height, width = picture.shape[:2]
  side = max(height, width)
  return Square((width - side) // 2, (height - side) // 2, side)


def put_back(
  picture: np.ndarray, found: np.ndarray, recovered: np.ndarray, square: Square
) -> np.ndarray:
  """A copy of the picture with a recovered crop in its place, its edge feathered.

  What the recovery left as it was stays as it was, to the last bit, also where the crop had been
  shrunk: changes are put back, not pictures. So overlapping crops do not undo each other.

  Args:
    picture: (H, W, 3) uint8, in which other faces may have been put back already.
    found: (S, S, 3) uint8, the crop as it was cut.
    recovered: (S, S, 3) uint8, the crop recovered.
    square: where it was cut.
  """
  height, width = picture.shape[:2]
  side = square.side
  top, bottom = max(square.top, 0), min(square.top + side, height)
  left, right = max(square.left, 0), min(square.left + side, width)
  result = picture.copy()
  if top >= bottom or left >= right:
    return result
  change = recovered.astype(np.float32) - found
  if len(recovered) != side:
    change = cv2.resize(change, (side, side), interpolation=cv2.INTER_CUBIC)
  inner = np.s_[top - square.top : bottom - square.top, left - square.left : right - square.left]
  region = result[top:bottom, left:right]
  faded = change[inner] * _feathered(side, square, picture.shape)[inner][..., None]
  region[:] = np.round(np.clip(region + faded, 0, 255)).astype(np.uint8)
  return result


def _feathered(side: int, square: Square, shape: tuple[int, ...]) -> np.ndarray:
  """Weights (side, side): 0 to 1 over the edge, but for edges at which the picture ends."""
  ramp = (np.arange(side, dtype=np.float32) + 0.5) / max(_FEATHER * side, 1)
  rising, ones = np.minimum(ramp, 1), np.ones(side, np.float32)
  at = lambda start, length: (
    (ones if start <= 0 else rising) * (ones if start + side >= length else rising[::-1])
  )
  return np.outer(at(square.top, shape[0]), at(square.left, shape[1]))


def mask_warnings(mask: np.ndarray, name: str = 'The face') -> list[str]:
  """Whether a mask (H, W) in [0, 1] shows too little of a face to recover anybody from."""
  if mask.mean() >= _LEAST_MASK:
    return []
  return [
    f'{name} has an almost empty mask: there was hardly anything to recover its source from, and '
    'its recovered target is hardly more than the input.'
  ]


def warnings_of(
  crop: Crop, image_size: int, name: str = 'The face', seen: np.ndarray | None = None
) -> list[str]:
  """Sentences on how a face differs from frontal press photographs, as models are trained on.

  Tiny: the crop has fewer pixels than the model's image. Profile: brows, eyes and mouth are less
  like their mirror image than in 99 % of frontal photographs (`source_frames.symmetry`), or the
  landmarks say so.
  Blurred: less sharp than 99 % of them (`sharpness`).

  Args:
    image_size: side of the model's images, in pixels.
    name: of the face, as the sentences begin.
    seen: (image_size, image_size, 3) uint8, the crop as the model sees it, where it is at hand.
  """
  sentences = []
  side = crop.square.side
  if side < image_size:
    sentences.append(
      f'{name} is tiny: its crop of {side} pixels was enlarged to the {image_size} that the model '
      'sees.'
    )
  if seen is None or len(seen) != _JUDGED_SIDE:
    seen = resize(crop.pixels, _JUDGED_SIDE)
  points = crop.face.points if crop.face else None
  if points is not None and turn(points) > _LARGEST_TURN:
    sentences.append(
      f'{name} is turned aside further than any of 1,200 frontal press photographs (LFW).'
    )
  elif points is None and symmetry(seen) < _LEAST_SYMMETRY:
    sentences.append(
      f'{name} is turned aside or partly covered: its halves are less alike than those of 99 of '
      '100 frontal press photographs (1,200 of LFW).'
    )
  # Of an enlarged face it is known already.
  if side >= image_size and sharpness(seen) < _LEAST_SHARPNESS:
    sentences.append(
      f'{name} is blurred: it is less sharp than 99 of 100 frontal press photographs (1,200 of '
      'LFW).'
    )
  return sentences


def turn(points: np.ndarray) -> float:
  """How far a face of landmarks (468, 2) is turned aside: 0 frontal, 1 and more in profile."""
  nose, (left, right) = points[_NOSE, 0], points[list(_CHEEKS), 0]
  return float(abs(2 * nose - left - right) / max(abs(right - left), 1e-6))


def sharpness(crop: np.ndarray) -> float:
  """How much fine detail the middle of a crop (H, W, 3) uint8 has, as a share of the coarse."""
  grey = cv2.cvtColor(resize(crop, _JUDGED_SIDE), cv2.COLOR_RGB2GRAY).astype(np.float32)
  detail = lambda deviation: np.abs(grey - cv2.GaussianBlur(grey, (0, 0), deviation))[
    _MIDDLE, _MIDDLE
  ].mean()
  return float(detail(_FINE) / max(detail(_COARSE), _FLAT))
