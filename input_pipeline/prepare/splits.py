"""Who is trained on and who is evaluated: splits by person, the same on every machine."""

import hashlib
import json
import pathlib

from dfrec_jax.errors import InputError
from input_pipeline.prepare.units import SPLITS, UnitLog, Unusable

# Why a swap is left out.
ACROSS_SPLITS = 'its people are in different splits'

_VAL_SHARE = 0.05
_TEST_SHARE = 0.1
_WHERE = 'https://github.com/ondyari/FaceForensics/tree/master/dataset/splits'


def split_of(person: str) -> str:
  """The split of a person, drawn by a checksum of the name: 85 % train, 5 % val, 10 % test."""
  draw = int.from_bytes(hashlib.sha256(person.encode()).digest()[:6]) / 2**48
  if draw < _TEST_SHARE:
    return 'test'
  return 'val' if draw < _TEST_SHARE + _VAL_SHARE else 'train'


def split_of_pair(first: str, second: str) -> str | None:
  """The split that both people are in; None where they are in different ones."""
  split = split_of(first)
  return split if split_of(second) == split else None


def read_official_splits(raw: pathlib.Path, log: UnitLog) -> dict[str, list[tuple[str, str]]]:
  """The official lists of FaceForensics++: pairs of videos, each giving a fake in both directions.

  Args:
    raw: the folder with `splits/{train,val,test}.json`, or with the three files.
    log: notes their checksums.

  Raises:
    InputError: a list is missing or malformed, or a video is in two splits.
  """
  folder = raw / 'splits' if (raw / 'splits').is_dir() else raw
  splits = {split: _read_pairs(folder / f'{split}.json', log) for split in SPLITS}
  owner: dict[str, str] = {}
  for split, pairs in splits.items():
    for video in (video for pair in pairs for video in pair):
      if owner.setdefault(video, split) != split:
        raise InputError(
          f'The video {video} is in {owner[video]}.json and in {split}.json of {folder}; take the '
          f'lists of {_WHERE}.'
        )
  return splits


def _read_pairs(path: pathlib.Path, log: UnitLog) -> list[tuple[str, str]]:
  try:
    log.record(path)
    pairs = json.loads(path.read_text())
  except Unusable as error:
    raise InputError(
      f'There is no readable {path}; put the three lists of {_WHERE} into {path.parent}.'
    ) from error
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise InputError(f'{path} is not JSON; take the list of {_WHERE}.') from error
  valid = isinstance(pairs, list) and all(
    isinstance(pair, list)
    and len(pair) == 2
    and all(isinstance(v, str) and len(v) == 3 and v.isdigit() for v in pair)
    for pair in pairs
  )
  if not valid or len({frozenset(pair) for pair in pairs if len(set(pair)) == 2}) < len(pairs):
    raise InputError(
      f'{path} is not a list of different pairs of three-digit numbers; take the list of {_WHERE}.'
    )
  return [tuple(pair) for pair in pairs]
