"""Doing the units of a preparation: in parallel, each one as a whole, going on where it stopped.

A folder of work holds `settings.json` and, of each unit that is done, a part for each of its splits
(`KEY.SPLIT.array_record`) and a report (`KEY.json`, see `reports`).
"""

from collections.abc import Callable, Sequence
import concurrent.futures
from concurrent.futures.process import BrokenProcessPool
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import threading
from typing import Any

import cv2
import tqdm

from dfrec_jax.errors import InputError
from input_pipeline.prepare import registry
from input_pipeline.prepare.records import serialise, write_records
from input_pipeline.prepare.reports import (
  SETTINGS,
  Report,
  discard_outdated,
  part_path,
  read_report,
  read_reports,
  remove_temporary,
  temporary,
  write_json,
  write_report,
)
from input_pipeline.prepare.units import Settings, Unit, UnitLog

Task = Callable[[Unit], Report]


def open_folder(folder: pathlib.Path, settings: Settings) -> None:
  """Makes the folder of work, or goes on in the one that is there.

  Units that failed, or whose files have changed since, are to be done again.

  Raises:
    InputError: it was begun with other settings.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f'{folder} cannot be made ({error.strerror}); give another --out.') from error
  path = folder / SETTINGS
  given = settings.as_dict()
  if not path.exists():
    write_json(path, given)
  _require_settings(folder, given)
  remove_temporary(folder)
  if outdated := discard_outdated(folder, settings.raw):
    tqdm.tqdm.write(f'{outdated} parts are done again: they failed, or their files have changed.')


def _require_settings(folder: pathlib.Path, given: dict[str, Any]):
  try:
    begun = json.loads((folder / SETTINGS).read_text())
  except ValueError as error:
    raise InputError(f'{folder / SETTINGS} is no JSON; delete {folder}.') from error
  if changed := sorted(key for key in given if begun.get(key) != given[key]):
    key = changed[0]
    raise InputError(
      f'The preparation in {folder} was begun with {key}={begun.get(key)!r}, not {given[key]!r}; '
      'repeat the settings to go on with it, or delete the folder.'
    )


def run(units: Sequence[Unit], task: Task, folder: pathlib.Path, workers: int) -> list[Report]:
  """Does the units that are not done yet.

  Args:
    units: all of the preparation.
    task: does one unit; picklable where `workers` > 0.
    folder: of work.
    workers: processes; 0 works in this one.

  Returns:
    The report of each unit, in their order.
  """
  remaining = _left(units, folder)
  if len(remaining) < len(units):
    tqdm.tqdm.write(f'{len(units) - len(remaining)} of {len(units)} parts are there already.')
  with tqdm.tqdm(
    total=len(units), initial=len(units) - len(remaining), unit='part', smoothing=0.05
  ) as bar:
    if workers:
      _run_processes(remaining, task, folder, workers, bar)
    else:
      for unit in remaining:
        task(unit)
        bar.update()
  return read_reports(folder, units)


def run_on_beam(units: Sequence[Unit], task: Task, folder: pathlib.Path, **options: Any):
  """As `run`, on the machines of an Apache Beam runner that all see the folder of work.

  Args:
    options: `runner` and `options` of `apache_beam.Pipeline`.

  Raises:
    InputError: Apache Beam is not installed.
  """
  try:
    import apache_beam as beam
  except ImportError as error:
    raise no_beam() from error
  remaining = _left(units, folder)
  with beam.Pipeline(**options) as pipeline:
    _ = pipeline | beam.Create(remaining) | beam.Reshuffle() | beam.Map(task)
  return read_reports(folder, units)


def no_beam() -> InputError:
  """What to raise where Apache Beam is not installed."""
  return InputError("Apache Beam is not installed; install the extra: pip install -e '.[beam]'.")


def do_unit(unit: Unit, *, settings: Settings, folder: pathlib.Path) -> Report:
  """Makes the examples of one unit, and writes its parts and its report."""
  cv2.setNumThreads(1)
  log = UnitLog(settings.raw)
  records: dict[str, list[bytes]] = {}
  counts: dict[str, dict[str, int]] = {}
  try:
    for split, example in registry.load(settings.dataset).make_examples(unit, settings, log):
      records.setdefault(split, []).append(serialise(example, settings.encoding))
      of_split = counts.setdefault(split, {})
      kind = f'{example["attack"]}/{example["mask_kind"]}'
      of_split[kind] = of_split.get(kind, 0) + 1
  except InputError:
    raise
  # A file that breaks a decoder in a way of its own must not end a run of hours.
  except Exception as error:
    log.skip(unit.key, f'failed: {type(error).__name__}: {error}')
    log.failed = True
  parts = {}
  for split, of_split in records.items():
    path = part_path(folder, unit, split)
    write_records(temporary(path), of_split)
    os.replace(temporary(path), path)
    parts[path.name] = sum(map(len, of_split))
  return write_report(folder, unit, log, counts=counts, parts=parts)


def _left(units: Sequence[Unit], folder: pathlib.Path) -> list[Unit]:
  """The units that are not done yet."""
  return [unit for unit in units if read_report(folder, unit) is None]


def _started_path(folder: pathlib.Path, unit: Unit) -> pathlib.Path:
  return folder / f'{unit.key}.started'


def _run_processes(units, task, folder, workers, bar):
  """Units in the processes of a pool; after a crash, those that were being done, one by one."""
  while units:
    for unit in units:
      _started_path(folder, unit).unlink(missing_ok=True)
    try:
      _run_pool(units, functools.partial(_start, task=task, folder=folder), workers, bar)
      return
    except BrokenProcessPool as error:
      units = _left(units, folder)
      bar.n = bar.total - len(units)
      suspects = [unit for unit in units if _started_path(folder, unit).exists()]
      if not suspects:
        raise InputError(
          'A process ended before it had begun a part, perhaps for want of memory; run the command '
          'again with fewer --workers.'
        ) from error
      for unit in suspects:
        _run_alone(unit, task, folder)
        bar.update()
      units = _left(units, folder)


def _run_pool(units, task, workers, bar):
  with _pool(workers) as pool:
    futures = [pool.submit(task, unit) for unit in units]
    try:
      for future in concurrent.futures.as_completed(futures):
        future.result()
        bar.update()
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def _start(unit: Unit, *, task: Task, folder: pathlib.Path) -> Report:
  """Does a unit, and leaves a sign until it is done."""
  _started_path(folder, unit).touch()
  report = task(unit)
  _started_path(folder, unit).unlink()
  return report


def _run_alone(unit: Unit, task: Task, folder: pathlib.Path):
  """A unit that may bring its process down: then it is reported and passed over."""
  try:
    with _pool(1) as pool:
      pool.submit(task, unit).result()
  except BrokenProcessPool:
    log = UnitLog('')
    log.skip(unit.key, 'ended the process that read it; one of its files is broken')
    log.failed = True
    write_report(folder, unit, log)


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
  # Started anew: a fork of a process with threads (OpenCV, JAX) may hang.
  return concurrent.futures.ProcessPoolExecutor(
    workers, mp_context=multiprocessing.get_context('spawn'), initializer=_finish_what_is_begun
  )


def _finish_what_is_begun():
  """Ctrl-C is for the process that started this one; with its end this one ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
  # A killed process cannot tell its pool, which would go on with all that is left.
  multiprocessing.parent_process().join()
  os._exit(1)


def make_task(settings: Settings, folder: pathlib.Path) -> Task:
  """The task of the sets that become shards."""
  return functools.partial(do_unit, settings=settings, folder=folder)
