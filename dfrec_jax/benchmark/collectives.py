"""Every exchange between chips of an optimised program: its bytes, its mesh axes, what hides it.

A chip of a group of g sends, on a ring: of n bytes that it holds, 2 n (g - 1) / g to reduce them
over all, n (g - 1) to gather those of all, n (g - 1) / g to reduce and scatter, or to exchange all
with all, n to permute.
"""

from collections.abc import Mapping
import dataclasses
import math
import re

import jax
import numpy as np

from dfrec_jax.benchmark.hlo import Array, Instruction, Module
from dfrec_jax.benchmark.hlo_cost import Cost, part_of

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)


@dataclasses.dataclass
class Collective:
  """One exchange.

  Attributes:
    kind: of `KINDS`.
    shape: of the first arrays that arrive, as XLA writes it.
    arrays: what arrives, all of it: one exchange may carry several.
    bytes: what a chip has of it afterwards, each time it runs.
    sent: bytes that a chip sends over its links for it, each time.
    times: how often it runs in a step.
    group: chips that exchange with each other.
    axes: of the mesh, over which the group extends.
    part: of the model, see `hlo_cost.part_of`.
    op_name: the operation that asked for it.
    asynchronous: it has a start and an end, between which other instructions run.
    hidden_s: time that those take, by their own roofline, each time.
  """

  kind: str
  shape: str
  arrays: tuple[Array, ...]
  bytes: float
  sent: float
  times: float
  group: int
  axes: tuple[str, ...]
  part: str
  op_name: str
  asynchronous: bool
  hidden_s: float

  def exposed_s(self, bandwidth: float) -> float:
    """Time of a step that it adds, at `bandwidth` bytes/s of a chip's links."""
    return self.times * max(0.0, self.sent / bandwidth - self.hidden_s)


def find(
  module: Module,
  mesh: jax.sharding.Mesh,
  costs: Mapping[tuple[str, str], Cost],
  seconds: Mapping[tuple[str, str], float],
) -> list[Collective]:
  """The collectives of a program, each once.

  Args:
    module: the program.
    mesh: on which it runs.
    costs: of its instructions, `hlo_cost.costs`.
    seconds: what each takes by its own roofline, by the same keys.
  """
  found = []
  for name, times in module.scheduled():
    instructions = list(module.computations[name].values())
    spans = _spans(module, name, instructions)
    for span in spans.values():
      between = range(span.start + 1, span.end)
      hidden = sum(seconds.get((name, instructions[i].name), 0.0) for i in between)
      found.append(_collective(span, module, mesh, times, hidden))
  return found


@dataclasses.dataclass
class _Span:
  """A collective from its start to its end in the order of execution."""

  where: str  # the computation that holds the instruction
  instruction: Instruction
  start: int
  end: int
  fused: Instruction | None = None


def _spans(module, name, instructions):
  """Spans by what identifies them: the channel, or the name where there is none."""
  spans: dict[str, _Span] = {}
  for index, instruction in enumerate(instructions):
    kind = _kind(instruction.opcode)
    if kind and not instruction.opcode.endswith('-done'):
      end = _done(instructions, index) if instruction.opcode.endswith('-start') else index
      spans[_key(instruction)] = _Span(name, instruction, index, end)
    elif instruction.opcode == 'fusion':
      for where, inner in _fused(module, instruction):
        # The start, the computation that runs meanwhile and the end each hold a copy of it.
        span = spans.setdefault(_key(inner), _Span(where, inner, index, index, instruction))
        span.end = max(span.end, index)
  return spans


def _kind(opcode: str) -> str | None:
  kind = re.sub(r'-(start|done)$', '', opcode)
  return kind if kind in KINDS else None


def _key(instruction):
  return instruction.attribute('channel_id') or instruction.name


def _done(instructions, start):
  name = instructions[start].name
  for index in range(start + 1, len(instructions)):
    if name in instructions[index].operands:
      return index
  return start


def _fused(module: Module, fusion: Instruction):
  for called in fusion.called:
    for inner in module.computations.get(called, {}).values():
      if _kind(inner.opcode):
        yield called, inner
      elif inner.opcode == 'fusion':
        yield from _fused(module, inner)


