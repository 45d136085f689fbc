"""The protocols beyond the mean: damage before the examiner, groups of people, single examples."""

from collections.abc import Callable, Mapping, Sequence
import csv
import io
from typing import Any

from etils import epath
import numpy as np

from dfrec_jax import measurements
from dfrec_jax.errors import InputError
from dfrec_jax.measurements import PRISTINE
from dfrec_jax.recovery import Batch, Recovery
from dfrec_jax.suite import robustness, summary
from dfrec_jax.suite.measuring import Remembered
from dfrec_jax.suite.summary import Rows
from input_pipeline.transforms import resize
from input_pipeline.triplets import WithPristine

FILE, EXAMPLES = 'protocols.json', 'examples.csv'
# What a curve shows of forged and of pristine photographs.
CURVES = ('target_psnr', 'target_identity', 'source_identity', 'mask_iou', 'auc', 'accuracy')
_META = ('attack', 'label', 'source_person', 'target_person')


def batched(
  recover: Callable[[Batch, int], list[Recovery]], *, batch_size: int, image_size: int
) -> Callable[..., list[Recovery]]:
  """Recovers any list of examples through a function of padded batches, in one process.

  Returns:
    (examples, first=0) -> recoveries; `first` is the number of the first batch, from which the
    masking is drawn.
  """

  def run(examples, first=0):
    recovered = []
    for number, start in enumerate(range(0, len(examples), batch_size), first):
      chunk = examples[start : start + batch_size]
      forged = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
      forged[: len(chunk)] = [resize(example['forged'], image_size) for example in chunk]
      recovered += recover((forged, chunk), number)
    return recovered

  return run


def basic_rows(
  examples: Sequence[Mapping[str, Any]],
  recovered: Sequence[Recovery],
  embed: Callable[[Sequence[np.ndarray]], np.ndarray] | None,
  *,
  first: int = 0,
) -> Rows:
  """The figures of `metrics.json`, an example a row, of the model and of copying.

  `first` is the number of the first of these examples among all.
  """
  rows = Rows(methods={'recovered': [], 'copy': []})
  measured = measurements.measure(examples, recovered, embed)
  for number, (example, row) in enumerate(zip(examples, measured, strict=True), first):
    people = {
      f'{role}_person': example.get(f'{role}_identity') or f'{role} of example {number}'
      for role in ('source', 'target')
    }
    rows.examples.append({'attack': row['attack'], 'label': row['label'], **people})
    figures = {k: v for k, v in row.items() if k not in ('attack', 'label')}
    copied = {k: v for k, v in figures.items() if k.startswith('copy_')}
    rows.methods['recovered'].append({k: v for k, v in figures.items() if k not in copied})
    rows.methods['copy'].append({k.removeprefix('copy_'): v for k, v in copied.items()})
  return rows


def robustness_curves(
  recover: Callable[[Sequence[Mapping[str, Any]]], list[Recovery]],
  source: Any,
  embed: Remembered | None,
  *,
  resamples: int,
  report: Callable[[str], None],
) -> dict[str, Any]:
  """Recovers the examples of `source` and their targets as pristine, damaged more and more.

  What is to be recovered are the undamaged photographs.

  Args:
    recover: examples -> recoveries.
    source: random access to examples.
    embed: measures identity; None leaves it out.
    resamples: of the bootstrap.
    report: told which damage comes next.

  Returns:
    `examples`; `clean`: figures without damage; `curves`: for each damage its title, unit and
    points of `level` and figures. Figures are {'recovered': ..., 'copy': ..., 'pristine': ...},
    `pristine` the model's figures of photographs that were not forged.
  """
  everything = WithPristine(source)
  examples = [everything[i] for i in range(len(everything))]

  true = [example[kind] for example in examples for kind in ('source', 'target')]

  def figures(damaged):
    rows = basic_rows(damaged, recover(damaged), embed)
    if embed:
      embed.forget(but=true)
    groups = rows.groups()
    groups = {name: groups[name] for name in ('all', PRISTINE)}
    result = summary.summarise(rows, groups, resamples=resamples)
    keep = lambda found: {name: found[name] for name in CURVES if name in found}
    return {
      'recovered': keep(result['recovered']['all']),
      'copy': keep(result['copy']['all']),
      'pristine': keep(result['recovered'][PRISTINE]),
    }

  curves = {}
  clean = figures(examples)
  for name, corruption in robustness.CORRUPTIONS.items():
    report(corruption.title)
    points = []
    for level in corruption.levels:
      damaged = [
        robustness.corrupt(example, corruption, level, seed)
        for seed, example in enumerate(examples)
      ]
      points.append({'level': level, **figures(damaged)})
    curves[name] = {'title': corruption.title, 'unit': corruption.unit, 'points': points}
  return {'examples': len(source), 'clean': clean, 'curves': curves}


