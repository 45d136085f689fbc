"""Curves as SVG, drawn without scripts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape
import numpy as np

from dfrec_jax.suite import detection
from dfrec_jax.suite.columns import Column

_WIDTH, _HEIGHT = 260, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 24, 26


class Chart:
  """A chart with axes; x and y are in data's units.

  Args:
    title: above it.
    x, y: (lowest, highest).
    ticks: (place, label) below the x axis.
    style: of the y axis' labels.
  """

  def __init__(self, title: str, x: tuple, y: tuple, ticks: Sequence[tuple], style: str):
    self._x, self._y = x, y if y[1] > y[0] else (y[0] - 0.5, y[0] + 0.5)
    self._parts = [Markup('<text class="chart-title" x="{}" y="14">{}</text>').format(_LEFT, title)]
    for value in np.linspace(*self._y, 3):
      height = self._place(x[0], value)[1]
      self._parts.append(
        Markup('<line class="chart-rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
          _LEFT, _WIDTH - _RIGHT, height, height
        )
      )
      label = format(value, style)
      self._parts.append(
        Markup('<text class="chart-label" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
          _LEFT - 5, height + 3.5, label
        )
      )
    for place, label in ticks:
      self._parts.append(
        Markup('<text class="chart-label" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
          self._place(place, self._y[0])[0], _HEIGHT - 9, label
        )
      )

  def _place(self, x: float, y: float) -> tuple[float, float]:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    across = (x - self._x[0]) / max(self._x[1] - self._x[0], 1e-9)
    up = (y - self._y[0]) / (self._y[1] - self._y[0])
    return _LEFT + width * across, _TOP + height * (1 - up)

  def _points(self, xs, ys) -> str:
    places = (self._place(x, y) for x, y in zip(xs, ys, strict=True))
    return ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)

  def line(self, xs: Sequence[float], ys: Sequence[float], kind: str) -> None:
    """A line, with a dot at each point if there are few."""
    self._parts.append(
      Markup('<polyline class="chart-line chart-{}" points="{}"/>').format(
        kind, self._points(xs, ys)
      )
    )
    if len(xs) <= 16 and kind != 'ideal':
      for x, y in zip(xs, ys, strict=True):
        across, down = self._place(x, y)
        self._parts.append(
          Markup('<circle class="chart-dot chart-{}" cx="{:.1f}" cy="{:.1f}" r="2.4"/>').format(
            kind, across, down
          )
        )

  def band(self, xs, lows, highs, kind: str) -> None:
    """The area between two lines."""
    outline = self._points([*xs, *reversed(xs)], [*lows, *reversed(highs)])
    self._parts.append(
      Markup('<polygon class="chart-band chart-{}" points="{}"/>').format(kind, outline)
    )

  def svg(self, description: str) -> Markup:
    return Markup(
      '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, escape(description), Markup('').join(self._parts))


def curve_chart(
  column: Column,
  levels: Sequence[str],
  series: Mapping[str, Sequence[Mapping[str, Any] | None]],
  reach: tuple[float, float],
) -> Markup:
  """A figure at each level of damage, the first being none, with its 95 % intervals.

  Args:
    column: of the figure.
    levels: labels, one for each point.
    series: the figures of each kind; None where there is none.
    reach: lowest and highest value shown, see `reach_of`.
  """
  ticks = list(enumerate(levels))
  chart = Chart(column.heading, (0, len(levels) - 1), reach, ticks, column.style)
  for kind, figures in series.items():
    drawn = [(x, figure) for x, figure in enumerate(figures) if figure]
    bounded = [(x, figure) for x, figure in drawn if figure['low'] is not None]
    if bounded:
      xs = [x for x, _ in bounded]
      chart.band(xs, [f['low'] for _, f in bounded], [f['high'] for _, f in bounded], kind)
    chart.line([x for x, _ in drawn], [figure['value'] for _, figure in drawn], kind)
  return chart.svg(f'{column.heading} by level of damage: {", ".join(levels)}')


def reach_of(figures: Iterable[Mapping[str, Any] | None]) -> tuple[float, float]:
  """The lowest and highest value or bound of figures, so that charts of one figure compare."""
  bounds = ('low', 'value', 'high')
  values = [f[bound] for f in figures if f for bound in bounds if f[bound] is not None]
  return min(values), max(values)


def roc_chart(scores: np.ndarray, labels: np.ndarray) -> Markup:
  """The ROC curve of scores (n,) for labels (n,)."""
  false_alarms, hits = detection.roc(scores, labels, np.ones(len(labels)))
  chart = Chart('ROC: hits by false alarms', (0, 1), (0, 1), [(x, x) for x in (0, 0.5, 1)], '.1f')
  chart.line([0, 1], [0, 1], 'ideal')
  # A thousand points are more than the picture can show.
  shown = np.unique(np.linspace(0, len(hits) - 1, 200).astype(int))
  chart.line(false_alarms[shown].tolist(), hits[shown].tolist(), 'recovered')
  return chart.svg('ROC curve of the score')


def reliability_chart(scores: np.ndarray, labels: np.ndarray) -> Markup:
  """The share of forged photographs in each bin of the score, by its mean score."""
  bins = np.minimum((scores * detection.BINS).astype(int), detection.BINS - 1)
  filled = [bins == b for b in range(detection.BINS) if (bins == b).any()]
  ticks = [(x, x) for x in (0, 0.5, 1)]
  chart = Chart('Calibration: forged by score', (0, 1), (0, 1), ticks, '.1f')
  chart.line([0, 1], [0, 1], 'ideal')
  means = [float(scores[members].mean()) for members in filled]
  chart.line(means, [float(labels[members].mean()) for members in filled], 'recovered')
  return chart.svg('Share of forged photographs by score')
