"""A trace of some steps, and what in it takes the time."""

import collections
from collections.abc import Callable, Iterator
import gzip
import json
import pathlib
import re
from typing import Any

import jax

_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', re.MULTILINE)
# The whole model, loops, and what JAX wraps; methods have a dot.
_NO_MODULES = ('DFREC', 'while', 'body', 'closed_call', 'checkpoint', 'rematted_computation')
_DEPTH = 3  # Names of nested modules that a place has.


def trace(run: Callable[[], Any], folder: str, *, steps: int = 3) -> None:
  """Records some steps for XProf, TensorBoard and Perfetto.

  Into `folder/plugins/profile/TIME` go `*.xplane.pb`, which XProf and TensorBoard's profile plugin
  read, and `*.trace.json.gz`, which ui.perfetto.dev opens.
  """
  jax.block_until_ready(run())
  with jax.profiler.trace(folder):
    for step in range(steps):
      with jax.profiler.StepTraceAnnotation('step', step_num=step):
        jax.block_until_ready(run())


def largest_costs(folder: str, program_text: str, *, count: int = 10) -> list[dict[str, Any]]:
  """Where the time of the last trace in `folder` went, by linen module, the largest first.

  Args:
    folder: of `trace`.
    program_text: the compiled program's, `compiled.as_text()`, whose instructions carry the names.
    count: how many to answer.

  Returns:
    `place` (`sirm/decoder_1/join`), `pass` (`forward` or `backward`) and `share` of the time of all
    instructions; none where the trace names no instruction of the program.
  """
  names = dict(_INSTRUCTION.findall(program_text))
  seconds = collections.Counter()
  for instruction, own in _own_times(_events(folder)):
    if instruction in names:
      seconds[place(names[instruction])] += own
  whole = sum(seconds.values())
  return [
    {'place': where, 'pass': direction, 'share': value / whole}
    for (where, direction), value in seconds.most_common(count)
  ]


def place(op_name: str) -> tuple[str, str]:
  """The linen module that an instruction is of, and `forward` or `backward`.

  `jit(step)/transpose(jvp(DFREC))/sirm/decoder_1/conv` is of `sirm/decoder_1`, backward.
  """
  # The last part is the operation; functions and transformations have brackets.
  modules = [part for part in op_name.split('/')[:-1] if part and '(' not in part]
  named = [part for part in modules if part not in _NO_MODULES and '.' not in part]
  # Rematerialised modules are named twice.
  places = [part for part, before in zip(named, ['', *named], strict=False) if part != before]
  direction = 'backward' if 'transpose(' in op_name else 'forward'
  return '/'.join(places[:_DEPTH]) or 'outside the networks', direction


def _events(folder: str) -> list[dict[str, Any]]:
  files = sorted(pathlib.Path(folder).glob('plugins/profile/*/*.trace.json.gz'))
  if not files:
    return []
  with gzip.open(files[-1], 'rt') as file:
    found = json.load(file)['traceEvents']
  return [e for e in found if e.get('ph') == 'X' and 'hlo_op' in e.get('args', {})]


def _own_times(events: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
  """(instruction, microseconds in it and in none that it contains), thread by thread."""
  threads = collections.defaultdict(list)
  for event in events:
    threads[event['pid'], event['tid']].append(event)
  for thread in threads.values():
    open_events = []
    for event in sorted(thread, key=lambda e: (e['ts'], -e['dur'])):
      while open_events and open_events[-1][0]['ts'] + open_events[-1][0]['dur'] <= event['ts']:
        yield _closed(open_events.pop())
      if open_events:
        open_events[-1][1] += event['dur']
      open_events.append([event, 0.0])
    while open_events:
      yield _closed(open_events.pop())


def _closed(entry):
  event, inside = entry
  return event['args']['hlo_op'], event['dur'] - inside
