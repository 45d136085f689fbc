"""The photographs of a folder of known people."""

import dataclasses
import os
import pathlib

from dfrec_jax.errors import InputError
from dfrec_jax.recover.inputs import IMAGE_SUFFIXES


@dataclasses.dataclass(frozen=True)
class Listing:
  """What a folder holds.

  Attributes:
    photographs: (person, path below the folder in POSIX) of each, by person, then by path.
    others: paths of files that are no photographs by their names.
  """

  photographs: list[tuple[str, str]]
  others: list[str]


def list_people(folder: pathlib.Path) -> Listing:
  """Lists `folder/PERSON/.../PHOTOGRAPH`; one directly in `folder` is a person of its own.

  Hidden files and folders are passed over, and links to folders below the first level.

  Raises:
    InputError: there is no such folder, it cannot be read, or no photograph is in it.
  """
  if not folder.is_dir():
    raise InputError(f'There is no folder {folder}; give one of photographs of known people.')
  photographs, others = [], []
  for entry in _entries(folder):
    for path in _files(entry):
      name = path.relative_to(folder).as_posix()
      if path.suffix.lower() in IMAGE_SUFFIXES:
        photographs.append((entry.name, name))
      else:
        others.append(name)
  if not photographs:
    raise InputError(
      f'There is no photograph in {folder}; it should hold PERSON/PHOTOGRAPH.jpg or photographs.'
    )
  return Listing(sorted(photographs), sorted(others))


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    return [path for path in folder.iterdir() if not path.name.startswith('.')]
  except OSError as error:
    raise InputError(f'{folder} cannot be read: {error.strerror}; allow it.') from error


def _files(entry: pathlib.Path) -> list[pathlib.Path]:
  """The files of a person's folder, or the entry itself."""
  if entry.is_file():
    return [entry]
  found = []
  for folder, folders, names in os.walk(entry, onerror=_refuse):
    folders[:] = [name for name in folders if not name.startswith('.')]
    paths = [pathlib.Path(folder, name) for name in names if not name.startswith('.')]
    found += [path for path in paths if path.is_file()]
  return found


def _refuse(error: OSError):
  # A person who is silently missing from a gallery is never found.
  raise InputError(f'{error.filename} cannot be read: {error.strerror}; allow it.') from error
