"""The score of a track over time, as a picture."""

from collections.abc import Sequence
import dataclasses

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _PALE, _OTHER = (255, 255, 255), (20, 20, 24), (226, 230, 236), (190, 196, 206)
_SCORE, _THRESHOLD = (28, 92, 168), (190, 60, 40)
_WIDTH, _HEIGHT, _LARGER = 960, 360, 2  # Drawn larger and shrunk: Pillow's lines have hard edges.
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 44, 52
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_LARGEST_LABELS, _FEW_POINTS = 10, 60


@dataclasses.dataclass(frozen=True)
class Curve:
  """The scores of a track.

  Attributes:
    times: seconds, increasing.
    scores: one for each, in [0, 1].
    gaps: for each, whether the face was lost between the one before and it.
  """

  times: Sequence[float]
  scores: Sequence[float]
  gaps: Sequence[bool]


def score_plot(
  curve: Curve,
  others: Sequence[Curve],
  *,
  title: str,
  threshold: float,
  verdict: float,
  best: int,
  duration: float,
  cuts: Sequence[float] = (),
) -> Image.Image:
  """Draws a track's scores, with those of the other tracks pale behind them.

  Args:
    curve: of the track.
    others: of the other tracks.
    title: above the plot.
    threshold: from which a face counts as swapped.
    verdict: the score of the whole track.
    best: which of the track's frames is shown as its best.
    duration: of the video, in seconds.
    cuts: times of the scenes' beginnings.
  """
  return _Plot(duration).draw(curve, others, title, threshold, verdict, best, cuts)


class _Plot:
  """A canvas with axes: seconds to the right, scores upwards."""

  def __init__(self, duration: float):
    self._duration = max(duration, 1e-3)
    self._image = Image.new('RGB', (_WIDTH * _LARGER, _HEIGHT * _LARGER), _PAPER)
    self._pen = ImageDraw.Draw(self._image)
    self._small, self._large = (ImageFont.load_default(size * _LARGER) for size in (13, 16))

  def draw(self, curve, others, title, threshold, verdict, best, cuts) -> Image.Image:
    self._text((_LEFT, 12), title, font=self._large)
    self._axes()
    for time in cuts:
      self._dashes(self._place(time, 0), self._place(time, 1), _PALE, 4)
    for other in others:
      self._curve(other, _OTHER, 1, 2)
    self._levels(threshold, verdict)
    self._curve(curve, _SCORE, 2, 3.5)
    x, y = self._place(curve.times[best], curve.scores[best])
    self._circle(x, y, 7, outline=_SCORE)
    return self._image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)

  def _place(self, time: float, score: float) -> tuple[float, float]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x = _LEFT + (right - _LEFT) * min(max(time / self._duration, 0), 1)
    return x, bottom - (bottom - _TOP) * min(max(score, 0), 1)

  def _axes(self):
    for score in (0, 0.25, 0.5, 0.75, 1):
      self._line([self._place(0, score), self._place(self._duration, score)], _PALE, 1)
      x, y = self._place(0, score)
      self._text((x - 8, y), f'{score:g}', anchor='rm')
    step = next(
      (s for s in _STEPS if self._duration / s <= _LARGEST_LABELS), self._duration / _LARGEST_LABELS
    )
    for time in np.arange(0, self._duration + 1e-9, step):
      x, y = self._place(time, 0)
      self._line([(x, y), (x, y + 4)], _INK, 1)
      self._text((x, y + 8), _clock(time, step), anchor='mt')
    self._line([self._place(0, 1), self._place(0, 0), self._place(self._duration, 0)], _INK, 1)
    middle = self._place(self._duration / 2, 0)[0]
    unit = 'minutes:seconds' if step >= 60 else 'seconds'
    self._text((middle, _HEIGHT - 8), f'time in the video ({unit})', anchor='mb')
    label = Image.new('L', (200 * _LARGER, 20 * _LARGER), 0)
    ImageDraw.Draw(label).text(
      (100 * _LARGER, 10 * _LARGER), 'score of being forged', 255, self._small, 'mm'
    )
    label = label.rotate(90, expand=True)
    top = round((self._place(0, 0.5)[1] - 100) * _LARGER)
    self._image.paste(Image.new('RGB', label.size, _INK), (8 * _LARGER, top), label)

  def _levels(self, threshold: float, verdict: float):
    ends = lambda score: (self._place(0, score), self._place(self._duration, score))
    self._dashes(*ends(threshold), _THRESHOLD, 8)
    self._dashes(*ends(verdict), _SCORE, 3)
    # Beside the title: near their lines the curve would cross them.
    right = _WIDTH - _RIGHT
    self._text((right, 14), f'- - threshold {threshold:.3f}', fill=_THRESHOLD, anchor='ra')
    self._text((right - 150, 14), f'- - median {verdict:.3f}', fill=_SCORE, anchor='ra')

  def _curve(self, curve: Curve, colour, width: float, radius: float):
    places = [self._place(t, s) for t, s in zip(curve.times, curve.scores, strict=True)]
    for before, after, gap in zip(places, places[1:], curve.gaps[1:], strict=False):
      if gap:
        self._dashes(before, after, colour, 3)
      else:
        self._line([before, after], colour, width)
    # The points of a long track would hide its line.
    for x, y in places:
      self._circle(x, y, radius if len(places) <= _FEW_POINTS else width, fill=colour)

  def _line(self, places, colour, width: float):
    self._pen.line([(x * _LARGER, y * _LARGER) for x, y in places], colour, round(width * _LARGER))

  def _dashes(self, start, end, colour, length: float):
    start, end = np.array(start), np.array(end)
    count = max(int(np.linalg.norm(end - start) / (2 * length)), 1)
    for i in range(count):
      pair = [start + (end - start) * (i + part) / count for part in (0, 0.5)]
      self._line([tuple(place) for place in pair], colour, 1)

  def _circle(self, x: float, y: float, radius: float, **colours):
    box = [(v + sign * radius) * _LARGER for sign in (-1, 1) for v in (x, y)]
    self._pen.ellipse(box, width=2 * _LARGER, **colours)

  def _text(self, place, text: str, *, font=None, fill=_INK, anchor: str = 'la'):
    x, y = place
    self._pen.text((x * _LARGER, y * _LARGER), text, fill, font or self._small, anchor)


def _clock(time: float, step: float) -> str:
  if step >= 60:
    return f'{int(time) // 60}:{int(time) % 60:02d}'
  return f'{time:.1f}' if step < 1 else f'{time:.0f}'
