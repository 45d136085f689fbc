"""Trained encoders as files that `dfrec_jax.encoders.load_encoder` reads like any other."""

from collections.abc import Mapping
import json
from typing import Any

from etils import epath
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from dfrec_jax.errors import InputError

FORMAT = 'dfrec_jax identity encoder'
FILE = 'encoder.safetensors'
DTYPES = ('float16', 'float32')


def write_encoder(
  path: str, tensors: Mapping[str, np.ndarray], card: Mapping[str, Any], *, dtype: str = 'float16'
) -> None:
  """Writes an encoder, batch norms not folded, beside its place and renamed.

  Args:
    path: the file, `.safetensors`.
    tensors: of the network in PyTorch's naming and layout, as `trainable.Trainable` makes them.
    card: what the file's metadata say beside the tensors, as JSON has it: which network it is, how
      it was trained, its figures, its licence.
    dtype: of the tensors in the file, `float16` or `float32`.

  Raises:
    InputError: another dtype, a value that it cannot hold, or the file cannot be written.
  """
  if dtype not in DTYPES:
    raise InputError(f'config.export_dtype is {dtype!r}; it is {" or ".join(DTYPES)}.')
  arrays = {}
  for name, array in tensors.items():
    with np.errstate(over='ignore'):
      arrays[name] = array.astype(dtype)
    if not np.isfinite(arrays[name]).all():
      raise InputError(f'{name} does not fit into {dtype}; set config.export_dtype to float32.')
  place = epath.Path(path)
  beside = place.parent / f'.{place.name}.part'
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, str(beside), {'format': FORMAT, 'card': json.dumps(card)})
    beside.replace(place)
  except (OSError, SafetensorError) as error:
    beside.unlink(missing_ok=True)
    raise InputError(f'{path} cannot be written: {error}.') from error
