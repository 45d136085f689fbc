"""Compiling and timing programs: medians of rounds in which they take turns."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import resource
import statistics
import sys
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from dfrec_jax.benchmark import chips, loops

_FEWEST_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program and what the compiler says of it, for one device.

  Attributes:
    traced, lowered, compiled: JAX's stages of it.
    compile_seconds: tracing, lowering and compiling.
  """

  traced: Any
  lowered: Any
  compiled: Any
  compile_seconds: float

  @functools.cached_property
  def counts(self) -> tuple[float, float]:
    """FLOP and bytes that the instructions of one run read and write, as XLA counts them.

    Loops count by their turns, and what is recomputed or done element by element counts too.
    """
    cost, devices = self.compiled.cost_analysis(), self._devices
    flops = cost.get('flops', 0.0)
    if jax.default_backend() == 'gpu':
      # Products there become calls of libraries, which XLA counts as nothing.
      flops = self.lowered.cost_analysis().get('flops', 0.0) / devices
    more_flops, more_bytes = loops.further_turns(self.traced.jaxpr)
    return flops + more_flops / devices, cost.get('bytes accessed', 0.0) + more_bytes / devices

  @property
  def _devices(self) -> int:
    shardings = jax.tree.leaves(self.compiled.input_shardings)
    return max((len(s.device_set) for s in shardings), default=1)

  @property
  def memory(self) -> dict[str, int]:
    """Bytes of `arguments`, `outputs`, `temporaries` and `aliased` outputs."""
    plan = self.compiled.memory_analysis()
    return {
      'arguments': plan.argument_size_in_bytes,
      'outputs': plan.output_size_in_bytes,
      'temporaries': plan.temp_size_in_bytes,
      'aliased': plan.alias_size_in_bytes,
    }

  @property
  def peak_bytes(self) -> int:
    """What a run holds at most, by the compiler's plan."""
    m = self.memory
    return m['arguments'] + m['outputs'] + m['temporaries'] - m['aliased']


def compile_program(function: Any, *args: Any) -> Program:
  """Compiles a function of `jax.jit` for such arguments."""
  start = time.perf_counter()
  traced = function.trace(*args)
  lowered = traced.lower()
  compiled = lowered.compile()
  return Program(traced, lowered, compiled, time.perf_counter() - start)


def rounds(
  runs: Mapping[str, Callable[[], Any]], *, repeats: int, seconds: float
) -> dict[str, list[float]]:
  """Seconds of each run, in rounds in which each has its turn.

  What slows the machine for a while slows all of them. Each runs once before, unmeasured. Several
  processes make as many rounds as process 0, since they have to run the same programs.

  Args:
    runs: functions without arguments, which answer arrays; these are waited for.
    repeats: rounds.
    seconds: after which no further round begins, once there are three.
  """
  for run in runs.values():
    jax.block_until_ready(run())
  times = {name: [] for name in runs}
  start = time.perf_counter()
  for done in range(repeats):
    if done >= _FEWEST_ROUNDS and _of_first(time.perf_counter() - start > seconds):
      break
    for name, run in runs.items():
      before = time.perf_counter()
      jax.block_until_ready(run())
      times[name].append(time.perf_counter() - before)
  return times


def _of_first(answer: bool) -> bool:
  """What process 0 says."""
  if jax.process_count() == 1:
    return answer
  return bool(multihost_utils.broadcast_one_to_all(np.array(answer)))


def summary(times: list[float]) -> dict[str, float]:
  """Median and quartiles in milliseconds, and how many rounds there were."""
  low, middle, high = np.percentile(times, (25, 50, 75)) * 1e3
  return {
    'milliseconds': float(middle),
    'quartiles': [float(low), float(high)],
    'rounds': len(times),
  }


@dataclasses.dataclass(frozen=True)
class Peak:
  """What a device could do at most.

  Attributes:
    flops: FLOP/s of dense products of the computation's type.
    bandwidth: bytes/s of its memory.
    source: the vendor's page, or `measured`.
  """

  flops: float
  bandwidth: float
  source: str


def peak_of(device: jax.Device, dtype: str) -> Peak:
  """The published peak of a chip that is in the table, and the measured one of any other."""
  if chip := chips.chip_of(device):
    return Peak(chip.flops[dtype], chip.hbm_bandwidth, chip.source)
  return measure_peak(device, dtype)


def measure_peak(device: jax.Device, dtype: str, *, side: int = 2048, megabytes: int = 256) -> Peak:
  """The best of a large square product, and of a pass that reads and writes a large array."""
  square = jax.device_put(jnp.full((side, side), 1 / side, dtype), device)
  values = jax.device_put(jnp.ones(megabytes * 2**20 // 4, jnp.float32), device)
  product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
  runs = {'product': lambda: product(square, square), 'copy': lambda: copy(values)}
  times = rounds(runs, repeats=8, seconds=4.0)
  return Peak(
    flops=2 * side**3 / min(times['product']),
    bandwidth=2 * values.nbytes / min(times['copy']),
    source='measured',
  )


def peak_memory(device: jax.Device) -> dict[str, int | None]:
  """Bytes that this process held at most: on the device, None where it does not tell; resident."""
  on_device = (device.memory_stats() or {}).get('peak_bytes_in_use')
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
    'device_peak_bytes': on_device,
    # Linux counts kilobytes.
    'resident_peak_bytes': resident if sys.platform == 'darwin' else resident * 1024,
  }


def ratio(times: list[float], reference: list[float]) -> float:
  """How many times as fast `times` are as `reference`: the median over the rounds."""
  return statistics.median(b / a for a, b in zip(times, reference, strict=True))
