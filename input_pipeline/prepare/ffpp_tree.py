"""The official tree of FaceForensics++: which videos there are, and where.

RAW/original_sequences/youtube/COMPRESSION/videos/VIDEO.mp4
RAW/manipulated_sequences/METHOD/COMPRESSION/videos/TARGET_SOURCE.mp4
RAW/manipulated_sequences/METHOD/masks/videos/TARGET_SOURCE.mp4
RAW/splits/{train,val,test}.json
"""

import pathlib

from dfrec_jax.errors import InputError
from input_pipeline.prepare.splits import read_official_splits
from input_pipeline.prepare.units import Settings, Unit, UnitLog

SWAPS = ('Deepfakes', 'FaceSwap', 'FaceShifter')
# They move the target's own face as the source's moves: there is no other person to recover.
REENACTMENTS = ('Face2Face', 'NeuralTextures')
METHODS = SWAPS + REENACTMENTS
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
  units, listed = [], set()
  for split, pairs in read_official_splits(raw, log).items():
    for number, (first, second) in enumerate(pairs):
      pair, turned = f'{first}_{second}', f'{second}_{first}'
      listed |= {f'{name}.mp4' for name in (first, second, pair, turned)}
      if number < settings.limit or not settings.limit:
        units.append(Unit(pair, split, [first, second]))
  for folder in (_originals(settings), *(_fakes(method, settings) for method in settings.methods)):
    log.left_out[_NOT_LISTED] += sum(path.name not in listed for path in folder.iterdir())
  return units


def methods_at(raw: pathlib.Path, compression: str) -> tuple[str, ...]:
  """The swaps whose videos are there."""
  at = lambda method: raw / 'manipulated_sequences' / method / compression / 'videos'
  return tuple(method for method in SWAPS if at(method).is_dir())


def original_path(video: str, settings: Settings) -> pathlib.Path:
  return _originals(settings) / f'{video}.mp4'


def fake_path(method: str, target: str, source: str, settings: Settings) -> pathlib.Path:
  return _fakes(method, settings) / f'{target}_{source}.mp4'


def mask_path(method: str, target: str, source: str, settings: Settings) -> pathlib.Path:
  folder = pathlib.Path(settings.raw, 'manipulated_sequences', method, 'masks', 'videos')
  return folder / f'{target}_{source}.mp4'


def _originals(settings: Settings) -> pathlib.Path:
  return pathlib.Path(settings.raw, 'original_sequences', 'youtube', settings.compression, 'videos')


def _fakes(method: str, settings: Settings) -> pathlib.Path:
  return pathlib.Path(settings.raw, 'manipulated_sequences', method, settings.compression, 'videos')


def _require_folder(folder: pathlib.Path, content: str):
  if not folder.is_dir():
    raise InputError(f'There is no {folder}; download {content} into it (docs/data.md).')
