"""Views of a framed face: aligned as the encoder expects it, and varied as photographs vary."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import cv2
import numpy as np

from dfrec_jax.encoders import alignment
from dfrec_jax.errors import InputError
from input_pipeline.transforms import add_noise, change_colour, compress_jpeg, from_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variation:
  """How much views of one photograph differ; the drawn ones are normal unless said.

  Attributes:
    flip: mirror half of the views.
    rotation: standard deviation, in degrees.
    scale: standard deviation of the logarithm of the size.
    crop: standard deviation of the shift, as a share of the aligned side.
    probability: of each of the following, separately.
    colour: the largest relative change of brightness, contrast and saturation, in [0, 1).
    light: the largest relative change of brightness from one side of the face to the other.
    blur: the largest standard deviation of a Gaussian blur, in pixels of the aligned face.
    noise: the largest standard deviation of Gaussian noise, in grey levels of 255.
    jpeg: lowest and highest JPEG quality, 1 to 100.
    cover: the largest side of a covered square, as a share of the aligned side.
  """

  flip: bool
  rotation: float
  scale: float
  crop: float
  probability: float
  colour: float
  light: float
  blur: float
  noise: float
  jpeg: tuple[int, int]
  cover: float

  def __post_init__(self):
    limits = {'rotation': 45, 'scale': 1, 'crop': 0.5, 'probability': 1, 'colour': 0.95}
    limits |= {'light': 1, 'blur': 10, 'noise': 100, 'cover': 1}
    for name, high in limits.items():
      if not 0 <= getattr(self, name) <= high:
        raise InputError(f'augmentation.{name} is {getattr(self, name)}; it must be 0 to {high}.')
    low, high = self.jpeg
    if not 1 <= low <= high <= 100:
      raise InputError(
        f'augmentation.jpeg is {self.jpeg}; it must be (lowest, highest) of 1 to 100.'
      )

  @classmethod
  def create(cls, fields: Mapping[str, Any]) -> 'Variation':
    """From a mapping with exactly the fields above; an InputError names what is wrong."""
    return from_fields(cls, fields)


def draw_view(
  picture: np.ndarray, size: int, variation: Variation, rng: np.random.Generator
) -> np.ndarray:
  """One view of a framed face.

  Args:
    picture: (side, side, 3) uint8, the face where the fixed alignment expects it.
    size: side of the view in pixels.
    variation: how much it varies.
    rng: what it is drawn from.

  Returns:
    (size, size, 3) uint8, aligned to `alignment.TEMPLATE_112` but for the variation.
  """
  v = variation
  view = cv2.warpAffine(
    picture,
    _drawn_alignment(picture, size, v, rng),
    (size, size),
    borderMode=cv2.BORDER_REFLECT_101,
  )
  if v.flip and rng.random() < 0.5:
    view = view[:, ::-1]
  recolour, relight, blur, noise, compress, cover = rng.random(6) < v.probability
  if recolour and v.colour:
    view = change_colour(view, *(1 + rng.uniform(-v.colour, v.colour, 3)))
  if relight and v.light:
    view = _relit(view, rng.uniform(0, v.light), rng.uniform(0, 2 * np.pi))
  if blur and v.blur:
    view = cv2.GaussianBlur(view, (0, 0), max(rng.uniform(0, v.blur), 0.1))
  if noise and v.noise:
    view = add_noise(view, rng.uniform(0, v.noise), rng)
  if compress and v.jpeg[0] < 100:
    view = compress_jpeg(np.ascontiguousarray(view), int(rng.integers(*v.jpeg, endpoint=True)))
  if cover and v.cover:
    view = _covered(view, v.cover, rng)
  return np.ascontiguousarray(view)


def _drawn_alignment(picture, size: int, v: Variation, rng) -> np.ndarray:
  """(2, 3) map from the picture to its view: the fixed alignment, then a drawn similarity."""
  side = picture.shape[0]
  template = alignment.TEMPLATE_112 * (size / 112)
  fixed = alignment.similarity_transform(alignment.MEAN_POINTS * side, template)
  angle, log_scale, *shift = rng.standard_normal(4) * (v.rotation, v.scale, v.crop, v.crop)
  middle = (size - 1) / 2
  drawn = cv2.getRotationMatrix2D((middle, middle), angle, float(np.exp(log_scale)))
  drawn[:, 2] += np.array(shift) * size
  return drawn @ np.vstack([fixed, [0, 0, 1]])


def _relit(view: np.ndarray, strength: float, direction: float) -> np.ndarray:
  """Brighter on one side than on the other, as under a lamp."""
  ramp = np.linspace(-1, 1, len(view), dtype=np.float32)
  factor = 1 + strength * (np.cos(direction) * ramp[None] + np.sin(direction) * ramp[:, None])
  return np.clip(view * factor[..., None].astype(np.float32), 0, 255).astype(np.uint8)


def _covered(view: np.ndarray, largest: float, rng) -> np.ndarray:
  """A square of one random colour somewhere, as a hand or a microphone covers a face."""
  size = len(view)
  side = max(int(size * rng.uniform(0.1, max(largest, 0.1))), 1)
  top, left = rng.integers(size - side + 1, size=2)
  view = view.copy()
  view[top : top + side, left : left + side] = rng.integers(256, size=3)
  return view
