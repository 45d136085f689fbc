"""Converts checkpoints from and to PyTorch.

python -m dfrec_jax.convert from_torch IN.pth OUT [--config=configs/ffpp.py] [--heads=N]
python -m dfrec_jax.convert to_torch IN OUT.pth
python -m dfrec_jax.convert to_file IN OUT.safetensors [--half] [--calibration=FILE]
"""

import argparse
from collections.abc import Mapping
import importlib.util
import json
import pathlib
import sys
from typing import Any

from absl import logging
import numpy as np

from dfrec_jax import calibration as calibrations
from dfrec_jax import checkpointing, model_file
from dfrec_jax.convert import published, torch_export, torch_files
from dfrec_jax.errors import InputError

_NAME = 'converted'


def from_torch(
  source: str, out: str, config: Any = None, heads: int = 0, decoder_heads: int = 0
) -> str:
  """Converts a PyTorch checkpoint into a folder that `load_model` reads.

  Args:
    source: `.pth`, `.pt` or `.safetensors` with the three published dictionaries.
    out: the folder to write; it must not exist.
    config: a configuration whose data, objective and optimizer are stored with the weights; the
      common one if None. Its model is replaced by what the tensors show.
    heads, decoder_heads: of the TIRM's attention, where no known size tells them.

  Returns:
    What was converted, in words.

  Raises:
    InputError: naming every tensor at fault; nothing is written.
  """
  if pathlib.Path(out).exists():
    raise InputError(f'{out} exists already; name another folder.')
  if model_file.is_model_file(out):
    raise InputError(f'{out} will be a folder: give a name without {model_file.SUFFIX}.')
  stored_config = json.loads(_common_config(config).to_json_best_effort())
  state = torch_files.load(source)
  networks, headless = _networks(source, state)
  stored = state.get('config')
  if stored and (heads or decoder_heads):
    raise InputError(
      f'{source} holds its own configuration: leave out --heads and --decoder_heads.'
    )
  try:
    variables = published.from_torch(networks)
    if stored:
      written = _parse_config(source, stored)
      stored_config = {**(stored_config if config else written), 'model': written['model']}
    else:
      stored_config['model'] |= published.read_model_settings(networks, heads, decoder_heads)
    published.check_fit(variables, stored_config['model'])
  except InputError as error:
    raise InputError(f'{source} cannot be converted. {error}') from error
  checkpointing.save_converted(out, stored_config, variables, _step(source, state))
  count = sum(np.size(x) for x in _leaves(variables['params']))
  words = (
    f'{out}: {count:,} parameters, size {stored_config["model"]["size"]}, '
    f'{stored_config["model"]["indexing"]} indexing, {stored_config["model"]["image_size"]} pixels.'
  )
  if headless:
    words += ' The checkpoint has no classification head: every image will score 0.5.'
  return words


def to_torch(source: str, out: str) -> str:
  """Writes a checkpoint as the three published dictionaries; returns what was written, in words.

  Args:
    source: whatever `load_model` reads.
    out: `.pth`, `.pt` or `.safetensors`.

  Raises:
    InputError: there is no such checkpoint, or another ending.
  """
  torch_export.check_writable(out)
  loaded = checkpointing.load_model(source)
  arrays = published.to_torch(_host(loaded), loaded.config.model.size)
  config = json.loads(loaded.config.to_json_best_effort())
  torch_export.save(
    out, {**arrays, 'epoch': loaded.step, 'acc1': 0.0, 'config': json.dumps(config)}
  )
  words = f'{out}: {sum(map(len, arrays.values()))} tensors of step {loaded.step}.'
  if differing := published.differences(config['model']):
    words += (
      f" The authors' code cannot load it, since the model has {', '.join(differing)}; "
      '`dfrec_jax.convert.torch_modules.load_exported` can.'
    )
  return words


def to_file(
  source: str, out: str, *, half: bool = False, calibration: str = '', licence: str = ''
) -> str:
  """Writes parameters, configuration and calibration as one file, which `load_model` reads.

  Args:
    source: whatever `load_model` reads.
    out: the file, `.safetensors`.
    half: parameters as float16. Rounding makes another model, for which the calibration of the
      source does not hold: evaluate the file, and write it again with the calibration of that.
    calibration: `calibration.json` of an evaluation of what is written; where it is empty, that of
      the source is kept if it holds.
    licence: what the file says of its use; where it is empty, what the source says.

  Returns:
    What was written, in words.

  Raises:
    InputError: the calibration is of other weights, a parameter does not fit into float16, or the
      file cannot be written.
  """
  if not model_file.is_model_file(out):
    raise InputError(f'{out} must end in {model_file.SUFFIX}.')
  torch_export.check_writable(out)
  loaded = checkpointing.load_model(source)
  variables = _host(loaded)
  variables = model_file.rounded(variables) if half else variables
  record = calibrations.read_record(calibration) if calibration else loaded.calibration
  if not calibrations.of_same_weights(record, variables):
    if calibration:
      raise InputError(
        f'{calibration} is no calibration of {source}{" rounded to float16" if half else ""}: give '
        'the one that `--mode=eval` wrote of the model as it will be written.'
      )
    record = None
  config = json.loads(loaded.config.to_json_best_effort())
  model_file.write_model_file(
    out, variables, config, loaded.step, record, half=half, licence=licence or loaded.licence
  )
  calibrated = ' and calibration' if record else ', not calibrated'
  return f'{out}: step {loaded.step} of {loaded.path}, with its configuration{calibrated}.'


