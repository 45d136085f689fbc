"""Photographs looked up in a gallery, as the command line shows them."""

from collections.abc import Iterator, Sequence
import dataclasses
import glob
import json
import os
import pathlib
from typing import Any

import dfrec_jax
from dfrec_jax.errors import InputError
from dfrec_jax.trace import listing
from dfrec_jax.trace.framing import FaceReader, Framing, ReadFaces
from dfrec_jax.trace.gallery import Candidate, Gallery
from dfrec_jax.trace.rates import one_in

SCHEMA = 1
_TOGETHER = 32


def query(
  gallery: Gallery, images: Sequence[str], framing: Framing, top: int
) -> Iterator[dict[str, Any]]:
  """Looks up every face of every image.

  Args:
    images: files, folders of them, or patterns such as `forged*.png`.
    framing: how faces are found in them.
    top: people for each face.

  Yields:
    Of each image, in order: `input`, `sha256`, `status` (`done` or `failed`), `error`, `warnings`
    and `faces`, each with `number`, `box` (x, y, width, height in pixels) and `candidates`. One
    that cannot be read is listed with a sentence.

  Raises:
    InputError: a folder holds no photograph.
  """
  paths = [path for image in images for path in _files(image)]
  reader = FaceReader(framing)
  for start in range(0, len(paths), _TOGETHER):
    batch = paths[start : start + _TOGETHER]
    read = [_read(path, reader) for path in batch]
    faces = [face for r in read if isinstance(r, ReadFaces) for face in r.faces]
    embeddings = gallery.embed([face.pixels for face in faces])
    found = iter(gallery.search(embeddings, top))
    for path, r in zip(batch, read, strict=True):
      yield _entry(path, r, found)


def lines(entry: dict[str, Any]) -> list[str]:
  """An entry of `query` for people to read."""
  if entry['error']:
    return [entry['error']]
  shown = list(entry['warnings'])
  for face in entry['faces']:
    x, y, width, height = face['box']
    shown.append(
      f'{entry["input"]}, face {face["number"]} ({width:.0f} x {height:.0f} at {x:.0f}, {y:.0f}):'
    )
    candidates = [Candidate(**fields) for fields in face['candidates']]
    for rank, candidate in enumerate(candidates, 1):
      shown.append(f'  {rank}. {candidate.person} ({candidate.photo}): {_figures(candidate)}')
  return shown


def as_json(gallery: Gallery, framing: Framing, top: int, entries: Sequence[dict[str, Any]]) -> str:
  """Entries of `query` with what they depend on."""
  return json.dumps(
    {
      'schema': SCHEMA,
      'tool': {'name': 'dfrec_jax', 'version': dfrec_jax.__version__},
      'gallery': gallery.summary(),
      'settings': {'top': top, 'framing': framing.as_dict()},
      'inputs': list(entries),
    },
    indent=1,
  )


def _figures(candidate: Candidate) -> str:
  if candidate.false_match_rate is None:
    return f'{candidate.similarity:.3f}; false-match rate not known (one person in the gallery)'
  return (
    f'{candidate.similarity:.3f}; false matches: '
    f'{one_in(candidate.false_match_rate, candidate.pairs)}; best by chance: '
    f'{one_in(candidate.best_match_rate, candidate.queries)}'
  )


def _files(given: str) -> list[pathlib.Path]:
  """The files of a path or pattern; what matches nothing is kept, to be listed as missing."""
  # A file whose name looks like a pattern is that file.
  matches = [] if os.path.lexists(given) else sorted(glob.glob(given, recursive=True))
  files = []
  for path in map(pathlib.Path, matches or [given]):
    folder = path.is_dir()
    names = [name for _, name in listing.list_people(path).photographs] if folder else []
    files += [path / name for name in names] if folder else [path]
  return files


def _read(path: pathlib.Path, reader: FaceReader) -> ReadFaces | InputError:
  try:
    return reader.read(path)
  except InputError as error:
    return error


def _entry(
  path: pathlib.Path, read: ReadFaces | InputError, found: Iterator[list[Candidate]]
) -> dict[str, Any]:
  if isinstance(read, InputError):
    return {
      'input': str(path),
      'sha256': None,
      'status': 'failed',
      'error': str(read),
      'warnings': [],
      'faces': [],
    }
  warnings = list(read.warnings)
  if not read.faces:
    warnings.append(f'No face was found in {path}; cut it out and use --already-cropped.')
  faces = [
    {
      'number': number,
      'box': [round(float(value), 1) for value in face.box],
      'candidates': [dataclasses.asdict(candidate) for candidate in next(found)],
    }
    for number, face in enumerate(read.faces, 1)
  ]
  return {
    'input': str(path),
    'sha256': read.content.hex(),
    'status': 'done',
    'error': None,
    'warnings': warnings,
    'faces': faces,
  }
