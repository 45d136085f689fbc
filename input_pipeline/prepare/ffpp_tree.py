"""The official tree of FaceForensics++: which videos there are, and where.

RAW/original_sequences/youtube/COMPRESSION/videos/VIDEO.mp4
RAW/manipulated_sequences/METHOD/COMPRESSION/videos/TARGET_SOURCE.mp4
RAW/manipulated_sequences/METHOD/masks/videos/TARGET_SOURCE.mp4
RAW/splits/{train,val,test}.json
"""

from collections.abc import Sequence
import pathlib
import sys

from dfrec_jax.errors import InputError
from input_pipeline.prepare.splits import read_official_splits
from input_pipeline.prepare.units import Settings, Unit, UnitLog

SWAPS = ('Deepfakes', 'FaceSwap', 'FaceShifter')
# They move the target's own face as the source's moves: there is no other person to recover.
REENACTMENTS = ('Face2Face', 'NeuralTextures')
METHODS = SWAPS + REENACTMENTS
_WITHOUT_MASKS = ('FaceShifter',)
COMPRESSIONS = ('raw', 'c23', 'c40')
# Why a file is left out.
_NOT_LISTED = 'files that no official list names'


def list_units(settings: Settings, log: UnitLog) -> list[Unit]:
  """A unit for each pair of the official lists.

  Raises:
    InputError: the tree, a method or a list is not where it should be.
  """
  raw = pathlib.Path(settings.raw)
  _require_folder(_originals(settings), 'the original videos')
  for method in settings.methods:
    _require_folder(_fakes(method, settings), f'{method} (or leave it out: --methods)')
  if not settings.methods:
    raise InputError(
      f'{raw} holds none of the methods {", ".join(SWAPS)} in {settings.compression}.'
    )
  _name_absent_masks(settings, log)
  units, listed = [], set()
  for split, pairs in read_official_splits(raw, log).items():
    for number, (first, second) in enumerate(pairs):
      pair, turned = f'{first}_{second}', f'{second}_{first}'
      listed |= {f'{name}.mp4' for name in (first, second, pair, turned)}
      if number < settings.limit or not settings.limit:
        units.append(Unit(pair, split, [first, second]))
  for folder in (_originals(settings), *(_fakes(method, settings) for method in settings.methods)):
    for path in folder.iterdir():
      if path.name not in listed:
        log.ignore(path, _NOT_LISTED)
  return units


def methods_at(raw: pathlib.Path, compression: str) -> tuple[str, ...]:
  """The swaps whose videos are there."""
  at = lambda method: raw / 'manipulated_sequences' / method / compression / 'videos'
  return tuple(method for method in SWAPS if at(method).is_dir())


def leading(methods: Sequence[str]) -> tuple[str, ...]:
  """Those that decide which frames are taken and where they are cut.

  Swaps alone where there are any, so that their examples do not depend on whether reenactments,
  which end with the shorter of two videos, are prepared beside them.
  """
  return tuple(method for method in methods if method in SWAPS) or tuple(methods)


def original_path(video: str, settings: Settings) -> pathlib.Path:
  return _originals(settings) / f'{video}.mp4'


def fake_path(method: str, target: str, source: str, settings: Settings) -> pathlib.Path:
  return _fakes(method, settings) / f'{target}_{source}.mp4'


def mask_path(method: str, target: str, source: str, settings: Settings) -> pathlib.Path:
  return _masks(method, settings) / f'{target}_{source}.mp4'


def _name_absent_masks(settings: Settings, log: UnitLog):
  """Without its masks, which are a download of their own, a method would pass for one without."""
  for method in settings.methods:
    folder = _masks(method, settings)
    if method in _WITHOUT_MASKS or folder.is_dir():
      continue
    name = folder.relative_to(settings.raw).as_posix()
    log.skip(folder, f'there is no {name}, so masks are made: download them with -t masks')
    print(
      f'There is no {folder}, so the masks of {method} are made, not read; if that is not meant, '
      'stop, download them with -t masks (docs/data.md) and run the command again.',
      file=sys.stderr,
    )


def _originals(settings: Settings) -> pathlib.Path:
  return pathlib.Path(settings.raw, 'original_sequences', 'youtube', settings.compression, 'videos')


def _fakes(method: str, settings: Settings) -> pathlib.Path:
  return pathlib.Path(settings.raw, 'manipulated_sequences', method, settings.compression, 'videos')


def _masks(method: str, settings: Settings) -> pathlib.Path:
  return pathlib.Path(settings.raw, 'manipulated_sequences', method, 'masks', 'videos')


def _require_folder(folder: pathlib.Path, content: str):
  if not folder.is_dir():
    raise InputError(f'There is no {folder}; download {content} into it (docs/data.md).')
