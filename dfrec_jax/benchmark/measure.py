"""One measurement: a configuration's training step, recovery or input, whole and by part."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from dfrec_jax import sharding
from dfrec_jax.benchmark import flops, inputs, timing
from dfrec_jax.benchmark.recovering import RecoveryParts
from dfrec_jax.benchmark.timing import Peak
from dfrec_jax.benchmark.training import Part, TrainingParts

VERSION = 1
WHOLE = 'step'


def measure(
  config: ml_collections.ConfigDict,
  what: str,
  *,
  devices: Sequence[jax.Device] | None = None,
  by_part: bool = True,
  repeats: int = 20,
  seconds: float = 60.0,
  peak: Peak | None = None,
) -> tuple[dict[str, Any], Mapping[str, Part]]:
  """Measures `train`, `recover` or `input`.

  Args:
    config: as for training; `batch_size` is of all devices together.
    what: `train`, `recover` or `input`.
    devices: all there are, of all processes, unless given.
    by_part: also the parts of the step by themselves.
    repeats: rounds.
    seconds: after which no further round begins.
    peak: of one device, if it is known.

  Returns:
    What `--output` gets as JSON (docs/performance.md lists its fields), and the programs.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.check_batch_size(config.batch_size, mesh)
  first = mesh.local_devices[0]
  report = _about(config, what, mesh)
  if what == 'input':
    return report | inputs.measure(config, mesh, repeats=repeats, seconds=seconds), {}
  peak = peak or timing.peak_of(first, config.model.dtype)
  with jax.set_mesh(mesh):
    build = {'train': TrainingParts, 'recover': RecoveryParts}[what](config, mesh, by_part=by_part)
    times = timing.rounds(
      {name: part.run for name, part in build.parts.items()}, repeats=repeats, seconds=seconds
    )
  formulas = _formulas(config, what, getattr(build, 'encoders', []))
  rows = {
    name: _row(times[name], part, formulas.get(name), peak, mesh.size)
    for name, part in build.parts.items()
  }
  whole = rows.pop(WHOLE)
  if what == 'train' and by_part:
    rows['input'] = inputs.measure(config, mesh, repeats=repeats, seconds=seconds / 4)['input']
  if rows:
    known = sum(row['milliseconds'] for name, row in rows.items() if name != 'input')
    # Masking, compositing, losses; less than nothing where the parts overlap in the whole.
    rows['rest'] = {'milliseconds': whole['milliseconds'] - known}
  return report | {
    'encoders': getattr(build, 'encoders', []),
    'peak': {'flops': peak.flops, 'bandwidth': peak.bandwidth, 'source': peak.source},
    'examples_per_second': 1e3 * config.batch_size / whole['milliseconds'],
    WHOLE: whole,
    'parts': rows,
    'memory': timing.peak_memory(first)
    | {'planned_peak_bytes': build.parts[WHOLE].program.peak_bytes},
  }, build.parts


def _about(config, what, mesh):
  first = mesh.local_devices[0]
  return {
    'version': VERSION,
    'what': what,
    'config': config.name,
    'model': config.model.to_dict(),
    'batch': config.batch_size,
    'devices': {
      'count': mesh.size,
      'kind': first.device_kind,
      'platform': first.platform,
      'mesh': dict(mesh.shape),
    },
    'jax': jax.__version__,
  }


def _formulas(config, what, encoders):
  """(FLOP of the model, FLOP that XLA should count) by part and of the whole, of all devices."""
  model, batch = config.model, config.batch_size
  if what == 'recover':
    work = flops.recover_flops(model, batch)
    counted = flops.recover_flops(model, batch, pointwise=True)
  else:
    settings = {
      'twins': config.data.twins,
      'encoders': encoders,
      'encoded_examples': config.loss.encoded_examples,
    }
    work = flops.train_flops(model, batch, **settings)
    counted = flops.train_flops(model, batch, pointwise=True, **settings)
    for name, again in flops.recomputed_flops(model, batch).items():
      counted[name] += again
  parts = {name: (work[name], counted[name]) for name in work}
  return parts | {WHOLE: (sum(work.values()), sum(counted.values()))}


def _row(times, part, formula, peak, devices):
  program = part.program
  work, expected = formula
  counted, accessed = program.counts
  row = timing.summary(times)
  seconds = row['milliseconds'] / 1e3
  of_products, of_memory = work / devices / peak.flops, accessed / peak.bandwidth
  return row | {
    'flops': work,
    'flops_with_pointwise': expected,
    'xla_flops': counted * devices,
    'xla_to_formula': counted * devices / expected if expected else None,
    'mfu': of_products / seconds,
    'bytes_accessed': accessed,
    'bound': 'products' if of_products >= of_memory else 'memory',
    'roofline': max(of_products, of_memory) / seconds,
    'compile_seconds': program.compile_seconds,
    'memory': program.memory,
  }
