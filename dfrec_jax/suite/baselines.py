"""What a recovery is compared with: methods that need no training, and other checkpoints.

Each of them sees the forged photograph and the mask that the model predicted, as the model does.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from absl import logging
import cv2
import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from dfrec_jax.errors import InputError
from dfrec_jax.recovery import Recovery
from input_pipeline.sources import Spread
from input_pipeline.transforms import resize

TELEA_RADIUS = 3
# Biharmonic filling solves one equation a pixel: larger photographs are filled at this side.
BIHARMONIC_SIDE = 160
_NEAREST_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a method says of an example.

  Attributes:
    target: (H, W, 3) uint8, at the photograph's resolution.
    source: the same, of the source; None where the method says nothing of it.
    mask: (H, W) in [0, 1]; None where the method predicts none.
    score: of being forged; None where the method gives none.
  """

  target: np.ndarray
  source: np.ndarray | None = None
  mask: np.ndarray | None = None
  score: float | None = None

  @classmethod
  def of(cls, recovery: Recovery) -> 'Answer':
    return cls(recovery.target, recovery.source, recovery.mask, recovery.score)


Method = Callable[[Mapping[str, Any], Recovery], Answer]


def copy(example: Mapping[str, Any], _: Recovery) -> Answer:
  """Hands back the forged photograph as both people."""
  return Answer(example['forged'], example['forged'])


def telea(example: Mapping[str, Any], recovery: Recovery) -> Answer:
  """Fills the predicted mask from its border (Telea 2004, OpenCV's, radius 3)."""
  hole = (recovery.mask > 0.5).astype(np.uint8)
  return Answer(cv2.inpaint(example['forged'], hole, TELEA_RADIUS, cv2.INPAINT_TELEA))


def biharmonic(example: Mapping[str, Any], recovery: Recovery) -> Answer:
  """Fills the predicted mask with the smoothest surface through its border."""
  return Answer(fill_biharmonic(example['forged'], recovery.mask > 0.5))


def fill_biharmonic(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
  """Fills a hole with the solution of the biharmonic equation (Damelin & Hoang 2018).

  Args:
    image: (H, W, 3) uint8. One of more than 160 pixels a side is filled at that size.
    hole: (H, W) bool; an image without any other pixels stays as it is.

  Returns:
    (H, W, 3) uint8, the image outside of the hole.
  """
  if not hole.any() or hole.all():
    return image
  scale = BIHARMONIC_SIDE / max(hole.shape)
  if scale < 1:
    size = tuple(max(1, round(side * scale)) for side in hole.shape[::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    filled = cv2.resize(fill_biharmonic(small, small_hole), hole.shape[::-1])
    return np.where(hole[..., None], filled, image)
  height, width = hole.shape
  # The square of the Laplacian whose border mirrors the picture.
  rows, columns = (_second_difference(side) for side in (height, width))
  laplacian = sparse.kron(rows, sparse.eye(width)) + sparse.kron(sparse.eye(height), columns)
  squared = (laplacian @ laplacian).tocsr()[np.flatnonzero(hole)]
  unknown, pixels = hole.ravel(), image.reshape(-1, 3) / 255
  known = -squared[:, ~unknown] @ pixels[~unknown]
  solved = linalg.splu(squared[:, unknown].tocsc()).solve(np.ascontiguousarray(known))
  result = image.copy()
  result[hole] = np.round(np.clip(solved, 0, 1) * 255).astype(np.uint8)
  return result


def _second_difference(side):
  middle = np.full(side, -2.0)
  middle[[0, -1]] += 1
  return sparse.diags([np.ones(side - 1), middle, np.ones(side - 1)], [-1, 0, 1])


class NearestTrainingFace:
  """Puts the training photograph that fits best into the mask: a face that is real but not right.

  The target is the photograph that is most like the forged one outside of the predicted mask, laid
  into the mask; the source the one that is most like it inside. Both at 32 pixels, in RGB.
  """

  def __init__(self, train: Any, examples: int):
    """Reads the targets of `examples` rows of the training split, drawn from all of it."""
    self._train = Spread(train, examples)
    logging.info('Reading %d training photographs for the nearest face.', len(self._train))
    faces = [self._shrink(self._train[i]['target']) for i in range(len(self._train))]
    self._faces = np.stack(faces).reshape(len(faces), -1)  # (n, side * side * 3)

  def _shrink(self, image):
    return resize(image, _NEAREST_SIDE).astype(np.float32) / 255

  def _nearest(self, face, weight):
    weight = np.repeat(weight.ravel(), 3)
    # |t - f|^2 weighted, without the part that is the same for every t.
    distance = np.square(self._faces) @ weight - 2 * self._faces @ (weight * face.ravel())
    return self._train[int(np.argmin(distance))]['target']

  def __call__(self, example: Mapping[str, Any], recovery: Recovery) -> Answer:
    forged = example['forged']
    height, width = forged.shape[:2]
    face = self._shrink(forged)
    inside = cv2.resize(recovery.mask, (_NEAREST_SIDE,) * 2, interpolation=cv2.INTER_AREA) > 0.5
    found = cv2.resize(self._nearest(face, (~inside).astype(np.float32)), (width, height))
    soft = cv2.GaussianBlur((recovery.mask > 0.5).astype(np.float32), (0, 0), width / 80)
    target = soft[..., None] * found + (1 - soft[..., None]) * forged
    source = self._nearest(face, inside.astype(np.float32)) if inside.any() else forged
    return Answer(np.round(target).astype(np.uint8), cv2.resize(source, (width, height)))


def named_pairs(text: str, setting: str) -> dict[str, str]:
  """Parses `name=value,name=value`.

  Raises:
    InputError: an item has no name or value, or a name comes twice.
  """
  items = [item.partition('=') for item in filter(None, map(str.strip, text.split(',')))]
  names = [name for name, _, _ in items]
  if not all(name and value for name, _, value in items) or len(set(names)) < len(names):
    raise InputError(f'{setting} is {text!r}; write name=value,name=value, each name once.')
  return {name: value for name, _, value in items}


METHODS = ('telea', 'biharmonic', 'nearest')


def make_methods(
  names: Sequence[str], train: Callable[[], Any], examples: int
) -> dict[str, Method]:
  """The baselines of these names, `copy` first.

  Args:
    names: of `METHODS`.
    train: gives the training split; called only for `nearest`.
    examples: how many training photographs `nearest` knows.

  Raises:
    InputError: an unknown name.
  """
  if unknown := [name for name in names if name not in METHODS]:
    raise InputError(f'Unknown baseline {unknown[0]!r}; the baselines are {", ".join(METHODS)}.')
  simple = {'telea': telea, 'biharmonic': biharmonic}
  return {'copy': copy} | {
    name: NearestTrainingFace(train(), examples) if name == 'nearest' else simple[name]
    for name in names
  }
