"""`--plan`: plans of TPU slices, kept in a folder, so that a run goes on where the last stopped."""

from collections.abc import Sequence
import hashlib
import json
import os
import pathlib
import sys
from typing import Any

import ml_collections

from dfrec_jax import programs
from dfrec_jax.benchmark import plan_report, plan_table, step_plan
from dfrec_jax.benchmark.topologies import Slice, parse_slice

# 4 and 256 chips, of v5p the slice that is sold as v5p-128.
SLICES = ('v5e:2x2', 'v5e:16x16', 'v6e:2x2', 'v6e:16x16', 'v5p:2x2x1', 'v5p:4x4x4')
BATCH = 64  # images a chip, where none is given
# Of the compiler: with the least L/16 takes minutes, with training's, 0, it did not end in 26 of
# one core (docs/tpu_plan.md).
EFFORT = -1.0
# What decides a program; the rest of a configuration does not.
_SECTIONS = ('model', 'loss', 'mesh', 'masking', 'optimizer')


def main(
  spec: str,
  *,
  config: ml_collections.ConfigDict | None = None,
  batch: Sequence[int] | None = None,
  effort: float = EFFORT,
  out: str | os.PathLike = 'runs/plan',
) -> None:
  """What `--plan` does: plans a slice, several (`v5e:2x2,v6e:16x16`) or `all`, and prints.

  Args:
    spec: slices, or `all` for `SLICES`.
    config: of training; its mesh has to fit each slice. None is L/16 as `configs/ffpp.py` has it,
      on 4 chips of `fsdp`.
    batch: images a chip, 64 if None; from two or more numbers the largest batch that fits is told.
    effort: the compiler's, from -1 (compiles soonest) to 1; 0 is what training gets.
    out: folder of the results, one JSON file each; what is there is not compiled again.

  Raises:
    InputError: an unknown slice, no compiler, or a configuration that does not fit.
  """
  slices = [parse_slice(name) for name in (SLICES if spec == 'all' else spec.split(','))]
  if config is None:
    from configs import ffpp

    config = ffpp.get_config('fsdp=4')
  records = []
  for wanted in slices:
    for images in batch or (BATCH,):
      record = planned(config, wanted, images, effort, pathlib.Path(out))
      records.append(record)
      print(plan_report.describe(record), end='\n\n', flush=True)
  if len(records) > 1:
    print(plan_table.table(records))


def planned(
  config: ml_collections.ConfigDict, wanted: Slice, batch: int, effort: float, out: pathlib.Path
) -> dict[str, Any]:
  """The plan of `batch` images a chip, from the folder if it is there, else made and kept."""
  config = config.copy_and_resolve_references()
  config.batch_size = batch * wanted.chips
  path = out / f'{_name(config, wanted, batch, effort)}.json'
  if path.is_file():
    return json.loads(path.read_text())
  # A compilation takes minutes, in which nothing else is said.
  print(f'Compiling for {wanted.spec}, {batch} images a chip.', file=sys.stderr, flush=True)
  record = step_plan.make_plan(config, wanted, effort=effort)
  out.mkdir(parents=True, exist_ok=True)
  beside = path.with_suffix(f'.{os.getpid()}.tmp')
  beside.write_text(json.dumps(record, indent=1))
  beside.replace(path)
  return record


def _name(config, wanted, batch, effort):
  settings = {name: config[name].to_dict() for name in _SECTIONS}
  settings['twins'] = config.data.twins
  settings['options'] = programs.compiler_options(config.compiler_options, 'tpu')
  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
  where, size = wanted.spec.replace(':', '-'), config.model.size.replace('/', '-')
  return f'{where}_{size}_{config.model.image_size}_{batch}_effort{effort:g}_{digest}'
