"""The report: one self-contained page that an examiner can file.

It calls nothing from elsewhere: pictures are embedded as thumbnails, and a content security policy
forbids everything else, scripts included, except the few lines that move the sliders.
"""

import base64
from collections import Counter
from collections.abc import Mapping
import dataclasses
import datetime
import hashlib
import io
import pathlib
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from dfrec_jax.recover import drawing, wording
from dfrec_jax.recover.outputs import REPORT

_LARGEST_PLOT = 960
_QUALITY = 82
_WHOLE_FILES = ('boxes', 'restored')
_FACE_FILES = ('crop', 'overlay', 'source', 'target', 'spread')


@dataclasses.dataclass(frozen=True)
class Picture:
  """An image of the report.

  Attributes:
    path: of the file, as results.json has it.
    src: the thumbnail as a `data:` address, in which nothing needs escaping; None if the file is
      missing or damaged.
    width, height: of the thumbnail, in pixels.
  """

  path: str
  src: Markup | None = None
  width: int = 0
  height: int = 0


def write_report(
  results: Mapping[str, Any], out: pathlib.Path, *, written: datetime.datetime | None = None
) -> pathlib.Path:
  """Writes `report.html` beside its place and renames it.

  Args:
    results: what `results.json` holds (`outputs.SCHEMA`).
    out: the folder of the images that the results name, in which the report is written.
    written: the date in its head; now if None.

  Returns:
    The report's path.
  """
  out = out.resolve()  # Once: pictures are looked up by the thousand.
  page = _environment().get_template(REPORT)
  script = jinja2.PackageLoader(__package__).get_source(page.environment, 'report.js')[0]
  entries = list(enumerate(results['inputs'], 1))
  done = [(number, entry) for number, entry in entries if entry['status'] == 'done']
  context = {
    'results': results,
    'entries': entries,
    'failed': [(number, entry) for number, entry in entries if entry['status'] != 'done'],
    # One after the other: all pictures together may not fit into memory.
    'done': ((number, entry, _pictures(entry, out)) for number, entry in done),
    'tally': Counter(wording.verdict(entry)[0] for _, entry in entries),
    'unfinished': list(results.get('unfinished', ())),
    'passed_over': len(results.get('passed_over', ())),
    'gallery': results.get('gallery'),
    'calibration': results['checkpoint'].get('calibration'),
    'examined': sum(len(entry['faces']) for _, entry in entries),
    'threshold': results['settings']['threshold'],
    'written': (written or datetime.datetime.now()).astimezone().isoformat(' ', 'minutes'),
    'script': Markup(script),
    'script_hash': base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
  }
  place = out / REPORT
  beside = out / f'.{REPORT}.part'
  with beside.open('w', encoding='utf-8') as file:
    file.writelines(page.generate(context))
  beside.replace(place)
  return place


def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    # Also what a file's name hides inside of an error's sentence is written out.
    finalize=lambda value: wording.printable(value) if type(value) is str else value,
  )
  environment.globals.update(words=wording, hottest=drawing.HOTTEST)
  return environment


def _pictures(entry: Mapping[str, Any], out: pathlib.Path) -> dict[str, Any]:
  """The pictures of an input: of the whole, and of each face by its number."""
  read = lambda path: _thumbnail(path, out) if path else None
  faces = {}
  for face in entry['faces']:
    files, track = face['files'], face.get('track') or {}
    faces[face['number']] = {
      **{name: read(files.get(name)) for name in _FACE_FILES},
      'plot': _plot(track['plot'], out) if track.get('plot') else None,
      'frames': [read(path) for path in track.get('images', ())],
    }
  whole = {name: read(entry['files'].get(name)) for name in _WHOLE_FILES}
  return {**whole, 'faces': faces}


def _thumbnail(path: str, out: pathlib.Path) -> Picture:
  # The picture itself must be there: a page of thumbnails alone would hide that files are missing.
  place, side = out / path, drawing.LARGEST_THUMBNAIL
  for small in (drawing.thumbnail_path(place), place) if place.is_file() else ():
    found = _as_it_is(path, small, out, side)
    if found:
      return found
  return _embed(path, out, side, 'JPEG', quality=_QUALITY)


def _as_it_is(path: str, small: pathlib.Path, out: pathlib.Path, side: int) -> Picture | None:
  """A file below `out`, which is resolved, if it is a JPEG of at most `side` pixels.

  Nothing is decoded.
  """
  if small.suffix != '.jpg' or not small.resolve().is_relative_to(out):
    return None
  try:
    data = small.read_bytes()
    with Image.open(io.BytesIO(data), formats=('JPEG',)) as image:
      if max(image.size) > side:
        return None
      return _picture(path, data, 'JPEG', image.size)
  except (OSError, SyntaxError, ValueError):
    return None


def _plot(path: str, out: pathlib.Path) -> Picture:
  return _embed(path, out, _LARGEST_PLOT, 'PNG', optimize=True)


def _embed(path: str, out: pathlib.Path, side: int, encoding: str, **options: Any) -> Picture:
  """A file below `out`, which is resolved, shrunk to `side` pixels at most."""
  place = (out / path).resolve()
  if not place.is_relative_to(out):
    return Picture(path)
  encoded = io.BytesIO()
  try:
    with Image.open(place, formats=('JPEG', 'PNG')) as image:
      image.thumbnail((side, side))
      image.convert('RGB').save(encoded, encoding, **options)
      size = image.size
  except (OSError, SyntaxError, ValueError):
    return Picture(path)
  return _picture(path, encoded.getvalue(), encoding, size)


def _picture(path: str, data: bytes, encoding: str, size: tuple[int, int]) -> Picture:
  source = f'data:image/{encoding.lower()};base64,{base64.b64encode(data).decode()}'
  return Picture(path, Markup(source), *size)
