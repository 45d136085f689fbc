"""Plans as a table: how they compare, and what they say together."""

from collections.abc import Mapping, Sequence
from typing import Any

from dfrec_jax.benchmark import hlo_memory, plan_report

_SPARE = 0.8  # of a chip's memory, to which the largest batch fills it


def table(records: Sequence[Mapping[str, Any]]) -> str:
  """Plans as a table in Markdown, a row each."""
  header = (
    '| slice | mesh | remat | images a chip | HBM a chip | largest batch | TFLOP | HBM traffic | '
    'exposed | step | images/s | scaling | MFU | TIRM |'
  )
  rows = [header, '|' + '---|' * header.count(' |')]
  for record in records:
    mesh = 'x'.join(str(size) for size in record['mesh'].values())
    share = record['memory']['total'] / record['hbm']
    most = largest_batch(record, records)
    cells = [
      record['slice'],
      mesh,
      str(record['remat']),
      f'{record["batch_per_chip"]:g}',
      f'{plan_report.gigabytes(record["memory"]["total"])} ({share:.0%})',
      '' if most is None else str(most),
    ]
    if record['fits']:
      times, counted = record['time'], record['counted']
      scaling = scaling_efficiency(record, records)
      cells += [
        f'{counted["flops"] / 1e12:.2f}',
        plan_report.gigabytes(counted['bytes']),
        plan_report.milliseconds(times['exposed_s']),
        plan_report.milliseconds(times['step_s']),
        f'{record["batch"] / times["step_s"]:,.0f}',
        '' if scaling is None else f'{scaling:.1%}',
        f'{record["mfu"]["whole"]:.1%}',
        f'{record["mfu"]["tirm"]:.1%}',
      ]
    else:
      cells += ['does not fit', *[''] * 7]
    rows.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(rows)


def scaling_efficiency(
  record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> float | None:
  """Images a second and chip, over those of the smallest slice with as many images a chip."""
  alike = [r for r in records if r['fits'] and _same(r, record, 'chip', 'batch_per_chip')]
  if not alike:
    return None
  smallest = min(alike, key=lambda r: r['chips'])
  return smallest['time']['step_s'] / record['time']['step_s']


def largest_batch(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> int | None:
  """Images a chip that leave a fifth of its memory, by the line through two plans of the slice.

  Plans that did not fit count too: the compiler says how much they would need.
  """
  totals = {
    round(r['batch_per_chip']): r['memory']['total']
    for r in records
    if _same(r, record, 'slice', 'mesh')
  }
  return hlo_memory.largest_batch(totals, _SPARE * record['hbm'])


def _same(a, b, *fields):
  return all(a[name] == b[name] for name in (*fields, 'size', 'image_size', 'remat', 'encoders'))
