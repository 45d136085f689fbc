"""A plan in words and tables, for a terminal."""

from collections.abc import Mapping, Sequence
import re
from typing import Any

from dfrec_jax.benchmark import estimate

_MARGIN = 0.2  # of a chip's memory to spare
_LISTED = 12


def describe(record: Mapping[str, Any]) -> str:
  """The text that `--plan=SLICE` prints."""
  mesh = ', '.join(f'{name} {size}' for name, size in record['mesh'].items())
  lines = [
    f'{record["slice"]} ({record["chips"]} chips): {record["size"]} at {record["image_size"]}, '
    f'{record["parameters"] / 1e6:.1f} M parameters, {record["dtype"]}',
    f'mesh {mesh}; remat {record["remat"]}; {record["batch_per_chip"]:g} images a chip, '
    f'{record["batch"]} in all; compiled in {record["compile_s"]:.0f} s'
    f' with effort {record["effort"]:g}',
    '',
    *_memory(record),
  ]
  if record['fits']:
    lines += ['', *_work(record), '', *_time(record), '', *_collectives(record)]
  lines += ['', 'Largest temporaries on a chip (as they lie in memory, without padding)']
  lines += [
    f'  {gigabytes(t["bytes"]):>9} {gigabytes(t["unpadded"]):>9}  {t["shape"]:<28} '
    f'{place(t["op_name"])}'
    for t in record['temporaries']
  ]
  return '\n'.join(lines)


def _memory(record):
  memory, hbm = record['memory'], record['hbm']
  share = memory['total'] / hbm
  if not record['fits']:
    return [
      f'It does not fit: {gigabytes(memory["total"])} of {gigabytes(record["capacity"])} that the '
      'compiler may use on a chip.'
    ]
  verdict = 'a fifth or more to spare' if share <= 1 - _MARGIN else 'less than a fifth to spare'
  parts = ', '.join(f'{name} {gigabytes(memory[name])}' for name in memory if name != 'total')
  return [
    f'HBM of a chip: {gigabytes(memory["total"])} of {gigabytes(hbm)} ({share:.0%}; {verdict}): '
    f'{parts}'
  ]


def _work(record):
  counted = record['counted']
  lines = [
    f'On each chip: {counted["flops"] / 1e12:.3f} TFLOP ({counted["products"] / 1e12:.3f} in '
    f'products, the model needs {sum(record["model_flops"].values()) / 1e12:.3f}), '
    f'{gigabytes(counted["bytes"])} to and from HBM',
    f'  {"part":<10} {"TFLOP":>8} {"needed":>8} {"HBM":>9} {"formula":>9} {"one by one":>11}',
  ]
  for name, part in record['parts'].items():
    needed = record['model_flops'].get(name)
    lines.append(
      f'  {name:<10} {part["flops"] / 1e12:>8.3f} '
      f'{"" if needed is None else f"{needed / 1e12:.3f}":>8} {gigabytes(part["bytes"]):>9} '
      f'{milliseconds(part["formula_s"]):>9} {milliseconds(part["sum_s"]):>11}'
    )
  if record['unknown_loops']:
    lines.append(f'  Loops of unknown length count once: {", ".join(record["unknown_loops"])}')
  return lines


def _time(record):
  times, mfu = record['time'], record['mfu']
  return [
    estimate.FORMULA,
    f'  = max({milliseconds(times["flops_s"])}, {milliseconds(times["bytes_s"])}) + '
    f'{milliseconds(times["exposed_s"])} = {milliseconds(times["step_s"])}: '
    f'{record["batch"] / times["step_s"]:,.0f} images/s, MFU {mfu["whole"]:.1%}, of the TIRM by '
    f'itself {mfu["tirm"]:.1%}',
    f'  one instruction after the other, each at its own bound: {milliseconds(times["sum_s"])}, '
    f'MFU {mfu["whole_one_by_one"]:.1%}, of the TIRM {mfu["tirm_one_by_one"]:.1%}',
  ]


def _collectives(record):
  exchanged = sorted(record['collectives'], key=lambda c: -c['sent'] * c['times'])
  total = sum(c['sent'] * c['times'] for c in exchanged)
  runs = sum(c['times'] for c in exchanged)
  lines = [
    f'{len(exchanged)} collectives, {runs:.0f} times a step; a chip sends {gigabytes(total)}',
    f'  {"kind":<18} {"axes":<12} {"times":>6} {"bytes":>9} {"sent":>9} {"exposed":>9}  overlapped',
  ]
  row = lambda kind, axes, times, size, sent, exposed, overlapped, what: (
    f'  {kind:<18} {axes:<12} {times:>6.0f} {gigabytes(size):>9} {gigabytes(sent):>9} '
    f'{milliseconds(exposed):>9}  {overlapped:<10} {what}'
  )
  for c in exchanged[:_LISTED]:
    what = f'{c["shape"]} {place(c["op_name"])}'
    lines.append(
      row(
        c['kind'],
        '+'.join(c['axes']) or '-',
        c['times'],
        c['bytes'] * c['times'],
        c['sent'] * c['times'],
        c['exposed_s'],
        _overlap(c),
        what,
      )
    )
  for (kind, axes), group in _grouped(exchanged[_LISTED:]).items():
    total_of = lambda field, group=group: sum(c[field] * c['times'] for c in group)
    hidden = sum(c['overlapped'] for c in group)
    lines.append(
      row(
        kind,
        axes,
        sum(c['times'] for c in group),
        total_of('bytes'),
        total_of('sent'),
        sum(c['exposed_s'] for c in group),
        f'{hidden} of {len(group)}',
        'all others of this kind',
      )
    )
  outside = record['gathers_outside_fsdp']
  lines.append(
    '  No gather of a whole parameter outside the axis fsdp.'
    if not outside
    else f'  Gathers of whole parameters outside the axis fsdp: {"; ".join(outside)}'
  )
  return lines


def _overlap(collective):
  if collective['overlapped']:
    return 'yes'
  return 'partly' if collective['asynchronous'] and collective['hidden_s'] else 'no'


def _grouped(exchanged: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list]:
  groups: dict[tuple[str, str], list] = {}
  for c in exchanged:
    groups.setdefault((c['kind'], '+'.join(c['axes']) or '-'), []).append(c)
  return groups


def gigabytes(size: float) -> str:
  """1.5 GB, 20.0 MB."""
  return f'{size / 1e9:.2f} GB' if size >= 1e8 else f'{size / 1e6:.1f} MB'


def milliseconds(seconds: float) -> str:
  return f'{1e3 * seconds:.2f} ms'


def place(op_name: str) -> str:
  """Where an operation stands in the model, without what tracing puts around it."""
  return re.sub(r'^jit\(train_step\)/', '', op_name)
