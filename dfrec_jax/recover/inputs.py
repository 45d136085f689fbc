"""What to look at: files, folders and patterns as they are given, as a list of files."""

from collections.abc import Iterator, Sequence
import dataclasses
import glob
import json
import os
import pathlib

from dfrec_jax.recover.outputs import RESULTS, TOOL

IMAGE, VIDEO = 'image', 'video'
IMAGE_SUFFIXES = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.apng', '.webp', '.gif', '.bmp', '.dib'),
  *('.tif', '.tiff', '.jp2', '.j2k', '.ppm', '.pgm', '.pnm', '.avif', '.heic', '.heif'),
)
VIDEO_SUFFIXES = (
  *('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.m2v', '.ts', '.mts'),
  *('.m2ts', '.wmv', '.flv', '.3gp', '.ogv', '.mxf', '.h264', '.264', '.hevc', '.h265', '.265'),
)
# How the files begin that are taken from a folder though their names have no suffix.
_BEGINNINGS = (b'\xff\xd8\xff', b'\x89PNG\r\n', b'GIF8', b'RIFF', b'BM', b'II*\0', b'MM\0*')


@dataclasses.dataclass(frozen=True)
class Input:
  """A file to look at.

  Attributes:
    path: as given, or as found in a folder that was given.
    kind: `image` or `video`, by its name.
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
    passed_over: other files in the folders that were searched, sorted; hidden ones do not count.
  """

  items: list[Input]
  passed_over: list[str]


def find_inputs(given: Sequence[str], out: pathlib.Path) -> Found:
  """The files that paths, folders and patterns name, each once, in that order.

  Folders are searched recursively, by name, for images and videos; links are followed, hidden files
  and what this program wrote, into `out` or another folder, are left out.

  Args:
    given: paths and patterns such as `photos/**/*.jpg`, which a shell may have left alone.
    out: the folder that results go to.
  """
  found: dict[str, Input] = {}
  others: dict[str, str] = {}
  for text in given:
    for item in _expand(text, os.path.realpath(out), others):
      found.setdefault(os.path.abspath(item.path), item)
  # Another path may name one of them by itself.
  passed_over = sorted(path for place, path in others.items() if place not in found)
  return Found(list(found.values()), passed_over)


def _expand(text: str, out: str, others: dict[str, str]) -> Iterator[Input]:
  """The inputs that one path or pattern names; notes `others` by their absolute paths."""
  if os.path.lexists(text):
    yield from _below(text, out, others)
    return
  matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
  for match in matches:
    if not pathlib.Path(os.path.realpath(match)).is_relative_to(out):
      yield from _below(match, out, others)
  if not matches:
    what = 'matches no file' if glob.has_magic(text) else 'does not exist'
    yield Input(text, _kind(text), f'{text} {what}; correct the path.')


def _below(path: str, out: str, others: dict[str, str]) -> Iterator[Input]:
  if not os.path.isdir(path):
    yield Input(path, _kind(path))
    return
  if os.path.realpath(path) == out:
    yield Input(path, IMAGE, f'{path} is where the results go; name another folder for them.')
    return
  files, unreadable, rest = _walk(path, out)
  others.update((os.path.abspath(name), name) for name in rest)
  for name in unreadable:
    yield Input(name, IMAGE, f'The folder {name} may not be read; change its permissions.')
  yield from (Input(name, _kind(name)) for name in files)
  if not files and not unreadable:
    yield Input(path, IMAGE, f'The folder {path} holds no images or videos.')


def _walk(top: str, out: str) -> tuple[list[str], list[str], list[str]]:
  """Paths of the images and videos below a folder, of folders that cannot be read, of the rest."""
  files, unreadable, rest, seen = [], [], [], {out}
  failed = lambda error: unreadable.append(error.filename)
  for folder, below, names in os.walk(top, onerror=failed, followlinks=True):
    place = os.path.realpath(folder)
    below[:] = sorted(name for name in below if not name.startswith('.'))
    # `out`, or a link leads in a circle, or recovered faces of an earlier run.
    if place in seen or _holds_results(place):
      below.clear()
      continue
    seen.add(place)
    for name in sorted(names):
      if not name.startswith('.'):
        path = os.path.join(folder, name)
        (files if _looks_right(path) else rest).append(path)
  return files, unreadable, rest


def _holds_results(folder: str) -> bool:
  """Whether it is a folder that this program wrote."""
  try:
    with open(os.path.join(folder, RESULTS), encoding='utf-8') as file:
      return json.load(file)['tool']['name'] == TOOL
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _looks_right(path: str) -> bool:
  suffix = os.path.splitext(path)[1].lower()
  if suffix:
    return suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES
  try:
    with open(path, 'rb') if os.path.isfile(path) else open(os.devnull, 'rb') as file:
      beginning = file.read(8)
      # HEIC, AVIF and MP4 begin with a length.
      return beginning.startswith(_BEGINNINGS) or beginning[4:] == b'ftyp'
  except OSError:
    return False


def _kind(path: str) -> str:
  return VIDEO if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES else IMAGE
