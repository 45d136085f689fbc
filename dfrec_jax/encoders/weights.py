"""Reading and checking the weights of frozen encoders."""

from collections.abc import Mapping
import os

import numpy as np

from dfrec_jax.errors import InputError

Shape = tuple[int, ...]


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """All arrays of an `.npz` file; nothing is unpickled.

  Raises:
    InputError: there is no such file, it is not an archive of numeric arrays, is cut short, or an
      array is not finite.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise InputError(f'There is no weights file {path}; correct its path in the configuration.')
  try:
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as archive:
      arrays = {name: np.asarray(archive[name]) for name in archive.files}
  # A damaged archive fails in zipfile, zlib or numpy, each with exceptions of its own.
  except Exception as error:
    raise InputError(
      f'{path} cannot be read as an .npz of plain arrays ({type(error).__name__}: {error}); '
      'give an intact one, with tensors in PyTorch naming.'
    ) from error
  for name, array in arrays.items():
    if array.dtype.kind not in 'fiu':
      raise InputError(
        f'{path} holds {name} of type {array.dtype}, which is no real number; give an .npz of '
        "the encoder's tensors."
      )
    if not np.isfinite(array).all():
      raise InputError(
        f'{path} holds values that are not finite in {name}; give an intact weights file.'
      )
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
