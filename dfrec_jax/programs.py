"""Programs compiled while something else goes on."""

from collections.abc import Callable
from concurrent import futures
from typing import Any


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
