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
    unusable: (file, reason) of what could not be used, files relative to `raw`.
    left_out: how many frames were left out, by reason.
    files: size in bytes and SHA-256 of each file that was read.
  """

  def __init__(self, raw: os.PathLike | str):
    self._raw = pathlib.Path(raw)
    self.unusable: list[tuple[str, str]] = []
    self.left_out: collections.Counter[str] = collections.Counter()
    self.files: dict[str, tuple[int, str]] = {}

  def skip(self, path: os.PathLike | str, reason: str):
    entry = (self._relative(path), reason)
    if entry not in self.unusable:
      self.unusable.append(entry)

  def record(self, path: os.PathLike | str):
    """Notes size and checksum of a file that is about to be read.

    Raises:
      Unusable: it is missing, empty or cannot be opened.
    """
    name = self._relative(path)
    if name in self.files:
      return
    try:
      with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
        size = file.tell()
    except FileNotFoundError as error:
      raise Unusable(path, 'missing') from error
    except OSError as error:
      raise Unusable(path, 'cannot be opened') from error
    if not size:
      raise Unusable(path, 'empty')
    self.files[name] = (size, digest)

  def _relative(self, path: os.PathLike | str) -> str:
    path = pathlib.Path(path)
    return (path.relative_to(self._raw) if path.is_relative_to(self._raw) else path).as_posix()
