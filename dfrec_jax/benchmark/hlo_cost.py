"""What each instruction of an optimised program costs: products, and bytes to and from HBM.

XLA's own count (`cost_analysis`) takes the body of a loop once and does not say where the work is;
here loops count as often as they run, and every instruction belongs to a part of the model.
"""

import dataclasses
import functools
import math
import re

import numpy as np

from dfrec_jax.benchmark.hlo import HBM, Array, Instruction, Module

# They move nothing: names of what is there already.
_FREE = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call',
  'after-all', 'partition-id', 'replica-id', 'copy-done', 'slice-done', 'async-done', 'async-start',
  'async-update', 'all-gather-done', 'all-reduce-done', 'collective-permute-done', 'domain',
  'opt-barrier', 'get-dimension-size', 'add-dependency',
}  # fmt: skip
_FREE_CALLS = ('ConcatBitcast', 'AssumeGatherIndicesInBound')
_VIEWS = ('bitcast', 'reshape', 'get-tuple-element')
_ENCODERS = ('VGG19Features', 'MobileFaceNet', 'IResNet', 'InceptionResnetV1', '_take')
PARTS = ('ism', 'sirm', 'tirm', 'encoders', 'rest')


@dataclasses.dataclass(frozen=True)
class Cost:
  """What an instruction takes, each time it runs, on one chip.

  Attributes:
    flops: of products, convolutions and kernels; a multiply-add is two.
    bytes: to and from HBM; what stays in vector memory costs none.
    times: how often it runs in a step.
    part: of `PARTS`; `rest` holds the optimizer, data conversion and losses.
    flops_of: the same FLOP by the parts in which its products were written.
  """

  flops: float
  bytes: float
  times: float
  part: str
  flops_of: dict[str, float]


def part_of(op_name: str) -> str:
  """The part of the model that an operation belongs to, by where it was written."""
  for part in PARTS[:3]:
    if f'/{part}/' in op_name:
      return part
  return 'encoders' if any(name in op_name for name in _ENCODERS) else 'rest'


def costs(module: Module) -> dict[tuple[str, str], Cost]:
  """Costs of the instructions that run by themselves, by computation and name."""
  counter = _Counter(module)
  found = {}
  for name, times in module.scheduled():
    for instruction in module.computations[name].values():
      if instruction.opcode in _FREE or instruction.custom_call in _FREE_CALLS:
        continue
      flops = counter.flops(name, instruction)
      traffic = counter.traffic(name, instruction)
      cost = Cost(sum(flops.values()), traffic, times, part_of(instruction.op_name), flops)
      if (name, instruction.name) in found:  # A computation that is called from two places.
        cost = dataclasses.replace(cost, times=times + found[name, instruction.name].times)
      found[name, instruction.name] = cost
  return found


class _Counter:
  def __init__(self, module: Module):
    self._module = module
    self._flops_inside: dict[str, dict[str, float]] = {}

  def flops(self, where: str, instruction: Instruction) -> dict[str, float]:
    """FLOP by part of the products in it."""
    if instruction.opcode in ('convolution', 'dot'):
      arrays = [self._module.computations[where][name].arrays[0] for name in instruction.operands]
      product = convolution_flops if instruction.opcode == 'convolution' else dot_flops
      return {part_of(instruction.op_name): product(instruction, *arrays[:2])}
    if told := re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', instruction.attributes):
      return {part_of(instruction.op_name): float(told[1])}  # A kernel's, as its author counted.
    total: dict[str, float] = {}
    if instruction.opcode == 'fusion':
      for called in instruction.called:
        if called not in self._flops_inside:
          self._flops_inside[called] = _sum(
            self.flops(called, inner) for inner in self._module.computations[called].values()
          )
        total = _sum([total, self._flops_inside[called]])
    return total

  def traffic(self, where: str, instruction: Instruction) -> float:
    """Bytes that it reads from HBM and writes there."""
    computation = self._module.computations[where]
    operands = [computation[name] for name in instruction.operands]
    written = list(instruction.arrays)
    if instruction.opcode == 'fusion':
      inner = self._module.computations[instruction.called[0]]
      return self._fusion_reads(inner, operands) + self._fusion_writes(inner, written)
    if instruction.opcode == 'dynamic-update-slice':
      return 2 * _in_hbm(operands[1].arrays)
    if instruction.opcode in ('dynamic-slice', 'slice', 'gather'):
      return _in_hbm(written) + (_bytes(written) if _on_hbm(operands[0]) else 0)
    if instruction.opcode in ('copy-start', 'slice-start'):
      # (source and result, the result, a semaphore) in either order: both ends are in the tuple.
      moved = min((a.bytes for a in written if a.dims), default=0.0)
      return moved * sum(a.space == HBM for a in written[:2])
    written = [a for a in written if a.space == HBM]
    return _bytes(written) + sum(_in_hbm(operand.arrays) for operand in operands)

  def _fusion_reads(self, inner, operands):
    parameters = sorted(
      (i for i in inner.values() if i.opcode == 'parameter'), key=lambda i: int(i.attributes)
    )
    return sum(
      self._read(inner, parameter.name, parameter.arrays)
      for parameter, operand in zip(parameters, operands, strict=False)
      if _on_hbm(operand)
    )

  def _read(self, computation, name, arrays):
    """Bytes read of the value `name`: of a slice, only what it takes."""
    whole, read = _bytes(arrays), 0.0
    for user in computation.values():
      if name not in user.operands:
        continue
      if user.opcode in _VIEWS:
        read += self._read(computation, user.name, arrays)
      elif user.opcode in ('dynamic-slice', 'slice', 'gather') and user.operands[0] == name:
        read += _bytes(user.arrays)
      elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
        continue  # Written in place.
      elif user.opcode == 'fusion':
        inner = self._module.computations[user.called[0]]
        index = str(user.operands.index(name))
        parameter = next(
          i for i in inner.values() if i.opcode == 'parameter' and i.attributes == index
        )
        read += self._read(inner, parameter.name, arrays)
      else:
        return whole
    return min(whole, read)

  def _fusion_writes(self, inner, written):
    root = next(i for i in inner.values() if i.root)
    roots = [inner[name] for name in root.operands] if root.opcode == 'tuple' else [root]
    if len(roots) != len(written):
      return _in_hbm(written)
    return sum(
      self._update(inner, value, array)
      for value, array in zip(roots, written, strict=True)
      if array.space == HBM
    )

  def _update(self, computation, value, array):
    """Bytes written of a result: of an update in place, only the new."""
    while value.opcode in _VIEWS and value.operands:
      value = computation[value.operands[0]]
    if value.opcode == 'dynamic-update-slice':
      return _bytes(computation[value.operands[1]].arrays)
    return array.bytes


