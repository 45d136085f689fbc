"""Programs: how they are compiled, and while what else goes on."""

from collections.abc import Callable
from concurrent import futures
import functools
from typing import Any

import jax

from dfrec_jax.errors import InputError

# On a CPU, YNNPACK multiplies and sums, and no more. Its convolutions are slower than Eigen's,
# which XLA takes otherwise (gradients of kernels at 224 px: a quarter of the speed), and a product
# into which a norm or an activation is fused computes that again for each tile.
_CPU = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  )
}
# A TPU gathers a parameter before its product, not piece by piece between partial products: in a
# plan for four chips those read and wrote a quarter more memory (docs/tpu_plan.md).
_TPU = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}
# Name -> backend -> options of XLA; backends that are not there take none. `overlap` hides the
# exchange of parameters and gradients behind computation.
COMPILER_OPTIONS = {
  'default': {'cpu': _CPU, 'tpu': _TPU},
  'overlap': {
    'cpu': _CPU,
    'tpu': _TPU
    | {
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


def jit(function: Callable[..., Any], **kwargs: Any) -> Any:
  """`jax.jit` with the default options of the compiler; for what works long, networks above all."""
  return jax.jit(function, compiler_options=compiler_options('default'), **kwargs)


def compiler_options(name: str, backend: str | None = None) -> dict[str, str]:
  """For `jax.jit`: the options of that name for the backend, JAX's default one unless given.

  Raises:
    InputError: there are no options of that name.
  """
  if name not in COMPILER_OPTIONS:
    raise InputError(
      f'config.compiler_options is {name!r}; it is one of {", ".join(COMPILER_OPTIONS)}.'
    )
  backend = backend or jax.default_backend()
  options = COMPILER_OPTIONS[name].get(backend, {})
  return dict(options) if backend != 'cpu' or _taken() else {}


@functools.cache
def _taken() -> bool:
  """Whether the installed XLA knows the options for a CPU, which are experimental there."""
  try:
    jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


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
