"""What happens to a forged photograph before an examiner sees it, in steps, for curves."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import av
import cv2
import numpy as np

from input_pipeline import transforms

_SCREEN_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class Corruption:
  """One kind of damage.

  Attributes:
    title: in words.
    unit: of the levels, in words.
    levels: from mild to strong.
    apply: (image (H, W, 3) uint8, level, generator) -> an image of the same shape.
  """

  title: str
  unit: str
  levels: tuple[float, ...]
  apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def blur(image: np.ndarray, deviation: float, _: np.random.Generator) -> np.ndarray:
  """Gaussian blur; the deviation is in pixels of a photograph of 160 and grows with the side."""
  return cv2.GaussianBlur(image, (0, 0), deviation * max(image.shape[:2]) / 160)


def shrink(image: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
  """Shrinks by averaging and enlarges again."""
  height, width = image.shape[:2]
  size = max(1, round(width * factor)), max(1, round(height * factor))
  small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def brightness(image: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
  """Multiplies the grey levels; what exceeds 255 is lost."""
  return np.clip(np.round(image * factor), 0, 255).astype(np.uint8)


def screenshot(image: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
  """A screenshot of the photograph shown at a scale, cut with a part of a pixel's error.

  The viewer scales bilinearly, the screen has another gamma, the cut is brought back to the size of
  the photograph, and a messenger compresses it (JPEG 85).
  """
  height, width = image.shape[:2]
  shown = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
  shown = np.round(255 * (shown / 255.0) ** 1.1).astype(np.uint8)
  dx, dy = rng.uniform(-0.5, 0.5, 2)
  shift = np.array([[1, 0, dx], [0, 1, dy]])
  size = shown.shape[1], shown.shape[0]
  cut = cv2.warpAffine(shown, shift, size, borderMode=cv2.BORDER_REPLICATE)
  back = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
  return transforms.compress_jpeg(back, _SCREEN_QUALITY)


def video(image: np.ndarray, crf: float, _: np.random.Generator) -> np.ndarray:
  """A key frame of an H.264 video (libx264, 4:2:0) of that constant rate factor."""
  height, width = image.shape[:2]
  padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), 'edge')
  encoder = av.CodecContext.create('libx264', 'w')
  encoder.width, encoder.height, encoder.pix_fmt = padded.shape[1], padded.shape[0], 'yuv420p'
  encoder.framerate, encoder.thread_count = 25, 1
  encoder.options = {'crf': str(crf), 'preset': 'medium', 'tune': 'zerolatency'}
  frame = av.VideoFrame.from_ndarray(padded, format='rgb24').reformat(format='yuv420p')
  decoder = av.CodecContext.create('h264', 'r')
  packets = [*encoder.encode(frame), *encoder.encode(None)]
  frames = [f for packet in [*packets, None] for f in decoder.decode(packet)]
  return frames[0].to_ndarray(format='rgb24')[:height, :width]


CORRUPTIONS = {
  'jpeg': Corruption(
    'JPEG compression',
    'quality',
    (95, 85, 70, 50, 30),
    lambda image, quality, _: transforms.compress_jpeg(image, int(quality)),
  ),
  'blur': Corruption('Gaussian blur', 'deviation in pixels at 160 px', (0.5, 1, 2), blur),
  'noise': Corruption(
    'Gaussian noise', 'deviation in grey levels', (2, 5, 10, 20), transforms.add_noise
  ),
  'resize': Corruption('Shrinking and enlarging', 'scale', (0.75, 0.5, 0.25), shrink),
  'darker': Corruption('Darkening', 'factor', (0.8, 0.6, 0.4), brightness),
  'brighter': Corruption('Brightening', 'factor', (1.2, 1.5, 1.8), brightness),
  'screenshot': Corruption('Screenshot', 'scale shown at', (1.5, 1.1, 0.7), screenshot),
  'video': Corruption('H.264 video', 'constant rate factor', (18, 28, 35, 42), video),
}


def corrupt(
  example: Mapping[str, Any], corruption: Corruption, level: float, seed: int
) -> dict[str, Any]:
  """The example with its forged photograph damaged; what is to be recovered stays as it is."""
  rng = np.random.default_rng(seed)
  return {**example, 'forged': corruption.apply(example['forged'], level, rng)}
