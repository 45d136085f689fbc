"""The 468-point face mesh of MediaPipe as triangles, and drawing in them."""

import cv2
import numpy as np
from scipy.spatial import Delaunay

from input_pipeline.people.pose import head_pose

# The mesh's outline, from the top of the forehead towards the image's right.
OVAL = np.array([
  10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
  152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
])  # fmt: skip
_EYE_CORNERS = (33, 263)
# The mean of this many of the most frontal meshes, looked for among so many, is smooth.
_AVERAGED, _LOOKED_AT = 200, 4000
_SUBPIXEL_BITS = 4
# How deep inside the face, in half distances of the eyes' outer corners, a point moves freely.
_FREE_DEPTH = 0.8


class FaceMesh:
  """Triangles over the mesh's points, and what belongs to their plane.

  Attributes:
    frontal: (468, 2) float32 a face seen from the front, the eyes' outer corners at (-1, 0) and
      (1, 0).
    triangles: (t, 3) int32 indices of points, the outermost of the face first.
    border: (b,) int32 the points of the outline.
    membrane: (468, b) float32, which carries values from the outline over the face as a membrane
      stretched on it lies: a harmonic function, 1 in sum over each row.
    freedom: (468,) float32, 0 on the outline and 1 well inside.
  """

  def __init__(self, frontal: np.ndarray):
    """`frontal`: (468, 2) points of a face seen from the front, at any place and scale."""
    self.frontal = upright(frontal[None])[0].astype(np.float32)
    triangles = Delaunay(self.frontal).simplices
    # Where a turned face folds over itself, the parts nearer to its middle lie in front.
    depth = np.linalg.norm(self.frontal[triangles].mean(1) - self.frontal.mean(0), axis=1)
    self.triangles = triangles[np.argsort(-depth, kind='stable')].astype(np.int32)
    self.border = _border(self.triangles)
    self.membrane = _membrane(self.frontal, self.triangles, self.border)
    away = self.frontal[:, None] - self.frontal[self.border]
    depth = np.clip(np.linalg.norm(away, axis=2).min(1) / _FREE_DEPTH, 0, 1)
    self.freedom = (depth * depth * (3 - 2 * depth)).astype(np.float32)

  @classmethod
  def mean_of(cls, points: np.ndarray) -> 'FaceMesh':
    """From the most frontal of (n, 468, 2) meshes."""
    some = points[:: -(-len(points) // _LOOKED_AT)].astype(np.float32)
    turned = np.linalg.norm(head_pose(some)[:, :2], axis=1)
    return cls(upright(some[np.argsort(turned, kind='stable')[:_AVERAGED]]).mean(0))

  def draw(self, points: np.ndarray, width: int, height: int) -> 'Drawing':
    """Which triangle every pixel shows where the points lie so.

    Args:
      points: (468, 2) float32, whole numbers being pixels' centres.
      width, height: of the picture.
    """
    low, high = np.floor(points.min(0)), np.ceil(points.max(0)) + 1
    left, top = np.clip(low, 0, (width - 1, height - 1)).astype(int).tolist()
    right, bottom = np.clip(high, (left + 1, top + 1), (width, height)).astype(int).tolist()
    corners = (points - np.float32([left, top]))[self.triangles]  # (t, 3, 2)
    number = np.zeros((bottom - top, right - left), np.int16)
    grid = np.rint(corners * 2**_SUBPIXEL_BITS).astype(np.int32)
    for i, triangle in enumerate(grid, 1):
      cv2.fillConvexPoly(number, triangle, i, cv2.LINE_8, _SUBPIXEL_BITS)
    return Drawing((slice(top, bottom), slice(left, right)), number, corners, self.triangles)


class Drawing:
  """A face mesh drawn.

  Attributes:
    box: two slices, the rows (h) and columns (w) of the picture that it lies in.
    covered: (h, w) bool, where a triangle is.
  """

  def __init__(self, box, number: np.ndarray, corners: np.ndarray, triangles: np.ndarray):
    """`number`: (h, w) which triangle, from 1; `corners`: (t, 3, 2) where they lie in the box."""
    self.box = box
    self.covered = number > 0
    self._triangles = triangles
    rows, columns = np.nonzero(number)
    self._pixels = rows, columns
    self._owner = number[rows, columns] - 1
    self._first = corners[:, 0]
    edges = corners[:, 1:] - corners[:, :1]
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    flat = np.abs(area) < 1e-4
    self._edges = edges * np.where(flat, 0, 1 / np.where(flat, 1, area))[:, None, None]

  def spread(self, values: np.ndarray) -> np.ndarray:
    """Spreads values of the points (468, k) linearly over the triangles: (h, w, k) float32.

    It is 0 where no triangle is.
    """
    corners = values[self._triangles]  # (t, 3, k)
    first, a, b = corners[:, 0], *(corners[:, i] - corners[:, 0] for i in (1, 2))
    ax, ay, bx, by = self._edges.reshape(-1, 4, 1).swapaxes(0, 1)
    slope_x, slope_y = a * by - b * ay, b * ax - a * bx
    start = first - slope_x * self._first[:, :1] - slope_y * self._first[:, 1:]
    # A sliver's pixels lie partly outside it, where its slope would lead far away.
    low, high = corners.min(1), corners.max(1)
    room = 0.5 * (high - low)
    table = np.concatenate([start, slope_x, slope_y, low - room, high + room], 1)
    table = np.take(table, self._owner, 0).reshape(len(self._owner), 5, values.shape[1])
    start, slope_x, slope_y, low, high = table.swapaxes(0, 1)
    rows, columns = self._pixels
    x, y = (c.astype(np.float32)[:, None] for c in (columns, rows))
    drawn = np.zeros((*self.covered.shape, values.shape[1]), np.float32)
    drawn[rows, columns] = np.minimum(np.maximum(start + slope_x * x + slope_y * y, low), high)
    return drawn


def upright(points: np.ndarray) -> np.ndarray:
  """Moves, turns and scales (n, 468, 2) meshes: the eyes' outer corners at (-1, 0) and (1, 0)."""
  z = points @ np.complex64([1, 1j])  # (n, 468)
  left, right = (z[:, [corner]] for corner in _EYE_CORNERS)
  z = (2 * z - left - right) / (right - left)
  return np.stack([z.real, z.imag], -1)


def aligned(points: np.ndarray, to: np.ndarray) -> np.ndarray:
  """`points` (468, 2) turned, scaled and moved to lie on `to`, by least squares."""
  z, w = (p @ np.complex64([1, 1j]) for p in (points, to))
  centred = z - z.mean()
  turn = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred)
  z = turn * centred + w.mean()
  return np.stack([z.real, z.imag], -1).astype(np.float32)


def _border(triangles: np.ndarray) -> np.ndarray:
  edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
  edges, uses = np.unique(edges, axis=0, return_counts=True)
  return np.unique(edges[uses == 1]).astype(np.int32)


def _membrane(points: np.ndarray, triangles: np.ndarray, border: np.ndarray) -> np.ndarray:
  """Solves Laplace's equation on the triangles (linear elements: cotangent weights)."""
  n = len(points)
  laplacian = np.zeros((n, n))
  for corner in range(3):
    i, j, k = (triangles[:, (corner + step) % 3] for step in range(3))
    u, v = (points[j] - points[i]).astype(float), (points[k] - points[i]).astype(float)
    area = np.maximum(np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]), 1e-9)
    half_cotangent = (u * v).sum(1) / (2 * area)
    for a, b, sign in ((j, k, -1), (k, j, -1), (j, j, 1), (k, k, 1)):
      np.add.at(laplacian, (a, b), sign * half_cotangent)
  inner = np.setdiff1d(np.arange(n), border)
  weights = np.zeros((n, len(border)))
  weights[border, np.arange(len(border))] = 1
  stiffness = laplacian[np.ix_(inner, inner)] + 1e-9 * np.eye(len(inner))
  weights[inner] = np.linalg.solve(stiffness, -laplacian[np.ix_(inner, border)])
  return weights.astype(np.float32)
