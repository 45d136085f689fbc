"""The best, the median and the worst examples, as pictures."""

from collections.abc import Mapping, Sequence
import dataclasses
import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from dfrec_jax import figures
from dfrec_jax.suite.baselines import Answer

# Pictures are kept, compressed, until the figures of all examples are known.
KEPT = 512
_SIDE, _QUALITY = 160, 92


@dataclasses.dataclass(frozen=True)
class Choice:
  """A row of pictures.

  Attributes:
    kind: `best`, `median` or `worst`.
    number: of the example.
    caption: its attack and figure.
    pictures: title -> JPEG.
  """

  kind: str
  number: int
  caption: str
  pictures: dict[str, bytes]


class Showcase:
  """Pictures of the first forged examples."""

  def __init__(self):
    self._kept: dict[int, dict[str, bytes]] = {}

  def add(self, number: int, example: Mapping[str, Any], answers: Mapping[str, Answer]) -> None:
    """Keeps what the methods made of a forged example; `recovered` is the model's answer."""
    if len(self._kept) >= KEPT:
      return
    own = answers['recovered']
    mask = np.asarray(example['mask'], np.float32)[..., 0]
    pictures = {
      'forged': example['forged'],
      'mask': figures.mask_image(own.mask),
      'true mask': figures.mask_image(mask),
      'recovered source': own.source,
      'true source': example['source'],
      'recovered target': own.target,
      'true target': example['target'],
    }
    others = {n: a.target for n, a in answers.items() if n not in ('recovered', 'copy')}
    pictures |= {f'target by {name}': picture for name, picture in others.items()}
    self._kept[number] = {title: _encode(picture) for title, picture in pictures.items()}

  def choose(self, values: Sequence[float], captions: Sequence[str], each: int = 3) -> list[Choice]:
    """The examples of highest, middle and lowest value; `values` and `captions` are of all."""
    kept = [i for i in self._kept if np.isfinite(values[i])]
    order = sorted(kept, key=lambda i: -values[i])
    middle = max(0, (len(order) - each) // 2)
    parts = {
      'best': order[:each],
      'median': order[middle : middle + each],
      'worst': order[-each:][::-1],
    }
    return [
      Choice(kind, i, captions[i], self._kept[i]) for kind, part in parts.items() for i in part
    ]


def _encode(picture: np.ndarray) -> bytes:
  if max(picture.shape[:2]) > _SIDE:
    scale = _SIDE / max(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  encoded = io.BytesIO()
  Image.fromarray(picture).save(encoded, 'JPEG', quality=_QUALITY)
  return encoded.getvalue()
