"""The output folder: one folder for each input, complete or not at all, and `results.json`."""

from collections.abc import Mapping
import contextlib
import hashlib
from importlib import metadata
import json
import os
import pathlib
import platform
import re
import shutil
from typing import Any

import jax

import dfrec_jax
from dfrec_jax.checkpointing import write_json
from dfrec_jax.errors import InputError

TOOL = 'dfrec_jax'
RESULTS, RESULT, REPORT = 'results.json', 'result.json', 'report.html'
SCHEMA = 1
_LONGEST_NAME = 40
_DIGITS = 16
_UNFINISHED = re.compile(rf'\.[A-Za-z0-9._-]+-[0-9a-f]{{{_DIGITS}}}\.part')
# What computes or decodes: other versions of it may give other bytes.
_LIBRARIES = ('jax', 'jaxlib', 'numpy', 'opencv-python-headless', 'Pillow', 'av', 'pillow-heif')


def header(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
  """What makes results comparable: they are kept where it is the same, and made anew otherwise."""
  libraries = {}
  for name in _LIBRARIES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      libraries[name] = metadata.version(name)
  device = jax.devices()[0]
  return {
    'schema': SCHEMA,
    'tool': {
      'name': TOOL,
      'version': dfrec_jax.__version__,
      'libraries': libraries,
      'platform': f'{platform.system()} {platform.machine()}, {device.device_kind}',
    },
    'checkpoint': dict(checkpoint),
    'settings': dict(settings),
  }


class OutputFolder:
  """The folder OUT, which nobody else writes into meanwhile. A context manager.

  Raises:
    InputError: it cannot be made, another process writes into it, or it holds a `results.json` of
      something else.
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
    try:
      self._discard_others()
    except InputError:
      os.close(self._lock)
      raise
    for left in self.path.glob('.*.part'):
      if _UNFINISHED.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
        shutil.rmtree(left)

  def _discard_others(self) -> None:
    """Removes the results of an earlier run with other settings, which name files of this one."""
    path = self.path / RESULTS
    if not path.exists():
      return
    try:
      stored = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError):
      stored = None
    if not isinstance(stored, dict) or not isinstance(stored.get('inputs'), list):
      raise InputError(f'{path} was not written by this command; name another output folder.')
    if {name: stored.get(name) for name in self._head} != self._head:
      for name in (RESULTS, REPORT):
        (self.path / name).unlink(missing_ok=True)

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
    if beside.exists():
      shutil.rmtree(beside)
    beside.mkdir()
    # For programs, hence in one line: Python writes it in a tenth of the time.
    finish = lambda entry: (beside / RESULT).write_text(
      json.dumps({**self._head, 'input': entry}) + '\n', 'utf-8'
    )
    try:
      yield beside, finish
      if place.is_symlink() or place.is_file():
        place.unlink()
      elif place.exists():
        shutil.rmtree(place)
      beside.rename(place)
    except BaseException:
      shutil.rmtree(beside, ignore_errors=True)
      raise

  def write_results(
    self, entries: list[dict[str, Any]], unfinished: list[str], passed_over: list[str]
  ) -> dict[str, Any]:
    """Writes `results.json`, and returns its content."""
    results = {
      **self._head,
      'inputs': entries,
      'unfinished': unfinished,
      'passed_over': passed_over,
    }
    write_json(self.path / RESULTS, results)
    return results


def folder_name(path: str, sha256: str) -> str:
  """The folder of an input: its name, made harmless, and 16 digits of its path and content."""
  stem = os.path.splitext(os.path.basename(os.path.normpath(path)))[0]
  slug = re.sub(r'[^A-Za-z0-9._-]+', '-', stem)[:_LONGEST_NAME].strip('.-') or 'input'
  digest = hashlib.sha256(os.fsencode(path) + b'\0' + sha256.encode())
  return f'{slug}-{digest.hexdigest()[:_DIGITS]}'


def failed(
  name: str, sentence: str, *, kind: str | None = None, sha256: str | None = None
) -> dict[str, Any]:
  """The entry of an input that could not be done, with what is known of it."""
  return {
    'input': name,
    'sha256': sha256,
    'kind': kind,
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
