"""A model in one file: parameters and configuration as `.safetensors`.

Names are paths in the trees of variables, `params/ism/encoder/stem/kernel`; the metadata holds the
configuration and the step. Nothing in such a file is ever executed.
"""

from collections.abc import Mapping
import json
from typing import Any

from etils import epath
from flax import traverse_util
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dfrec_jax.errors import InputError

SUFFIX = '.safetensors'
_FORMAT = 'dfrec_jax'


def is_model_file(path: str) -> bool:
  """Whether the path names a single file, not a workdir."""
  return str(path).endswith(SUFFIX)


def write_model_file(
  path: str, variables: Mapping[str, Any], config: Mapping[str, Any], step: int
) -> None:
  """Writes collections of nested arrays with their configuration, beside and renamed.

  Raises:
    InputError: the file cannot be written.
  """
  arrays = {
    name: np.asarray(array, order='C')
    for name, array in traverse_util.flatten_dict(dict(variables), sep='/').items()
  }
  metadata = {'format': _FORMAT, 'config': json.dumps(config), 'step': str(step)}
  place = epath.Path(path)
  beside = place.parent / f'.{place.name}.part'
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, str(beside), metadata)
    beside.replace(place)
  except (OSError, SafetensorError) as error:
    beside.unlink(missing_ok=True)
    raise InputError(f'{path} cannot be written: {error}.') from error


def read_model_file(path: str) -> tuple[dict[str, Any], dict[str, Any], int]:
  """The variables (NumPy), the configuration and the step of such a file.

  Raises:
    InputError: there is no such file, or it is not one of this package.
  """
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
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config, step = json.loads(metadata['config']), int(metadata['step'])
  except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f'{path} is damaged or no .safetensors file: {error}.') from error
  return traverse_util.unflatten_dict(arrays, sep='/'), config, step
