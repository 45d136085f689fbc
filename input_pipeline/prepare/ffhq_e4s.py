"""FFHQ-E4S: swaps that E4S (Liu et al. 2023) made among photographs of FFHQ.

    RAW/list.csv     a line for each swap: forged, source, target, paths relative to RAW

FFHQ names nobody, and nearly each of its photographs shows another person: the photograph's name
stands for the person.
"""

import csv
import pathlib

from dfrec_jax.errors import InputError
from input_pipeline.prepare.image_sets import Row, make_examples, make_units
from input_pipeline.prepare.splits import ACROSS_SPLITS, split_of_pair
from input_pipeline.prepare.units import Settings, Unit, UnitLog, Unusable

_COLUMNS = ['forged', 'source', 'target']

__all__ = ['list_units', 'make_examples']


def list_units(settings: Settings, log: UnitLog) -> list[Unit]:
  """The swaps between people of one split; those across splits are left out.

  Raises:
    InputError: the list is missing or malformed, or leads out of the folder.
  """
  path = pathlib.Path(settings.raw, settings.listing)
  try:
    log.record(path)
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (Unusable, UnicodeDecodeError) as error:
    raise InputError(
      f'There is no readable list {path} in UTF-8; write a line "forged,source,target" for each '
      'swap, or name another with --list.'
    ) from error
  # Commas, or spaces as in the lists of many data sets.
  rows = [
    next(csv.reader([line])) if ',' in line else line.split() for line in lines if line.strip()
  ]
  rows = [[field.strip() for field in row] for row in rows]
  header = [field.lower() for field in rows[0]] if rows else []
  if sorted(header) == sorted(_COLUMNS):
    places = [header.index(name) for name in _COLUMNS]
    rows = [[row[i] for i in places] if len(row) == 3 else row for row in rows[1:]]
  result = []
  for number, row in enumerate(rows, 1):
    if len(row) != 3 or any(_leads_outside(field) for field in row):
      raise InputError(
        f'{path}, swap {number}: it must name three files inside {settings.raw}, forged, source '
        'and target.'
      )
    forged, source, target = row
    people = [pathlib.PurePosixPath(name).stem for name in (source, target)]
    split = split_of_pair(*people)
    if split is None or people[0] == people[1]:
      reason = 'one person' if split else ACROSS_SPLITS
      log.ignore(pathlib.Path(settings.raw, forged), reason)
    else:
      name = pathlib.PurePosixPath(forged).with_suffix('').as_posix()
      result.append((split, Row(name, forged, source, target, 'e4s', *people)))
  return make_units(result, settings.limit)


def _leads_outside(name: str) -> bool:
  path = pathlib.PurePosixPath(name)
  return not name or path.is_absolute() or '..' in path.parts