def _sum(many):
  total: dict[str, float] = {}
  for counted in many:
    for part, flops in counted.items():
      total[part] = total.get(part, 0.0) + flops
  return total


def _bytes(arrays):
  return sum(a.bytes for a in arrays)


def _in_hbm(arrays):
  return sum(a.bytes for a in arrays if a.space == HBM)


def _on_hbm(instruction):
  return any(a.space == HBM for a in instruction.arrays)


def dot_flops(instruction: Instruction, left: Array, right: Array) -> float:
  """2 x elements of the result x length of the sums."""
  del right
  dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.attributes)
  lengths = [left.dims[int(i)] for i in dims[1].split(',') if i] if dims else []
  return 2.0 * math.prod(instruction.arrays[0].dims) * math.prod(lengths)


def convolution_flops(instruction: Instruction, left: Array, right: Array) -> float:
  """2 x multiply-adds whose input is inside the image, as XLA counts them.

  A TPU's compiler writes every product as a convolution; products over a batch have a window of
  the batch's size, of which one tap in each position is inside.
  """
  text = instruction.attributes
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', text)
  inputs, kernel, output = labels.groups()
  window = _window(text, sum(c.isdigit() for c in kernel))
  taps = 1
  for i, dimension in enumerate(window):
    taps *= _valid_taps(
      left.dims[inputs.index(str(i))],
      right.dims[kernel.index(str(i))],
      instruction.arrays[0].dims[output.index(str(i))],
      *dimension,
    )
  groups = int(instruction.attribute('feature_group_count') or 1)
  batches = int(instruction.attribute('batch_group_count') or 1)
  return (
    2.0
    * (left.dims[inputs.index('b')] / batches)
    * (left.dims[inputs.index('f')] / groups)
    * right.dims[kernel.index('o')]
    * taps
  )


def _window(text, count):
  """(stride, low padding, dilation of the input, of the kernel) of each dimension."""
  given = re.search(r'window=\{([^}]*)\}', text)
  fields = dict(item.split('=') for item in given[1].split()) if given else {}
  numbers = lambda name: (
    [int(v) for v in fields[name].split('x')] if name in fields else [1] * count
  )
  low = lambda pads: [int(pad.split('_')[0]) for pad in pads.split('x')]
  pads = low(fields['pad']) if 'pad' in fields else [0] * count
  return list(
    zip(numbers('stride'), pads, numbers('lhs_dilate'), numbers('rhs_dilate'), strict=True)
  )


@functools.lru_cache(maxsize=4096)
def _valid_taps(size, kernel, output, stride, low, input_dilation, kernel_dilation):
  """Pairs of an output position and a tap of the kernel whose input is a pixel, along one side."""
  at = np.arange(output)[:, None] * stride - low + np.arange(kernel) * kernel_dilation
  inside = (at >= 0) & (at < (size - 1) * input_dilation + 1) & (at % input_dilation == 0)
  return int(inside.sum())
