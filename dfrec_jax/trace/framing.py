"""From photographs to faces that are framed alike, as encoders expect them."""

from collections.abc import Container
import dataclasses
import hashlib
import pathlib
from typing import Any

import cv2
import numpy as np

from dfrec_jax.encoders import alignment
from dfrec_jax.errors import InputError
from dfrec_jax.recover import crops, finding, photographs
from input_pipeline.people.framing import MARGIN, MIDDLE
from input_pipeline.prepare import faces, tracks
from input_pipeline.transforms import resize

# Encoders sample about 137 x 137 pixels of a crop of `SIDE`: hardly any shrinking without a filter,
# and one compilation whatever the sizes of the photographs.
SIDE = 160
# A face is warped at its landmarks from a crop of at most this side.
_WARPED_SIDE = 224
# The points of the 468-point mesh whose means are `alignment.MEAN_POINTS`: the corners of each eye,
# nose tip, corners of the mouth.
_FIVE = ((33, 133), (362, 263), (1,), (61,), (291,))


@dataclasses.dataclass(frozen=True)
class Framing:
  """How faces are cut from photographs.

  Attributes:
    finder: `cascade` or `mesh`, see `finding.make_finder`; None where each is a crop already.
    margin: of such crops, the side in units of the face oval's larger side. A finder's crops are
      cut with `MARGIN`, which is what the fixed alignment in front of encoders expects.
  """

  finder: str | None = 'cascade'
  margin: float = MARGIN

  def as_dict(self) -> dict[str, Any]:
    return {'already_cropped': self.finder is None, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class FramedFace:
  """A face as the encoder gets it.

  Attributes:
    box: x, y, width and height in pixels of the picture.
    pixels: (SIDE, SIDE, 3) uint8, the face where the fixed alignment expects it.
  """

  box: faces.Box
  pixels: np.ndarray

  @property
  def area(self) -> float:
    return self.box[2] * self.box[3]


def reframe(crop: np.ndarray, margin: float) -> np.ndarray:
  """A crop (H, W, 3) of any margin as one of `MARGIN`, (SIDE, SIDE, 3).

  Args:
    margin: the crop's side in units of the face oval's larger side; the oval's centre lies at
      half of its width and `MIDDLE` of its height.
  """
  if margin == MARGIN:
    return resize(crop, SIDE)
  height, width = crop.shape[:2]
  side = width * MARGIN / margin
  left, top = width / 2 - side / 2, MIDDLE * (height - side)
  square = tracks.Square(round(left), round(top), max(round(side), 1))
  return resize(tracks.cut(crop, square, square.side), SIDE)


def _framed(crop: crops.Crop) -> np.ndarray:
  """The crop with its landmarks at their mean places, or as it is where there are none."""
  if crop.face is None or crop.face.points is None:
    return resize(crop.pixels, SIDE)
  side = min(len(crop.pixels), _WARPED_SIDE)
  corner, scale = np.array([crop.square.left, crop.square.top]), side / crop.square.side
  five = np.stack([crop.face.points[list(indices)].mean(0) for indices in _FIVE])
  matrix = alignment.similarity_transform((five - corner) * scale, alignment.MEAN_POINTS * SIDE)
  return cv2.warpAffine(
    resize(crop.pixels, side), matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE
  )


@dataclasses.dataclass(frozen=True)
class ReadFaces:
  """The faces of a photograph's file.

  Attributes:
    content: SHA-256 of the file, 32 bytes.
    faces: the largest first; None where the file was known already.
    warnings: sentences on what was converted in reading it.
  """

  content: bytes
  faces: list[FramedFace] | None
  warnings: tuple[str, ...] = ()


class FaceReader:
  """Reads photographs and frames their faces. Not to be shared between threads."""

  def __init__(self, framing: Framing):
    """Raises an InputError: the finder is unknown, or what it needs is not installed."""
    self._framing = framing
    self._finder = framing.finder and finding.make_finder(framing.finder)

  def read(self, path: pathlib.Path, known: Container[bytes] = frozenset()) -> ReadFaces:
    """Reads a photograph, unless its content is known.

    Raises:
      InputError: one sentence on why it cannot be read.
    """
    data = photographs.read_bytes(path)
    content = hashlib.sha256(data).digest()
    if content in known:
      return ReadFaces(content, None)
    photograph = photographs.read_photograph(path, data)
    return ReadFaces(content, self._find(photograph.pixels, str(path)), photograph.warnings)

  def _find(self, picture: np.ndarray, name: str) -> list[FramedFace]:
    if self._finder is None:
      crop = crops.whole_picture(picture, name)
      return [FramedFace(crop.box, reframe(crop.pixels, self._framing.margin))]
    try:
      found = crops.find_crops(picture, self._finder, MARGIN)
    except cv2.error as error:
      raise InputError(f'{name} cannot be searched for faces; save it in another size.') from error
    return [FramedFace(crop.box, _framed(crop)) for crop in found]
