"""How far a recovered face's features lie from where the true ones are."""

from collections.abc import Callable
import math

import numpy as np

from input_pipeline.prepare import landmarks

# Outer corners of the eyes in MediaPipe's mesh: their distance is the unit of the error.
_EYES = (33, 263)
Finder = Callable[[np.ndarray], np.ndarray | None]


class MeshLandmarks:
  """Face meshes of photographs, through the process that preparation of the data uses."""

  def __init__(self):
    """Raises an InputError where the environment with MediaPipe is absent."""
    self._finder = landmarks.MeshFinder()

  def __call__(self, image: np.ndarray) -> np.ndarray | None:
    """(468, 2) x, y in pixels of the largest face in (H, W, 3) uint8; None where none is found."""
    faces = self._finder.find(image)
    return faces[0].points if faces else None

  def close(self) -> None:
    self._finder.close()


def available() -> bool:
  """Whether the environment with MediaPipe is there."""
  return landmarks.interpreter().exists()


def landmark_errors(
  found: np.ndarray | None, true: np.ndarray | None, mask: np.ndarray
) -> tuple[float, float]:
  """Mean distance of landmarks in units of the distance between the eyes' outer corners.

  Args:
    found, true: (n, 2) x, y in pixels of meshes of 468 points; None where no face was found.
    mask: (H, W).

  Returns:
    The error over all points, and over those whose true place lies in the mask; NaN where a face
    was not found, or no point lies there.
  """
  if found is None or true is None:
    return math.nan, math.nan
  unit = np.linalg.norm(true[_EYES[0]] - true[_EYES[1]])
  distance = np.linalg.norm(found - true, axis=1) / unit
  x, y = np.round(true).astype(int).T
  height, width = mask.shape
  on_image = (x >= 0) & (x < width) & (y >= 0) & (y < height)
  inside = on_image & (mask[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] > 0.5)
  return float(distance.mean()), float(distance[inside].mean()) if inside.any() else math.nan
