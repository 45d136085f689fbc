"""Curves on logarithmic axes, as pictures."""

from collections.abc import Sequence
import dataclasses
import itertools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _PALE = (255, 255, 255), (20, 20, 24), (226, 230, 236)
_COLOURS = ((28, 92, 168), (190, 60, 40), (40, 140, 80), (150, 90, 170))
_WIDTH, _HEIGHT, _LARGER = 760, 440, 2  # Drawn larger and shrunk: Pillow's lines have hard edges.
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 44, 60


@dataclasses.dataclass(frozen=True)
class Curve:
  """Points of one quantity.

  Attributes:
    name: in the legend.
    x, y: positive numbers; a point whose y is None is left out.
    dashed: for what a formula says.
  """

  name: str
  x: Sequence[float]
  y: Sequence[float | None]
  dashed: bool = False


def plot(
  curves: Sequence[Curve],
  *,
  title: str,
  x_label: str,
  y_label: str,
  x_names: Sequence[str] | None = None,
) -> Image.Image:
  """Draws curves on two logarithmic axes.

  Args:
    curves: with at least one point among them.
    title, x_label, y_label: words.
    x_names: of the points, where their x are not the reader's numbers.

  Raises:
    ValueError: there is no point.
  """
  points = [(x, y) for c in curves for x, y in zip(c.x, c.y, strict=True) if y is not None]
  if not points:
    raise ValueError('There is no point to draw.')
  canvas = _Canvas(*_limits(points))
  canvas.text(_LEFT, 12, title, large=True)
  longest = max(curves, key=lambda curve: len(curve.x))
  canvas.axes(longest.x, x_names or [f'{x:g}' for x in longest.x], x_label, y_label)
  for number, curve in enumerate(curves):
    canvas.curve(curve, _COLOURS[number % len(_COLOURS)], number)
  return canvas.image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


def _limits(points):
  """Logarithms of the axes' ends: a little beyond the points, and some way even for one of them."""
  ends = []
  for values in zip(*points, strict=True):
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.06 * (high - low), 0.08)
    ends.append((low - margin, high + margin))
  return ends


class _Canvas:
  """A picture with two logarithmic axes."""

  def __init__(self, x_ends, y_ends):
    self._ends = x_ends, y_ends
    self.image = Image.new('RGB', (_WIDTH * _LARGER, _HEIGHT * _LARGER), _PAPER)
    self._pen = ImageDraw.Draw(self.image)
    self._small, self._large = (ImageFont.load_default(size * _LARGER) for size in (13, 16))

  def place(self, x: float, y: float) -> tuple[float, float]:
    share = [
      (math.log10(value) - low) / (high - low)
      for value, (low, high) in zip((x, y), self._ends, strict=True)
    ]
    bottom = _HEIGHT - _BOTTOM
    return _LEFT + share[0] * (_WIDTH - _RIGHT - _LEFT), bottom - share[1] * (bottom - _TOP)

  def axes(self, xs, names, x_label, y_label):
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in _ticks(*self._ends[1]):
      y = self.place(10 ** self._ends[0][0], value)[1]
      self._line([(_LEFT, y), (right, y)], _PALE, 1)
      self.text(_LEFT - 8, y, _short(value), 'rm')
    for x, name in zip(xs, names, strict=True):
      left = self.place(x, 10 ** self._ends[1][0])[0]
      self._line([(left, bottom), (left, bottom + 4)], _INK, 1)
      self.text(left, bottom + 8, name, 'mt')
    self._line([(_LEFT, _TOP), (_LEFT, bottom), (right, bottom)], _INK, 1)
    self.text((_LEFT + right) / 2, _HEIGHT - 10, x_label, 'mb')
    label = Image.new('L', (340 * _LARGER, 20 * _LARGER), 0)
    ImageDraw.Draw(label).text((170 * _LARGER, 10 * _LARGER), y_label, 255, self._small, 'mm')
    label = label.rotate(90, expand=True)
    top = round(((_TOP + bottom) / 2 - 170) * _LARGER)
    self.image.paste(Image.new('RGB', label.size, _INK), (6 * _LARGER, top), label)

  def curve(self, curve: Curve, colour, number: int):
    places = [self.place(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y is not None]
    legend = [(_LEFT + 12, _TOP + 12 + 20 * number), (_LEFT + 40, _TOP + 12 + 20 * number)]
    for start, end in (*itertools.pairwise(places), legend):
      self._segment(start, end, colour, curve.dashed)
    if not curve.dashed:
      for x, y in places:
        box = [(v + sign * 3.5) * _LARGER for sign in (-1, 1) for v in (x, y)]
        self._pen.ellipse(box, fill=colour)
    self.text(_LEFT + 48, legend[0][1], curve.name, 'lm')

  def text(self, x, y, text: str, anchor: str = 'la', large: bool = False):
    font = self._large if large else self._small
    self._pen.text((x * _LARGER, y * _LARGER), text, _INK, font, anchor)

  def _segment(self, start, end, colour, dashed):
    if not dashed:
      self._line([start, end], colour, 2)
      return
    start, end = np.array(start), np.array(end)
    count = max(int(np.linalg.norm(end - start) / 10), 1)
    for i in range(count):
      self._line(
        [tuple(start + (end - start) * (i + part) / count) for part in (0, 0.5)], colour, 2
      )

  def _line(self, places, colour, width: float):
    self._pen.line([(x * _LARGER, y * _LARGER) for x, y in places], colour, round(width * _LARGER))


def _ticks(low: float, high: float) -> list[float]:
  """1, 2 and 5 times the powers of ten between two logarithms; powers alone over many."""
  factors = (1,) if high - low > 3 else (1, 2, 5)
  values = [f * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for f in factors]
  return [value for value in values if low <= math.log10(value) <= high]


def _short(value: float) -> str:
  return f'{value:g}' if 1e-3 <= value < 1e5 else f'{value:.0e}'
