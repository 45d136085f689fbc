"""Photographs of a download: which files are any, and reading them."""

from collections.abc import Iterable
import os
import pathlib

import numpy as np

from input_pipeline.images import ImageError, read_rgb
from input_pipeline.prepare.units import UnitLog, Unusable

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')
# Why a file is left out.
NO_PHOTOGRAPH = 'files that are no photographs'


def is_photograph(path: pathlib.PurePath) -> bool:
  """Whether the name says so."""
  return path.suffix.lower() in SUFFIXES


def only_photographs(paths: Iterable[pathlib.Path], log: UnitLog) -> list[pathlib.Path]:
  """The photographs among files, in the order of their names; the others are ignored."""
  files = sorted(path for path in paths if not path.is_dir())
  for path in files:
    if not is_photograph(path):
      log.ignore(path, NO_PHOTOGRAPH)
  return [path for path in files if is_photograph(path)]


def read_photograph(path: os.PathLike | str, log: UnitLog) -> np.ndarray:
  """Returns (H, W, 3) uint8 RGB, and notes the file's checksum.

  Raises:
    Unusable: it is missing, or no 8-bit RGB image.
  """
  log.record(path)
  try:
    return read_rgb(path)
  except ImageError as error:
    # The list of what is unusable names the file in front of the reason.
    reason = str(error).replace(f'The image {path} ', '').replace(f'{path} ', '')
    raise Unusable(path, reason.rstrip('.')) from error
