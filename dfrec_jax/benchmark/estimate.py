"""From costs to a time: the formula of the plan."""

from collections.abc import Mapping, Sequence
from typing import Any

from dfrec_jax.benchmark.chips import Chip
from dfrec_jax.benchmark.collectives import Collective
from dfrec_jax.benchmark.hlo_cost import PARTS, Cost

FORMULA = (
  'step = max(FLOP / peak, HBM bytes / HBM bandwidth) + time of collectives that nothing hides; '
  'of one: bytes that a chip sends / its links, less the time of what runs between start and end'
)


def roofline_seconds(costs: Mapping[Any, Cost], chip: Chip, dtype: str) -> dict[Any, float]:
  """Seconds of each instruction, each time it runs: the larger of its products and its traffic."""
  peak = chip.flops[dtype]
  return {
    key: max(cost.flops / peak, cost.bytes / chip.hbm_bandwidth) for key, cost in costs.items()
  }


def parts_table(
  costs: Mapping[Any, Cost], seconds: Mapping[Any, float], chip: Chip, dtype: str
) -> dict[str, dict[str, float]]:
  """FLOP, HBM bytes and seconds on one chip by part of the model.

  `formula_s` is the plan's formula of the part alone, without collectives; `sum_s` adds up the
  instructions, each at the larger of its own two times.
  """
  table = {}
  for part in PARTS:
    flops = sum(cost.flops_of.get(part, 0.0) * cost.times for cost in costs.values())
    own = {key: cost for key, cost in costs.items() if cost.part == part}
    traffic = sum(cost.bytes * cost.times for cost in own.values())
    table[part] = {
      'flops': flops,
      'bytes': traffic,
      'formula_s': max(flops / chip.flops[dtype], traffic / chip.hbm_bandwidth),
      'sum_s': sum(seconds[key] * cost.times for key, cost in own.items()),
    }
  return table


def step_time(
  flops: float,
  traffic: float,
  exchanged: Sequence[Collective],
  seconds: Mapping[Any, float],
  costs: Mapping[Any, Cost],
  chip: Chip,
  dtype: str,
) -> dict[str, float]:
  """Seconds of one step by `FORMULA` and its terms.

  `sum_s` is a second, slower estimate, in which no two instructions overlap.
  """
  exposed = sum(c.exposed_s(chip.ici_bandwidth) for c in exchanged)
  compute, memory = flops / chip.flops[dtype], traffic / chip.hbm_bandwidth
  one_by_one = sum(seconds[key] * cost.times for key, cost in costs.items())
  return {
    'flops_s': compute,
    'bytes_s': memory,
    'exposed_s': exposed,
    'step_s': max(compute, memory) + exposed,
    'sum_s': one_by_one + exposed,
  }


def flops_utilisation(model_flops: float, seconds: float, chip: Chip, dtype: str) -> float:
  """MFU: FLOP that the model needs on one chip, over what the chip could do meanwhile."""
  return model_flops / (seconds * chip.flops[dtype]) if seconds else 0.0
