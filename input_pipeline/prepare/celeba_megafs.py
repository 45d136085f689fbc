"""CelebA-MegaFS: MegaFS (Zhu et al. 2021) among photographs of CelebA-HQ.

    RAW/FTM/, RAW/IDInjection/, RAW/LCR/      TARGET_SOURCE.jpg
    RAW/CelebA-HQ-img/                        NUMBER.jpg
    RAW/CelebA-HQ-to-CelebA-mapping.txt       of CelebAMask-HQ: idx, orig_idx, orig_file
    RAW/identity_CelebA.txt                   of CelebA: file, person

A person has several photographs in CelebA-HQ; without the last two files nobody knows which, and
splits by photograph would test on people who were trained on.
"""

import pathlib

from dfrec_jax.errors import InputError
from input_pipeline.prepare.image_sets import Row, make_examples, make_units
from input_pipeline.prepare.photos import only_photographs
from input_pipeline.prepare.splits import ACROSS_SPLITS, split_of_pair
from input_pipeline.prepare.units import Settings, Unit, UnitLog, Unusable

METHODS = ('FTM', 'IDInjection', 'LCR')
_PHOTOS = 'CelebA-HQ-img'
_MAPPING = 'CelebA-HQ-to-CelebA-mapping.txt'
_PEOPLE = 'identity_CelebA.txt'

__all__ = ['METHODS', 'list_units', 'make_examples', 'read_people']


def list_units(settings: Settings, log: UnitLog) -> list[Unit]:
  """The swaps between people of one split; those across splits are left out.

  Raises:
    InputError: a folder or a list is not where it should be.
  """
  raw = pathlib.Path(settings.raw)
  for folder in (*settings.methods, _PHOTOS):
    if not (raw / folder).is_dir():
      raise InputError(f'There is no {raw / folder}; docs/data.md says what belongs there.')
  people = read_people(raw, log)
  rows = []
  for method in settings.methods:
    for path in only_photographs((raw / method).iterdir(), log):
      target, _, source = path.stem.partition('_')
      if target not in people or source not in people:
        log.skip(path, 'not called TARGET_SOURCE with numbers of CelebA-HQ')
        continue
      split = split_of_pair(people[target], people[source])
      if split is None or people[target] == people[source]:
        log.ignore(path, 'one person' if split else ACROSS_SPLITS)
        continue
      photos = (f'{_PHOTOS}/{number}.jpg' for number in (source, target))
      attack = f'megafs_{method.lower()}'
      name = f'{method}/{path.stem}'
      row = Row(name, f'{method}/{path.name}', *photos, attack, people[source], people[target])
      rows.append((split, row))
  return make_units(rows, settings.limit)


def read_people(raw: pathlib.Path, log: UnitLog) -> dict[str, str]:
  """Number of a photograph in CelebA-HQ to the number of its person in CelebA.

  Raises:
    InputError: a list is missing or malformed.
  """
  names = {}
  for number, _, name in _read_table(raw / _MAPPING, 3, log):
    names[number] = name
  owners = dict(_read_table(raw / _PEOPLE, 2, log))
  try:
    # The first line of the mapping names its columns.
    return {number: owners[name] for number, name in names.items() if number.isdigit()}
  except KeyError as error:
    raise InputError(f'{raw / _PEOPLE} does not name the person of {error.args[0]}.') from error


def _read_table(path: pathlib.Path, columns: int, log: UnitLog) -> list[list[str]]:
  try:
    log.record(path)
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
  except Unusable as error:
    raise InputError(f'There is no readable {path}; docs/data.md says where to get it.') from error
  except UnicodeDecodeError as error:
    raise InputError(f'{path} is no text; docs/data.md says where to get it.') from error
  if any(len(row) != columns for row in rows):
    raise InputError(f'{path} does not have {columns} columns separated by spaces.')
  return rows
