"""Plans: the training step compiled for a TPU slice that is not there, and what that tells."""

from collections.abc import Mapping
import dataclasses
import functools
import math
import time
from typing import Any

import jax
import ml_collections

from dfrec_jax import checkpointing, programs, sharding
from dfrec_jax.benchmark import collectives, estimate, flops, generated, hlo, hlo_cost, hlo_memory
from dfrec_jax.benchmark.topologies import Slice, slice_devices
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.train_state import plan_state
from dfrec_jax.train_step import make_train_step
from input_pipeline.loader import batch_shapes

_LARGE = 65_536  # elements from which an array counts as one of the model's large parameters


@dataclasses.dataclass(frozen=True)
class AbstractStep:
  """The training step, not compiled, and shapes of what it takes.

  Attributes:
    lowered: of `jax.jit`.
    mesh: over the devices it was lowered for.
    params: shapes of the parameters.
    encoders: names of the frozen encoders.
  """

  lowered: jax.stages.Lowered
  mesh: jax.sharding.Mesh
  params: Any
  encoders: list[str]


def lower_step(config: ml_collections.ConfigDict, devices: list[jax.Device]) -> AbstractStep:
  """Lowers the step that `train.train` runs; no parameter is computed.

  Frozen encoders without weights are there with random ones, so that every term is.

  Raises:
    InputError: the configuration does not fit itself or the devices.
  """
  mesh = sharding.make_mesh(config.mesh, devices=devices)
  step, arguments, params, encoders = abstract_step(config, mesh)
  with jax.set_mesh(mesh):
    return AbstractStep(step.lower(*arguments), mesh, params, encoders)


def abstract_step(
  config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> tuple[Any, tuple[Any, ...], Any, list[str]]:
  """The jitted step, shapes of its arguments with their shardings, of the parameters; encoders."""
  sharding.check_batch_size(config.batch_size, mesh)
  model = checkpointing.build_model(config.model)
  encoders, names = generated.load_encoders(config.loss)
  tx, _ = make_optimizer(config.optimizer, config.steps)
  # Outside of `set_mesh`: under it JAX would compute a key on devices that are not there.
  _, state = plan_state(functools.partial(checkpointing.init_variables, model), tx, mesh)
  key = jax.eval_shape(lambda: jax.random.key(0))
  rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
  shapes = batch_shapes(config.batch_size, config.model.image_size, twins=config.data.twins)
  batch = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in shapes.items()
  }
  step = jax.jit(
    make_train_step(model, tx, encoders, config),
    out_shardings=(jax.tree.map(lambda x: x.sharding, state), None),
    donate_argnums=0,
  )
  key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
  arguments = state, batch, generated.abstract(encoders, everywhere), key
  return step, arguments, state.params, names


def make_plan(config: ml_collections.ConfigDict, wanted: Slice, *, effort: float) -> dict[str, Any]:
  """Compiles the step of `config` for the slice and answers what the plan says, as JSON can hold.

  `config.batch_size` counts images of all chips together. `effort` is the compiler's for the
  program's speed, from -1 (compiled soonest) to 1; 0 is what training gets. Where the step does not
  fit, the answer has `fits` false, the compiler's count of bytes and the largest of its
  allocations.

  Raises:
    InputError: no compiler is installed, or the configuration does not fit itself or the slice.
  """
  options = programs.compiler_options(config.compiler_options, 'tpu')
  devices = slice_devices(wanted)
  lowered = lower_step(config, devices)
  record = _settings(config, wanted, lowered) | {'effort': effort, 'compiler_options': options}
  started = time.perf_counter()
  try:
    compiled = lowered.lowered.compile(options | {'exec_time_optimization_effort': effort})
  except jax.errors.JaxRuntimeError as error:
    refused = hlo_memory.out_of_memory(str(error))
    if refused is None:
      raise
    return record | {
      'compile_s': time.perf_counter() - started,
      'fits': False,
      'memory': {'total': refused['used']},
      'capacity': refused['capacity'],
      'temporaries': hlo_memory.refused_temporaries(str(error)),
    }
  record |= {'compile_s': time.perf_counter() - started, 'fits': True}
  return record | analyse(
    compiled.as_text(),
    compiled.cost_analysis(),
    hlo_memory.summarise(compiled.memory_analysis()),
    config,
    wanted,
    lowered,
  )


