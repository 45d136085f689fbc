"""Measures training, recovery and input, and plans for TPU slices; docs/performance.md.

python -m dfrec_jax.benchmark --config=configs/NAME.py[:ARGUMENTS] --what=train|recover|input

On several hosts, started on each of them with the flags of `dfrec_jax.main`, it measures the whole
slice.
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from dfrec_jax import distributed
from dfrec_jax.errors import InputError
from dfrec_jax.flag_parsing import parse_flags

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Configuration, as for training.')
_WHAT = flags.DEFINE_enum('what', 'train', ['train', 'recover', 'input'], 'What to measure.')
_BATCH = flags.DEFINE_list(
  'batch',
  [],
  'Examples a step, of all devices together; the configuration says otherwise. Several numbers, '
  'with a comma between, for --sweep; images a chip for --plan.',
)
_OUTPUT = flags.DEFINE_string('output', '', 'Folder for JSON, tables, plots; none writes nothing.')
_PROFILE = flags.DEFINE_string('profile', '', 'Folder for a trace of a few steps.')
_TRACE = flags.DEFINE_bool('trace', False, 'The same as --profile=OUTPUT/trace.')
_PARTS = flags.DEFINE_bool('parts', True, 'Also measure the parts by themselves.')
_PUBLISHED = flags.DEFINE_bool(
  'published', False, 'Measure the published networks: their settings instead of config.model.'
)
_PEER = flags.DEFINE_enum('peer', None, ['torch'], 'Compare with the PyTorch modules, in turns.')
_PEER_KINDS = flags.DEFINE_list('peer_kinds', ['eager', 'compile'], 'Of PyTorch: eager, compile.')
_SWEEP = flags.DEFINE_bool('sweep', False, 'Measure the batch sizes --batch on --devices.')
_DEVICES = flags.DEFINE_list('devices', [], 'With --sweep: how many devices; all of them.')
_COST = flags.DEFINE_bool('cost_with_size', False, 'Measure --sizes and --image_sizes.')
_SIZES = flags.DEFINE_list(
  'sizes', ['Ti/16', 'S/16', 'B/16', 'L/16', 'H/14'], 'With --cost_with_size: sizes of the model.'
)
_IMAGE_SIZES = flags.DEFINE_list(
  'image_sizes', ['112', '224', '336', '448'], 'With --cost_with_size: sides in pixels.'
)
_PLAN = flags.DEFINE_string(
  'plan', '', 'Compile the step for TPU slices that are not there: v5e:16x16, several, or all.'
)
_EFFORT = flags.DEFINE_float(
  'plan_effort',
  None,
  "With --plan: the compiler's effort for speed, from -1, the default here, to 1; training's is 0.",
  lower_bound=-1.0,
  upper_bound=1.0,
)
_SUITE = flags.DEFINE_enum('suite', None, ['gpu'], 'All that a GPU is asked, into --output.')
_BUDGET = flags.DEFINE_float('budget', 540.0, 'Seconds that --suite may take.', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 20, 'Rounds, of which the median counts.', lower_bound=1)
_SECONDS = flags.DEFINE_float('seconds', 60.0, 'After which no further round begins.')
_CACHE = flags.DEFINE_string(
  'compilation_cache', '', 'Folder of compiled programs; empty, so that compile times are true.'
)
distributed.define_flags()


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    sys.exit(f'Error: unknown argument {argv[1]!r}; settings are given as --config.NAME=VALUE.')
  if logging.get_verbosity() < logging.DEBUG:
    logging.set_verbosity(logging.ERROR)
  try:
    _run()
  except (InputError, OSError) as error:
    sys.exit(f'Error: {error}')


def _run() -> None:
  modes = {'--plan': _PLAN, '--suite': _SUITE, '--peer': _PEER, '--sweep': _SWEEP}
  modes['--cost_with_size'] = _COST
  given = [name for name, flag in modes.items() if flag.value]
  if len(given) > 1:
    raise InputError(f'{" and ".join(given)} exclude each other; give one.')
  batches = _numbers('batch', _BATCH.value)
  if len(batches) > 1 and not (_SWEEP.value or _PLAN.value):
    raise InputError('--batch takes several numbers only with --sweep or --plan.')
  if _EFFORT.value is not None and not _PLAN.value:
    raise InputError('--plan_effort goes with --plan.')
  if _SUITE.value:
    _run_suite(batches)
    return
  config = _CONFIG.value
  if _PLAN.value:
    from dfrec_jax.benchmark import plan

    effort = plan.EFFORT if _EFFORT.value is None else _EFFORT.value
    out = _OUTPUT.value or 'runs/plan'
    plan.main(_PLAN.value, config=config, batch=batches or None, effort=effort, out=out)
    return
  if config is None:  # Only a plan has one of its own.
    raise InputError('--config is missing; name one, such as --config=configs/ffpp.py.')
  # Here, since it takes seconds and a wrong flag should not.
  import jax

  from dfrec_jax.benchmark import commands

  distributed.start_from_flags()
  if jax.process_count() > 1 and given:
    raise InputError(f'{given[0]} is of one process; leave it out, or start it on one host alone.')
  if _CACHE.value:
    jax.config.update('jax_compilation_cache_dir', _CACHE.value)
  if batches:
    config.batch_size = batches[0]
  if _PUBLISHED.value:
    commands.publish(config)
  output = commands.Output(_OUTPUT.value)
  rounds = {'repeats': _REPEATS.value, 'seconds': _SECONDS.value}
  if _PEER.value:
    commands.peer(config, _WHAT.value, output, kinds=tuple(_PEER_KINDS.value), **rounds)
  elif _SWEEP.value:
    counts = _numbers('devices', _DEVICES.value) or [len(jax.devices())]
    commands.sweep(config, _WHAT.value, output, batches or [config.batch_size], counts, **rounds)
  elif _COST.value:
    sides = _numbers('image_sizes', _IMAGE_SIZES.value)
    commands.cost_with_size(config, _WHAT.value, output, _SIZES.value, sides, **rounds)
  else:
    folder = _PROFILE.value or (_trace_folder() if _TRACE.value else '')
    commands.measure(config, _WHAT.value, output, folder, by_part=_PARTS.value, **rounds)


def _trace_folder() -> str:
  if not _OUTPUT.value:
    raise InputError('--trace needs --output=FOLDER, or name a folder with --profile.')
  return str(pathlib.Path(_OUTPUT.value) / 'trace')


def _run_suite(batches: list[int]) -> None:
  from dfrec_jax.benchmark import suite

  if not _OUTPUT.value:
    raise InputError('--suite needs --output=FOLDER.')
  own = ('what', 'parts', 'profile', 'trace', 'compilation_cache')
  if given := [f'--{name}' for name in own if flags.FLAGS[name].present]:
    raise InputError(f'--suite says {" and ".join(given)} of each item itself; leave it out.')
  # As given: each item is a process that parses it again.
  config = [x.partition('=')[2] for x in sys.argv if x.startswith('--config=')]
  if not config:
    raise InputError('--suite needs the configuration as --config=FILE.')
  passed_on = lambda *names: [
    flags.FLAGS[name].serialize() for name in names if flags.FLAGS[name].present
  ]
  suite.run(
    config[-1],
    _OUTPUT.value,
    budget=_BUDGET.value,
    batch=batches[0] if batches else suite.BATCH,
    flags=[x for x in sys.argv if x.startswith('--config.')]
    + passed_on('repeats', 'seconds', 'published'),
    peer_flags=passed_on('peer_kinds'),
  )


def _numbers(flag: str, texts: list[str]) -> list[int]:
  try:
    numbers = [int(text) for text in texts]
  except ValueError:
    numbers = [0]
  if min(numbers, default=1) < 1:
    raise InputError(f'--{flag} is {",".join(texts)}; give numbers of at least 1.')
  return numbers


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
