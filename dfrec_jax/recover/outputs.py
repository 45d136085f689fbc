"""The output folder: one folder for each input, complete or not at all, and `results.json`."""

from collections.abc import Mapping
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any

import dfrec_jax
from dfrec_jax.checkpointing import write_json
from dfrec_jax.errors import InputError

RESULTS, RESULT = 'results.json', 'result.json'
SCHEMA = 1
_LONGEST_NAME = 40
_UNFINISHED = re.compile(r'\.[A-Za-z0-9._-]+-[0-9a-f]{10}\.part')


def header(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
  """What makes results comparable: they are kept where it is the same, and made anew otherwise."""
  return {
    'schema': SCHEMA,
    'tool': {'name': 'dfrec_jax', 'version': dfrec_jax.__version__},
    'checkpoint': dict(checkpoint),
    'settings': dict(settings),
  }


class OutputFolder:
  """The folder OUT, which nobody else writes into meanwhile. A context manager.

  Raises:
    InputError: it cannot be made, or another process writes into it.
  """

  def __init__(self, path: str | os.PathLike, head: Mapping[str, Any]):
    self.path, self._head = pathlib.Path(path), dict(head)
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = os.open(self.path, os.O_RDONLY)
    except OSError as error:
      raise InputError(
        f'The output folder {path} cannot be made: {error.strerror}; name another.'
      ) from error
    if not _lock(self._lock):
      os.close(self._lock)
      raise InputError(f'Another process writes into {path}; wait for it, or name another folder.')
    for left in self.path.glob('.*.part'):
      if _UNFINISHED.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
        shutil.rmtree(left)

  def __enter__(self) -> 'OutputFolder':
    return self

  def __exit__(self, *unused) -> None:
    os.close(self._lock)

  def stored(self, name: str) -> dict[str, Any] | None:
    """The entry of an input's folder, if it is complete and was made with the same settings."""
    folder = self.path / name
    try:
      record = json.loads((folder / RESULT).read_text('utf-8'))
      entry = record.pop('input')
      files = [*entry['files'].values(), *(f for face in entry['faces'] for f in _files_of(face))]
      complete = all((self.path / file).is_file() for file in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      return None
    return entry if record == self._head and complete else None

  @contextlib.contextmanager
  def fresh(self, name: str):
    """A folder to write an input's files into; it takes its place when the block ends well.

    Yields:
      (folder, finish): `finish(entry)` must be called with the entry last.
    """
    beside, place = self.path / f'.{name}.part', self.path / name
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
      yield beside, lambda entry: write_json(beside / RESULT, {**self._head, 'input': entry})
      if place.is_symlink() or place.is_file():
        place.unlink()
      elif place.exists():
        shutil.rmtree(place)
      beside.rename(place)
    except BaseException:
      shutil.rmtree(beside, ignore_errors=True)
      raise

  def write_results(self, entries: list[dict[str, Any]], unfinished: list[str]) -> dict[str, Any]:
    """Writes `results.json`, and returns its content."""
    results = {**self._head, 'inputs': entries, 'unfinished': unfinished}
    write_json(self.path / RESULTS, results)
    return results


def folder_name(path: str, sha256: str) -> str:
  """The folder of an input: its name, made harmless, and ten digits of its path and content."""
  stem = os.path.splitext(os.path.basename(os.path.normpath(path)))[0]
  slug = re.sub(r'[^A-Za-z0-9._-]+', '-', stem)[:_LONGEST_NAME].strip('.-') or 'input'
  digest = hashlib.sha256(os.fsencode(path) + b'\0' + sha256.encode())
  return f'{slug}-{digest.hexdigest()[:10]}'


def failed(name: str, sentence: str) -> dict[str, Any]:
  """The entry of an input that could not be done."""
  return {
    'input': name,
    'sha256': None,
    'kind': None,
    'status': 'failed',
    'error': sentence,
    'warnings': [],
    'folder': None,
    'files': {},
    'faces': [],
  }


def below(name: str, files: Mapping[str, str]) -> dict[str, str]:
  """Paths relative to an input's folder as paths relative to OUT, POSIX."""
  return {kind: f'{name}/{file}' for kind, file in files.items()}


def _files_of(face: Mapping[str, Any]) -> list[str]:
  track = face.get('track') or {}
  return [*face['files'].values(), *filter(None, [track.get('plot')]), *track.get('images', ())]


def _lock(descriptor: int) -> bool:
  """Locks a folder for this process; whether it could. Where there are no locks it always can."""
  try:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except ImportError:
    pass
  except OSError as error:
    return not isinstance(error, BlockingIOError)
  return True
