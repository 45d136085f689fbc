"""Reading PyTorch's files of tensors as numpy arrays; nothing is unpickled but tensors.

PyTorch itself is needed for `.pth` and `.pt` alone.
"""

from collections.abc import Mapping
import os
import re
from typing import Any

import ml_dtypes  # makes bfloat16 a type of numpy's, which safetensors asks for by name
import numpy as np
from safetensors import SafetensorError, safe_open

from dfrec_jax.errors import InputError

SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')
# Network -> its dictionary in the published checkpoint; in a `.safetensors`, which is flat, these
# are prefixes of the tensors' names.
DICTIONARIES = {
  'ism': 'state_dict',
  'sirm': 'recover1_state_dict',
  'tirm': 'recover2_state_dict',
}
# Under which training scripts keep the weights, beside the optimizer and the like.
_WRAPPERS = ('state_dict', 'model')
_PARALLEL = 'module.'  # prefix of the names in a network that was trained on several devices


def load(path: str | os.PathLike) -> dict[str, Any]:
  """The content of a `.safetensors`, or else of a file that `torch.save` wrote.

  A `.pth` in the format of PyTorch 1.6 and later is mapped, not read: its arrays are views of the
  file, which must stay as it is while they are used.

  Args:
    path: of the file.

  Returns:
    Nested dictionary of numpy arrays and plain values. float16 and bfloat16 become float32. A
    `.safetensors` whose names begin with those of `DICTIONARIES` becomes nested as well, beside
    the strings of its metadata.

  Raises:
    InputError: there is no such file, it is damaged, it is no dictionary of tensors, it holds
      objects that would have to be unpickled, or PyTorch is missing.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise InputError(f'There is no file {path}; correct the path to the weights.')
  if path.endswith('.safetensors'):
    return _load_safetensors(path)
  content = _plain(_load_torch(path), path)
  if not isinstance(content, dict):
    raise InputError(
      f'{path} holds one {type(content).__name__} instead of tensors by name; give a file of a '
      "network's state_dict."
    )
  return content


def unwrap(state: Mapping[str, Any], path: str | os.PathLike) -> dict[str, np.ndarray]:
  """One network's tensors from what `load` returned.

  Takes what a `state_dict` or `model` wraps, takes off `module.` that begins all names, and drops
  what is no array, such as an epoch.

  Args:
    state: of `load`.
    path: of the file, for errors.

  Raises:
    InputError: no tensor is left.
  """
  for wrapper in _WRAPPERS:
    if isinstance(state.get(wrapper), Mapping):
      return unwrap(state[wrapper], path)
  arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
  if not arrays:
    raise InputError(
      f"{os.fspath(path)} holds no tensors by name; give a file of a network's state_dict."
    )
  if all(name.startswith(_PARALLEL) for name in arrays):
    arrays = {name.removeprefix(_PARALLEL): array for name, array in arrays.items()}
  return arrays


def check_finite(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
  """Raises one InputError that lists every array that is no finite real number."""
  strange = [
    f'{name} of type {array.dtype}'
    for name, array in arrays.items()
    if array.dtype.kind not in 'fiu'
  ]
  if strange:
    raise InputError(
      f'{os.fspath(path)} holds {", ".join(strange)}, which is no real number; give a file of the '
      "network's tensors."
    )
  infinite = [name for name, array in arrays.items() if not np.isfinite(array).all()]
  if infinite:
    raise InputError(
      f'{os.fspath(path)} holds values that are not finite in {", ".join(infinite)}; give an '
      'intact weights file.'
    )


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """One network's finite tensors: `load`, `unwrap` and `check_finite`, with their errors."""
  arrays = unwrap(load(path), path)
  check_finite(arrays, path)
  return arrays


def _load_safetensors(path):
  try:
    with safe_open(path, framework='np') as file:
      arrays = {name: _widened(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
      return _nested(arrays, file.metadata() or {})
  # What is wrong with a damaged header shows in various exceptions.
  except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
    raise InputError(
      f'{path} cannot be read as .safetensors ({_short(error)}); give an intact file.'
    ) from error


def _widened(array):
  """float32 instead of a narrower float."""
  return array.astype(np.float32) if array.dtype in (np.float16, ml_dtypes.bfloat16) else array


def _nested(arrays, metadata):
  """Splits the networks of the published checkpoint; other arrays are returned as they are."""
  known = set(DICTIONARIES.values())
  if not any(name.partition('.')[0] in known for name in arrays):
    return arrays
  nested: dict[str, Any] = dict(metadata)
  for name, array in arrays.items():
    network, _, tensor = name.partition('.')
    if network in known:
      nested.setdefault(network, {})[tensor] = array
    else:
      nested[name] = array
  return nested


def _load_torch(path):
  """The content as PyTorch gives it: tensors in containers, and plain values."""
  try:
    import torch
  except ImportError as error:
    raise InputError(
      f'Reading {path} needs PyTorch: install the extra `torch` of this package '
      "(pip install -e '.[torch]'), or give the tensors as .safetensors."
    ) from error
  with open(path, 'rb') as file:
    mappable = file.read(4) == b'PK\x03\x04'  # a zip archive; older files are pickles in a row
  try:
    with torch.serialization.safe_globals(_numpy_scalars()):
      return torch.load(path, map_location='cpu', weights_only=True, mmap=mappable)
  # A damaged file fails in the archive's reader, the unpickler or the storage, each in its own way.
  except Exception as error:
    # PyTorch refuses what is no tensor in many words, among them the name of its class.
    refused = re.search(r'GLOBAL ([\w.]+\w) |(TorchScript)', str(error))
    if refused:
      raise InputError(
        f'{path} holds Python objects besides tensors ({refused[1] or refused[2]}), which are not '
        'loaded from a file that may be untrusted; save its state_dict alone with torch.save.'
      ) from error
    raise InputError(
      f'{path} cannot be read as a PyTorch file ({type(error).__name__}: {_short(error)}); give an '
      'intact checkpoint of tensors.'
    ) from error


def _numpy_scalars():
  """What a numpy number needs to be read: training scripts save an accuracy as one."""
  scalar = np._core.multiarray.scalar
  types = [type(np.dtype(name)) for name in ('float32', 'float64', 'int32', 'int64', 'bool')]
  # NumPy 1 called the module otherwise, and older files name it so.
  return [np.dtype, *types, scalar, (scalar, 'numpy.core.multiarray.scalar')]


def _short(error):
  """The first sentence of a message."""
  return re.split(r'\.\s|\n', str(error))[0].rstrip('.')


def _plain(value, path, name=''):
  """Tensors as numpy arrays, containers as dictionaries and lists, strange values as text."""
  import torch

  if isinstance(value, torch.Tensor):
    return _as_numpy(value, path, name)
  if isinstance(value, Mapping):
    return {
      str(key): _plain(item, path, f'{name}.{key}'.lstrip('.')) for key, item in value.items()
    }
  if isinstance(value, list | tuple):
    return [_plain(item, path, f'{name}[{i}]') for i, item in enumerate(value)]
  if isinstance(value, np.generic):
    return value.item()
  return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _as_numpy(tensor, path, name):
  """A view where PyTorch's type is numpy's too."""
  import torch

  try:
    narrow = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.detach().float() if narrow else tensor.detach()).numpy()
  except (TypeError, RuntimeError) as error:  # sparse and quantised tensors
    raise InputError(
      f'{path} holds {name or "a tensor"} of the kind {tensor.dtype}, {tensor.layout}, which is no '
      'plain array; save dense float32 tensors.'
    ) from error
