"""What a preparation is made of: settings, units of work, and what a unit reports."""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

SPLITS = ('train', 'val', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What the prepared examples depend on; each data set reads its share.

  Attributes:
    dataset: which one, a key of `registry.DATASETS`.
    raw: folder of the raw download.
    size: largest side of the square images, in pixels; smaller faces are not enlarged.
    margin: side of the crop in units of the face's larger side.
    encoding: `jpeg` (quality 95) or `png` of the images; masks are always PNG.
    finder: `cascade` or `mesh`, see `faces.make_finder`.
    limit: units (pairs of videos, or images) of a split at most; 0 for all.
    methods: of `ffpp`: names of manipulated sequences; of `celeba_megafs`: its folders.
    compression: of `ffpp`: `raw`, `c23` or `c40`.
    frames: of `ffpp`: frames that are taken of a video.
    source_frame: of `ffpp`: `best` or `same`.
    mask: of sets without masks: `box` or `difference`.
    trust_masks: whether a mask that was made, not read, counts as ground truth.
    listing: of `ffhq_e4s`: the list of forged, source and target, relative to `raw`.
  """

  dataset: str
  raw: str
  size: int = 256
  margin: float = 1.45
  encoding: str = 'jpeg'
  finder: str = 'cascade'
  limit: int = 0
  methods: tuple[str, ...] = ()
  compression: str = 'c23'
  frames: int = 16
  source_frame: str = 'best'
  mask: str = 'box'
  trust_masks: bool = False
  listing: str = 'list.csv'

  def as_dict(self) -> dict[str, Any]:
    """Plain values for JSON, without `raw`: the download may move, its content counts."""
    fields = dataclasses.asdict(self)
    del fields['raw']
    return json.loads(json.dumps(fields))


@dataclasses.dataclass(frozen=True)
class Unit:
  """A piece of work that is done as a whole or not at all.

  Attributes:
    key: its name, of letters, digits, `-` and `_`; units are kept in the order of the list.
    split: `train`, `val` or `test`.
    content: what the data set needs to make its examples; plain values for JSON.
  """

  key: str
  split: str
  content: Any

  def fingerprint(self) -> str:
    """Changes where the content does, so that an outdated part is not taken for this unit's."""
    return hashlib.sha256(json.dumps([self.split, self.content]).encode()).hexdigest()


class Unusable(Exception):
  """A raw file cannot be used; the rest of the unit may."""

  def __init__(self, path: os.PathLike | str, reason: str):
    super().__init__(f'{path}: {reason}')
    self.path, self.reason = path, reason


class UnitLog:
  """What happened while a unit was made.

  Attributes:
    left_out: how many frames, swaps or files were left out, by reason.
    ignored: (file, reason) of what was left out unread, files relative to `raw`.
    files: size in bytes and SHA-256 of each file that was read.
    inputs: `file_state` of each file that the result depends on, read or missing.
    failed: whether the same files may give another result next time.
  """

  def __init__(self, raw: os.PathLike | str):
    self.raw = os.fspath(raw)
    self._raw = pathlib.Path(raw)
    self._unusable: dict[tuple[str, str], None] = {}
    self.left_out: collections.Counter[str] = collections.Counter()
    self.ignored: list[tuple[str, str]] = []
    self.files: dict[str, tuple[int, str]] = {}
    self.inputs: dict[str, tuple[int, int] | None] = {}
    self.failed = False

  @property
  def unusable(self) -> list[tuple[str, str]]:
    """(file, reason) of what could not be used, each once, files relative to `raw`."""
    return list(self._unusable)

  def skip(self, path: os.PathLike | str, reason: str):
    """Notes a file that cannot be used; what follows a colon in the reason is not counted apart."""
    self._unusable[self._relative(path), reason] = None

  def ignore(self, path: os.PathLike | str, reason: str):
    """Notes and counts a file or swap that the list of units has no use for."""
    self.left_out[reason] += 1
    self.ignored.append((self._relative(path), reason))

  def look_at(self, path: os.PathLike | str):
    """Notes that the result depends on a file, which may be missing."""
    name = self._relative(path)
    if name not in self.inputs:
      self.inputs[name] = file_state(path)

  def record(self, path: os.PathLike | str):
    """Notes size and checksum of a file that is about to be read.

    Raises:
      Unusable: it is missing, empty or cannot be opened.
    """
    name = self._relative(path)
    if name in self.files:
      return
    # Before the content is read: a file that grows meanwhile has another state next time.
    self.look_at(path)
    try:
      size, digest = checksum(path)
    except FileNotFoundError as error:
      raise Unusable(path, 'missing') from error
    except OSError as error:
      self.inputs[name] = None
      raise Unusable(path, 'cannot be opened') from error
    if not size:
      raise Unusable(path, 'empty')
    self.files[name] = (size, digest)

  def _relative(self, path: os.PathLike | str) -> str:
    path = pathlib.Path(path)
    return (path.relative_to(self._raw) if path.is_relative_to(self._raw) else path).as_posix()


def file_state(path: os.PathLike | str) -> tuple[int, int] | None:
  """Size in bytes and time of change in nanoseconds; None where there is no file."""
  try:
    status = os.stat(path)
  except OSError:
    return None
  return status.st_size, status.st_mtime_ns


def checksum(path: os.PathLike | str) -> tuple[int, str]:
  """Size in bytes and SHA-256 of a file."""
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
    return file.tell(), digest