def read_groups(path: epath.PathLike) -> dict[str, dict[str, str]]:
  """Reads what is known of people: a CSV file with a column `person` and one for each property.

  Returns:
    {property: {person: its value}}; empty fields are left out.

  Raises:
    InputError: there is no such file, or no such column.
  """
  try:
    text = epath.Path(path).expanduser().read_text().removeprefix('\ufeff')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'The groups of people {path} cannot be read: {error}.') from error
  reader = csv.DictReader(io.StringIO(text, newline=''))
  properties = [name for name in reader.fieldnames or () if name != 'person']
  if 'person' not in (reader.fieldnames or ()) or not properties:
    raise InputError(f'{path} needs a column person and one for each property, such as sex.')
  rows = list(reader)
  return {name: {row['person']: row[name] for row in rows if row[name]} for name in properties}


def group_indices(rows: Rows, known: Mapping[str, Mapping[str, str]]) -> dict[str, np.ndarray]:
  """Examples by what is known of the person that was covered.

  Returns:
    `property: value`: indices of the forged ones; `property: value, pristine`: of their honest
    photographs.
  """
  labels = np.array([e['label'] for e in rows.examples])
  result = {}
  for name, of_person in known.items():
    values = np.array([of_person.get(e['target_person'], '') for e in rows.examples], str)
    for value in sorted({*values.tolist()} - {''}):
      for label, ending in ((1, ''), (0, f', {PRISTINE}')):
        members = np.flatnonzero((values == value) & (labels == label))
        if len(members):
          result[f'{name}: {value}{ending}'] = members
  return result


def write_examples(rows: Rows, path: epath.Path) -> None:
  """Writes one line an example and method: `examples.csv`, for whoever wants other statistics."""
  names = sorted({name for of_method in rows.methods.values() for row in of_method for name in row})
  text = io.StringIO(newline='')
  writer = csv.writer(text)
  writer.writerow(['example', *_META, 'method', *names])
  for method, of_method in rows.methods.items():
    for i, (example, row) in enumerate(zip(rows.examples, of_method, strict=True)):
      figures = [format(row[name], '.6g') if name in row else '' for name in names]
      writer.writerow([i, *(example[name] for name in _META), method, *figures])
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.parent / f'.{path.name}.part'
  beside.write_text(text.getvalue())
  beside.replace(path)


def read_examples(path: epath.Path) -> Rows:
  """What `write_examples` wrote."""
  rows, reader = Rows(), csv.DictReader(io.StringIO(path.read_text(), newline=''))
  for line in reader:
    of_method = rows.methods.setdefault(line['method'], [])
    if len(of_method) == len(rows.examples):
      rows.examples.append(
        {name: int(line[name]) if name == 'label' else line[name] for name in _META}
      )
    figures = {k: v for k, v in line.items() if k not in (*_META, 'example', 'method')}
    of_method.append({name: float(value) for name, value in figures.items() if value})
  return rows
