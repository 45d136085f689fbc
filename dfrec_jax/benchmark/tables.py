"""Results as tables and files."""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

from dfrec_jax.benchmark.measure import WHOLE


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown, which a terminal shows as well; numbers to the right."""
  cells = [list(header), *map(list, rows)]
  widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
  line = lambda row: (
    '| '
    + ' | '.join(
      text.ljust(width) if i == 0 else text.rjust(width)
      for i, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    + ' |'
  )
  rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  return '\n'.join(map(line, [cells[0], rule, *cells[1:]]))


def report_table(report: dict[str, Any]) -> str:
  """What `measure` found, for reading."""
  devices = report['devices']
  lines = [
    f'{report["what"]} of {report["model"]["size"]} at {report["model"]["image_size"]} px, '
    f'{report["model"]["dtype"]}, batch {report["batch"]}, {devices["count"]} x {devices["kind"]}: '
    f'{_number(report["examples_per_second"])} examples/s'
  ]
  if report['what'] == 'input':
    return lines[0] + f' from {report["input"]["source"]} data'
  header = ('part', 'ms', 'GFLOP', 'MFU', 'bound', 'of roofline', 'XLA/formula', 'compile s')
  rows = report['parts'] | {'whole': report[WHOLE]}
  lines.append(table(header, [_row(name, row) for name, row in rows.items()]))
  memory = report['memory']
  peak, where = memory['device_peak_bytes'], 'on the device'
  if peak is None:
    peak, where = memory['resident_peak_bytes'], 'resident'
  lines.append(
    f'Peak of a device: {report["peak"]["flops"] / 1e12:.3g} TFLOP/s, '
    f'{report["peak"]["bandwidth"] / 1e9:.3g} GB/s ({report["peak"]["source"]}). '
    f'Memory: {_bytes(peak)} {where}; the program plans {_bytes(memory["planned_peak_bytes"])}.'
  )
  return '\n\n'.join(lines)


def _row(name, row):
  if 'flops' not in row:
    return (name, f'{row["milliseconds"]:.2f}', *('',) * 6)
  ratio = row['xla_to_formula']
  return (
    name,
    f'{row["milliseconds"]:.2f}',
    f'{row["flops"] / 1e9:.2f}',
    f'{row["mfu"]:.1%}',
    row['bound'],
    f'{row["roofline"]:.1%}',
    f'{ratio:.3f}' if ratio else '',
    f'{row["compile_seconds"]:.1f}',
  )


def peer_table(report: dict[str, Any]) -> str:
  """What `compare` found, for reading."""
  rows = [
    (name, f'{row["milliseconds"]:.1f}', _ratio(report['ratios'].get(name)))
    for name, row in report['times'].items()
  ]
  worst = max(report['difference'], key=report['difference'].get)
  about = report['torch']
  lines = [
    f'{report["what"]} of {report["model"]["size"]}, batch {report["batch"]}, beside PyTorch '
    f'{about["version"]} on {about["device"]}, {about["threads"]} threads',
    table(('', 'ms', 'JAX is faster by'), rows),
    f'Largest difference: {report["difference"][worst]:.1e} ({worst}), '
    f'{"within" if report["equal"] else "MORE THAN"} {report["tolerance"]:g}.',
    *report['without'].values(),
  ]
  return '\n\n'.join(lines)


def _ratio(value):
  return '' if value is None else f'{value:.2f}x'


def points_table(points: Sequence[dict[str, Any]]) -> str:
  """What a sweep found, for reading."""
  header = ('size', 'pixels', 'batch', 'devices', 'ms', 'examples/s', 'GFLOP', 'MFU', 'GiB')
  rows = []
  for p in points:
    about = (p['size'], *(str(p[k]) for k in ('image_size', 'batch', 'devices')))
    if not p['fits']:
      rows.append((*about, 'does not fit', *('',) * 4))
      continue
    rows.append(
      (
        *about,
        f'{p["milliseconds"]:.1f}',
        _number(p['examples_per_second']),
        f'{p["flops"] / 1e9:.1f}',
        f'{p["mfu"]:.1%}',
        f'{p["planned_peak_bytes"] / 2**30:.2f}',
      )
    )
  return table(header, rows)


def costs_table(costs: Sequence[dict[str, Any]]) -> str:
  """What `largest_costs` found, for reading."""
  rows = [(cost['place'], cost['pass'], f'{cost["share"]:.1%}') for cost in costs]
  return table(('most time', 'pass', 'share'), rows)


def _bytes(value: float) -> str:
  return f'{value / 2**30:.2f} GiB' if value >= 2**30 else f'{value / 2**20:.1f} MiB'


def _number(value: float | None) -> str:
  return 'no' if value is None else f'{value:.4g}'


def write_json(path: str | os.PathLike, content: Any) -> None:
  """Writes beside and renames; a number that is not finite becomes null."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'.{path.name}.part')
  beside.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + '\n')
  os.replace(beside, path)


def _plain(x: Any) -> Any:
  if isinstance(x, dict):
    return {key: _plain(value) for key, value in x.items()}
  if isinstance(x, list | tuple):
    return [_plain(value) for value in x]
  if isinstance(x, float) and x - x != 0:
    return None
  return x
