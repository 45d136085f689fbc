"""A model in one file: parameters and configuration as `.safetensors`.

Names are paths in the trees of variables, `params/ism/encoder/stem/kernel`; the metadata holds the
configuration, the step and, of an evaluated model, its calibration. Parameters are float32, or
float16 in half of the room; what is read is float32. Nothing in such a file is ever executed.
"""

from collections.abc import Mapping
import json
from typing import Any, NamedTuple

from etils import epath
from flax import traverse_util
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dfrec_jax.calibration import parse_record
from dfrec_jax.errors import InputError
from dfrec_jax.shipped import MODEL_FILE, PRETRAINED

SUFFIX = '.safetensors'
_FORMAT = 'dfrec_jax'


def is_model_file(path: str) -> bool:
  """Whether the path names a single file, not a workdir."""
  return str(path).endswith(SUFFIX)


def write_model_file(
  path: str,
  variables: Mapping[str, Any],
  config: Mapping[str, Any],
  step: int,
  calibration: Mapping[str, Any] | None = None,
  *,
  half: bool = False,
  licence: str = '',
) -> None:
  """Writes collections of nested arrays with their configuration, beside and renamed.

  Args:
    path: the file.
    variables: nested NumPy arrays by collection.
    config: the whole configuration, as JSON has it.
    step: of the training.
    calibration: scores of the evaluation, see `calibration.make_record`.
    half: parameters as float16, as `rounded` rounds them.
    licence: what the file says of its use.

  Raises:
    InputError: a parameter is too large for float16, or the file cannot be written.
  """
  arrays = {name: np.asarray(array, order='C') for name, array in _flat(variables).items()}
  if half:
    arrays = {k: _halved(k, a) if k.startswith('params/') else a for k, a in arrays.items()}
  metadata = {'format': _FORMAT, 'config': json.dumps(config), 'step': str(step)}
  if licence:
    metadata['licence'] = licence
  if calibration is not None:
    metadata['calibration'] = json.dumps(calibration)
  place = epath.Path(path)
  beside = place.parent / f'.{place.name}.part'
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, str(beside), metadata)
    beside.replace(place)
  except (OSError, SafetensorError) as error:
    beside.unlink(missing_ok=True)
    raise InputError(f'{path} cannot be written: {error}.') from error


class ModelFile(NamedTuple):
  """What such a file holds.

  Attributes:
    variables: nested NumPy arrays by collection, float32.
    config: the whole configuration, as JSON has it.
    step: of the training.
    calibration: scores of the evaluation, or None.
    licence: what it says of its use.
  """

  variables: dict[str, Any]
  config: dict[str, Any]
  step: int
  calibration: dict[str, Any] | None
  licence: str


def rounded(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Collections of NumPy arrays with the parameters as a file in float16 gives them back, float32.

  Statistics of batch norms, which span more, stay as they are.

  Raises:
    InputError: a parameter is too large for float16.
  """
  arrays = {
    name: _whole(_halved(name, array)) if name.startswith('params/') else array
    for name, array in _flat(variables).items()
  }
  return traverse_util.unflatten_dict(arrays, sep='/')


def read_model_file(path: str) -> ModelFile:
  """Reads such a file, or the one of `PRETRAINED`.

  Raises:
    InputError: there is no such file, or it is not one of this package.
  """
  path = str(MODEL_FILE if path == PRETRAINED else path)
  if not epath.Path(path).is_file():
    raise InputError(f'There is no model file {path}; correct its path.')
  try:
    with safe_open(str(path), framework='numpy') as file:
      metadata = file.metadata() or {}
      if metadata.get('format') != _FORMAT:
        raise InputError(
          f'{path} is not a model of this package; convert a PyTorch checkpoint with '
          '`python -m dfrec_jax.convert from_torch`.'
        )
      arrays = {name: _whole(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    config, step = json.loads(metadata['config']), int(metadata['step'])
    calibration = parse_record(metadata.get('calibration', ''))
  except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f'{path} is damaged or no .safetensors file: {error}.') from error
  variables = traverse_util.unflatten_dict(arrays, sep='/')
  return ModelFile(variables, config, step, calibration, metadata.get('licence', ''))


def _flat(variables):
  return traverse_util.flatten_dict(dict(variables), sep='/')


def _halved(name: str, array: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):
    half = array.astype(np.float16)
  if not np.isfinite(half).all():
    raise InputError(f'{name} does not fit into float16; write the file without --half.')
  return half


def _whole(array: np.ndarray) -> np.ndarray:
  return array.astype(np.float32) if array.dtype == np.float16 else array
