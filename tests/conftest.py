"""Shared set-up of the tests: eight virtual devices, parsed flags, and where shared data lies."""

import os
import pathlib

from absl import flags
import jax
import pytest

# Before any device is touched. Grain's worker processes read absl's flags.
jax.config.update('jax_num_cpu_devices', 8)
flags.FLAGS.mark_as_parsed()
# Tests wait for the compiler more than for what it makes, so it optimises little, here and in the
# processes that tests start; JAX_DISABLE_MOST_OPTIMIZATIONS=0 has it do all it does elsewhere.
if 'JAX_DISABLE_MOST_OPTIMIZATIONS' not in os.environ:
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  jax.config.update('jax_disable_most_optimizations', True)
# Most of the time goes into compiling, and most programs are compiled by several tests.
ROOT = pathlib.Path(__file__).resolve().parents[1]
jax.config.update('jax_compilation_cache_dir', str(ROOT / '.pytest_cache' / 'xla'))


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of shared material; a test that needs it is skipped where it is absent."""
  path = pathlib.Path(os.environ.get('DFREC_SHARED', ROOT.parent / 'shared'))
  if not path.is_dir():
    pytest.skip(f'Shared material is not at {path}; set DFREC_SHARED.')
  return path
