"""The command `python -m input_pipeline.prepare DATASET --raw=... --out=...`."""

import argparse
import dataclasses
import os
import pathlib
import sys

from dfrec_jax.errors import InputError
from input_pipeline.prepare import celeba_megafs, ffpp, portraits, summary, work
from input_pipeline.prepare.units import Settings

_ABOUT = {
  'ffpp': 'FaceForensics++: the official tree, with the official lists in RAW/splits',
  'megafs_ffpp': 'MegaFS on FaceForensics++: strips of source, target and swap',
  'celeba_megafs': 'CelebA-MegaFS: swaps of MegaFS over CelebA-HQ',
  'ffhq_e4s': 'FFHQ-E4S: a list of forged, source and target',
  'faces': 'a folder of PERSON/PHOTO, or tfds:NAME: crops with landmarks, to swap on the fly',
}
_WITHOUT_MASKS = ('megafs_ffpp', 'celeba_megafs', 'ffhq_e4s')


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  args = _parser().parse_args(arguments)
  try:
    settings = _settings(args)
    if args.dataset == 'faces':
      portraits.check_landmarks(settings.raw)
      print(summary.as_text(portraits.prepare(settings, args.out, args.workers), args.out))
    else:
      _prepare_shards(settings, args)
  except InputError as error:
    print(error, file=sys.stderr)
    return 1
  return 0


def _prepare_shards(settings: Settings, args: argparse.Namespace):
  import tensorflow_datasets as tfds

  from input_pipeline.tfds import BUILDERS, read_summary

  if not pathlib.Path(settings.raw).is_dir() or not any(pathlib.Path(settings.raw).iterdir()):
    raise InputError(f'{settings.raw} is no folder with data; docs/data.md says what it holds.')
  builder = BUILDERS[args.dataset](data_dir=args.out, settings=settings, workers=args.workers)
  folder = pathlib.Path(builder.data_dir)
  done = (folder / summary.SUMMARY).exists()
  if done and read_summary(builder)['settings'] != settings.as_dict():
    raise InputError(
      f'{folder} was prepared with other settings; delete it, or give another --out.'
    )
  builder.download_and_prepare(
    # Nothing is downloaded; without this, empty folders for it would be made in --out.
    download_dir=builder.work_folder / 'downloads',
    download_config=tfds.download.DownloadConfig(
      manual_dir=settings.raw, beam_runner=args.beam_runner, beam_options=_beam_options(args)
    ),
  )
  print(summary.as_text(read_summary(builder), folder))


def _beam_options(args: argparse.Namespace):
  if not args.beam_options:
    return None
  try:
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as error:
    raise work.no_beam() from error
  return PipelineOptions(args.beam_options.split())


def _settings(args: argparse.Namespace) -> Settings:
  names = {field.name for field in dataclasses.fields(Settings)}
  fields = {name: value for name, value in vars(args).items() if name in names}
  if 'methods' in fields:
    fields['methods'] = _methods(args)
  return Settings(**fields)


def _methods(args: argparse.Namespace) -> tuple[str, ...]:
  if args.methods:
    return tuple(filter(None, args.methods.split(',')))
  if args.dataset == 'ffpp':
    return ffpp.methods_at(pathlib.Path(args.raw), args.compression)
  return celeba_megafs.METHODS


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m input_pipeline.prepare')
  commands = parser.add_subparsers(dest='dataset', required=True)
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
      command.add_argument('--beam_runner', help='of Apache Beam, for machines in parallel')
      command.add_argument('--beam_options', default='', help='of Apache Beam, in one string')
  return parser


def _add_common(command: argparse.ArgumentParser, name: str):
  command.add_argument('--raw', required=True, help='folder of the raw download')
  out = 'folder to make' if name == 'faces' else f'the data set goes into OUT/{name}'
  command.add_argument('--out', required=True, type=pathlib.Path, help=out)
  command.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes')
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


if __name__ == '__main__':
  sys.exit(main())
