"""The 468-point face mesh of MediaPipe 0.10.21, from a process with an environment of its own.

That release holds its models in the wheel, but needs NumPy 1, which JAX no longer runs with.
`make landmarks` makes the environment; `DFREC_LANDMARKS_PYTHON` names another one's interpreter.
"""

import os
import pathlib
import shutil
import struct
import subprocess
import sys

import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.prepare.faces import Face

POINTS = 468
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_WORKER = pathlib.Path(__file__).with_name('mesh_worker.py')
_VARIABLE = 'DFREC_LANDMARKS_PYTHON'
_HOW = 'run `make landmarks` (it needs Python 3.12 or older)'


def interpreter() -> pathlib.Path:
  """The Python that has MediaPipe; whether it is there is another question."""
  return pathlib.Path(os.environ.get(_VARIABLE) or _ROOT / '.venv-landmarks' / 'bin' / 'python')


def require_environment():
  """Raises InputError where there is no Python that has MediaPipe."""
  if not interpreter().exists():
    raise InputError(f'There is no {interpreter()}, which finds landmarks; {_HOW}.')


def make_environment():
  """Does what `make landmarks` does, where that is not done yet.

  Raises:
    InputError: it cannot be done, or it fails.
  """
  if interpreter().exists():
    return
  make = shutil.which('make')
  if _VARIABLE in os.environ or not make or not (_ROOT / 'Makefile').exists():
    require_environment()
  print('Making the environment that finds landmarks (make landmarks).', file=sys.stderr)
  done = subprocess.run([make, 'landmarks'], cwd=_ROOT, stdout=subprocess.DEVNULL, check=False)
  if done.returncode or not interpreter().exists():
    raise InputError(f'`make landmarks` in {_ROOT} failed, as told above; {_HOW}.')


class MeshFinder:
  """Finds faces and their landmarks; holds one process."""

  def __init__(self):
    """Starts the process.

    Raises:
      InputError: its environment is not there.
    """
    require_environment()
    environment = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
    environment |= {'GLOG_minloglevel': '3', 'TF_CPP_MIN_LOG_LEVEL': '3'}
    self._process = subprocess.Popen(
      [interpreter(), _WORKER],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      env=environment,
    )

  def find(self, image: np.ndarray) -> list[Face]:
    """As `faces.FaceFinder.find`.

    Raises:
      InputError: the process has ended.
    """
    height, width = image.shape[:2]
    try:
      self._process.stdin.write(struct.pack('<II', height, width))
      self._process.stdin.write(np.ascontiguousarray(image, np.uint8).tobytes())
      self._process.stdin.flush()
      (count,) = struct.unpack('<I', self._read(4))
      data = self._read(count * POINTS * 8)
    except (OSError, EOFError) as error:
      raise InputError(
        f'{interpreter()} cannot find landmarks; try `{interpreter()} -c "import mediapipe"`, or '
        f'delete its environment and {_HOW}.'
      ) from error
    faces = [face_of(points) for points in np.frombuffer(data, '<f4').reshape(count, POINTS, 2)]
    return sorted(faces, key=lambda face: -face.area)

  def close(self):
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()

  def _read(self, size: int) -> bytes:
    data = self._process.stdout.read(size)
    if len(data) < size:
      raise EOFError
    return data


def face_of(points: np.ndarray) -> Face:
  """The face that a mesh (468, 2) bounds."""
  points = points.astype(np.float32)
  (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
  return Face((left, top, right - left, bottom - top), points)