def _collective(span, module, mesh, times, hidden):
  instruction = span.instruction
  kind = _kind(instruction.opcode)
  # The compiler writes a reduction whose result is divided as a fusion of this name.
  if kind == 'all-reduce' and span.fused and 'all-reduce-scatter' in ' '.join(span.fused.called):
    kind = 'reduce-scatter'
  computation = module.computations[span.where]
  held = [a for name in instruction.operands for a in computation[name].arrays]
  size = sum(a.bytes for a in held)
  groups = replica_groups(instruction.attributes)
  count = groups.shape[1] if groups is not None else mesh.size
  ids = groups[0] if groups is not None else np.arange(mesh.size)
  if kind == 'collective-permute':
    ids, count = _permuted(instruction.attributes), 2
  arrived = {'all-gather': size * count, 'reduce-scatter': size / count}.get(kind, size)
  if kind == 'all-gather':
    held = _gathered(instruction, held)
  return Collective(
    kind=kind,
    shape=', '.join(str(a) for a in held[:3]) + (', ...' if len(held) > 3 else ''),
    arrays=tuple(held),
    bytes=arrived,
    sent=size * _share(kind, count),
    times=times,
    group=count,
    axes=mesh_axes(ids, mesh),
    part=part_of(instruction.op_name),
    op_name=instruction.op_name,
    asynchronous=span.end > span.start,
    hidden_s=hidden if span.end > span.start else 0.0,
  )


def _gathered(instruction, held):
  """Arrays of the result; a start's stand behind as many operands, and before semaphores."""
  if instruction.opcode.endswith('-start'):
    return instruction.arrays[len(held) : 2 * len(held)]
  return instruction.arrays or held


def _share(kind: str, group: int) -> float:
  """Bytes that a chip sends for each byte that it holds."""
  if group <= 1:
    return 0.0
  if kind == 'all-reduce':
    return 2 * (group - 1) / group
  if kind == 'all-gather':
    return group - 1.0
  return 1.0 if 'permute' in kind or 'broadcast' in kind else (group - 1) / group


def replica_groups(attributes: str) -> np.ndarray | None:
  """(groups, chips of a group) from any of XLA's three ways to write them; None for all chips."""
  if match := re.search(r'replica_groups=mesh\[([^\]]*)\]([^{]*)\{([^}]*)\}', attributes):
    sizes = [int(size) for size in re.findall(r'=(\d+)', match[1])]
    named = re.findall(r"'(\w+)'", match[1])
    chosen = [named.index(name) for name in re.findall(r"'(\w+)'", match[3])]
    others = [i for i in range(len(sizes)) if i not in chosen]
    ids = _device_ids(match[2], math.prod(sizes)).reshape(sizes).transpose(others + chosen)
    return ids.reshape(-1, math.prod([sizes[i] for i in chosen]))
  if match := re.search(r'replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)', attributes):
    return _iota(match[1])
  if match := re.search(r'replica_groups=\{(\{[\d,{}]*\})\}', attributes):
    rows = [[int(n) for n in row.split(',')] for row in re.findall(r'\{([\d,]+)\}', match[1])]
    return np.array(rows) if rows else None
  return None


def _device_ids(text, count):
  match = re.search(r'\[([\d,]+)\](T\([\d,]+\))?', text)
  return _iota(f'[{count}]<=[{match[1]}]{match[2] or ""}') if match else np.arange(count)


def _iota(text):
  """`[64,4]<=[4,64]T(1,0)`: 0, 1, ... in the second shape, transposed, in the first shape."""
  numbers = [[int(n) for n in part.split(',')] for part in re.findall(r'[\[(]([\d,]+)[\])]', text)]
  ids = np.arange(math.prod(numbers[1])).reshape(numbers[1])
  return (ids.transpose(numbers[2]) if len(numbers) > 2 else ids).reshape(numbers[0])


def _permuted(attributes):
  match = re.search(r'source_target_pairs=\{(.*?)\}\}', attributes)
  return np.array([int(n) for n in re.findall(r'\d+', match[1])][:2]) if match else np.arange(1)


def mesh_axes(ids: np.ndarray, mesh: jax.sharding.Mesh) -> tuple[str, ...]:
  """The axes along which the chips `ids`, numbered as in `mesh.devices`, differ."""
  shape = tuple(mesh.shape.values())
  coordinates = np.unravel_index(np.asarray(ids), shape)
  return tuple(
    name for name, at in zip(mesh.shape, coordinates, strict=True) if len(set(at.tolist())) > 1
  )
