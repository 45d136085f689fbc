"""MegaFS on FaceForensics++: strips of source, target and swap, 256 pixels each.

RAW/.../TARGET_SOURCE...     strips; two three-digit numbers of FaceForensics++ joined by `_`
                             in the file's name, or in the name of a folder above it
RAW/splits/{train,val,test}.json
"""

import pathlib
import re

from dfrec_jax.errors import InputError
from input_pipeline.prepare.image_sets import Row, make_examples, make_units
from input_pipeline.prepare.photos import only_photographs
from input_pipeline.prepare.splits import ACROSS_SPLITS, read_official_splits
from input_pipeline.prepare.units import Settings, Unit, UnitLog

_PAIR = re.compile(r'(?<!\d)(\d{3})_(\d{3})(?!\d)')

__all__ = ['list_units', 'make_examples']


def list_units(settings: Settings, log: UnitLog) -> list[Unit]:
  """The strips whose two people are in one official split.

  Raises:
    InputError: there are no strips, or a split list is missing.
  """
  raw = pathlib.Path(settings.raw)
  split_of = {
    video: split
    for split, pairs in read_official_splits(raw, log).items()
    for pair in pairs
    for video in pair
  }
  rows = []
  lists = {raw / name for name in log.files}
  for path in only_photographs((p for p in raw.rglob('*') if p not in lists), log):
    name = path.relative_to(raw).as_posix()
    pairs = _PAIR.findall(name)
    if not pairs:
      log.skip(path, 'its path names no pair of videos')
      continue
    target, source = pairs[-1]
    split = split_of.get(target)
    if not split or split != split_of.get(source):
      log.ignore(path, ACROSS_SPLITS)
    elif target == source:
      log.ignore(path, 'one person')
    else:
      rows.append((split, Row(name, name, name, name, 'megafs', source, target)))
  if not rows:
    raise InputError(
      f'{raw} holds no strips whose path names two videos of FaceForensics++, as 071_054 does.'
    )
  return make_units(rows, settings.limit)
