"""Reports of units that are done, and whether what they tell still holds.

A report (`KEY.json`) is written after the parts of its unit. A later run takes the parts over where
the unit is the same, every file that it depended on is as it was, and nothing had failed.
"""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

import tqdm

from dfrec_jax.errors import InputError
from input_pipeline.prepare.units import Unit, UnitLog, checksum, file_state

SETTINGS = 'settings.json'

Report = dict[str, Any]


def write_report(
  folder: pathlib.Path,
  unit: Unit,
  log: UnitLog,
  *,
  counts: dict[str, dict[str, int]] | None = None,
  parts: dict[str, int] | None = None,
) -> Report:
  """Writes what says that a unit is done.

  Args:
    folder: of the work.
    unit: which one.
    log: what happened.
    counts: examples of each split by `ATTACK/KIND_OF_MASK`.
    parts: the files that were made, in `folder`, and how many bytes of examples they hold.
  """
  report = {
    'fingerprint': unit.fingerprint(),
    'raw': _place(log.raw),
    'unusable': log.unusable,
    'left_out': {reason: count for reason, count in log.left_out.items() if count},
    'files': log.files,
    'inputs': log.inputs,
    'failed': log.failed,
    'counts': counts or {},
    'parts': parts or {},
  }
  write_json(_report_path(folder, unit), report)
  return report


def read_report(folder: pathlib.Path, unit: Unit) -> Report | None:
  """The report of a unit; None where it is not done, or was done of other content."""
  report = _read(_report_path(folder, unit))
  return report if report and report.get('fingerprint') == unit.fingerprint() else None


def read_reports(folder: pathlib.Path, units: Sequence[Unit]) -> list[Report]:
  """The reports of units that are all done."""
  reports = [read_report(folder, unit) for unit in units]
  if missing := [u.key for u, r in zip(units, reports, strict=True) if r is None]:
    raise InputError(
      f'{len(missing)} parts are not done in {folder} ({missing[0]}, ...); run the command again.'
    )
  return reports


def discard_outdated(folder: pathlib.Path, raw: str) -> int:
  """Removes the reports that an earlier run left and that no longer hold; returns how many.

  Args:
    folder: of the work.
    raw: where the raw files are now.
  """
  count = 0
  # Checksums of a download that was moved take a while.
  for path in tqdm.tqdm(sorted(folder.glob('*.json')), desc='Known parts', delay=2, leave=False):
    if path.name != SETTINGS and not _holds(_read(path), folder, raw):
      path.unlink()
      count += 1
  return count


def part_path(folder: pathlib.Path, unit: Unit, split: str) -> pathlib.Path:
  """Where the examples of a unit lie."""
  return folder / f'{unit.key}.{split}.array_record'


def write_json(path: pathlib.Path, content: Any):
  """Writes a file that is either whole or not there."""
  temporary(path).write_text(json.dumps(content, indent=1, sort_keys=True))
  os.replace(temporary(path), path)


def temporary(path: pathlib.Path) -> pathlib.Path:
  """Where this process writes a file before it gets its name; no other process writes there."""
  return path.with_name(f'{path.name}.{os.getpid()}.tmp')


def remove_temporary(folder: pathlib.Path):
  """Removes what processes that were killed have left."""
  for path in folder.glob('*.tmp'):
    path.unlink(missing_ok=True)


def _holds(report: Report | None, folder: pathlib.Path, raw: str) -> bool:
  if report is None or report.get('failed', True):
    return False
  if not all((folder / part).exists() for part in report['parts']):
    return False
  same_place = report['raw'] == _place(raw)
  if not report['inputs']:
    return same_place
  return all(
    _unchanged(pathlib.Path(raw, name), state, report['files'].get(name), same_place)
    for name, state in report['inputs'].items()
  )


def _unchanged(path: pathlib.Path, state, file, same_place: bool) -> bool:
  now = file_state(path)
  if now is None or state is None:
    return now is state
  if same_place and list(now) == state:
    return True
  # The download was moved, copied or unpacked again: the content decides.
  try:
    return file is not None and now[0] == file[0] and list(checksum(path)) == file
  except OSError:
    return False


def _read(path: pathlib.Path) -> Report | None:
  try:
    content = json.loads(path.read_text())
  except (FileNotFoundError, ValueError):
    return None
  return content if isinstance(content, dict) else None


def _place(raw: str) -> str:
  """A folder's one name; sets of TensorFlow Datasets have theirs."""
  return os.path.realpath(raw) if os.path.isdir(raw) else raw


def _report_path(folder: pathlib.Path, unit: Unit) -> pathlib.Path:
  return folder / f'{unit.key}.json'
