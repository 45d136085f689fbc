"""The examiner's tool on photographs, next to its model alone.

python -m dfrec_jax.benchmark.examiner --checkpoint=CKPT INPUT...

Runs both in turns and prints the photographs a second of each and their ratio: what reading,
finding faces, writing images and the report cost beside the model.
"""

import argparse
from collections.abc import Sequence
import os
import statistics
import sys
import tempfile
import time
from typing import Any

from absl import logging
import numpy as np

from dfrec_jax.errors import InputError
from dfrec_jax.recover import command_line


def measure(
  given: Sequence[str], loaded: dict[str, Any], folder: str, rounds: int
) -> list[tuple[float, float]]:
  """Faces a second of the whole tool and of the model alone, of each round.

  The model alone is timed before and after each run of the tool, which sees as many faces. Results
  go into folders of their own: where files were just deleted, a file system may be slow to make new
  ones.

  Args:
    given: paths and patterns.
    loaded: of `command_line.load`.
    folder: for the results.
    rounds: after a first one, which is not counted.

  Raises:
    InputError: there is no face in the inputs.
  """
  from dfrec_jax.recover.examine import examine

  recoverer = loaded['recoverer']
  recoverer.compile()
  size = recoverer.image_size
  noise = np.random.default_rng(0).integers(0, 256, (recoverer.batch_size, size, size, 3), np.uint8)

  def tool(number: int) -> tuple[int, float]:
    start = time.perf_counter()
    results = examine(given, os.path.join(folder, str(number)), **loaded)
    seconds = time.perf_counter() - start
    return sum(len(entry['faces']) for entry in results['inputs']), seconds

  def alone(faces: int) -> float:
    batches = -(-faces // len(noise))
    start = time.perf_counter()
    for _ in range(batches):
      recoverer.predict(list(noise))
    return batches * len(noise) / (time.perf_counter() - start)

  faces, _ = tool(0)
  if not faces:
    raise InputError('No face was found in the inputs; give photographs of faces.')
  measured, before = [], alone(faces)
  for number in range(1, rounds + 1):
    faces, seconds = tool(number)
    after = alone(faces)
    measured.append((faces / seconds, (before + after) / 2))
    before = after
  return measured


def main() -> None:
  parser = command_line.parser('python -m dfrec_jax.benchmark.examiner', __doc__)
  parser.add_argument('inputs', nargs='+', metavar='INPUT', help='photographs, folder or pattern')
  parser.add_argument('--rounds', type=_positive, default=8, help='of both, in turns; 8')
  arguments = parser.parse_args()
  logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant.
  try:
    with tempfile.TemporaryDirectory() as folder:
      loaded = command_line.load(arguments)
      measured = measure(arguments.inputs, loaded, folder, arguments.rounds)
  except (InputError, OSError) as error:
    sys.exit(f'Error: {error}')
  ratios = sorted(tool / model for tool, model in measured)
  tools, models = zip(*measured, strict=True)
  print(f'Faces a second: {statistics.median(tools):.1f}; model {statistics.median(models):.1f}.')
  print(f'Ratio: median {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}.')


def _positive(text: str) -> int:
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError('it must be a whole number from 1 on')
  return int(text)


if __name__ == '__main__':
  main()
