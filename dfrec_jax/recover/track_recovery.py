"""What was recovered from a track: its scores, its best frames and their average."""

from collections.abc import Sequence
import dataclasses
import statistics

import cv2
import numpy as np

from dfrec_jax.recover import averaging
from dfrec_jax.recover.recoverer import Recovered
from dfrec_jax.recover.tracking import Track
from dfrec_jax.resolution import to_uint8

# A track is divided into so many stretches, and the best frame of each is averaged: the best of
# all would be neighbours, which show the same thing.
STRETCHES = 12
_LEAST_LIKENESS = 0.1
_REACH = 0.03  # Of the soft edge around a mask, a share of the crop's side.


@dataclasses.dataclass(frozen=True)
class Shot:
  """A frame of a track with what was recovered from it.

  Attributes:
    place: of the frame in the track.
    quality: how much it counts, see `averaging.quality`.
    crop: (S, S, 3) uint8.
  """

  place: int
  quality: float
  crop: np.ndarray
  recovered: Recovered


@dataclasses.dataclass(frozen=True)
class Average:
  """The frames of a track as one, in the square of its best frame; S is that crop's side.

  Attributes:
    source, target: (S, S, 3) uint8, averaged at and around the mask.
    mask: (S, S) float32 in [0, 1].
    spread: (S, S) float32, grey levels: mean over the frames of the deviation over the draws.
    instability: mean over the frames, grey levels; None of a single draw.
  """

  source: np.ndarray
  target: np.ndarray
  mask: np.ndarray
  spread: np.ndarray
  instability: float | None


class TrackRecovery:
  """Collects the recoveries of a track's frames; holds the images of the best of each stretch.

  Attributes:
    scores: (place, score, false-alarm rate) of each frame in which the face was found.
    shown: places where there is a face: it was found, or a bridged frame scores as swapped.
    shots: the best frame of each stretch, the very best first.
  """

  def __init__(self, track: Track):
    self.track = track
    self.scores: list[tuple[int, float, float | None]] = []
    self.shown: set[int] = set()
    self._best: dict[int, Shot] = {}
    self._missing = len(track.samples)
    self._found = sum(track.found)

  def add(self, place: int, crop: np.ndarray, recovered: Recovered) -> bool:
    """Takes a frame of the track; whether it was the last one.

    A bridged frame gives neither score nor pixels: the finder saw no face there.
    """
    self._missing -= 1
    if self.track.found[place] or recovered.swapped:
      self.shown.add(place)
    if self.track.found[place]:
      stretch = len(self.scores) * STRETCHES // self._found
      self.scores.append((place, recovered.score, recovered.false_alarm_rate))
      shot = Shot(place, averaging.quality(crop, recovered.score), crop, recovered)
      if stretch not in self._best or shot.quality > self._best[stretch].quality:
        self._best[stretch] = shot
    return not self._missing

  @property
  def shots(self) -> list[Shot]:
    return sorted(self._best.values(), key=lambda shot: (-shot.quality, shot.place))

  def verdict(self) -> tuple[float, float | None]:
    """The median score, of the lower one of two, and the false-alarm rate at it."""
    middle = statistics.median_low(score for _, score, _ in self.scores)
    return middle, next(rate for _, score, rate in self.scores if score == middle)

  def release(self) -> None:
    """Forgets the images."""
    self._best.clear()


def weights(shots: Sequence[Shot]) -> np.ndarray:
  """How much each counts, the best one 1."""
  return np.array([shot.quality for shot in shots]) / max(shot.quality for shot in shots)


def average(shots: Sequence[Shot]) -> Average:
  """Aligns the shots of a track to the first of them, the best, and averages them robustly.

  Shots whose face looks unlike that of the best one count less. Beside the face source and target
  are those of the best shot: what is behind a person moves otherwise.
  """
  crops, best = [shot.crop for shot in shots], shots[0].recovered
  side = crops[0].shape[0]
  transforms = [averaging.STAY, *(averaging.alignment(crops[0], crop) for crop in crops[1:])]
  aligned = [averaging.move(*pair, side) for pair in zip(crops, transforms, strict=True)]
  alike = [max(averaging.likeness(crops[0], crop), _LEAST_LIKENESS) ** 2 for crop in aligned]
  counts = weights(shots) * alike

  def together(name: str) -> np.ndarray:
    images = [getattr(shot.recovered, name) for shot in shots]
    moved = [averaging.move(*pair, side) for pair in zip(images, transforms, strict=True)]
    return averaging.robust_mean(moved, counts)

  mask = np.clip(together('mask'), 0, 1)
  inside = _widened(mask)[..., None]
  blend = lambda name: to_uint8(
    (inside * together(name) + (1 - inside) * getattr(best, name).astype(np.float32)) / 255
  )
  levels = [shot.recovered.instability for shot in shots]
  return Average(
    source=blend('source'),
    target=blend('target'),
    mask=mask,
    spread=np.maximum(together('spread'), 0),
    instability=None if None in levels else float(np.average(levels, weights=counts)),
  )


def _widened(mask: np.ndarray) -> np.ndarray:
  """The mask (S, S) with its surroundings and a soft edge, within which faces are averaged."""
  reach = max(round(_REACH * len(mask)), 1)
  kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (4 * reach + 1, 4 * reach + 1))
  return np.clip(cv2.GaussianBlur(cv2.dilate(mask, kernel), (0, 0), reach), 0, 1)


def mean_embedding(embeddings: np.ndarray, shots: Sequence[Shot]) -> np.ndarray:
  """The weighted mean of identity vectors (n, D), of length 1, as (1, D)."""
  unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
  mean = np.average(unit, axis=0, weights=weights(shots), keepdims=True)
  return (mean / np.maximum(np.linalg.norm(mean, axis=1), 1e-12)).astype(np.float32)
