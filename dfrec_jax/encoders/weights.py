"""Reading and checking weights files, of frozen encoders and pretrained parts."""

from collections.abc import Mapping
import os

import numpy as np

from dfrec_jax.convert import torch_files
from dfrec_jax.errors import InputError
from dfrec_jax.shipped import ENCODERS

Shape = tuple[int, ...]


def weights_file(weights: str | os.PathLike) -> str:
  """The path of a weights file: itself, or of a name of `shipped.ENCODERS` where it lies."""
  weights = os.fspath(weights)
  return os.fspath(ENCODERS.get(weights, weights))


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """All arrays of a weights file; nothing is unpickled but tensors.

  Args:
    path: an `.npz`, or what PyTorch's users keep: `.safetensors`, `.pth`, `.pt` or `.bin`, of which
      wrappers such as `{'state_dict': ...}` and the prefix `module.` are taken off; or a name of
      `shipped.ENCODERS`.

  Raises:
    InputError: there is no such file, it is of another kind or damaged, it holds objects that are
      no tensors, an array is not finite, or PyTorch is needed and missing.
  """
  path = weights_file(path)
  if not os.path.isfile(path):
    raise InputError(f'There is no weights file {path}; correct its path in the configuration.')
  if path.endswith(torch_files.SUFFIXES):
    return torch_files.read_state_dict(path)
  if not path.endswith('.npz'):
    raise InputError(
      f'{path} is of no known kind; give the weights as .npz, {", ".join(torch_files.SUFFIXES)}.'
    )
  try:
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as archive:
      arrays = {name: np.asarray(archive[name]) for name in archive.files}
  # A damaged archive fails in zipfile, zlib or numpy, each with exceptions of its own.
  except Exception as error:
    raise InputError(
      f'{path} cannot be read as an .npz of plain arrays ({type(error).__name__}: {error}); '
      'give an intact one, with tensors in PyTorch naming.'
    ) from error
  torch_files.check_finite(arrays, path)
  return arrays


def check_tensors(
  network: str, arrays: Mapping[str, np.ndarray], expected: Mapping[str, Shape]
) -> None:
  """Raises one InputError that names every missing, unexpected and misshapen tensor."""
  missing = [name for name in expected if name not in arrays]
  extra = [name for name in arrays if name not in expected]
  misshapen = [
    f'{name} {arrays[name].shape} instead of {shape}'
    for name, shape in expected.items()
    if name in arrays and arrays[name].shape != shape
  ]
  kinds = (('missing', missing), ('unexpected', extra), ('misshapen', misshapen))
  problems = [f'{kind}: {", ".join(names)}' for kind, names in kinds if names]
  if problems:
    raise InputError(f'These are not the tensors of {network}; {"; ".join(problems)}.')


def scale_and_shift(
  arrays: Mapping[str, np.ndarray], norm: str, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
  """The batch norm that PyTorch calls `norm`, with its running statistics: y = scale x + shift."""
  weight, bias, mean, variance = (
    arrays[f'{norm}.{leaf}'].astype(np.float64)
    for leaf in ('weight', 'bias', 'running_mean', 'running_var')
  )
  scale = weight / np.sqrt(variance + epsilon)
  return scale, bias - mean * scale


def norm_arrays(
  norm: str, params: Mapping[str, np.ndarray], running: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """PyTorch's tensors of the batch norm that it calls `norm`, of `layers.BatchNorm`'s variables."""
  return {
    f'{norm}.weight': params['scale'],
    f'{norm}.bias': params['bias'],
    f'{norm}.running_mean': running['mean'],
    f'{norm}.running_var': running['var'],
  }