def analyse(
  text: str,
  xla: Mapping[str, float],
  memory: Mapping[str, float],
  config: ml_collections.ConfigDict,
  wanted: Slice,
  step: AbstractStep,
) -> dict[str, Any]:
  """What an optimised program tells: costs by part, collectives, memory, times, MFU."""
  chip, dtype = wanted.chip, config.model.dtype
  module = hlo.parse(text)
  costs = hlo_cost.costs(module)
  seconds = estimate.roofline_seconds(costs, chip, dtype)
  exchanged = collectives.find(module, step.mesh, costs, seconds)
  counted = _counted(costs, xla)
  parts = estimate.parts_table(costs, seconds, chip, dtype)
  times = estimate.step_time(
    counted['flops'], counted['bytes'], exchanged, seconds, costs, chip, dtype
  )
  model_flops = {
    part: value / wanted.chips
    for part, value in flops.train_flops(
      config.model,
      config.batch_size,
      twins=config.data.twins,
      encoders=step.encoders,
      encoded_examples=config.loss.encoded_examples,
    ).items()
  }
  tirm = parts['tirm']
  tirm_exposed = sum(c.exposed_s(chip.ici_bandwidth) for c in exchanged if c.part == 'tirm')
  mfu = functools.partial(estimate.flops_utilisation, chip=chip, dtype=dtype)
  return {
    'memory': dict(memory),
    'counted': counted,
    'parts': parts,
    'model_flops': model_flops,
    'time': times,
    'mfu': {
      'whole': mfu(sum(model_flops.values()), times['step_s']),
      'whole_one_by_one': mfu(sum(model_flops.values()), times['sum_s']),
      'tirm': mfu(model_flops['tirm'], tirm['formula_s'] + tirm_exposed),
      'tirm_one_by_one': mfu(model_flops['tirm'], tirm['sum_s'] + tirm_exposed),
    },
    'collectives': [_exchange(c, chip) for c in exchanged],
    'gathers_outside_fsdp': outside_fsdp(exchanged, step.params),
    'temporaries': hlo_memory.largest_temporaries(module),
    'unknown_loops': module.unknown_loops(),
  }


def outside_fsdp(exchanged: list[collectives.Collective], params: Any) -> list[str]:
  """Gathers of a whole large parameter, or of one layer's, over another axis than `fsdp`.

  A gathered array is taken for a parameter if it has as many elements and a side of the same
  length, or only one side: the model reshapes kernels before it uses them. So an activation of as
  many elements and of the parameter's width is mistaken for it, and a kernel of which no side is
  left as it was is missed.
  """
  sides_by_size: dict[int, set[int]] = {}
  for leaf in jax.tree.leaves(params):
    for dims in (leaf.shape, leaf.shape[1:]):
      if math.prod(dims) >= _LARGE:
        sides_by_size.setdefault(math.prod(dims), set()).update(dims)

  def whole_parameter(array):
    known = sides_by_size.get(math.prod(array.dims), set())
    sides = [side for side in array.dims if side != 1]
    return bool(known) and (len(sides) == 1 or not known.isdisjoint(sides))

  return [
    f'{array} over {"+".join(c.axes)}: {c.op_name}'
    for c in exchanged
    if c.kind == 'all-gather' and set(c.axes) - {'fsdp'}
    for array in c.arrays
    if whole_parameter(array)
  ]


def _settings(config, wanted, step):
  return {
    'slice': wanted.spec,
    'chip': wanted.chip.name,
    'chips': wanted.chips,
    'configuration': config.name,
    'size': config.model.size,
    'image_size': config.model.image_size,
    'remat': config.model.remat,
    'dtype': config.model.dtype,
    'batch': config.batch_size,
    'batch_per_chip': config.batch_size / wanted.chips,
    'mesh': dict(step.mesh.shape),
    'encoders': step.encoders,
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(step.params)),
    'hbm': wanted.chip.hbm_bytes,
  }


def _counted(costs, xla):
  """FLOP and HBM bytes on a chip; XLA takes a loop's body once, which is mended by our count."""
  once = sum(cost.flops for cost in costs.values())
  products = sum(cost.flops * cost.times for cost in costs.values())
  return {
    'flops': xla['flops'] + products - once,
    'products': products,
    'products_once': once,
    'xla_flops': xla['flops'],
    'bytes': sum(cost.bytes * cost.times for cost in costs.values()),
    'xla_bytes': xla['bytes accessed'],
  }


def _exchange(collective, chip):
  fields = dataclasses.asdict(collective)
  del fields['arrays']
  needed = collective.sent / chip.ici_bandwidth
  hidden = collective.asynchronous and collective.hidden_s >= needed
  return fields | {'exposed_s': collective.exposed_s(chip.ici_bandwidth), 'overlapped': hidden}
