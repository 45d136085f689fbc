"""How fast batches arrive."""

import contextlib
import time
from typing import Any

import jax
import ml_collections

from dfrec_jax import sharding
from dfrec_jax.benchmark.timing import summary
from dfrec_jax.errors import InputError
from input_pipeline.loader import train_loader
from input_pipeline.sources import make_source


def measure(
  config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, *, repeats: int, seconds: float
) -> dict[str, Any]:
  """Times the loader alone, taking batches as fast as they come.

  Where the configuration's data is absent, drawn faces stand in for it; the result says so.
  """
  source, name = _source(config)
  batches = train_loader(
    source,
    batch_size=config.batch_size,
    image_size=config.model.image_size,
    seed=config.seed,
    pristine_rate=config.data.pristine_rate,
    augmentation=config.data.augmentation,
    twins=config.data.twins,
    workers=config.data.workers,
    sharding=sharding.batch_sharding(mesh),
  )
  times, start = [], time.perf_counter()
  with contextlib.closing(batches):
    # The first ones wait for threads and workers, and some were prepared ahead of the clock.
    for _ in range(4):
      jax.block_until_ready(next(batches))
    while len(times) < max(repeats, 1) and time.perf_counter() - start < seconds:
      before = time.perf_counter()
      jax.block_until_ready(next(batches))
      times.append(time.perf_counter() - before)
  # Batches come in bursts, so that the median would not tell the rate.
  mean = sum(times) / max(len(times), 1)
  row = summary(times or [float('nan')]) | {'milliseconds': 1e3 * mean, 'source': name}
  return {'input': row, 'examples_per_second': config.batch_size / mean if mean else None}


def _source(config):
  try:
    return make_source(config.data, 'train', seed=config.seed), config.data.kind
  except InputError:
    data = config.data.copy_and_resolve_references()
    data.update(kind='synthetic', image_size=config.model.image_size)
    return make_source(data, 'train', seed=config.seed), 'synthetic'
