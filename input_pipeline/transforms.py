"""What happens to an example between its source and its batch: NumPy and OpenCV on uint8.

Every random transform draws from the generator that grain gives it, which is fixed by the seed
and the example's position in the stream, so any batch can be made again.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, TypeVar

import cv2
import grain
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.triplets import IMAGE_COLUMNS, Example, pristine_of

# What a device gets; strings stay on the host. A training batch may also hold `TWIN`.
MODEL_KEYS = {
  'forged': np.uint8,
  'source': np.uint8,
  'target': np.uint8,
  'mask': np.float32,
  'has_mask': np.bool_,
  'label': np.int32,
}
TWIN = 'twin'
T = TypeVar('T')
# Rec. 601 weights of red, green and blue in grey.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_MID_GREY = 127.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """How much training examples are varied.

  Attributes:
    flip: mirror half of the examples, all images of one alike.
    crop: the largest share of a side that a random crop removes, in [0, 1).
    probability: of each of the four corruptions of the forged image, separately.
    colour: the largest relative change of brightness, contrast and saturation, in [0, 1).
    blur: the largest standard deviation of a Gaussian blur, in pixels of the model's image.
    noise: the largest standard deviation of Gaussian noise, in grey levels of 255.
    jpeg: lowest and highest JPEG quality, 1 to 100.
  """

  flip: bool
  crop: float
  probability: float
  colour: float
  blur: float
  noise: float
  jpeg: tuple[int, int]

  def __post_init__(self):
    for name, high in (('crop', 0.95), ('probability', 1), ('colour', 0.95)):
      _require(name, getattr(self, name), 0 <= getattr(self, name) <= high, f'0 to {high}')
    for name in ('blur', 'noise'):
      _require(name, getattr(self, name), getattr(self, name) >= 0, 'zero or more')
    low, high = self.jpeg
    _require('jpeg', self.jpeg, 1 <= low <= high <= 100, '(lowest, highest) of 1 to 100')

  @classmethod
  def create(cls, fields: 'Mapping[str, Any] | Augmentation') -> 'Augmentation':
    """From a mapping (a dictionary, a ConfigDict) with exactly the fields above.

    Raises:
      ValueError: a field is missing, unknown or out of range.
    """
    if isinstance(fields, cls):
      return fields
    return from_fields(cls, fields)

  @classmethod
  def none(cls) -> 'Augmentation':
    """Examples as they are."""
    return cls(flip=False, crop=0, probability=0, colour=0, blur=0, noise=0, jpeg=(100, 100))


def from_fields(cls: type[T], fields: Mapping[str, Any]) -> T:
  """A dataclass from a mapping with exactly its fields; an InputError names what is wrong."""
  names = {field.name for field in dataclasses.fields(cls)}
  if wrong := names.symmetric_difference(fields):
    raise InputError(
      f'augmentation must have exactly the fields {", ".join(sorted(names))}; '
      f'missing or unknown: {", ".join(sorted(wrong))}.'
    )
  return cls(**{name: fields[name] for name in names})


def _require(name: str, value: Any, valid: bool, allowed: str):
  if not valid:
    raise InputError(f'augmentation.{name} is {value}; it must be {allowed}.')


class MixPristine(grain.transforms.RandomMap):
  """With probability `rate` puts a pristine example in the place of the given one.

  Its photograph is the example's target or source, with equal chances.
  """

  def __init__(self, rate: float):
    if not 0 <= rate <= 1:
      raise InputError(f'pristine_rate is {rate}; it must be 0 to 1.')
    self._rate = rate

  def random_map(self, element: Example, rng: np.random.Generator) -> Example:
    replaced, photo = rng.random() < self._rate, 'target' if rng.random() < 0.5 else 'source'
    return pristine_of(element, photo) if replaced else element


class PairedGeometry(grain.transforms.RandomMap):
  """One mirroring and one crop for forged, source, target and mask alike, resized to `size`.

  The source gets them too: mirrored and enlarged as its face in the forged image is, it stays
  what can be recovered from it, and the three images of a pristine example stay one. Images of
  equal size are cut at the same pixels. An image that is not square is stretched.
  """

  def __init__(self, size: int, *, flip: bool, crop: float):
    self._size, self._flip, self._crop = size, flip, crop

  def random_map(self, element: Example, rng: np.random.Generator) -> Example:
    removed, x, y, coin = rng.random(4)
    side = 1 - self._crop * removed
    box = (x * (1 - side), y * (1 - side), side)
    flip = self._flip and coin < 0.5
    result = dict(element)
    for key in (*IMAGE_COLUMNS, 'mask'):
      image = resize(_cut(element[key], box), self._size)
      result[key] = np.ascontiguousarray(image[:, ::-1]) if flip else image
    return result


class AddTwin(grain.transforms.Map):
  """Adds `twin`: the target's photograph, which the forged image differs from by the paste alone.

  It comes after the geometry and before the corruption, so that both images share the two.
  """

  def map(self, element: Example) -> Example:
    return element | {TWIN: element['target']}


class ForgedCorruption(grain.transforms.RandomMap):
  """Colour, blur, noise and JPEG compression on the forged image, and on its twin alike.

  It treats pristine examples as it does forged ones; otherwise the label could be read off the
  corruption. Compression comes last, as it does on the way of a published image.
  """

  def __init__(self, augmentation: Augmentation):
    self._augmentation = augmentation

  def random_map(self, element: Example, rng: np.random.Generator) -> Example:
    a = self._augmentation
    recolour, blur, noise, compress = rng.random(4) < a.probability
    factors = 1 + rng.uniform(-a.colour, a.colour, 3)
    blur_deviation = max(rng.uniform(0, a.blur), 0.1)
    noise_deviation, noise_seed = rng.uniform(0, a.noise), rng.integers(2**63)
    quality = int(rng.integers(a.jpeg[0], a.jpeg[1], endpoint=True))

    def corrupt(image):
      if recolour and a.colour:
        image = change_colour(image, *factors)
      if blur and a.blur:
        image = cv2.GaussianBlur(image, (0, 0), blur_deviation)
      if noise and a.noise:
        image = add_noise(image, noise_deviation, np.random.default_rng(noise_seed))
      return compress_jpeg(image, quality) if compress else image

    return element | {key: corrupt(element[key]) for key in ('forged', TWIN) if key in element}


class SelectModelKeys(grain.transforms.Map):
  """Keeps `MODEL_KEYS` and a twin, in their types: what can be stacked and sent to a device."""

  def map(self, element: Example) -> dict[str, np.ndarray]:
    selected = {key: np.asarray(element[key], dtype) for key, dtype in MODEL_KEYS.items()}
    return selected | {key: element[key] for key in (TWIN,) if key in element}


def resize(image: np.ndarray, size: int) -> np.ndarray:
  """Returns (H, W, C) resized to (size, size, C): area averages to shrink, else bilinear."""
  height, width, channels = image.shape
  if (height, width) == (size, size):
    return image
  method = cv2.INTER_AREA if min(height, width) >= size else cv2.INTER_LINEAR
  return cv2.resize(image, (size, size), interpolation=method).reshape(size, size, channels)


def _cut(image: np.ndarray, box: tuple[float, float, float]) -> np.ndarray:
  """Cuts (x, y, side), fractions of the image's sides, at whole pixels."""
  height, width = image.shape[:2]
  x, y, side = box
  h, w = max(1, round(side * height)), max(1, round(side * width))
  top, left = min(round(y * height), height - h), min(round(x * width), width - w)
  return image[top : top + h, left : left + w]


def change_colour(
  image: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
  """Scales the three by factors (1 leaves them), contrast about mid-grey; uint8 to uint8."""
  saturate = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * _LUMA[None]
  offset = np.full((3, 1), (1 - contrast) * _MID_GREY, np.float32)
  return cv2.transform(image, np.hstack([brightness * contrast * saturate, offset]))


def add_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
  """Adds Gaussian noise of `deviation` grey levels; uint8 to uint8."""
  noisy = rng.standard_normal(image.shape, np.float32) * np.float32(deviation) + image
  return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
  """Compresses an RGB image with JPEG `quality` (1 to 100) and decodes it again."""
  bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
  return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def one_opencv_thread(*_):
  """Keeps OpenCV on the calling thread; workers and read threads are the parallelism."""
  cv2.setNumThreads(1)
