"""Photographs as people send them, read permissively: whatever shows a picture is one."""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import re
import stat
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from dfrec_jax.errors import InputError

LARGEST_PIXELS = 100_000_000
_LARGEST_BYTES = 2**30
# Formats whose decoders run nothing and need nothing: PostScript, for one, is a program.
FORMATS = (
  *('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'DIB', 'TIFF', 'JPEG2000', 'PPM', 'AVIF', 'HEIF'),
)
# Formats in which further pictures are frames or pages, not another view of the first one.
_SEQUENCES = ('GIF', 'WEBP', 'PNG', 'TIFF', 'AVIF', 'HEIF')
_HEIF_BRANDS = (b'heic', b'heix', b'hevc', b'heim', b'heis', b'mif1', b'msf1')
# A HEIC picture is turned by what follows its header `irot` or `imir`, never by its EXIF.
_HEIF_TURNED = re.compile(rb'\0\0\0\x09(irot[\x01-\x03]|imir)', re.DOTALL)
_PNG_DEPTH_BYTE = 24
# Of AVIF, in the configuration of its decoder: 10 or 12 bits a channel.
_AVIF_CONFIGURATION, _AVIF_DEEP = re.compile(rb'av1C..(.)', re.DOTALL), 0x40
# Of JPEG 2000, in the segment SIZ: 36 bytes, the number of channels, 3 bytes for each.
_JPEG2000_SIZES = re.compile(rb'\xff\x4f\xff\x51.{36}(..)', re.DOTALL)
_TIFF_BEGINNINGS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_BITS_PER_SAMPLE, _ORIENTATION = 258, 0x0112  # tags of TIFF and EXIF
# Cameras and scanners keep 10, 12 or 14 bits in 16: white is the least of these that is reached.
_WHITES = (255, 1023, 4095, 16383, 65535)
_ROWS_PIXELS = 1_000_000  # Pixels that are converted from deeper ones together.
_DARK = 64
# A JPEG may lack so large a share of its rows, at its end; with more it is refused.
_MOST_LOST = 0.1
_END_OF_JPEG = b'\xff\xd9'
_ALPHA_MODES = ('RGBA', 'LA', 'PA', 'La', 'RGBa')


@dataclasses.dataclass(frozen=True)
class Photograph:
  """A picture, upright.

  Attributes:
    pixels: (H, W, 3) uint8 RGB.
    warnings: sentences about what was lost on the way.
    turned: whether it was turned or mirrored to be upright, as its EXIF says or, of HEIC, its
      container.
  """

  pixels: np.ndarray
  warnings: tuple[str, ...] = ()
  turned: bool = False


def read_bytes(path: str | pathlib.Path) -> bytes:
  """The content of an image's file, of at most a gigabyte.

  Raises:
    InputError: there is no such file, it is empty, too large, unreadable, or no regular file.
  """
  with _open_file(path) as file:
    if os.fstat(file.fileno()).st_size > _LARGEST_BYTES:
      raise InputError(
        f'{path} holds more than a gigabyte, which no photograph does; leave it out.'
      )
    return file.read()


def file_sha256(path: str | pathlib.Path) -> str:
  """SHA-256 of a file of any size. Raises as `read_bytes`."""
  with _open_file(path) as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


@contextlib.contextmanager
def _open_file(path: str | pathlib.Path) -> Iterator[BinaryIO]:
  try:
    status = os.stat(path)
    # To open a pipe would wait for somebody to write into it.
    if not stat.S_ISREG(status.st_mode):
      raise InputError(f'{path} is no regular file; give the path of a file.')
    if not status.st_size:
      raise InputError(f'{path} is empty; copy or download it again.')
    with open(path, 'rb') as file:
      yield file
  except FileNotFoundError as error:
    what = 'leads to a file that does not' if os.path.islink(path) else 'does not'
    raise InputError(f'{path} {what} exist; correct the path.') from error
  except PermissionError as error:
    raise InputError(f'{path} may not be read; change its permissions.') from error
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror or error}; copy it again.') from error
  except ValueError as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f'{path} is no path of a file: {error}; correct it.') from error


