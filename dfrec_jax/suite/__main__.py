"""What needs several checkpoints or none: the cross-dataset matrix, the ablations, LaTeX tables.

python -m dfrec_jax.suite matrix --checkpoint=NAME=CKPT ... --data=NAME=CONFIG ... --output=FILE
python -m dfrec_jax.suite ablations --config=CONFIG --workdir=DIR [--only=NAMES] [-- ARGUMENTS]
python -m dfrec_jax.suite latex FILE.json [--columns=NAMES] [--groups=NAMES]

CONFIG is as `dfrec_jax.main` takes it: configs/triplets.py:root=FOLDER. The suite of one checkpoint
is `python -m dfrec_jax.main --mode=eval`.
"""

import argparse
import importlib.util
import pathlib
import shlex
import sys

from absl import logging
from etils import epath
import jax

from dfrec_jax.checkpointing import write_json
from dfrec_jax.errors import InputError
from dfrec_jax.measurements import format_table
from dfrec_jax.suite import ablations, columns, cross_dataset, latex


def main(arguments: list[str]) -> str:
  """Runs a command; returns what to print."""
  # What follows `--` is for every training and evaluation of a sweep.
  split = arguments.index('--') if '--' in arguments else len(arguments)
  parsed = _parser().parse_args(arguments[:split])
  if parsed.command != 'latex':
    logging.set_verbosity(logging.INFO)
    jax.config.update('jax_compilation_cache_dir', str(_CACHE))
  return parsed.run(parsed, arguments[split + 1 :])


_CACHE = pathlib.Path('~/.cache/dfrec_jax/xla').expanduser()


def _parser():
  parser = argparse.ArgumentParser(prog='python -m dfrec_jax.suite', description=__doc__)
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  commands = parser.add_subparsers(dest='command', required=True)
  matrix = commands.add_parser('matrix', help='every checkpoint on every data set')
  matrix.add_argument('--checkpoint', action='append', required=True, metavar='NAME=CKPT')
  matrix.add_argument('--data', action='append', required=True, metavar='NAME=CONFIG')
  matrix.add_argument('--output', required=True, help='JSON file to write')
  matrix.add_argument('--examples', type=int, default=0, help='of each data set; 0 for all')
  matrix.set_defaults(run=_matrix)
  sweep = commands.add_parser('ablations', help='what each part is worth')
  sweep.add_argument('--config', required=True)
  sweep.add_argument('--workdir', required=True)
  sweep.add_argument('--only', default='', help='names, joined by commas; `full` is added')
  sweep.add_argument('--list', action='store_true', help='print the commands and stop')
  sweep.set_defaults(run=_ablations)
  table = commands.add_parser('latex', help='a table for a paper')
  table.add_argument('file')
  table.add_argument('--columns', default=','.join(columns.MAIN))
  table.add_argument('--groups', default='all')
  table.add_argument('--intervals', action='store_true')
  table.set_defaults(run=_latex)
  return parser


def _matrix(parsed, _):
  checkpoints = _named(parsed.checkpoint, '--checkpoint')
  data = {name: read_config(text) for name, text in _named(parsed.data, '--data').items()}
  found = cross_dataset.cross_matrix(checkpoints, data, examples=parsed.examples)
  write_json(epath.Path(parsed.output), {'methods': found})
  tables = []
  for name in ('target_psnr', 'target_ssim', 'target_identity', 'source_identity', 'auc'):
    if any(name in cell for row in found.values() for cell in row.values()):
      rows = [[n, *(_cell(row[d], name) for d in data)] for n, row in found.items()]
      tables.append(format_table([columns.column(name).heading, *data], rows))
  return '\n\n'.join([*tables, f'Matrix: {parsed.output}'])


def _ablations(parsed, further):
  known = ablations.ablations_of(read_config(parsed.config))
  names = [n for n in parsed.only.split(',') if n] or list(known)
  if unknown := [name for name in names if name not in known]:
    raise InputError(f'Unknown ablation {unknown[0]!r}; there are {", ".join(known)}.')
  chosen = {name: known[name] for name in dict.fromkeys([ablations.FULL, *names])}
  workdir = epath.Path(parsed.workdir)
  if parsed.list:
    lines = [ablations.commands(parsed.config, workdir, n, a, further) for n, a in chosen.items()]
    return '\n'.join(shlex.join(line) for pair in lines for line in pair)
  failed = ablations.run_sweep(parsed.config, workdir, chosen, further)
  result = ablations.collect(workdir, chosen)
  write_json(workdir / ablations.FILE, result)
  shown = [n for n in columns.MAIN if n in result['methods'][ablations.FULL]['all']]
  rows = []
  for name, groups in result['methods'].items():
    rows.append([name, *(_cell(groups['all'], column) for column in shown)])
    if name in result['differences']:
      difference = result['differences'][name]
      rows.append(['  minus full', *(_change(difference, column) for column in shown)])
  header = ['', *(columns.column(name).heading for name in shown)]
  text = f'{format_table(header, rows)}\nAblations: {workdir / ablations.FILE}'
  if failed:
    raise InputError(f'{text}\nThese failed: {", ".join(failed)}; their errors are above.')
  return text


def _latex(parsed, _):
  methods = latex.read_methods(parsed.file)
  names, groups = parsed.columns.split(','), parsed.groups.split(',')
  return latex.latex_table(methods, names, groups, intervals=parsed.intervals)


def _cell(figures, name):
  if name not in figures:
    return '-'
  return format(figures[name]['value'], columns.column(name).style)


def _change(figures, name):
  if name not in figures:
    return ''
  value, low, high = (figures[name][key] for key in ('value', 'low', 'high'))
  # A star where the interval is on one side of zero.
  return format(value, '+' + columns.column(name).style) + ('*' if low * high > 0 else '')


def _named(items, flag):
  pairs = [item.partition('=') for item in items]
  names = [name for name, _, _ in pairs]
  if not all(name and value for name, _, value in pairs) or len(set(names)) < len(names):
    raise InputError(f'{flag} is NAME=VALUE, each name once.')
  return {name: value for name, _, value in pairs}


def read_config(text: str):
  """The configuration that `--config=FILE:ARGUMENTS` names.

  Raises:
    InputError: there is no such file, or an argument is wrong.
  """
  path, _, arguments = text.partition(':')
  if not pathlib.Path(path).is_file():
    raise InputError(f'There is no configuration {path}.')
  spec = importlib.util.spec_from_file_location('configuration', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arguments or None)


if __name__ == '__main__':
  try:
    print(main(sys.argv[1:]))
  except (InputError, OSError) as error:
    sys.exit(f'Error: {error}')
