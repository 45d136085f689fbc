"""The options of the command, and whether they can be meant."""

import argparse
import collections
import dataclasses
import importlib.util
import os
import pathlib
from typing import Any

from dfrec_jax.errors import InputError
from input_pipeline.prepare import celeba_megafs, ffpp, work
from input_pipeline.prepare.landmarks import require_environment
from input_pipeline.prepare.units import Settings

_ABOUT = {
  'ffpp': 'FaceForensics++: the official tree, with the official lists in RAW/splits',
  'megafs_ffpp': 'MegaFS on FaceForensics++: strips of source, target and swap',
  'celeba_megafs': 'CelebA-MegaFS: swaps of MegaFS over CelebA-HQ',
  'ffhq_e4s': 'FFHQ-E4S: a list of forged, source and target',
  'faces': 'a folder of PERSON/PHOTO, or tfds:NAME: crops with landmarks, to swap on the fly',
}
_WITHOUT_MASKS = ('megafs_ffpp', 'celeba_megafs', 'ffhq_e4s')
# Name: least and largest value.
_RANGES = {
  'workers': (0, 4096),
  'limit': (0, None),
  'size': (32, 4096),
  'margin': (1, 4),
  'frames': (1, None),
}


def settings(args: argparse.Namespace) -> Settings:
  """The settings that parsed options give.

  Raises:
    InputError: a value makes no sense, or needs what is not installed.
  """
  for name, (least, largest) in _RANGES.items():
    value = getattr(args, name, least)
    if not least <= value or (largest is not None and value > largest):
      upper = f' and at most {largest}' if largest is not None else ''
      raise InputError(f'--{name} is {value}; it must be at least {least}{upper}.')
  if args.out.exists() and not args.out.is_dir():
    raise InputError(f'--out={args.out} is a file; give a folder to make.')
  if getattr(args, 'finder', '') == 'mesh':
    require_environment()
  names = {field.name for field in dataclasses.fields(Settings)}
  fields = {name: value for name, value in vars(args).items() if name in names}
  if 'methods' in fields:
    fields['methods'] = _methods(args)
  return Settings(**fields)


def beam(args: argparse.Namespace) -> dict[str, Any] | None:
  """`runner` and `options` of an Apache Beam pipeline; None where none is asked for.

  Raises:
    InputError: Beam is not installed.
  """
  if not (args.beam_runner or args.beam_options):
    return None
  if importlib.util.find_spec('apache_beam') is None:
    raise work.no_beam()
  from apache_beam.options.pipeline_options import PipelineOptions

  return {'runner': args.beam_runner, 'options': PipelineOptions(args.beam_options.split())}


def _methods(args: argparse.Namespace) -> tuple[str, ...]:
  if not args.methods:
    if args.dataset == 'ffpp':
      return ffpp.methods_at(pathlib.Path(args.raw), args.compression)
    return celeba_megafs.METHODS
  known = ffpp.METHODS if args.dataset == 'ffpp' else celeba_megafs.METHODS
  names = tuple(filter(None, (name.strip() for name in args.methods.split(','))))
  for name, count in collections.Counter(names).items():
    if name not in known:
      raise InputError(f'There is no method {name!r}; the methods are {", ".join(known)}.')
    if count > 1:
      raise InputError(f'--methods names {name} {count} times; name it once.')
  if not names:
    raise InputError(f'--methods names none; the methods are {", ".join(known)}.')
  return names


def parser() -> argparse.ArgumentParser:
  """Parses the command line."""
  result = argparse.ArgumentParser(prog='python -m input_pipeline.prepare')
  commands = result.add_subparsers(dest='dataset', required=True)
  for name, about in _ABOUT.items():
    command = commands.add_parser(name, help=about, description=about)
    _add_common(command, name)
    if name == 'ffpp':
      _add_ffpp(command)
    if name == 'celeba_megafs':
      command.add_argument('--methods', default='', help='of FTM,IDInjection,LCR; all by default')
    if name == 'ffhq_e4s':
      command.add_argument('--list', dest='listing', default='list.csv', help='relative to RAW')
    if name in _WITHOUT_MASKS:
      command.add_argument('--mask', choices=('box', 'difference'), default='box')
    if name != 'faces':
      command.add_argument('--finder', choices=('cascade', 'mesh'), default='cascade')
      command.add_argument(
        '--trust_masks',
        action=argparse.BooleanOptionalAction,
        default=name in _WITHOUT_MASKS,
        help='train and measure segmentation on masks that were made, not read',
      )
  return result


def _add_common(command: argparse.ArgumentParser, name: str):
  command.add_argument('--raw', required=True, help='folder of the raw download')
  out = 'folder to make' if name == 'faces' else f'the data set goes into OUT/{name}'
  command.add_argument('--out', required=True, type=pathlib.Path, help=out)
  command.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes')
  command.add_argument('--beam_runner', help='of Apache Beam, for machines in parallel')
  command.add_argument('--beam_options', default='', help='of Apache Beam, in one string')
  command.add_argument('--limit', type=int, default=0, help='use so many of each split at most')
  command.add_argument('--size', type=int, default=256, help='largest side of an image, in pixels')
  command.add_argument('--margin', type=float, default=1.45, help="crop by the face's larger side")
  command.add_argument('--encoding', choices=('jpeg', 'png'), default='jpeg')


def _add_ffpp(command: argparse.ArgumentParser):
  swaps, others = ','.join(ffpp.SWAPS), ','.join(ffpp.REENACTMENTS)
  command.add_argument(
    '--methods', default='', help=f'of {swaps},{others}; by default the swaps that RAW holds'
  )
  command.add_argument('--compression', choices=ffpp.COMPRESSIONS, default='c23')
  command.add_argument('--frames', type=int, default=16, help='of a video')
  command.add_argument(
    '--source_frame',
    choices=('best', 'same'),
    default='best',
    help="the source's most frontal, sharpest frame, or the one of the same index",
  )