def read_photograph(path: str | pathlib.Path, data: bytes | None = None) -> Photograph:
  """Reads a photograph: any common format, rotation, depth, number of channels and colours.

  Of several frames or pages the first is taken; what is transparent is put on white; colours of
  another profile than sRGB are converted. Of a JPEG the last tenth of the rows may be missing.

  Args:
    path: of the file; it names the photograph in errors and warnings.
    data: the file's content, where it was read already.

  Raises:
    InputError: one sentence: it is missing, empty, no image, truncated or larger than 100
      megapixels, which its header tells before anything is decoded.
  """
  data = read_bytes(path) if data is None else data
  image = _open(path, data)
  width, height = image.size
  if width * height > LARGEST_PIXELS:
    raise _too_large(path, f'{width} x {height} pixels')
  notes = []
  if _has_more(image):
    notes.append(f'Of the frames or pages of {path} only the first was looked at.')
  # Pillow turns a TIFF in decoding it.
  turned = image.format == 'TIFF' and _is_turned(path, image, data, notes)
  image = _load(path, image, data, notes)
  try:
    turned = turned or _is_turned(path, image, data, notes)
    deep = _is_deep(image, data)
    image, clear = _to_rgb(_to_8_bit(path, _upright(image), deep, notes))
    if clear:
      notes.append(f'The transparent parts of {path} were put on white.')
    return Photograph(np.array(image), tuple(notes), turned)
  except Exception as error:  # Pillow raises whatever a hostile file makes it stumble over.
    raise InputError(f'{path} cannot be converted to RGB; save it as an 8-bit PNG.') from error


def _open(path: str | pathlib.Path, data: bytes) -> Image.Image:
  formats = _readable()
  try:
    return Image.open(io.BytesIO(data), formats=formats)
  except Image.DecompressionBombError as error:
    raise _too_large(path, 'too many pixels') from error
  except Exception as error:
    if 'HEIF' not in formats and data[4:8] == b'ftyp' and data[8:12] in _HEIF_BRANDS:
      raise InputError(
        f"{path} is a HEIC image; install what reads it (pip install -e '.[heif]')."
      ) from error
    if data.startswith(_TIFF_BEGINNINGS):
      raise _unread_tiff(path) from error
    unknown = isinstance(error, UnidentifiedImageError)
    what = 'is not an image' if unknown else 'is a damaged image'
    raise InputError(f'{path} {what}; give a JPEG, PNG or another common format.') from error


def _unread_tiff(path: str | pathlib.Path) -> InputError:
  """TIFF is a family of formats; Pillow does not tell damage from those that it does not read."""
  return InputError(
    f'{path} is damaged, or a TIFF of a kind that is not read; save it as an 8-bit PNG.'
  )


def _too_large(path: str | pathlib.Path, size: str) -> InputError:
  return InputError(
    f'{path} has {size}, and at most {LARGEST_PIXELS // 10**6} megapixels are read; shrink it or '
    'cut the faces out.'
  )


def _load(
  path: str | pathlib.Path, image: Image.Image, data: bytes, notes: list[str]
) -> Image.Image:
  """The decoded image, with a note if rows at its end are missing."""
  try:
    try:
      image.load()
      return image
    except OSError:
      if image.format not in ('JPEG', 'MPO'):
        raise
      return _load_unfinished(path, data, notes)
  except MemoryError as error:
    raise InputError(f'{path} does not fit into memory; shrink it.') from error
  except Exception as error:
    if image.format == 'TIFF':
      raise _unread_tiff(path) from error
    raise InputError(f'{path} is truncated or damaged; copy or download it again.') from error


def _load_unfinished(path: str | pathlib.Path, data: bytes, notes: list[str]) -> Image.Image:
  """A JPEG without its end.

  It is decoded twice, the end put behind the data and behind zeros: from the first row on that
  differs, pixels are missing. Of a progressive one, whose rows come several times, nothing may be.

  Raises:
    ValueError: too much is missing.
  """
  images = []
  for filler in (b'', bytes(4096)):
    image = _open(path, data + filler + _END_OF_JPEG)
    image.load()
    images.append(image)
  differs = ImageChops.difference(*(image.convert('RGB') for image in images)).getbbox()
  height = images[0].height
  lost = height - differs[1] if differs else 0
  if lost > _MOST_LOST * height or (lost and images[0].info.get('progressive')):
    raise ValueError(f'{lost} rows are missing')
  what = f'of its {height} rows the last {lost} are' if lost else 'nothing but its end mark is'
  notes.append(f'{path} is cut off: {what} missing; copy or download it again.')
  return images[0]


@functools.cache
def _readable() -> tuple[str, ...]:
  """Those of `FORMATS` that this Pillow reads; HEIF, where the extra `heif` is installed."""
  try:
    import pillow_heif
  except ImportError:
    pass
  else:
    pillow_heif.register_heif_opener()
  Image.init()
  return tuple(name for name in FORMATS if name in Image.OPEN)


