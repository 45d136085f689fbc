"""TPU slices that are not there, for the TPU compiler, which runs on any Linux machine."""

import dataclasses
import importlib.util
import math
import os
import pathlib
import re

import jax
from jax.experimental import topologies

from dfrec_jax.benchmark.chips import CHIPS, Chip
from dfrec_jax.errors import InputError

EXTRA = 'tpu-plan'
# Without them the library asks the metadata server of Google's cloud, warns of what it cannot find
# there, and one process locks all others out.
_NO_TPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
# Directions of a slice.
_DIMENSIONS = {'v4': 3, 'v5e': 2, 'v5p': 3, 'v6e': 2}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice: `v5e:16x16` is 256 chips of v5e.

  Attributes:
    spec: as it was asked for.
    chip: of which it is made.
    shape: chips in each direction.
  """

  spec: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    return math.prod(self.shape)


def parse_slice(spec: str) -> Slice:
  """A slice from its name, such as `v5e:16x16` or `v5p:4x4x4`.

  Raises:
    InputError: an unknown chip, or a shape that is none.
  """
  match = re.fullmatch(r'(\w+):(\d+(?:x\d+)+)', spec)
  if not match or match[1] not in _DIMENSIONS:
    raise InputError(
      f'{spec!r} names no TPU slice; give chip and shape, such as v5e:16x16, v6e:2x2 or '
      f'v5p:4x4x4 (chips: {", ".join(_DIMENSIONS)}).'
    )
  shape = tuple(int(side) for side in match[2].split('x'))
  if len(shape) != _DIMENSIONS[match[1]] or 0 in shape:
    example = 'x'.join(['4'] * _DIMENSIONS[match[1]])
    raise InputError(
      f'A slice of {match[1]} has {_DIMENSIONS[match[1]]} sides, as {match[1]}:{example}; '
      f'{spec!r} has {len(shape)}.'
    )
  return Slice(spec, CHIPS[match[1]], shape)


def slice_devices(wanted: Slice) -> list[jax.Device]:
  """Devices of the slice, for which programs can be compiled and on which nothing runs.

  Raises:
    InputError: the compiler's library is not installed, or it knows no such slice.
  """
  library = os.environ.get('TPU_LIBRARY_PATH') or _installed_library()
  if not library or not os.path.isfile(library):
    raise InputError(
      f'A plan needs the TPU compiler{f", which is not at {library}" if library else ""}; '
      f"install the extra: pip install 'dfrec_jax[{EXTRA}]'."
    )
  os.environ['TPU_LIBRARY_PATH'] = library
  for name, value in _NO_TPU.items():
    os.environ.setdefault(name, value)
  try:
    return list(topologies.get_topology_desc(wanted.spec, 'tpu').devices)
  except Exception as error:
    said = str(error).splitlines()[0]
    raise InputError(f'The TPU compiler knows no slice {wanted.spec}: {said}') from error


def _installed_library() -> str | None:
  found = importlib.util.find_spec('libtpu')
  if found is None or not found.submodule_search_locations:
    return None
  return str(pathlib.Path(found.submodule_search_locations[0]) / 'libtpu.so')
