"""Faces of sampled frames linked into tracks, each with one smooth square."""

from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from input_pipeline.prepare.faces import Box, intersection
from input_pipeline.prepare.tracks import Square, square_around

# A face belongs to a track where the boxes overlap this much, or where it is as near as a head
# moves in the time, in units of the box, and about as large.
_LEAST_IOU = 0.25
_SHIFT, _SHIFT_PER_SECOND, _LARGEST_SHIFT = 0.3, 1.2, 1.2
_LARGEST_SCALE = 1.6
# A face that is not found for longer starts a new track; one missed sample is always bridged.
_LONGEST_GAP = 2.0  # seconds
_GAP_SAMPLES = 2.5
# Of two boxes of a frame, the smaller one is the same face again from this share inside the other.
_SAME_FACE = 0.6
# Standard deviations of the smoothing in time, in seconds; a head's size changes slower.
_SMOOTH_PLACE, _SMOOTH_SIZE = 0.3, 0.8
_WIDTH = 3.0  # of the smoothing's window, in its standard deviations


@dataclasses.dataclass(frozen=True)
class Track:
  """A face through a scene.

  Attributes:
    samples: numbers of the sampled frames in which it is seen or bridged, without a hole.
    found: for each, whether the finder saw it there.
    boxes: (n, 4) x, y, width, height, smoothed over time.
    squares: the square around each box.
  """

  samples: tuple[int, ...]
  found: tuple[bool, ...]
  boxes: np.ndarray
  squares: tuple[Square, ...]


class Linker:
  """Links the faces of sampled frames, given in their order, into tracks.

  Args:
    interval: seconds between two samples.
    margin: side of a square in units of the box's larger side.
  """

  def __init__(self, interval: float, margin: float):
    self._longest_gap = max(_LONGEST_GAP, _GAP_SAMPLES * interval)
    self._margin = margin
    self._times: list[float] = []
    self._ended: list[list[tuple[int, Box]]] = []
    self._live: list[list[tuple[int, Box]]] = []

  def add(self, time: float, boxes: Sequence[Box], *, cut: bool) -> None:
    """Takes the faces of the next sampled frame.

    Args:
      time: of the frame, in seconds.
      boxes: of its faces.
      cut: the scene changed before it: every track ends.
    """
    sample = len(self._times)
    self._times.append(time)
    gone = lambda chain: cut or time - self._times[chain[-1][0]] > self._longest_gap
    self._ended += [chain for chain in self._live if gone(chain)]
    self._live = [chain for chain in self._live if not gone(chain)]
    boxes = distinct(boxes)
    joined = set()
    for row, column in self._assign(time, boxes):
      self._live[row].append((sample, boxes[column]))
      joined.add(column)
    self._live += [[(sample, box)] for i, box in enumerate(boxes) if i not in joined]

  def tracks(self) -> list[Track]:
    """All tracks, those of the most frames first, then in the order of their beginning."""
    chains = sorted(
      self._ended + self._live, key=lambda chain: (-len(chain), chain[0][0], chain[0][1])
    )
    return [self._track(chain) for chain in chains]

  def _assign(self, time: float, boxes: Sequence[Box]) -> list[tuple[int, int]]:
    """Pairs of live track and face, the nearest ones together."""
    if not (self._live and boxes):
      return []
    costs = np.array(
      [
        [_cost(chain[-1][1], box, time - self._times[chain[-1][0]]) for box in boxes]
        for chain in self._live
      ]
    )
    impossible = 1e6
    pairs = zip(*linear_sum_assignment(np.minimum(costs, impossible)), strict=True)
    return [(int(row), int(column)) for row, column in pairs if costs[row, column] < impossible]

  def _track(self, chain: list[tuple[int, Box]]) -> Track:
    known = [sample for sample, _ in chain]
    samples = range(known[0], known[-1] + 1)
    seen = np.array([box for _, box in chain])
    seen_at, times = (np.array([self._times[s] for s in numbers]) for numbers in (known, samples))
    centres = smooth(seen_at, seen[:, :2] + seen[:, 2:] / 2, times, _SMOOTH_PLACE)
    sizes = np.exp(smooth(seen_at, np.log(seen[:, 2:]), times, _SMOOTH_SIZE))
    boxes = np.concatenate([centres - sizes / 2, sizes], 1)
    squares = tuple(square_around(tuple(box), self._margin) for box in boxes.tolist())
    return Track(tuple(samples), tuple(np.isin(samples, known).tolist()), boxes, squares)


def distinct(boxes: Sequence[Box]) -> list[Box]:
  """The boxes without those that lie mostly inside a larger one; the largest first."""
  kept = []
  for box in sorted(boxes, key=lambda box: -box[2] * box[3]):
    if all(intersection(box, other) < _SAME_FACE * box[2] * box[3] for other in kept):
      kept.append(box)
  return kept


def smooth(known_at: np.ndarray, known: np.ndarray, at: np.ndarray, deviation: float) -> np.ndarray:
  """Local linear regression with a Gaussian kernel (Cleveland 1979, without his iterations).

  It neither lags behind a steady motion nor bends it at the ends.

  Args:
    known_at: (n,) increasing times of the values.
    known: (n, d) values.
    at: (m,) times asked for.
    deviation: standard deviation of the kernel, in the unit of time.

  Returns:
    (m, d).
  """
  smoothed = np.empty((len(at), known.shape[1]))
  reach = _WIDTH * deviation
  starts = np.searchsorted(known_at, at - reach)
  ends = np.searchsorted(known_at, at + reach, side='right')
  for i, time in enumerate(at):
    # At the least the values on both sides, however far they are.
    after = int(np.searchsorted(known_at, time, side='right'))
    window = slice(max(min(starts[i], after - 1), 0), max(ends[i], after + 1))
    shifts, values = known_at[window] - time, known[window]
    # A gap wider than the kernel is bridged by a straight line.
    wide = max(deviation, np.sort(np.abs(shifts))[:2][-1] / 2)
    weights = np.exp(-0.5 * (shifts / wide) ** 2)
    mean_shift = np.average(shifts, weights=weights)
    mean = np.average(values, axis=0, weights=weights)
    variance = np.average((shifts - mean_shift) ** 2, weights=weights)
    if variance > 1e-12:
      centred = (weights * (shifts - mean_shift))[:, None]
      slope = (centred * (values - mean)).sum(0) / (weights.sum() * variance)
      mean = mean - slope * mean_shift
    smoothed[i] = mean
  return smoothed


def _cost(last: Box, box: Box, seconds: float) -> float:
  """How badly a face continues a track; infinite where it does not."""
  sizes = [max(last[2:]), max(box[2:])]
  scale = max(sizes) / max(min(sizes), 1e-9)
  if scale > _LARGEST_SCALE:
    return np.inf
  centres = [np.array(b[:2]) + np.array(b[2:]) / 2 for b in (last, box)]
  shift = float(np.linalg.norm(centres[1] - centres[0])) / (sum(sizes) / 2)
  overlap = _iou(last, box)
  allowed = min(_SHIFT + _SHIFT_PER_SECOND * seconds, _LARGEST_SHIFT)
  if overlap < _LEAST_IOU and shift > allowed:
    return np.inf
  return shift - overlap + np.log(scale)


def _iou(a: Box, b: Box) -> float:
  shared = intersection(a, b)
  return shared / max(a[2] * a[3] + b[2] * b[3] - shared, 1e-9)
