"""Measurements over batch sizes, devices, image sizes and model sizes."""

from collections.abc import Callable, Iterable, Sequence
import gc
import math
from typing import Any

import jax
import ml_collections

from dfrec_jax.benchmark import flops, plots
from dfrec_jax.benchmark.measure import WHOLE, measure
from dfrec_jax.errors import InputError

Point = dict[str, Any]


def sweep(
  config: ml_collections.ConfigDict,
  what: str,
  *,
  batches: Sequence[int],
  devices: Sequence[int],
  done: Callable[[Point], None] = lambda point: None,
  **settings: Any,
) -> list[Point]:
  """Measures each batch size, which is that of all devices together, on each number of devices.

  Args:
    config, what, settings: of `measure`.
    batches: batch sizes; those that the devices cannot share equally are left out.
    devices: numbers of devices.
    done: gets each point when it is there.

  Raises:
    InputError: there are not so many devices.
  """
  if max(devices) > len(jax.devices()):
    raise InputError(f'--devices asks for {max(devices)}, and there are {len(jax.devices())}.')
  pairs = [(count, batch) for count in devices for batch in batches if batch % count == 0]

  def points():
    for count, batch in pairs:
      changed = config.copy_and_resolve_references()
      changed.batch_size = batch
      changed.mesh.update(data=-1, fsdp=1, tensor=1)
      yield _point(changed, what, jax.devices()[:count], settings)

  return _collect(points(), done)


def cost_with_size(
  config: ml_collections.ConfigDict,
  what: str,
  *,
  sizes: Sequence[str],
  image_sizes: Sequence[int],
  done: Callable[[Point], None] = lambda point: None,
  **settings: Any,
) -> list[Point]:
  """Measures each image size at the configuration's model size, and each model size at its image's.

  Args:
    config, what, settings: of `measure`, on one device.
    sizes: of `dfrec_jax.models.sizes`.
    image_sizes: sides in pixels.
    done: gets each point when it is there; its `axis` is `image_size` or `size`.
  """
  model = config.model
  pairs = [('image_size', model.size, side) for side in image_sizes]
  pairs += [('size', size, model.image_size) for size in sizes]

  def points():
    for axis, size, side in pairs:
      changed = config.copy_and_resolve_references()
      changed.model.update(size=size, image_size=side)
      changed.mesh.update(data=1, fsdp=1, tensor=1)
      yield {'axis': axis} | _point(changed, what, jax.devices()[:1], settings)

  return _collect(points(), done)


def _collect(points: Iterable[Point], done) -> list[Point]:
  found = []
  for point in points:
    found.append(point)
    done(point)
    gc.collect()  # The state of the last one, before the next one's.
  return found


def _point(config, what, devices, settings) -> Point:
  about = {
    'size': config.model.size,
    'image_size': config.model.image_size,
    'batch': config.batch_size,
    'devices': len(devices),
  }
  try:
    report, _ = measure(config, what, devices=devices, by_part=False, **settings)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return about | {'fits': False}
  whole = report[WHOLE]
  return about | {
    'fits': True,
    'milliseconds': whole['milliseconds'],
    'examples_per_second': report['examples_per_second'],
    'mfu': whole['mfu'],
    'flops': whole['flops'],
    'compile_seconds': whole['compile_seconds'],
    'planned_peak_bytes': report['memory']['planned_peak_bytes'],
    'state_bytes': flops.state_bytes(config.model, train=what == 'train'),
  }


def sweep_plot(points: Sequence[Point], title: str):
  """Examples a second over the batch size, a curve for each number of devices."""
  curves = [
    plots.Curve(
      f'{count} device{"s" if count > 1 else ""}',
      [p['batch'] for p in points if p['devices'] == count],
      [p.get('examples_per_second') for p in points if p['devices'] == count],
    )
    for count in sorted({p['devices'] for p in points})
  ]
  return plots.plot(curves, title=title, x_label='batch size', y_label='examples a second')


def cost_plots(points: Sequence[Point], what: str) -> dict[str, Any]:
  """Pictures by name: time and memory over image sizes and over model sizes.

  Beside the time stands the formula's FLOP at one speed, the geometric mean of all: where the time
  grows as the formula says, the two run along each other. Beside the memory stands a lower bound:
  the state alone, without activations.
  """
  figures = {}
  for axis, label in (('image_size', 'image size in pixels'), ('size', 'FLOP of the formula')):
    of_axis = [p for p in points if p['axis'] == axis and p['fits']]
    if not of_axis:
      continue
    by_image = axis == 'image_size'
    x = [p['image_size'] if by_image else p['flops'] for p in of_axis]
    names = None if by_image else [p['size'] for p in of_axis]
    speed = math.exp(sum(math.log(p['flops'] / p['milliseconds']) for p in of_axis) / len(of_axis))
    title = f'{what}: {of_axis[0]["size"] if by_image else str(of_axis[0]["image_size"]) + " px"}'
    words = {'title': title, 'x_label': label, 'x_names': names}
    measured = plots.Curve('measured', x, [p['milliseconds'] for p in of_axis])
    formula = plots.Curve('formula', x, [p['flops'] / speed for p in of_axis], dashed=True)
    figures[f'time_{axis}'] = plots.plot(
      [measured, formula], y_label='milliseconds a step', **words
    )
    of_memory = lambda key, of=of_axis: [p[key] / 2**30 for p in of]
    memory = plots.Curve('compiler', x, of_memory('planned_peak_bytes'))
    least = plots.Curve('lower bound: the state', x, of_memory('state_bytes'), dashed=True)
    figures[f'memory_{axis}'] = plots.plot([memory, least], y_label='memory in GiB', **words)
  return figures
