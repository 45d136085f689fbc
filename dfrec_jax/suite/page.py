"""`report.html`: one self-contained page of an evaluation, its tables, curves and examples.

It calls nothing from elsewhere, runs no scripts, and looks like the examiner's report.
"""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import datetime
from typing import Any

from etils import epath
import jinja2
from markupsafe import Markup
import numpy as np

import dfrec_jax
from dfrec_jax.measurements import PRISTINE
from dfrec_jax.suite import charts, columns
from dfrec_jax.suite.showcase import Choice
from dfrec_jax.suite.summary import Rows

NAME = 'report.html'
_DETECTION = ('auc', 'eer', 'accuracy', 'calibration_error')
_TARGET = tuple(n for n in columns.COLUMNS if n.startswith('target_'))
_IN_MASK = tuple(n for n in _TARGET if n.endswith('_masked'))
_WHOLE = tuple(
  n for n in _TARGET if n not in _IN_MASK and 'top' not in n and n != 'target_identity'
)
_SOURCE = tuple(n for n in columns.COLUMNS if n.startswith('source_') and 'top' not in n)
_RETRIEVAL = tuple(n for n in columns.COLUMNS if '_top' in n)
_MASKS = ('mask_iou', 'mask_f1', 'mask_boundary_f1', *_DETECTION)
_CURVES, _KINDS = ('target_psnr', 'target_identity', 'mask_iou', 'auc'), ('recovered', 'copy')
_DAMAGE = (
  'target_psnr',
  'target_psnr_pooled',
  'target_ssim',
  'target_ms_ssim',
  'target_lpips',
  'target_identity',
  'target_detail',
  'changed_pixels',
  'untouched',
  'mask_area',
  'accuracy',
)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A figure: its text, its interval's, and whether it is the best of its column."""

  text: str
  interval: str = ''
  best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of the page: rows are (name, cells under the columns)."""

  columns: list[columns.Column]
  rows: list[tuple[str, list[Cell]]]


def make_table(
  figures: Mapping[str, Mapping[str, Mapping[str, float | None]]],
  names: Sequence[str],
  *,
  mark_best: bool = False,
) -> Table | None:
  """Rows of figures, {row: {name: figure}}, under those of `names` that any row has.

  A row that has none of them is left out; None if nothing is left.
  """
  names = [n for n in names if any(n in row for row in figures.values())]
  figures = {label: row for label, row in figures.items() if any(n in row for n in names)}
  if not names or not figures:
    return None
  best = {}
  for name in names:
    values = [row[name]['value'] for row in figures.values() if name in row]
    if mark_best and columns.column(name).better and len(values) > 1:
      best[name] = max(values, key=lambda v, name=name: columns.column(name).better * v)
  rows = [
    (label, [_cell(name, row.get(name), best.get(name)) for name in names])
    for label, row in figures.items()
  ]
  return Table([columns.column(name) for name in names], rows)


def _cell(name, figure, best):
  if figure is None:
    return Cell('\N{EN DASH}')
  style = columns.column(name).style
  value = figure['value']
  text = format(int(value) if style == 'd' else value, style)
  interval = ''
  if figure.get('low') is not None:
    interval = f'{format(figure["low"], style)} to {format(figure["high"], style)}'
  return Cell(text, interval, best is not None and value == best)


def write_page(
  result: Mapping[str, Any], rows: Rows, choices: Sequence[Choice], folder: epath.Path
) -> epath.Path:
  """Writes the page beside its place and renames it.

  Args:
    result: what `protocols.json` holds.
    rows: the examples, for the curves of detection.
    choices: the best, median and worst examples.
    folder: where to write.
  """
  place = folder / NAME
  beside = folder / f'.{NAME}.part'
  beside.write_text(render(result, rows, choices))
  beside.replace(place)
  return place


def render(
  result: Mapping[str, Any],
  rows: Rows,
  choices: Sequence[Choice],
  *,
  written: datetime.datetime | None = None,
) -> str:
  """The page's HTML."""
  loaders = {name: jinja2.PackageLoader(f'dfrec_jax.{name}') for name in ('suite', 'recover')}
  environment = jinja2.Environment(
    loader=jinja2.PrefixLoader(loaders),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template(f'suite/{NAME}').render(
    result=result,
    version=dfrec_jax.__version__,
    written=(written or datetime.datetime.now()).astimezone().isoformat(' ', 'minutes'),
    tally=_tally(result),
    sections=_sections(result),
    identity=_identity(result),
    detection=_detection_charts(rows),
    curves=_curves(result['robustness']),
    choices=[(choice, _addresses(choice)) for choice in choices],
    definitions=_definitions(result),
  )


def _tally(result):
  own = result['methods']['recovered']['all']
  names = ('target_psnr', 'target_ssim', 'target_identity', 'target_top1', 'mask_iou', 'auc')
  return [
    (columns.column(name).heading, _cell(name, own[name], None).text)
    for name in names
    if name in own
  ]


def _sections(result) -> list[tuple[str, str, Table]]:
  """(title, note, table) of each table that has figures."""
  methods = result['methods']
  everything = {name: groups['all'] for name, groups in methods.items()}
  attacks = {n: g for n, g in methods['recovered'].items() if n != PRISTINE}
  pristine = {n: g[PRISTINE] for n, g in methods.items() if g.get(PRISTINE)}
  groups = result['groups'].get('recovered', {})
  main = [n for n in columns.COLUMNS if n in columns.MAIN] + ['examples']
  sections = [
    ('All methods', 'Forged photographs; the best of each column is bold.', everything, main),
    ('Attack by attack', 'Of the recovered photographs.', attacks, main),
    ('The target, whole image', '', everything, _WHOLE),
    ('The target, in the mask', '', everything, _IN_MASK),
    (
      'The source',
      'Against the photograph that was pasted, which has a pose and a frame of its own.',
      everything,
      _SOURCE,
    ),
    ('Finding the person', 'Among all people of the evaluation.', everything, _RETRIEVAL),
    (
      'Masks and detection',
      'Forged photographs against all pristine ones.',
      everything,
      _MASKS,
    ),
    (
      'Pristine photographs',
      'They should come back unchanged: what the methods do to them is damage.',
      pristine,
      (*_DAMAGE, 'examples'),
    ),
    ('Groups of people', 'The person who was covered.', groups, main),
  ]
  tables = (
    (title, note, make_table(figures, names, mark_best=figures is everything))
    for title, note, figures, names in sections
  )
  return [(title, note, table) for title, note, table in tables if table]


def _identity(result) -> Table | None:
  """Identity by every encoder, recovered and copied, and what recovery adds."""
  methods = result['methods']
  own, copied = methods['recovered']['all'], methods['copy']['all']
  names = [n for n in own if n.partition('@')[0].endswith('_identity')]
  if not names:
    return None
  headings = [columns.Column(h, '', 0, '') for h in ('recovered', 'copy', 'gain')]
  rows = []
  for name in names:
    gain = own[name]['value'] - copied[name]['value']
    label = columns.column(name).heading
    cells = [_cell(name, own[name], None), _cell(name, copied[name], None), Cell(f'{gain:+.3f}')]
    rows.append((label, cells))
  return Table(headings, rows)


def _detection_charts(rows: Rows) -> list[Markup]:
  scores = rows.values('recovered', 'score')
  labels = np.array([e['label'] for e in rows.examples])
  if not np.isfinite(scores).all() or len({*labels.tolist()}) < 2:
    return []
  return [charts.roc_chart(scores, labels), charts.reliability_chart(scores, labels)]


def _curves(robust) -> list[tuple[str, str, list[Markup]]]:
  """(title, unit, charts) of each kind of damage."""
  if not robust:
    return []
  curves = [(c, [robust['clean'], *c['points']]) for c in robust['curves'].values()]
  reach = {}
  for name in _CURVES:
    everything = [p[kind].get(name) for _, points in curves for p in points for kind in _KINDS]
    if any(everything):
      reach[name] = charts.reach_of(everything)
  result = []
  for curve, points in curves:
    levels = ['none', *(f'{point["level"]:g}' for point in curve['points'])]
    drawn = [
      charts.curve_chart(columns.column(name), levels, _series(points, name), reach[name])
      for name in reach
    ]
    result.append((curve['title'], curve['unit'], drawn))
  return result


def _series(points, name):
  series = {}
  for kind in _KINDS:
    figures = [point[kind].get(name) for point in points]
    if any(figures):
      series[kind] = figures
  return series


def _addresses(choice: Choice) -> list[tuple[str, str]]:
  return [
    (title, f'data:image/jpeg;base64,{base64.b64encode(data).decode()}')
    for title, data in choice.pictures.items()
  ]


def _definitions(result) -> list[columns.Column]:
  found = {n for groups in result['methods'].values() for g in groups.values() for n in g}
  return [columns.column(name) for name in columns.COLUMNS if name in found]
