"""What the command line does: measures, prints, writes."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

import jax
import ml_collections

from dfrec_jax import figures
from dfrec_jax.benchmark import measure as measuring
from dfrec_jax.benchmark import profiling, tables, timing
from dfrec_jax.benchmark import sweep as sweeping
from dfrec_jax.benchmark.measure import WHOLE
from dfrec_jax.errors import InputError
from dfrec_jax.models.dfrec import PUBLISHED
from dfrec_jax.models.sizes import get_size


class Output:
  """The folder of `--output`, or nothing. Each file is written beside and renamed.

  Of several processes only the first prints and writes.
  """

  def __init__(self, folder: str):
    self._first = jax.process_index() == 0
    self._folder = pathlib.Path(folder) if folder and self._first else None

  def json(self, name: str, content: Any) -> None:
    if self._folder:
      tables.write_json(self._folder / f'{name}.json', content)

  def text(self, name: str, text: str) -> None:
    """Prints, and writes the same."""
    if self._first:
      print(text, end='\n\n', flush=True)
    if self._folder:
      self._folder.mkdir(parents=True, exist_ok=True)
      (self._folder / f'{name}.md').write_text(text + '\n')

  def figure(self, name: str, figure: Any) -> None:
    if self._folder:
      figures.save_figure(figure, str(self._folder / f'{name}.png'))


def publish(config: ml_collections.ConfigDict) -> None:
  """Sets `config.model` to the published networks; a size given as `test` or `nano` stays small."""
  settings = dict(PUBLISHED)
  if get_size(config.model.size).patch != get_size(PUBLISHED['size']).patch:
    settings |= {'size': config.model.size, 'image_size': config.model.image_size}
  config.model.update(settings)


def measure(config, what: str, output: Output, trace_folder: str, **settings: Any) -> None:
  """Measures once; with a folder, traces a few steps after it."""
  if trace_folder and what == 'input':
    raise InputError('--profile traces train or recover, not input.')
  report, parts = measuring.measure(config, what, **settings)
  output.json(what, report)
  output.text(what, tables.report_table(report))
  if trace_folder:
    whole = parts[WHOLE]
    profiling.trace(whole.run, trace_folder)
    costs = profiling.largest_costs(trace_folder, whole.program.compiled.as_text())
    output.json('costs', costs)
    output.text('costs', tables.costs_table(costs))


def peer(config, what: str, output: Output, *, kinds: tuple[str, ...], **settings: Any) -> None:
  """Compares with PyTorch."""
  from dfrec_jax.benchmark import peer as comparing

  if wrong := set(kinds) - set(comparing.KINDS):
    raise InputError(f'--peer_kinds is {", ".join(sorted(wrong))}; it is eager, compile or both.')
  write = lambda report: output.json(f'peer_{what}', report)
  report = comparing.compare(config, what, kinds=kinds, done=write, **settings)
  if 'times' not in report:
    raise InputError(' '.join(report['without'].values()))
  output.text(f'peer_{what}', tables.peer_table(report))


def sweep(
  config, what: str, output: Output, batches: Sequence[int], devices: Sequence[int], **settings: Any
) -> None:
  """Measures batch sizes and numbers of devices; draws."""
  settings |= _for_all_points(config, what)
  done = _keep(output, f'sweep_{what}')
  points = sweeping.sweep(config, what, batches=batches, devices=devices, done=done, **settings)
  output.text(f'sweep_{what}', tables.points_table(points))
  if any(point['fits'] for point in points):
    model = config.model
    title = f'{what}: {model.size} at {model.image_size} px, {model.dtype}'
    output.figure(f'sweep_{what}', sweeping.sweep_plot(points, title))


def cost_with_size(
  config, what: str, output: Output, sizes: Sequence[str], sides: Sequence[int], **settings: Any
) -> None:
  """Measures image sizes and model sizes; draws."""
  settings |= _for_all_points(config, what)
  done = _keep(output, f'cost_{what}')
  points = sweeping.cost_with_size(
    config, what, sizes=sizes, image_sizes=sides, done=done, **settings
  )
  output.text(f'cost_{what}', tables.points_table(points))
  for name, figure in sweeping.cost_plots(points, what).items():
    output.figure(f'cost_{what}_{name}', figure)


def _for_all_points(config, what: str) -> dict[str, Any]:
  if what == 'input':
    raise InputError('--sweep and --cost_with_size measure train or recover, not input.')
  return {'peak': timing.peak_of(jax.devices()[0], config.model.dtype)}


def _keep(output: Output, name: str) -> Callable[[dict[str, Any]], None]:
  """Shows each point and writes all that are there: a run that is killed leaves them."""
  points = []

  def done(point):
    points.append(point)
    output.json(name, points)
    _show(point)

  return done


def _show(point: dict[str, Any]) -> None:
  """So that a long run tells how far it is."""
  took = f'{point["milliseconds"]:.1f} ms' if point['fits'] else 'does not fit'
  print(
    f'{point["size"]}, {point["image_size"]} px, batch {point["batch"]}, '
    f'{point["devices"]} device(s): {took}',
    flush=True,
  )
