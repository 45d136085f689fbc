"""The face meshes of a folder of people, found once and kept beside the photographs."""

import io
import pathlib
import zipfile
import zlib

from etils import epath
import numpy as np

from dfrec_jax.errors import InputError

FILE = 'landmarks.npz'
POINTS = 468
# In sides of the picture: larger ones are landmarks of another picture.
_LARGEST_FACE = 2


def read_landmarks(root: epath.PathLike) -> tuple[np.ndarray, np.ndarray]:
  """Reads `landmarks.npz` of a folder of `<person>/<photo>`.

  Args:
    root: the folder; may be a `gs://` path.

  Returns:
    names: (n,) strings, paths of the photographs relative to `root`, sorted; the part before the
      first slash is the person.
    points: (n, 468, 2) float16, the MediaPipe face mesh of each: x then y in pixels of the
      photograph, whose upper left corner is (0, 0).

  Raises:
    InputError: there is no such file, or it does not hold these arrays.
  """
  path = epath.Path(root).expanduser() / FILE
  make = f'`python -m input_pipeline.prepare faces --raw={root} --out=FOLDER`'
  try:
    data = path.read_bytes()
  except OSError as error:
    raise InputError(
      f'There is no {path}, which holds the face meshes of the photographs; make a folder that has '
      f'it with {make} and give that folder.'
    ) from error
  names, points = parse_landmarks(data, path, f'make it anew with {make}')
  order = np.argsort(names)
  return names[order], points[order].astype(np.float16)


def parse_landmarks(
  data: bytes, path: epath.PathLike, remedy: str
) -> tuple[np.ndarray, np.ndarray]:
  """The arrays of a `landmarks.npz`, checked.

  Args:
    data: its content.
    path: of the file, for errors.
    remedy: what an error advises.

  Returns:
    names (n,) strings and points (n, 468, 2) floats, in the file's order.

  Raises:
    InputError: it is no such file, or a name or point in it cannot be one.
  """
  try:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
      names, points = arrays['names'], arrays['points']
  except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
    raise InputError(f'{path} is not a file of the arrays names and points; {remedy}.') from error
  if problem := _problem(names, points):
    raise InputError(f'{path} {problem}; {remedy}.')
  return names, points


def lies_in(points: np.ndarray, height: int, width: int) -> bool:
  """Whether a mesh (468, 2) can be a face of a picture: its middle inside, not much larger."""
  points = points.astype(np.float32)
  x, y = points.mean(0)
  largest = float(np.ptp(points, axis=0).max())
  return bool(0 < x < width and 0 < y < height and largest <= _LARGEST_FACE * max(height, width))


def person_of(name: str) -> str:
  """The person of a photograph's name."""
  return name.partition('/')[0]


def _problem(names: np.ndarray, points: np.ndarray) -> str | None:
  if names.ndim != 1 or names.dtype.kind != 'U':
    return f'holds names of shape {names.shape} and type {names.dtype}, not a list of strings'
  if points.shape != (len(names), POINTS, 2) or points.dtype.kind != 'f':
    return (
      f'holds points of shape {points.shape} and type {points.dtype} for {len(names)} names, not '
      f'floats of shape ({len(names)}, {POINTS}, 2)'
    )
  if not np.isfinite(points).all() or np.abs(points).max(initial=0) > np.finfo(np.float16).max:
    return 'holds points that are not finite or too large'
  if len(points) and not np.ptp(points, axis=1).all():
    return 'holds points of a face that has no extent'
  if len(np.unique(names)) < len(names):
    return 'names a photograph twice'
  for name in names.tolist():
    parts = pathlib.PurePosixPath(name).parts
    if len(parts) < 2 or '..' in parts or parts[0] == '/' or '://' in name or '\0' in name:
      return f'names {name!r}, which is not <person>/<photo> inside the folder'
  return None