def _networks(source: str, state: dict[str, Any]) -> tuple[dict[str, Any], bool]:
  """The tensors of each network, and whether the class head was missing."""
  names = torch_files.DICTIONARIES
  problems = [
    f'missing {name}' for name in names.values() if not isinstance(state.get(name), Mapping)
  ]
  problems += [
    f'extra {name}'
    for name, value in state.items()
    if name not in names.values() and np.ndim(value)
  ]
  if problems:
    raise InputError(
      f'{source} is no checkpoint of DFREC, which holds {", ".join(names.values())}: '
      f'{"; ".join(problems)}.'
    )
  networks = {network: torch_files.unwrap(state[name], source) for network, name in names.items()}
  networks['ism'], headless = published.add_class_head(networks['ism'])
  return networks, headless


def _step(source: str, state: dict[str, Any]) -> int:
  epoch = state.get('epoch') or 0
  try:
    return max(int(epoch), 0)
  except (TypeError, ValueError) as error:
    raise InputError(f'{source} has an epoch that is no number: {epoch!r}.') from error


def _host(loaded: checkpointing.LoadedModel) -> dict[str, Any]:
  variables = {**loaded.variables, 'unused': loaded.unused}
  return {name: _map(np.asarray, tree) for name, tree in variables.items() if tree}


def _map(function, tree):
  return {k: _map(function, v) if isinstance(v, dict) else function(v) for k, v in tree.items()}


def _leaves(tree):
  for value in tree.values():
    yield from _leaves(value) if isinstance(value, dict) else (value,)


def _parse_config(source: str, text: Any) -> dict[str, Any]:
  try:
    config = json.loads(text)
    checkpointing.build_model(config['model'])
  except (TypeError, KeyError, ValueError) as error:
    raise InputError(f'{source} has a configuration that cannot be read: {error}') from error
  return config


def _common_config(path: str | None) -> Any:
  """The configuration of a file `configs/NAME.py[:arguments]`, or the common one."""
  if not path:
    from configs import common

    config = common.base()
    config.name = _NAME
    return config
  file, _, arguments = path.partition(':')
  if not pathlib.Path(file).is_file():
    raise InputError(f'There is no configuration {file}.')
  spec = importlib.util.spec_from_file_location('configuration', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arguments or None)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m dfrec_jax.convert', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  read = commands.add_parser('from_torch', help='a PyTorch checkpoint into a folder')
  read.add_argument('source', metavar='IN', help='.pth, .pt or .safetensors')
  read.add_argument('out', metavar='OUT', help='folder to write')
  read.add_argument('--config', help='configs/NAME.py: data and training settings to store')
  read.add_argument('--heads', type=int, default=0, help="attention heads of the TIRM's encoder")
  read.add_argument('--decoder_heads', type=int, default=0, help='and of its decoder')
  write = commands.add_parser('to_torch', help='a checkpoint into a PyTorch file')
  write.add_argument('source', metavar='IN', help='workdir, step or model file')
  write.add_argument('out', metavar='OUT', help='.pth, .pt or .safetensors')
  single = commands.add_parser('to_file', help='parameters and configuration into one file')
  single.add_argument('source', metavar='IN', help='workdir, step or model file')
  single.add_argument('out', metavar='OUT', help='.safetensors')
  single.add_argument('--half', action='store_true', help='parameters as float16')
  single.add_argument(
    '--calibration', default='', metavar='FILE', help='calibration.json of an evaluation of OUT'
  )
  single.add_argument('--licence', default='', metavar='WORDS', help='what OUT says of its use')
  return parser


def main() -> None:
  arguments = vars(_parser().parse_args())
  logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant.
  command = {'from_torch': from_torch, 'to_torch': to_torch, 'to_file': to_file}
  try:
    print(command[arguments.pop('command')](**arguments))
  except (InputError, OSError) as error:
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  main()
