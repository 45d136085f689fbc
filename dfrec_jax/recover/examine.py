"""From paths to an output folder with images, `results.json` and `report.html`."""

from collections.abc import Callable, Sequence
import os
import pathlib
import signal
import threading
from typing import Any

from dfrec_jax.errors import InputError
from dfrec_jax.recover import report
from dfrec_jax.recover.inputs import Input, find_inputs
from dfrec_jax.recover.jobs import Settings
from dfrec_jax.recover.outputs import OutputFolder, header
from dfrec_jax.recover.pipeline import Pipeline
from dfrec_jax.recover.recoverer import Recoverer


class Interrupted(Exception):
  """SIGINT or SIGTERM came; what was done until then is in `results.json`.

  Attributes:
    signal: its number.
    done, total: inputs that are done or failed, and all of them.
  """

  def __init__(self, number: int, done: int, total: int):
    super().__init__(f'Stopped with {done} of {total} inputs done.')
    self.signal, self.done, self.total = number, done, total


def examine(
  given: Sequence[str],
  out: str | os.PathLike,
  recoverer: Recoverer,
  *,
  seed: int = 0,
  finder: str | None = 'cascade',
  fps: float = 2.0,
  gallery: Any = None,
  started: Callable[[list[Input]], Callable[[], None]] = lambda found: lambda: None,
) -> dict[str, Any]:
  """Recovers the faces of images, folders, patterns and videos.

  Inputs that `out` holds already, made with the same settings and checkpoint, are not done again.

  Args:
    given: paths and patterns.
    out: the folder to write, made if it is not there; nothing is written elsewhere.
    recoverer: of `recoverer.load`.
    seed: of the masking keys.
    finder: of faces, `cascade` or `mesh`; None where each input is the crop of a face already.
    fps: frames of a video that are looked at, a second.
    gallery: of known people to search, a `trace.gallery.Gallery`.
    started: is told what was found, and returns what is called after each input.

  Returns:
    The content of `results.json`.

  Raises:
    InputError: `out` cannot be written or is an input itself, or what the finder needs is missing.
      What is wrong with an input is in its entry.
    Interrupted: by a signal, if called in the main thread.
  """
  out = pathlib.Path(out)
  looked_up = find_inputs(given, out)
  found = looked_up.items
  settings = Settings(seed, finder, fps)
  with OutputFolder(out, _header(recoverer, settings, gallery)) as folder:
    pipeline = Pipeline(recoverer, settings, folder, gallery, started(found))
    try:
      with _Interruption(pipeline) as interruption:
        pipeline.run(found)
        number = interruption.number
    finally:
      entries = [pipeline.entries[i] for i in sorted(pipeline.entries)]
      left = [item.path for i, item in enumerate(found) if i not in pipeline.entries]
      try:
        results = folder.write_results(entries, left, looked_up.passed_over)
      except OSError as error:
        raise InputError(f'{out} cannot be written: {error.strerror or error}.') from error
    report.write_report(results, out)
    if number and left:
      raise Interrupted(number, len(entries), len(found))
  return results


def _header(recoverer: Recoverer, settings: Settings, gallery: Any) -> dict[str, Any]:
  chosen = {
    'seed': settings.seed,
    'draws': recoverer.draws,
    'batch_size': recoverer.batch_size,
    'threshold': recoverer.threshold,
    'false_alarms': recoverer.false_alarms,
    'finder': settings.finder,
    'margin': recoverer.margin,
    'already_cropped': settings.finder is None,
    'fps': settings.fps,
    'gallery': str(gallery.folder) if gallery else None,
  }
  return {
    **header(recoverer.checkpoint, chosen),
    'gallery': gallery.summary() if gallery else None,
  }


class _Interruption:
  """Stops a pipeline at the first SIGINT or SIGTERM; a second one ends the process as usual.

  Attributes:
    number: of the signal that came, None before.
  """

  def __init__(self, pipeline: Pipeline):
    self.number: int | None = None
    self._pipeline, self._before = pipeline, {}

  def __enter__(self) -> '_Interruption':
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
        self._before[number] = signal.signal(number, self._note)
    return self

  def _note(self, number: int, frame: Any) -> None:
    self.number = number
    self._restore()
    self._pipeline.stop()

  def _restore(self) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def __exit__(self, *unused) -> None:
    self._restore()
