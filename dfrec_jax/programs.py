"""Programs compiled while something else goes on."""

from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax

from dfrec_jax.errors import InputError

# Name -> backend -> options of XLA for the training step; backends that are not there take none.
# `overlap` hides the exchange of parameters and gradients behind computation.
COMPILER_OPTIONS = {
  'default': {},
  'overlap': {
    'tpu': {
      'xla_enable_async_all_gather': 'true',
      'xla_tpu_enable_async_collective_fusion_fuse_all_gather': 'true',
      'xla_tpu_enable_async_collective_fusion_multiple_steps': 'true',
      'xla_tpu_overlap_compute_collective_tc': 'true',
      'xla_tpu_enable_data_parallel_all_reduce_opt': 'true',
      'xla_tpu_data_parallel_opt_different_sized_ops': 'true',
    },
    'gpu': {'xla_gpu_enable_latency_hiding_scheduler': 'true'},
  },
}


def compiler_options(name: str, backend: str | None = None) -> dict[str, str]:
  """For `jax.jit`: the options of that name for the backend, JAX's default one unless given.

  Raises:
    InputError: there are no options of that name.
  """
  if name not in COMPILER_OPTIONS:
    raise InputError(
      f'config.compiler_options is {name!r}; it is one of {", ".join(COMPILER_OPTIONS)}.'
    )
  return dict(COMPILER_OPTIONS[name].get(backend or jax.default_backend(), {}))


def compile_ahead(function: Any, *args: Any) -> Callable[..., Any]:
  """Compiles a jitted function in a thread; XLA does it without Python's lock.

  Several programs compile at the same time, and beside whatever the caller does next. A compiled
  program never compiles again: arguments of other shapes, types or shardings are an error.

  Args:
    function: of `jax.jit`; it is traced before this returns, under the caller's mesh.
    *args: what it will be called with, or `jax.ShapeDtypeStruct`s with their shardings.

  Returns:
    The function of the same arguments; the first call waits for the compiler, and raises what the
    compiler raised.
  """
  lowered = function.lower(*args)
  thread = futures.ThreadPoolExecutor(1, thread_name_prefix='compile')
  compiled = thread.submit(lowered.compile)
  thread.shutdown(wait=False)
  return lambda *args: compiled.result()(*args)
