"""What XLA's count leaves out: it takes the body of a loop once, however often it turns."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


def further_turns(jaxpr: Any) -> tuple[float, float]:
  """FLOP and bytes of all turns of all loops but each loop's first, as XLA counts their bodies.

  Each body is compiled by itself, which for a block of a network takes a second or two.

  Args:
    jaxpr: of the program, `jax.stages.Traced.jaxpr`.
  """
  flops = accessed = 0.0
  for body, further in _loops(jaxpr.jaxpr, 1):
    if further:
      of_one = _count(body)
      flops += further * of_one[0]
      accessed += further * of_one[1]
  return flops, accessed


def _loops(jaxpr, runs) -> Iterator[tuple[Any, int]]:
  """(body, turns beside the first of each run) of every `scan`; `jaxpr` itself runs `runs` times.

  A loop within a loop comes twice: its first turn in the outer one's body, the others by itself.
  """
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'scan':
      body, turns = equation.params['jaxpr'], equation.params['length']
      yield body, runs * (turns - 1)
      yield from _loops(body.jaxpr, runs * turns)
    else:
      for inside in _jaxprs(equation.params):
        yield from _loops(inside, runs)


def _jaxprs(params) -> Iterator[Any]:
  for value in params.values():
    for x in value if isinstance(value, list | tuple) else (value,):
      if isinstance(x, core.ClosedJaxpr):
        yield x.jaxpr
      elif isinstance(x, core.Jaxpr):
        yield x


def _count(body) -> tuple[float, float]:
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in body.in_avals]
  lowered = jax.jit(core.jaxpr_as_fun(body)).lower(*shapes)
  flops = lowered.cost_analysis().get('flops', 0.0)
  return flops, lowered.compile().cost_analysis().get('bytes accessed', 0.0)
