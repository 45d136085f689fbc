"""Memory of a compiled program on one chip: what it holds, its largest temporaries."""

from collections.abc import Mapping
import re
from typing import Any

from dfrec_jax.benchmark.hlo import HBM, Module

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)([KMGT]?)i?B?'
# They name what another instruction made.
_NAMES = ('parameter', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call')


def summarise(stats: Any) -> dict[str, float]:
  """Bytes of HBM on each chip, from `compiled.memory_analysis()`.

  `state` is what the step takes (parameters, optimizer, batch, frozen encoders) and gives back in
  the same memory, `temporaries` what it needs meanwhile, `total` all that must fit.
  """
  state = stats.argument_size_in_bytes
  new = stats.output_size_in_bytes - stats.alias_size_in_bytes
  parts = {
    'state': state,
    'outputs': new,
    'temporaries': stats.temp_size_in_bytes,
    'program': stats.generated_code_size_in_bytes,
  }
  return {**parts, 'total': sum(parts.values())}


def largest_temporaries(module: Module, count: int = 8) -> list[dict[str, Any]]:
  """The largest results in HBM: bytes with the layout's padding, shape, and what they are of.

  The same shape from the same operation counts once: it is of one layer after the other.
  """
  found: dict[tuple[str, str], dict[str, Any]] = {}
  for name, _ in module.scheduled():
    for instruction in module.computations[name].values():
      if instruction.opcode in _NAMES or instruction.opcode.endswith('-done'):
        continue
      for array in instruction.arrays:
        key = str(array), _place(instruction.op_name)
        if array.space == HBM and key not in found:
          found[key] = {
            'bytes': array.padded_bytes,
            'unpadded': array.bytes,
            'shape': str(array),
            'op_name': instruction.op_name,
          }
  return sorted(found.values(), key=lambda entry: -entry['bytes'])[:count]


def out_of_memory(message: str) -> dict[str, float] | None:
  """`used` and `capacity` in bytes, from the compiler's refusal; None if it is another error."""
  match = re.search(rf'[Uu]sed {_SIZE} of {_SIZE} hbm', message)
  if not match:
    return None
  used, unit, capacity, capacity_unit = match.groups()
  return {
    'used': float(used) * _UNITS[unit],
    'capacity': float(capacity) * _UNITS[capacity_unit],
  }


def refused_temporaries(message: str, count: int = 8) -> list[dict[str, Any]]:
  """The largest allocations that the compiler's refusal lists, as `largest_temporaries` does."""
  found = []
  for block in re.split(r'\n\s*\d+\. ', message)[1:]:
    size = re.search(rf'Size: {_SIZE}', block)
    if not size:
      continue
    shape, op_name = (
      re.search(p, block) for p in (r'Shape: (\w+\[[\d,]*\])', r'op_name="([^"]*)"')
    )
    unpadded = re.search(rf'Unpadded size: {_SIZE}', block)
    number = lambda match: float(match[1]) * _UNITS[match[2]]
    found.append(
      {
        'bytes': number(size),
        'unpadded': number(unpadded or size),
        'shape': shape[1] if shape else '',
        'op_name': op_name[1] if op_name else '',
      }
    )
  return found[:count]


def largest_batch(totals: Mapping[int, float], capacity: float) -> int | None:
  """The largest batch a chip that fits, if memory grows by a straight line.

  None from one batch, and where the line says nothing: near a chip's limit the compiler computes
  again what it has no room for, so that memory hardly grows.

  Args:
    totals: bytes by images a chip, of the same slice and mesh. The line goes through the largest
      batch that fits and the smallest that does not; where there is no such pair, through the two
      that are nearest to the limit.
    capacity: bytes that may be used.
  """
  if len(totals) < 2:
    return None
  batches = sorted(totals)
  fitting = sum(totals[batch] <= capacity for batch in batches)
  first = min(max(fitting - 1, 0), len(batches) - 2)
  small, large = batches[first : first + 2]
  slope = (totals[large] - totals[small]) / (large - small)
  largest = int((capacity - totals[small]) // slope) + small if slope > 0 else 0
  return largest if largest > 0 else None


def _place(op_name: str) -> str:
  return re.sub(r'\d+', 'N', op_name)
