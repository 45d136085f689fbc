"""What to look at: files, folders and patterns as they are given, as a list of files."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import glob
import json
import os
import pathlib

from dfrec_jax.errors import InputError
from dfrec_jax.recover.outputs import REPORT, RESULT, RESULTS, TOOL

IMAGE, VIDEO = 'image', 'video'
IMAGE_SUFFIXES = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.apng', '.webp', '.gif', '.bmp', '.dib'),
  *('.tif', '.tiff', '.jp2', '.j2k', '.ppm', '.pgm', '.pnm', '.avif', '.heic', '.heif'),
)
VIDEO_SUFFIXES = (
  *('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.m2v', '.ts', '.mts'),
  *('.m2ts', '.wmv', '.flv', '.3gp', '.ogv', '.mxf', '.h264', '.264', '.hevc', '.h265', '.265'),
)
# What files begin with tells their kind, whatever their names: a name is often wrong or cut off.
_LONGEST_BEGINNING = 12
_IMAGE_BEGINNINGS = (
  *(b'\xff\xd8\xff', b'\x89PNG\r\n', b'GIF8', b'\0\0\0\x0cjP  ', b'\xff\x4f\xff\x51'),
)
_TIFF_BEGINNINGS = (b'II*\0', b'MM\0*')
# Raw files of cameras, which are TIFFs with a small preview as their first picture.
_RAW_SUFFIXES = ('.dng', '.cr2', '.nef', '.nrw', '.arw', '.sr2', '.srw', '.pef', '.3fr', '.iiq')
# Files that begin with their length and `ftyp` are videos but for these brands, which come next.
_IMAGE_BRANDS = (
  *(b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'mif2', b'msf1'),
  *(b'avif', b'avis'),
)
_OTHER_BRANDS = (b'M4A ', b'M4B ', b'M4P ', b'crx ')  # sound; raw files of cameras
_RIFF_KINDS = {b'AVI ': VIDEO, b'WEBP': IMAGE}
_MATROSKA = b'\x1a\x45\xdf\xa3'


@dataclasses.dataclass(frozen=True)
class Input:
  """A file to look at.

  Attributes:
    path: as given, or as found in a folder that was given.
    kind: `image` or `video`, by its first bytes; by its name where these do not tell.
    error: why there is nothing to look at, a sentence; None if there is.
  """

  path: str
  kind: str
  error: str | None = None


@dataclasses.dataclass(frozen=True)
class Found:
  """What paths, folders and patterns name.

  Attributes:
    items: images and videos, each once.
    passed_over: other files in the folders that were searched, and folders of results that this
      program wrote elsewhere than into `out`, sorted; hidden ones do not count.
  """

  items: list[Input]
  passed_over: list[str]


def find_inputs(given: Sequence[str], out: pathlib.Path) -> Found:
  """The files that paths, folders and patterns name, each once, in that order.

  Folders are searched recursively for images and videos, by their names and first bytes; links are
  followed. Hidden files and what this program wrote, into `out` or another folder, are left out:
  `results.json`, its report, and each folder with the `result.json` of an input.

  Args:
    given: paths and patterns such as `photos/**/*.jpg`, which a shell may have left alone.
    out: the folder that results go to.

  Raises:
    InputError: `out` is given itself, or matches a pattern and holds images or videos.
  """
  search = _Search(os.path.realpath(out))
  found: dict[str, Input] = {}
  for text in given:
    for item in search.expand(text):
      found.setdefault(os.path.abspath(item.path), item)
  # Another path may name one of them by itself.
  passed_over = sorted(path for place, path in search.others.items() if place not in found)
  return Found(list(found.values()), passed_over)


class _Search:
  """Expands what is given.

  Attributes:
    others: what is no input, by absolute paths.
  """

  def __init__(self, out: str):
    """`out`: its real path."""
    self.others: dict[str, str] = {}
    self._out = out

  def expand(self, text: str) -> Iterator[Input]:
    """The inputs that one path or pattern names."""
    if os.path.lexists(text):
      if os.path.realpath(text) == self._out:
        raise _is_out(text)
      yield from self._below(text)
      return
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    is_result = functools.cache(lambda folder: _is_written(os.path.join(folder, RESULT)))
    in_results = lambda path: any(map(is_result, [path, *map(str, pathlib.Path(path).parents)]))
    inputs = []
    for match in matches:
      if os.path.realpath(match) != self._out:
        inputs += [] if in_results(match) or _is_summary(match) else [match]
      elif self._walk(match)[0]:
        raise _is_out(match)
    for match in inputs:
      yield from self._below(match)
    if not inputs:
      what = 'matches no file' if glob.has_magic(text) else 'does not exist'
      what = 'matches nothing but results of this program' if matches else what
      yield Input(text, kind_of(text), f'{text} {what}; correct the path.')

  def _below(self, path: str) -> Iterator[Input]:
    if not os.path.isdir(path):
      yield Input(path, kind_of(path))
      return
    files, unreadable, rest = self._walk(path)
    self.others.update((os.path.abspath(name), name) for name in rest)
    for name in unreadable:
      yield Input(name, IMAGE, f'The folder {name} may not be read; change its permissions.')
    yield from files
    if not files and not unreadable:
      yield Input(path, IMAGE, f'The folder {path} holds no images or videos.')

  def _walk(self, top: str) -> tuple[list[Input], list[str], list[str]]:
    """Images and videos below a folder, folders that cannot be read, and the rest."""
    files, unreadable, rest, seen = [], [], [], set()
    failed = lambda error: unreadable.append(error.filename)
    for folder, below, names in os.walk(top, onerror=failed, followlinks=True):
      place = os.path.realpath(folder)
      below[:] = sorted(name for name in below if not name.startswith('.'))
      if place in seen:  # A link leads in a circle.
        below.clear()
        continue
      seen.add(place)
      if folder != top and _is_written(os.path.join(folder, RESULT)):
        below.clear()
        rest += [] if os.path.dirname(place) == self._out else [folder]
        continue
      for name in sorted(names):
        path = os.path.join(folder, name)
        if not name.startswith('.') and not _is_summary(path):
          kind = _kind_in_folder(path)
          files += [Input(path, kind)] if kind else []
          rest += [] if kind else [path]
    return files, unreadable, rest


def _is_out(path: str) -> InputError:
  return InputError(f'{path} is where the results go; name another folder for them.')


def _is_summary(path: str) -> bool:
  """Whether it is the `results.json` or the report of a folder that this program wrote into."""
  folder, name = os.path.split(path)
  return name in (RESULTS, REPORT) and _is_written(os.path.join(folder, RESULTS))


def _is_written(path: str) -> bool:
  """Whether it is a `result.json` or `results.json` that this program wrote."""
  try:
    # To open a pipe would wait for somebody to write into it.
    with open(path if os.path.isfile(path) else os.devnull, encoding='utf-8') as file:
      return json.load(file)['tool']['name'] == TOOL
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return False


def kind_of(path: str) -> str:
  """`image` or `video`, by the first bytes of a file or else by its name."""
  return _kind_by_content(path) or _kind_by_name(path) or IMAGE


def _kind_in_folder(path: str) -> str | None:
  """As `kind_of`; None of a file that is not to be looked at."""
  return None if _suffix(path) in _RAW_SUFFIXES else _kind_by_content(path) or _kind_by_name(path)


def _kind_by_name(path: str) -> str | None:
  kinds = dict.fromkeys(VIDEO_SUFFIXES, VIDEO) | dict.fromkeys(IMAGE_SUFFIXES, IMAGE)
  return kinds.get(_suffix(path))


def _kind_by_content(path: str) -> str | None:
  try:
    with open(path if os.path.isfile(path) else os.devnull, 'rb') as file:
      beginning = file.read(_LONGEST_BEGINNING)
  except (OSError, ValueError):
    return None
  kind, brand = beginning[4:8], beginning[8:12]
  if kind == b'ftyp' and len(brand) == 4:
    return None if brand in _OTHER_BRANDS else IMAGE if brand in _IMAGE_BRANDS else VIDEO
  if beginning.startswith(b'RIFF'):
    return _RIFF_KINDS.get(brand)
  if beginning.startswith(_MATROSKA):
    return VIDEO
  # The letters BM alone begin many a text: of a bitmap zeros follow its size.
  bitmap = beginning.startswith(b'BM') and beginning[6:10] == bytes(4)
  return IMAGE if bitmap or beginning.startswith(_IMAGE_BEGINNINGS + _TIFF_BEGINNINGS) else None


def _suffix(path: str) -> str:
  return os.path.splitext(path)[1].lower()
