"""Tables for a paper, from the JSON of an evaluation, a matrix or a sweep."""

from collections.abc import Mapping, Sequence
import json
import re
from typing import Any

from etils import epath

from dfrec_jax.errors import InputError
from dfrec_jax.suite import columns

_SPECIAL = re.compile(r'[&%$#_{}]')
_ARROWS = {1: r' $\uparrow$', -1: r' $\downarrow$', 0: ''}


def read_methods(path: epath.PathLike) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
  """{method: {group: {name: figure}}} of `protocols.json`, `metrics.json`, or the like.

  Raises:
    InputError: the file holds no such thing.
  """
  try:
    content = json.loads(epath.Path(path).expanduser().read_text())
    methods = content.get('methods', content)
    return {
      method: {
        group: {name: _figure(value) for name, value in figures.items() if value is not None}
        for group, figures in groups.items()
      }
      for method, groups in methods.items()
    }
  except (OSError, ValueError, AttributeError) as error:
    raise InputError(
      f'{path} holds no figures of methods; give eval/protocols.json or eval/metrics.json of a '
      f'workdir ({type(error).__name__}: {error}).'
    ) from error


def _figure(value):
  return value if isinstance(value, Mapping) else {'value': value, 'low': None, 'high': None}


def latex_table(
  methods: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
  names: Sequence[str],
  groups: Sequence[str],
  *,
  intervals: bool = False,
) -> str:
  """A tabular of the package booktabs; the best of each group and column is bold.

  Args:
    methods: see `read_methods`.
    names: the figures, one a column; one that nothing has is left out.
    groups: in this order; all rows of one lie between rules.
    intervals: whether to write the 95 % intervals under the figures.

  Raises:
    InputError: an unknown figure or group, or no figure is left.
  """
  unknown = [n for n in names if n.partition('@')[0] not in columns.COLUMNS]
  known = sorted({group for of_method in methods.values() for group in of_method})
  if unknown or (missing := [g for g in groups if g not in known]):
    wrong = f'figure {unknown[0]!r}' if unknown else f'group {missing[0]!r}'
    among = columns.COLUMNS if unknown else known
    raise InputError(f'There is no {wrong}; there are {", ".join(among)}.')
  rows = {
    (group, method): of_method[group]
    for group in groups
    for method, of_method in methods.items()
    if of_method.get(group)
  }
  names = [name for name in names if any(name in row for row in rows.values())]
  if not names:
    raise InputError('None of these figures is in the file.')
  headings = [
    _escape(columns.column(name).heading) + _ARROWS[columns.column(name).better] for name in names
  ]
  lines = [
    rf'\begin{{tabular}}{{l{"r" * len(names)}}}',
    r'\toprule',
    ' & '.join(['', *headings]) + r' \\',
  ]
  for group in groups:
    of_group = {method: row for (g, method), row in rows.items() if g == group}
    lines.append(r'\midrule')
    if len(groups) > 1:
      lines.append(rf'\multicolumn{{{len(names) + 1}}}{{l}}{{\emph{{{_escape(group)}}}}} \\')
    lines += _rows(of_group, names, intervals)
  return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}', ''])


def _rows(rows, names, intervals):
  best = {}
  for name in names:
    values = [row[name]['value'] for row in rows.values() if name in row]
    better = columns.column(name).better
    if better and len(values) > 1:
      best[name] = max(values, key=lambda value, better=better: better * value)
  for method, row in rows.items():
    cells = [_cell(name, row.get(name), best.get(name)) for name in names]
    yield ' & '.join([_escape(method), *cells]) + r' \\'
    if intervals:
      below = [_interval(name, row.get(name)) for name in names]
      yield ' & '.join(['', *below]) + r' \\'


def _cell(name, figure, best):
  if figure is None:
    return '--'
  text = _escape(_text(name, figure['value']))
  return rf'\textbf{{{text}}}' if figure['value'] == best else text


def _interval(name, figure):
  if figure is None or figure['low'] is None:
    return ''
  bounds = (_escape(_text(name, figure[bound])) for bound in ('low', 'high'))
  return rf'{{\scriptsize [{", ".join(bounds)}]}}'


def _text(name, value):
  style = columns.column(name).style
  return format(int(value) if style == 'd' else value, style)


def _escape(text):
  return _SPECIAL.sub(lambda match: f'\\{match[0]}', text)
