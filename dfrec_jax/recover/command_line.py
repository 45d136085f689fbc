"""The flags that recovery has wherever it is run from, and what they ask for."""

import argparse
import os
from typing import Any

from dfrec_jax.errors import InputError
from dfrec_jax.shipped import PRETRAINED

CACHE = os.path.join('~', '.cache', 'dfrec_jax', 'xla')


def parser(prog: str, description: str) -> argparse.ArgumentParser:
  """A parser of these flags, to which a command adds its own."""
  result = argparse.ArgumentParser(
    prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = result.add_argument
  add(
    '--checkpoint',
    default=PRETRAINED,
    help='workdir, WORKDIR@best, step, or .safetensors file; the model of the package',
  )
  add('--already-cropped', action='store_true', help='each input is the crop of one face')
  add('--finder', default='cascade', choices=['cascade', 'mesh'], help='of faces; cascade')
  add('--seed', type=int, default=0, help='of the random masking; 0')
  add('--draws', type=int, default=4, help='random maskings of each face; 4')
  add('--batch-size', type=int, default=8, help='faces computed together; 8')
  decision = result.add_mutually_exclusive_group()
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
    default=CACHE,
    metavar='FOLDER',
    help=f'of compiled programs, the only other thing written; empty for none; {CACHE}',
  )
  return result


def use_cache(folder: str) -> None:
  """Keeps compiled programs in a folder; empty for none, and JAX's own variable goes first."""
  import jax  # It takes a second, and a wrong flag should not.

  if folder and not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser(folder))


def load(arguments: argparse.Namespace) -> dict[str, Any]:
  """Loads what the flags name, as keyword arguments of `examine.examine`.

  Raises:
    InputError: one sentence on what is wrong with the flags.
  """
  # Here, since they take seconds and a wrong flag should not.
  from dfrec_jax.recover import finding, recoverer

  use_cache(arguments.compilation_cache)
  if not 0.001 <= arguments.fps <= 240:
    raise InputError(f'--fps is {arguments.fps}; it must be from 0.001 to 240.')
  recoverer.check_seed(arguments.seed)
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
  return {
    'recoverer': ready,
    'seed': arguments.seed,
    'finder': finder,
    'fps': arguments.fps,
    'gallery': gallery,
  }