def _has_more(image: Image.Image) -> bool:
  try:
    return image.format in _SEQUENCES and getattr(image, 'is_animated', False)
  except Exception:  # A later frame is damaged; the first is what counts.
    return True


def _is_deep(image: Image.Image, data: bytes) -> bool:
  """Whether a file has more than 8 bits a channel, of which Pillow has kept the upper 8."""
  if image.format == 'TIFF':
    return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8
  if image.format == 'HEIF':
    return image.info.get('bit_depth', 8) > 8
  if image.format == 'AVIF':
    found = _AVIF_CONFIGURATION.search(data)
    return bool(found) and bool(found[1][0] & _AVIF_DEEP)
  if image.format == 'JPEG2000':
    found = _JPEG2000_SIZES.search(data)
    count = int.from_bytes(found[1], 'big') if found else 0
    depths = data[found.end() : found.end() + 3 * count : 3] if found else b''
    return any((depth & 0x7F) >= 8 for depth in depths)  # One less than it is; the 8th: signed.
  return image.format == 'PNG' and data[_PNG_DEPTH_BYTE] == 16


def _is_turned(path: str | pathlib.Path, image: Image.Image, data: bytes, notes: list[str]) -> bool:
  """Whether it is turned to be upright; with a note where a HEIC's EXIF asks for it in vain."""
  try:
    if image.format == 'HEIF':
      turned = _HEIF_TURNED.search(data) is not None
      if not turned and image.info.get('original_orientation') in range(2, 9):
        notes.append(
          f'The EXIF of {path} asks to turn it, which HEIC pictures do not follow, and it was left '
          'as it is; if faces are not upright, turn it and save it as a PNG.'
        )
      return turned
    return image.getexif().get(_ORIENTATION) in range(2, 9)
  except Exception:  # As below.
    return False


def _upright(image: Image.Image) -> Image.Image:
  try:
    return ImageOps.exif_transpose(image)
  except Exception:  # Malformed EXIF is common, and says nothing of the picture.
    return image


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
  """An 8-bit image in sRGB, and whether some of it was transparent."""
  if image.mode in _ALPHA_MODES or 'transparency' in image.info:
    image = image.convert('RGBA')
    clear = image.getchannel('A').getextrema()[0] < 255
    white = Image.new('RGBA', image.size, 'white')
    flat = Image.alpha_composite(white, image).convert('RGB')
    flat.info = dict(image.info)
    return _to_srgb(flat), clear
  return _to_srgb(image), False


def _to_8_bit(
  path: str | pathlib.Path, image: Image.Image, deep: bool, notes: list[str]
) -> Image.Image:
  """The image in 8 bits a channel, with a note on what was taken for white.

  Args:
    deep: whether Pillow has kept 8 of its bits already.
  """
  if not image.mode.startswith(('I', 'F')):
    if deep:
      notes.append(f'{path} has more than 8 bits a channel; the finer ones were dropped.')
      if max(high for _, high in image.convert('RGB').getextrema()) < _DARK:
        notes.append(f'{path} is dark throughout; if its white is below 65535, save it in 8 bits.')
    return image
  values = np.asarray(image)
  step = max(_ROWS_PIXELS // max(values.shape[1], 1), 1)
  # In parts, since floating-point numbers take eight times the memory of the result.
  parts = [slice(start, start + step) for start in range(0, len(values), step)]
  tops = (np.where(np.isfinite(values[p]), values[p], 0).max(initial=0) for p in parts)
  largest = float(max(tops, default=0))
  whites = (*((1,) if image.mode == 'F' else ()), *_WHITES)
  white = next((white for white in whites if largest <= white), largest)
  result = np.empty(values.shape, np.uint8)
  for p in parts:
    shares = np.nan_to_num(np.clip(values[p].astype(np.float32) / np.float32(white), 0, 1))
    result[p] = np.round(shares * 255)
  notes.append(
    f'{path} has more than 8 bits a channel and values up to {largest:.6g}; {white:.6g} was taken '
    'for white, and finer levels were dropped.'
  )
  converted = Image.fromarray(result)
  converted.info = dict(image.info)
  return converted


def _to_srgb(image: Image.Image) -> Image.Image:
  profile = image.info.get('icc_profile')
  if profile and image.mode in ('RGB', 'CMYK', 'L'):
    try:
      given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
      if 'sRGB' not in ImageCms.getProfileDescription(given):
        return ImageCms.profileToProfile(image, given, _srgb(), outputMode='RGB')
    except (ImageCms.PyCMSError, OSError, ValueError):
      pass  # A profile that does not fit its image says nothing.
  return image.convert('RGB')


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
  return ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB'))
