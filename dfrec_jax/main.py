"""Trains or evaluates DFREC.

python -m dfrec_jax.main --config=configs/quickstart.py [--workdir=DIR] [--mode=train|eval]
"""

import os
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from dfrec_jax.errors import InputError

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
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Join the other hosts of a TPU pod or cluster, as JAX detects them.'
)
_COMPILATION_CACHE = flags.DEFINE_string(
  'compilation_cache',
  os.path.expanduser('~/.cache/dfrec_jax/xla'),
  'Folder of compiled programs, shared by all runs; empty for none.',
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown argument {argv[1]!r}; settings are --config.NAME=VALUE.')
  if _CHECKPOINT.value and _MODE.value == 'train':
    raise app.UsageError('--checkpoint goes with --mode=eval; training resumes its --workdir.')
  config = _CONFIG.value
  workdir = _WORKDIR.value or os.path.join('runs', config.name)
  if _COMPILATION_CACHE.value:
    jax.config.update('jax_compilation_cache_dir', _COMPILATION_CACHE.value)
  if _DISTRIBUTED.value:
    jax.distributed.initialize()
  logging.info('%d process(es), %s', jax.process_count(), jax.devices())
  # Imported here, since they take seconds and a wrong flag should not.
  from dfrec_jax import evaluate, train

  try:
    if _MODE.value == 'train':
      train.train(config, workdir)
    else:
      evaluate.evaluate_checkpoint(config, workdir, _CHECKPOINT.value or workdir)
  except InputError as error:
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main)
