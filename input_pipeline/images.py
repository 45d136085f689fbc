"""Photographs and masks of a data set, read strictly.

A training set with a grey, 16-bit, transparent or truncated image in it is a training set with a
mistake in it, so such a file raises `ImageError` instead of being converted quietly. Rotation in
EXIF, which cameras and telephones write, is applied.
"""

import io
import os
import struct

import cv2
from etils import epath
import numpy as np
from PIL import Image, ImageOps

from dfrec_jax.errors import InputError

FORMATS = ('JPEG', 'PNG', 'WEBP')
# Enough of the end of a file to hold its last marker, with what cameras append after it.
_TAIL_BYTES = 4096
_EXIF_ORIENTATION = 0x0112

_NOT_RGB = {
  '1': 'a black-and-white image',
  'L': 'a grey image',
  'LA': 'a grey image with an alpha channel',
  'P': 'a palette image',
  'RGBA': 'an image with an alpha channel',
  'CMYK': 'a CMYK image',
}


class ImageError(InputError):
  """An image cannot be used; one sentence that names the file and the remedy."""


def read_rgb(path: epath.PathLike) -> np.ndarray:
  """Returns the photograph at `path`, upright: (H, W, 3) uint8 RGB.

  Args:
    path: an 8-bit RGB JPEG, PNG or WebP file; may be a `gs://` path.

  Raises:
    ImageError: the file is missing, truncated, not an image, or not 8-bit RGB.
  """
  data = _read_bytes(path)
  header = _open(path, data)
  _require_rgb(path, header, data)
  _require_end(path, header.format, data[-_TAIL_BYTES:], len(data), data[:12])
  return _decode_rgb(path, header, data)


def read_mask(path: epath.PathLike) -> np.ndarray:
  """Returns the mask at `path`, upright: (H, W) float32 in [0, 1], 255 on disk being 1.

  Args:
    path: an 8-bit grey image, a black-and-white one, or RGB with equal channels.

  Raises:
    ImageError: as `read_rgb`, or the mask is coloured, or holds 0 and 1 in place of 0 and 255.
  """
  data = _read_bytes(path)
  header = _open(path, data)
  _require_mask(path, header, data)
  _require_end(path, header.format, data[-_TAIL_BYTES:], len(data), data[:12])
  if header.mode == 'RGB':
    rgb = _decode_rgb(path, header, data)
    mask = rgb[..., 0]
    if (rgb != mask[..., None]).any():
      raise ImageError(f'The mask {path} is coloured; save it as an 8-bit grey image.')
  else:
    mask = np.asarray(_upright(_load(path, header)).convert('L'))
  if mask.max() == 1:
    raise ImageError(f'The mask {path} holds 0 and 1; save it with 0 and 255.')
  return mask.astype(np.float32) / 255


def check_image(path: epath.PathLike, *, mask: bool = False) -> tuple[int, int]:
  """Reads the header and the end of an image, without decoding it.

  Args:
    path: as for `read_rgb`.
    mask: whether it is a mask (see `read_mask`) rather than a photograph.

  Returns:
    (height, width) of the upright image, in pixels.

  Raises:
    ImageError: as `read_rgb` and `read_mask` do, except for what only the pixels show.
  """
  try:
    with epath.Path(path).open('rb') as file:
      header = _open(path, file)
      file.seek(0)
      start = file.read(32)
      size = file.seek(0, os.SEEK_END)
      file.seek(max(0, size - _TAIL_BYTES))
      tail = file.read()
      swapped = _orientation(header) >= 5
  except FileNotFoundError as error:
    raise _missing(path) from error
  except OSError as error:
    raise _unreadable(path) from error
  (_require_mask if mask else _require_rgb)(path, header, start)
  _require_end(path, header.format, tail, size, start)
  return header.size if swapped else header.size[::-1]


def _missing(path: epath.PathLike) -> ImageError:
  return ImageError(f'The image {path} is missing; put it there or correct the path.')


def _unreadable(path: epath.PathLike) -> ImageError:
  return ImageError(f'{path} cannot be read as an image; replace the file by a JPEG or PNG.')


def _truncated(path: epath.PathLike) -> ImageError:
  return ImageError(f'The image {path} is truncated; copy or download it again.')


def _read_bytes(path: epath.PathLike) -> bytes:
  try:
    return epath.Path(path).read_bytes()
  except FileNotFoundError as error:
    raise _missing(path) from error
  except OSError as error:
    raise _unreadable(path) from error


def _open(path: epath.PathLike, data) -> Image.Image:
  """Parses the header of `data`, which is bytes or an open file."""
  try:
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise _unreadable(path) from error


def _load(path: epath.PathLike, image: Image.Image) -> Image.Image:
  try:
    image.load()
  except (OSError, SyntaxError, ValueError) as error:
    raise _truncated(path) from error
  return image


def _is_16_bit(image: Image.Image, start: bytes) -> bool:
  # Pillow opens a 16-bit RGB PNG as 8-bit RGB; byte 24 is the bit depth in its header.
  return image.mode.startswith('I') or (image.format == 'PNG' and start[24] == 16)


def _require_rgb(path: epath.PathLike, image: Image.Image, start: bytes):
  if _is_16_bit(image, start):
    kind = 'a 16-bit image'
  elif image.mode == 'RGB' and 'transparency' in image.info:
    kind = 'an image with a transparent colour'
  elif image.mode != 'RGB':
    kind = _NOT_RGB.get(image.mode, f'an image of mode {image.mode}')
  else:
    return
  raise ImageError(f'{path} is {kind}; convert it to 8-bit RGB.')


def _require_mask(path: epath.PathLike, image: Image.Image, start: bytes):
  if _is_16_bit(image, start):
    kind = 'a 16-bit image'
  elif image.mode not in ('1', 'L', 'RGB'):
    kind = _NOT_RGB.get(image.mode, f'an image of mode {image.mode}')
  else:
    return
  raise ImageError(f'The mask {path} is {kind}; convert it to 8-bit grey.')


def _require_end(path: epath.PathLike, kind: str, tail: bytes, size: int, start: bytes):
  """Refuses a file whose end is missing: decoders fill such an image with grey, silently."""
  if kind == 'PNG':
    complete = b'IEND\xaeB`\x82' in tail
  elif kind == 'WEBP':  # Its length is in its RIFF header.
    complete = size >= int.from_bytes(start[4:8], 'little') + 8
  else:  # JPEG: the end must follow the last scan's start, for a thumbnail has an end too.
    complete = tail.rfind(b'\xff\xd9') > tail.rfind(b'\xff\xda')
  if not complete:
    raise _truncated(path)


def _orientation(image: Image.Image) -> int:
  # `getexif` decodes a whole PNG to look for EXIF behind its pixels.
  if image.format == 'PNG' and 'exif' not in image.info:
    return 1
  try:
    return image.getexif().get(_EXIF_ORIENTATION, 1)
  # Malformed EXIF is common, and says nothing of the picture.
  except (SyntaxError, ValueError, OSError, struct.error):
    return 1


def _upright(image: Image.Image) -> Image.Image:
  return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def _decode_rgb(path: epath.PathLike, header: Image.Image, data: bytes) -> np.ndarray:
  """Decodes with OpenCV, which takes half of Pillow's time; Pillow where a rotation is asked."""
  if _orientation(header) != 1:
    return np.array(_upright(_load(path, header)))
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
  bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if bgr is None:
    raise _unreadable(path)
  return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
