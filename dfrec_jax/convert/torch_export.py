"""Writing files of tensors that PyTorch reads."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from dfrec_jax.errors import InputError

TORCH_SUFFIXES = ('.pth', '.pt')
SUFFIXES = (*TORCH_SUFFIXES, '.safetensors')


def check_writable(path: str) -> None:
  """Raises an InputError where `save` could not write, before anything is computed."""
  suffix = pathlib.Path(path).suffix
  if suffix not in SUFFIXES:
    raise InputError(f'{path} must end in {" or ".join(SUFFIXES)}.')
  if suffix in TORCH_SUFFIXES:
    _torch(path)
  if not pathlib.Path(path).parent.is_dir():
    raise InputError(f'There is no folder {pathlib.Path(path).parent} to write {path} in.')


def save(path: str, content: Mapping[str, Any]) -> None:
  """Writes dictionaries of arrays and plain values, beside and renamed.

  Args:
    path: `.pth` or `.pt`, as `torch.save` writes them; or `.safetensors`, where the dictionaries'
      names become prefixes, and plain values strings of the metadata.
    content: name -> {tensor's name: NumPy array}, or a plain value.

  Raises:
    InputError: the file cannot be written.
  """
  beside = pathlib.Path(path).with_name(f'.{pathlib.Path(path).name}.part')
  try:
    _write(path, beside, content)
    os.replace(beside, path)
  # A full disk shows as PyTorch's RuntimeError or safetensors' error.
  except (OSError, RuntimeError, SafetensorError) as error:
    beside.unlink(missing_ok=True)
    raise InputError(f'{path} cannot be written: {error}.') from error


def _write(path, beside, content):
  if path.endswith('.safetensors'):
    arrays, metadata = {}, {'format': 'pt'}
    for name, value in content.items():
      if isinstance(value, Mapping):
        arrays |= {f'{name}.{key}': np.asarray(array, order='C') for key, array in value.items()}
      else:
        metadata[name] = str(value)
    save_file(arrays, beside, metadata)
  else:
    torch = _torch(path)
    tensors = lambda arrays: {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({k: tensors(v) if isinstance(v, Mapping) else v for k, v in content.items()}, beside)


def _torch(path):
  try:
    import torch
  except ImportError as error:
    raise InputError(
      f'Writing {path} needs PyTorch: install the extra `torch` of this package '
      "(pip install -e '.[torch]'), or name a .safetensors file."
    ) from error
  return torch
