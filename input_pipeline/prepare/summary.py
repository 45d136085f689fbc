"""What a preparation leaves to read and to look at: numbers, what was unusable, a contact sheet."""

import collections
from collections.abc import Iterable, Sequence
import csv
import json
import pathlib
from typing import Any

import cv2
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.prepare.reports import Report, write_json
from input_pipeline.prepare.units import Settings, Unit, UnitLog

SUMMARY = 'summary.json'
UNUSABLE = 'unusable.csv'
IGNORED = 'ignored.csv'
CHECKSUMS = 'checksums.tsv'
CONTACT_SHEET = 'contact_sheet.png'
SHEET_ROWS = 16  # of each split
_LISTED = ('files', 'unusable_files', 'ignored_files')  # In files of their own.
_TILE = 112
_COLUMNS = ('source', 'target', 'forged', 'mask')

Summary = dict[str, Any]


def gather(
  settings: Settings, units: Sequence[Unit], reports: Sequence[Report], listing: UnitLog
) -> Summary:
  """Adds up the reports of all units.

  Returns:
    `settings`; `units`; `examples` of each split and attack; `masks` by kind; `left_out`, frames,
    swaps and files by reason; `unusable`, files by reason up to its colon; `unusable_files`
    and `ignored_files`, (file, reason); `files`, name to (bytes, SHA-256).
  """
  examples: dict[str, collections.Counter] = {}
  masks, left_out = collections.Counter(), collections.Counter(listing.left_out)
  unusable, files = list(listing.unusable), dict(listing.files)
  for report in reports:
    for split, of_split in report['counts'].items():
      for kind, count in of_split.items():
        attack, _, mask = kind.rpartition('/')
        examples.setdefault(split, collections.Counter())[attack] += count
        if mask:
          masks[mask] += count
    left_out.update(report['left_out'])
    unusable += map(tuple, report['unusable'])
    files |= report['files']
  unusable = sorted(set(unusable))
  return {
    'settings': settings.as_dict(),
    'units': len(units),
    'examples': {split: dict(sorted(examples[split].items())) for split in sorted(examples)},
    'masks': dict(masks),
    'left_out': {reason: count for reason, count in left_out.items() if count},
    'unusable': dict(collections.Counter(reason.partition(':')[0] for _, reason in unusable)),
    'unusable_files': unusable,
    'ignored_files': sorted(listing.ignored),
    'files': files,
  }


def read_done(folder: pathlib.Path, settings: Settings) -> Summary | None:
  """The summary of a folder that is prepared already; None where it is not.

  Raises:
    InputError: it was prepared with other settings, or its summary cannot be read.
  """
  try:
    done = json.loads((folder / SUMMARY).read_text())
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (ValueError, IsADirectoryError) as error:
    raise _no_summary(folder) from error
  if not _is_summary(done):
    raise _no_summary(folder)
  if done['settings'] != settings.as_dict():
    raise InputError(
      f'{folder} was prepared with other settings; delete it, or give another --out.'
    )
  return done


def require_done(folder: pathlib.Path, settings: Settings) -> Summary:
  """As `read_done`, of a folder that must be prepared."""
  if done := read_done(folder, settings):
    return done
  raise _no_summary(folder)


def _is_summary(content: Any) -> bool:
  """Whether `as_text` can tell it."""
  if not isinstance(content, dict):
    return False
  tables = [content.get(key) for key in ('settings', 'examples', 'left_out', 'unusable')]
  tables.append(content.get('masks', {}))
  if not all(isinstance(table, dict) for table in tables):
    return False
  counts = content['examples'].values()
  return all(
    isinstance(of_split, dict) and all(isinstance(count, int) for count in of_split.values())
    for of_split in counts
  )


def _no_summary(folder: pathlib.Path) -> InputError:
  return InputError(
    f'{folder / SUMMARY} is missing or not a summary of this command; delete {folder} to prepare '
    'it anew, or give another --out.'
  )


def write(folder: pathlib.Path, total: Summary, examples: Iterable[dict[str, Any]]):
  """Writes summary, lists of what was unusable and ignored, checksums and contact sheet."""
  _write_lists(folder, total)
  with open(folder / CHECKSUMS, 'w', encoding='utf-8', errors='surrogateescape') as file:
    for name, (size, digest) in sorted(total['files'].items()):
      file.write(f'{digest}\t{size}\t{name}\n')
  sheet = cv2.imencode('.png', contact_sheet(list(examples))[..., ::-1])[1]
  # OpenCV itself would not tell of a full disk.
  (folder / CONTACT_SHEET).write_bytes(sheet.tobytes())
  shown = {key: total[key] for key in total if key not in _LISTED}
  write_json(folder / SUMMARY, shown | {'files_read': len(total['files'])})


def _write_lists(folder: pathlib.Path, total: Summary):
  """Writes a line for each file that could not be used, and for each that was ignored."""
  for name, rows in ((UNUSABLE, total['unusable_files']), (IGNORED, total['ignored_files'])):
    with open(folder / name, 'w', newline='', encoding='utf-8', errors='surrogateescape') as file:
      csv.writer(file).writerows([('file', 'reason'), *rows])


def nothing_usable(folder: pathlib.Path, total: Summary, raw: str) -> InputError:
  """What to raise where no example was left; writes the lists."""
  _write_lists(folder, total)
  reasons = collections.Counter(total['left_out']) + collections.Counter(total['unusable'])
  most = ', '.join(f'{reason} ({count})' for reason, count in reasons.most_common(3))
  return InputError(
    f'No example could be made of {raw}: {most or "it is empty"}; see {folder / UNUSABLE}, mend '
    'that and run the command again.'
  )


def as_text(summary: Summary, folder: pathlib.Path) -> str:
  """The summary for the terminal."""
  lines = [f'{folder}:']
  for split, attacks in summary['examples'].items():
    each = ', '.join(f'{attack} {count}' for attack, count in attacks.items())
    lines.append(f'  {split}: {sum(attacks.values())} examples ({each})')
  if summary.get('masks'):
    lines.append('  masks: ' + ', '.join(f'{k} {n}' for k, n in summary['masks'].items()))
  for reason, count in sorted(summary['left_out'].items()):
    lines.append(f'  left out, {reason}: {count}')
  for reason, count in sorted(summary['unusable'].items()):
    lines.append(f'  unusable, {reason}: {count} (see {UNUSABLE})')
  lines.append(f'  look at {folder / CONTACT_SHEET}')
  return '\n'.join(lines)


def contact_sheet(examples: Sequence[dict[str, Any]]) -> np.ndarray:
  """Examples to look at, two in a row: source, target, forged and mask of each, (H, W, 3) uint8."""
  cells = []
  for example in examples:
    images = [_tile(example[column]) for column in _COLUMNS]
    cell = cv2.copyMakeBorder(np.hstack(images), 16, 2, 2, 2, cv2.BORDER_CONSTANT, value=[255] * 3)
    cv2.putText(
      cell, _caption(example), (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA
    )
    cells.append(cell)
  if len(cells) % 2:
    cells.append(np.full_like(cells[0], 255))
  return np.vstack([np.hstack(cells[i : i + 2]) for i in range(0, len(cells), 2)])


def _caption(example: dict[str, Any]) -> str:
  name = example['name']
  known = '' if example['has_mask'] else ', mask not known'
  return f'{name.decode() if isinstance(name, bytes) else name}{known}'


def _tile(image: np.ndarray) -> np.ndarray:
  tile = cv2.resize(image, (_TILE, _TILE), interpolation=cv2.INTER_AREA)
  return tile if tile.ndim == 3 else np.repeat(tile[..., None], 3, -1)
