"""Recovers both people of face swaps from images, folders and videos.

python -m dfrec_jax.recover --output=OUT INPUT...

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
from dfrec_jax.recover import command_line, wording


def recover(arguments: argparse.Namespace) -> int:
  """Does what the command line says; returns the exit status.

  Raises:
    InputError: one sentence on what is wrong with the arguments.
  """
  # Here, since it takes seconds and a wrong flag should not.
  from dfrec_jax.recover.examine import Interrupted, examine

  loaded = command_line.load(arguments)
  try:
    with contextlib.ExitStack() as stack:
      results = examine(
        arguments.inputs,
        arguments.output,
        **loaded,
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
  inputs, seen = wording.count(len(done), 'input'), wording.count(len(faces), 'face')
  words = f'{inputs} with {seen}, of which {swapped} score as swapped'
  if failed:
    words += f'; {wording.count(failed, "input")} could not be done, results.json says why'
  others = len(results['passed_over'])
  if others:
    count = wording.count(others, 'other entry', 'other entries')
    words += f'; passed over in the folders: {count}'
  return f'{words}.\nReport: {os.path.join(output, "report.html")}'


def _parser() -> argparse.ArgumentParser:
  parser = command_line.parser('python -m dfrec_jax.recover', __doc__)
  add = parser.add_argument
  add('inputs', nargs='+', metavar='INPUT', help='image, video, folder (searched) or pattern')
  add('--output', required=True, metavar='OUT', help='folder to write')
  return parser


def main() -> None:
  arguments = _parser().parse_args()
  logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant.
  warnings.filterwarnings('ignore', module=r'PIL\.')  # Of damage, which an error tells, or nothing.
  try:
    sys.exit(recover(arguments))
  except (InputError, OSError) as error:
    sys.exit(f'Error: {error}')
  except KeyboardInterrupt:
    print('Stopped.', file=sys.stderr)
    sys.exit(130)


if __name__ == '__main__':
  main()
