"""Recovers both people of face swaps from images, folders and videos.

python -m dfrec_jax.recover --checkpoint=CKPT --output=OUT INPUT...

Writes into OUT, for each input, a folder of images, and over all of them results.json and
report.html. Run again, it goes on where it ended.
"""

import argparse
import contextlib
import os
import sys
from typing import Any
import warnings

from absl import logging

from dfrec_jax.errors import InputError

_CACHE = os.path.join('~', '.cache', 'dfrec_jax', 'xla')


def recover(arguments: argparse.Namespace) -> int:
  """Does what the command line says; returns the exit status.

  Raises:
    InputError: one sentence on what is wrong with the arguments.
  """
  # Here, since they take seconds and a wrong flag should not.
  import jax

  from dfrec_jax.recover import finding, recoverer
  from dfrec_jax.recover.examine import Interrupted, examine

  cache = os.path.expanduser(arguments.compilation_cache)
  if cache and not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', cache)
  if not 0.001 <= arguments.fps <= 240:
    raise InputError(f'--fps is {arguments.fps}; it must be from 0.001 to 240.')
  finder = None if arguments.already_cropped else arguments.finder
  if finder:
    finding.make_finder(finder)
  gallery = None
  if arguments.gallery:
    from dfrec_jax.trace.gallery import Gallery

    gallery = Gallery.load(arguments.gallery, encoder_weights=arguments.encoder_weights)
  ready = recoverer.load(
    arguments.checkpoint,
    batch_size=arguments.batch_size,
    draws=arguments.draws,
    threshold=arguments.threshold,
    false_alarms=arguments.false_alarms,
  )
  recoverer.check_seed(arguments.seed)
  try:
    with contextlib.ExitStack() as stack:
      results = examine(
        arguments.inputs,
        arguments.output,
        ready,
        seed=arguments.seed,
        finder=finder,
        fps=arguments.fps,
        gallery=gallery,
        started=lambda found: _progress(stack, len(found)),
      )
  except Interrupted as interrupted:
    print(f'{interrupted} Run the same command again to go on.', file=sys.stderr)
    return 128 + interrupted.signal
  print(_summary(results, arguments.output))
  if all(entry['status'] == 'failed' for entry in results['inputs']):
    first = results['inputs'][0]['error']
    raise InputError(f'Nothing could be done. {first}')
  return 0


def _progress(stack: contextlib.ExitStack, total: int) -> Any:
  from tqdm import tqdm

  bar = stack.enter_context(tqdm(total=total, unit='input', disable=not sys.stderr.isatty()))
  return bar.update


def _summary(results: dict[str, Any], output: str) -> str:
  done = [entry for entry in results['inputs'] if entry['status'] == 'done']
  failed = len(results['inputs']) - len(done)
  faces = [face for entry in done for face in entry['faces']]
  swapped = sum(face['swapped'] for face in faces)
  words = f'{len(done)} inputs with {len(faces)} faces, of which {swapped} look swapped'
  words += f'; {failed} inputs could not be done, results.json says why.' if failed else '.'
  return f'{words}\nReport: {os.path.join(output, "report.html")}'


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m dfrec_jax.recover',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('inputs', nargs='+', metavar='INPUT', help='image, video, folder (searched) or pattern')
  add('--checkpoint', required=True, help='workdir, WORKDIR@best, step, or .safetensors file')
  add('--output', required=True, metavar='OUT', help='folder to write')
  add('--already-cropped', action='store_true', help='each input is the crop of one face')
  add('--finder', default='cascade', choices=['cascade', 'mesh'], help='of faces; cascade')
  add('--seed', type=int, default=0, help='of the random masking; 0')
  add('--draws', type=int, default=4, help='random maskings of each face; 4')
  add('--batch-size', type=int, default=8, help='faces computed together; 8')
  decision = parser.add_mutually_exclusive_group()
  decision.add_argument('--threshold', type=float, help='score from which a face counts as swapped')
  decision.add_argument(
    '--false-alarms',
    type=float,
    default=0.05,
    metavar='SHARE',
    help='of genuine faces that may count as swapped, by the evaluation of the checkpoint; 0.05',
  )
  add('--fps', type=float, default=2.0, help='frames of a video to look at, a second; 2')
  add('--gallery', metavar='FOLDER', help='of known people, of `python -m dfrec_jax.trace index`')
  add('--encoder-weights', metavar='FILE', help="of the gallery's encoder, if they were moved")
  add(
    '--compilation-cache',
    default=_CACHE,
    metavar='FOLDER',
    help=f'of compiled programs, the only other thing written; empty for none; {_CACHE}',
  )
  return parser


def main() -> None:
  arguments = _parser().parse_args()
  logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant.
  warnings.filterwarnings('ignore', module=r'PIL\.')  # Of damage, which an error tells, or nothing.
  try:
    sys.exit(recover(arguments))
  except (InputError, OSError) as error:
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  main()
