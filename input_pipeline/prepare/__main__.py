"""The command `python -m input_pipeline.prepare DATASET --raw=... --out=...`."""

import argparse
from collections.abc import Iterator
import contextlib
import pathlib
import signal
import sys
import threading

from dfrec_jax.errors import InputError
from input_pipeline.prepare import options, portraits, summary
from input_pipeline.prepare.units import Settings

_STOPPED = 130  # The exit status of shells for Ctrl-C.


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  args = options.parser().parse_args(arguments)
  with _stopped_by_sigterm():
    return _run(args)


def _run(args: argparse.Namespace) -> int:
  try:
    settings = options.settings(args)
    prepare = _prepare_people if args.dataset == 'faces' else _prepare_shards
    prepare(settings, args)
  except InputError as error:
    print(error, file=sys.stderr)
    return 1
  except OSError as error:
    # As a full disk: nothing that is done is lost.
    print(f'{error}; once that is mended, the same command goes on from here.', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('Stopped; the same command goes on from here.', file=sys.stderr)
    return _STOPPED
  return 0


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
  """What ends services and jobs is taken as Ctrl-C, which lets parts that are begun be finished."""
  # Python takes signals in its main thread alone.
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def _prepare_people(settings: Settings, args: argparse.Namespace):
  if summary.read_done(args.out, settings):
    _tell_done(args.out)
  total = portraits.prepare(settings, args.out, args.workers, options.beam(args))
  print(summary.as_text(total, args.out))


def _prepare_shards(settings: Settings, args: argparse.Namespace):
  import tensorflow_datasets as tfds

  from input_pipeline.tfds import BUILDERS

  raw = pathlib.Path(settings.raw)
  if not raw.is_dir() or not any(raw.iterdir()):
    raise InputError(f'{raw} is no folder with data; docs/data.md says what it holds.')
  beam = options.beam(args) or {'runner': None, 'options': None}
  builder = BUILDERS[args.dataset](data_dir=args.out, settings=settings, workers=args.workers)
  folder = pathlib.Path(builder.data_dir)
  if folder.exists():
    summary.require_done(folder, settings)
    _tell_done(folder)
    builder.remove_work()
  builder.download_and_prepare(
    # Nothing is downloaded; without this, empty folders for it would be made in --out.
    download_dir=builder.work_folder / 'downloads',
    download_config=tfds.download.DownloadConfig(
      manual_dir=settings.raw, beam_runner=beam['runner'], beam_options=beam['options']
    ),
  )
  print(summary.as_text(summary.require_done(folder, settings), folder))


def _tell_done(folder: pathlib.Path):
  print(f'{folder} is prepared already; delete it to prepare it anew.', file=sys.stderr)


if __name__ == '__main__':
  sys.exit(main())
