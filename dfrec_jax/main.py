"""Trains or evaluates DFREC.

python -m dfrec_jax.main --config=configs/quickstart.py [--workdir=DIR] [--mode=train|eval]
"""

import os
import pathlib
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from dfrec_jax import distributed
from dfrec_jax.errors import InputError
from dfrec_jax.flag_parsing import parse_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration, with arguments after a colon: configs/triplets.py:runlocal.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Checkpoints, metrics and figures; runs/<configuration> unless given.'
)
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval'], 'What to do.')
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'With --mode=eval: what to evaluate, the workdir unless given.'
)
_COMPILATION_CACHE = flags.DEFINE_string(
  'compilation_cache',
  os.path.expanduser('~/.cache/dfrec_jax/xla'),
  'Folder of compiled programs, shared by all runs; empty for none.',
)
distributed.define_flags()


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    sys.exit(f'Error: unknown argument {argv[1]!r}; settings are given as --config.NAME=VALUE.')
  if _CHECKPOINT.value and _MODE.value == 'train':
    sys.exit('Error: --checkpoint goes with --mode=eval; training resumes what is in --workdir.')
  if logging.get_verbosity() < logging.DEBUG:
    logging.get_absl_handler().addFilter(_is_ours)
  config = _CONFIG.value
  workdir = _WORKDIR.value or os.path.join('runs', config.name)
  if _COMPILATION_CACHE.value:
    jax.config.update('jax_compilation_cache_dir', _COMPILATION_CACHE.value)
  try:
    distributed.start_from_flags()
    # Imported here, since they take seconds and a wrong flag should not.
    if 'identity' in config:  # an identity encoder, not a DFREC
      from dfrec_jax.identity import evaluate
      from dfrec_jax.identity import training as train
    else:
      from dfrec_jax import evaluate, train

    logging.info('%d process(es), %s', jax.process_count(), jax.devices())
    if 'metric_encoder' in config:  # Defaults depend on which files there are.
      if _MODE.value == 'train':
        trains = config.loss.identity_encoder.weights or 'nothing'
        logging.info('Identity is trained through %s.', trains)
      logging.info('Identity is measured by %s.', config.metric_encoder.weights or 'nothing')
    if _MODE.value == 'train':
      train.train(config, workdir)
    else:
      evaluate.evaluate_checkpoint(config, workdir, _CHECKPOINT.value or workdir)
  except (InputError, FloatingPointError, OSError) as error:
    if logging.get_verbosity() >= logging.DEBUG:
      raise
    sys.exit(f'Error: {error}')


def _is_ours(record) -> bool:
  """Orbax and JAX tell much at the level of information; --verbosity=1 shows it."""
  folder = pathlib.Path(record.pathname).parts[-2]
  return record.levelno > 20 or folder == 'dfrec_jax'


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main, flags_parser=parse_flags)
