"""XLA's optimised programs as data: what is needed of their text, and no more."""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

_BYTES = {'pred': 1, 'bf16': 2, 'c64': 8, 'c128': 16, 'token': 0}
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?')
_HEADER = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'  (ROOT )?%?([\w.\-]+) = (.*)$')
_CALLED = re.compile(r'(?:calls|body|condition|to_apply|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)')
HBM = 0  # memory space


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a result.

  Attributes:
    dtype: in XLA's names, such as `bf16`.
    dims: its shape.
    order: dimensions from the one that varies fastest.
    tile: of the layout, slowest dimension first; empty for none.
    space: 0 is the accelerator's main memory; a TPU's vector memory is 1.
  """

  dtype: str
  dims: tuple[int, ...]
  order: tuple[int, ...]
  tile: tuple[int, ...]
  space: int

  @property
  def bytes(self) -> float:
    """Without the layout's padding."""
    return math.prod(self.dims) * _item_bytes(self.dtype)

  @property
  def padded_bytes(self) -> float:
    """As it lies in memory: the fastest dimensions are padded to the tile."""
    dims = [self.dims[i] for i in self.order] if self.order else list(self.dims)
    for i, side in enumerate(reversed(self.tile)):
      if i < len(dims):
        dims[i] = -(-dims[i] // side) * side
    return math.prod(dims) * _item_bytes(self.dtype)

  def __str__(self) -> str:
    return f'{self.dtype}[{",".join(map(str, self.dims))}]'


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One operation: `arrays` are its result's leaves, `attributes` what follows its operands."""

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str
  root: bool

  @property
  def op_name(self) -> str:
    """Where the program's author wrote it: `jit(train_step)/jvp(DFREC)/tirm/...`."""
    return _first(r'op_name="([^"]*)"', self.attributes) or ''

  @property
  def called(self) -> list[str]:
    """Names of the computations that it runs."""
    return [
      name for given in _CALLED.findall(self.attributes) for name in re.findall(r'[\w.\-]+', given)
    ]

  @property
  def custom_call(self) -> str | None:
    return _first(r'custom_call_target="([^"]*)"', self.attributes)

  def attribute(self, name: str) -> str | None:
    """The value of `name=value` up to a space or comma; None if it is not there."""
    return _first(rf'\b{name}=%?([^ ,]+)', self.attributes)


@dataclasses.dataclass
class Module:
  """Computations by name, each its instructions by name in the order in which they run."""

  computations: dict[str, dict[str, Instruction]]
  entry: str

  def scheduled(self) -> Iterator[tuple[str, float]]:
    """Computations that run by themselves, not inside a fusion, and how often in one step.

    A loop whose trip count the text does not tell counts once; `unknown_loops` names it.
    """
    yield from self._walk(self.entry, 1.0)

  def unknown_loops(self) -> list[str]:
    return [
      instruction.name
      for name, _ in self.scheduled()
      for instruction in self.computations[name].values()
      if instruction.opcode == 'while' and self.trip_count(instruction) is None
    ]

  def _walk(self, name, times):
    yield name, times
    for instruction in self.computations[name].values():
      if instruction.opcode == 'while':
        trips = self.trip_count(instruction)
        yield from self._walk(instruction.attribute('body'), times * (trips or 1))
      elif instruction.opcode in ('call', 'conditional', 'async-start'):
        for called in instruction.called:
          yield from self._walk(called, times)

  def trip_count(self, loop: Instruction) -> int | None:
    """How often a `while` runs: as XLA notes it, or the one bound that its condition compares with.

    JAX's scans count from 0 in steps of 1.
    """
    known = _first(r'"?known_trip_count"?:\{"n":"(\d+)"', loop.attributes)
    if known:
      return int(known)
    inside = self.inside(loop.attribute('condition'))
    bounds = {
      int(i.attributes) for i in inside if i.opcode == 'constant' and i.attributes.isdigit()
    }
    counts_up = any('direction=LT' in i.attributes for i in inside)
    return bounds.pop() if len(bounds) == 1 and counts_up else None

  def inside(self, name: str) -> list[Instruction]:
    """Instructions of a computation and of those that it calls."""
    found = list(self.computations[name].values())
    return found + [
      nested
      for instruction in found
      for called in instruction.called
      if called in self.computations
      for nested in self.inside(called)
    ]


def parse(text: str) -> Module:
  """A module from what `compiled.as_text()` answers."""
  computations: dict[str, dict[str, Instruction]] = {}
  entry, current = '', None
  for line in text.splitlines():
    if current is not None and (match := _INSTRUCTION.match(line)):
      instruction = _instruction(*match.groups())
      current[instruction.name] = instruction
    elif line and line[0] not in ' }' and (match := _HEADER.match(line)):
      current = computations.setdefault(match[2], {})
      entry = match[2] if match[1] else entry
  return Module(computations, entry)


def _instruction(root, name, text):
  shape, rest = _balanced(text) if text.startswith('(') else text.split(' ', 1)
  opcode, _, rest = rest.strip().partition('(')
  operands, attributes = _balanced('(' + rest)
  names = tuple(re.findall(r'%([\w.\-]+)', operands))
  if opcode in ('constant', 'parameter'):  # Their value stands where others have operands.
    names, attributes = (), operands[1:-1]
  return Instruction(name, opcode, _arrays(shape), names, attributes, bool(root))


def _balanced(text: str) -> tuple[str, str]:
  """Splits behind the parenthesis that closes the first."""
  depth = 0
  for match in re.finditer(r'[()]', text):
    depth += 1 if match[0] == '(' else -1
    if not depth:
      return text[: match.end()], text[match.end() :]
  return text, ''


@functools.lru_cache(maxsize=65536)
def _arrays(shape: str) -> tuple[Array, ...]:
  numbers = lambda text: tuple(int(n) for n in text.split(',') if n)
  found = []
  for dtype, dims, order, layout in _ARRAY.findall(re.sub(r'/\*.*?\*/', '', shape)):
    tile = _first(r'T\(([\d,]*)\)', layout) or ''
    space = int(_first(r'S\((\d+)\)', layout) or HBM)
    found.append(Array(dtype, numbers(dims), numbers(order), numbers(tile), space))
  return tuple(found)


@functools.lru_cache
def _item_bytes(dtype: str) -> float:
  if dtype in _BYTES:
    return _BYTES[dtype]
  bits = _first(r'^[a-z]+?(\d+)', dtype)
  return int(bits) / 8 if bits else 0


def _first(pattern: str, text: str) -> str | None:
  match = re.search(pattern, text)
  return match[1] if match else None
