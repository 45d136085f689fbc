"""Pictures for people to look at, and how all pictures are encoded."""

from collections.abc import Sequence
import pathlib

import cv2
import numpy as np

from dfrec_jax.recover.crops import Crop

# Grey levels at the bright end of a heat map; most recoveries spread by 1 to 4, few by over 10.
HOTTEST = 16.0
_MASK_COLOUR, _MASK_WEIGHT = (230, 40, 40), 0.5
_SWAPPED, _NOT_SWAPPED = (230, 40, 40), (40, 150, 70)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LARGEST_BOXES = 1600  # Side in pixels of the picture that shows where the faces are.
LARGEST_THUMBNAIL = 384  # Its longer side, in pixels.
# One filter for all rows: to choose one for each takes two thirds more time, and photographs' files
# get no smaller. Stronger compression takes five times as long, and saves a tenth.
_PNG = (
  *(cv2.IMWRITE_PNG_COMPRESSION, 1),
  *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)
# Small pictures are stored: compression halves them, and takes ten times as long as all the rest.
_SMALL_PNG = (
  *(cv2.IMWRITE_PNG_COMPRESSION, 0),
  *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
)
_SMALL = 256**2  # pixels
_THUMBNAIL = (cv2.IMWRITE_JPEG_QUALITY, 82)
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111)


def write_image(path: pathlib.Path, pixels: np.ndarray) -> None:
  """Writes (H, W, 3) RGB or (H, W) uint8 as the path's ending says, `.png` or `.jpg`.

  Raises:
    OSError: it cannot be written.
  """
  png = _SMALL_PNG if pixels.shape[0] * pixels.shape[1] <= _SMALL else _PNG
  _write(path, pixels, png if path.suffix == '.png' else _JPEG)


def write_shown(path: pathlib.Path, pixels: np.ndarray) -> None:
  """As `write_image`, (H, W, 3); also the thumbnail that the report shows, where it needs one.

  While the pixels are at hand it costs a tenth of reading and shrinking the file later.
  """
  write_image(path, pixels)
  side = max(pixels.shape)
  if side > LARGEST_THUMBNAIL:
    scale = LARGEST_THUMBNAIL / side
    size = tuple(max(1, round(scale * length)) for length in pixels.shape[1::-1])
    # Less than halved, averages over areas take seven times as long and look no better.
    kind = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    pixels = cv2.resize(pixels, size, interpolation=kind)
  elif path.suffix == '.jpg':
    return
  _write(thumbnail_path(path), pixels, _THUMBNAIL)


def thumbnail_path(path: pathlib.Path) -> pathlib.Path:
  """Where the thumbnail of a picture lies, if it has one."""
  return path.parent / 'thumbnails' / f'{path.stem}.jpg'


def _write(path: pathlib.Path, pixels: np.ndarray, options: tuple[int, ...]) -> None:
  if pixels.ndim == 3:
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(cv2.imencode(path.suffix, pixels, options)[1].data)


def mask_image(mask: np.ndarray) -> np.ndarray:
  """A mask (H, W) in [0, 1] as (H, W) uint8."""
  return np.round(mask * 255).astype(np.uint8)


def overlay(crop: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """A crop (H, W, 3) uint8 with the mask (H, W) in [0, 1] in red over it."""
  weight = _MASK_WEIGHT * mask[..., None]
  return np.round(crop * (1 - weight) + np.float32(_MASK_COLOUR) * weight).astype(np.uint8)


def heat_map(spread: np.ndarray) -> np.ndarray:
  """Deviations (H, W) in grey levels as colours (H, W, 3), from black to bright at `HOTTEST`."""
  levels = np.round(np.clip(spread / HOTTEST, 0, 1) * 255).astype(np.uint8)
  return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def draw_boxes(picture: np.ndarray, crops: Sequence[Crop], swapped: Sequence[bool]) -> np.ndarray:
  """A picture (H, W, 3) uint8, at most 1600 pixels large, with its faces numbered from 1.

  Args:
    swapped: of each crop, whether its box is red or green.
  """
  scale = min(1.0, _LARGEST_BOXES / max(picture.shape))
  if scale < 1:
    drawn = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  else:
    drawn = picture.copy()
  line = max(1, round(max(drawn.shape) / 300))
  for number, (crop, red) in enumerate(zip(crops, swapped, strict=True), 1):
    colour = _SWAPPED if red else _NOT_SWAPPED
    x, y, width, height = (round(v * scale) for v in crop.box)
    cv2.rectangle(drawn, (x, y), (x + width, y + height), colour, line)
    _draw_label(drawn, str(number), (x, y), colour, line)
  return drawn


def _draw_label(
  drawn: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int], line: int
) -> None:
  """White letters on a plate that stands on a box's upper left corner, or hangs from it."""
  size = max(0.5, max(drawn.shape) / 800)  # legible in the report's thumbnail
  (width, height), _ = cv2.getTextSize(text, _FONT, size, line)
  edge = 2 * line
  width, height = width + 2 * edge, height + 2 * edge
  x = min(max(corner[0], 0), drawn.shape[1] - width)
  y = corner[1] if corner[1] - height < 0 else corner[1] - height
  cv2.rectangle(drawn, (x, y), (x + width, y + height), colour, cv2.FILLED)
  place = (x + edge, y + height - edge)
  cv2.putText(drawn, text, place, _FONT, size, (255, 255, 255), line, cv2.LINE_AA)
