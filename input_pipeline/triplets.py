"""Real triplets: a folder of images and a manifest, a CSV file with one row per forgery."""

import concurrent.futures
import csv
import io
import pathlib
from typing import Any

from etils import epath
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.images import ImageError, check_image, read_mask, read_rgb

Example = dict[str, Any]

REQUIRED_COLUMNS = ('forged', 'source', 'target', 'mask')
OPTIONAL_COLUMNS = ('attack', 'source_identity', 'target_identity', 'label')
IMAGE_COLUMNS = ('forged', 'source', 'target')
PRISTINE = 'pristine'
_CHECK_THREADS = 16


class ManifestError(InputError):
  """A manifest cannot be used; one sentence that names file, line and remedy."""


class Triplets:
  """Random access to the examples of a manifest, at the data's own resolution.

  The manifest's columns are `forged, source, target, mask` (paths relative to the manifest's
  folder and inside it; an empty mask means that there is no ground truth), and optionally
  `attack, source_identity, target_identity` and `label` (0 pristine, 1 forged; without it a row
  is pristine where its attack is `pristine`). Further columns are kept in `rows`. A pristine row
  names one photograph in all three columns, and its mask is all zero whatever its column says.

  Attributes:
    rows: one dictionary of strings per example, every column of the manifest.
    labels: (n,) int32, 0 pristine, 1 forged.
  """

  def __init__(self, root: epath.PathLike, manifest: str = 'train.csv', check: bool = True):
    """Reads the manifest and looks at every file it names.

    Args:
      root: the folder; may be a `gs://` path.
      manifest: the manifest's path, relative to `root`.
      check: whether to look at the header and the end of every photograph, and at every mask, now,
        in parallel threads.

    Raises:
      ManifestError: the manifest is missing, empty or malformed, a path leads outside its folder,
        or an image that a row names is missing, truncated, not 8-bit RGB or of another size than
        its forged image (the source may have any size).
    """
    self._manifest = epath.Path(root).expanduser() / manifest
    self._folder = self._manifest.parent
    lines, self.rows = _read_manifest(self._manifest)
    self.labels = np.zeros(len(self.rows), np.int32)
    base = None if '://' in str(self._folder) else pathlib.Path(self._folder).resolve()
    for i, (line, row) in enumerate(zip(lines, self.rows, strict=True)):
      where = f'{self._manifest}, line {line}'
      self.labels[i] = _label(where, row)
      for column in REQUIRED_COLUMNS:
        _require_inside(where, column, row[column], base)
    if check:
      self._check(lines)

  def __len__(self) -> int:
    return len(self.rows)

  @property
  def people(self) -> set[str]:
    """Who is named as a source or a target."""
    named = {row[f'{role}_identity'] for row in self.rows for role in ('source', 'target')}
    return named - {''}

  def __getitem__(self, index: int) -> Example:
    """Returns one example of the data contract.

    `forged`, `source`, `target` (H, W, 3) uint8, `mask` (H, W, 1) float32 in [0, 1], `has_mask`
    bool, `label` int32, `attack`, `source_identity` and `target_identity` strings.

    Raises:
      ImageError: an image cannot be read.
    """
    row = self.rows[index]
    example = {column: self._image(row, column) for column in IMAGE_COLUMNS}
    height, width = example['forged'].shape[:2]
    mask = read_mask(self._folder / row['mask']) if row['mask'] else np.zeros((height, width))
    for column, shape in (('target', example['target'].shape[:2]), ('mask', mask.shape)):
      _require_size(self._folder, row, column, shape, (height, width))
    example |= {
      'mask': mask[..., None].astype(np.float32),
      'has_mask': np.bool_(bool(row['mask'])),
      'label': np.int32(1),
      'attack': row['attack'] or 'unknown',
      'source_identity': row['source_identity'],
      'target_identity': row['target_identity'],
    }
    return example if self.labels[index] else pristine_of(example)

  def _image(self, row: dict[str, str], column: str) -> np.ndarray:
    return read_rgb(self._folder / row[column])

  def _check(self, lines: list[int]):
    """Raises the first problem in the order of the rows, and says how many rows have one."""
    files = {(row[c], c == 'mask') for row in self.rows for c in REQUIRED_COLUMNS if row[c]}
    files = sorted(files)
    with concurrent.futures.ThreadPoolExecutor(_CHECK_THREADS) as pool:
      results = dict(zip(files, pool.map(self._size_or_error, files), strict=True))
    problems = [
      (line, problem)
      for line, row in zip(lines, self.rows, strict=True)
      if (problem := self._problem(row, results))
    ]
    if problems:
      line, problem = problems[0]
      more = f' ({len(problems)} rows have such problems)' if len(problems) > 1 else ''
      raise ManifestError(f'{self._manifest}, line {line}{more}: {problem}') from problem

  def _size_or_error(self, file: tuple[str, bool]) -> tuple[int, int] | ImageError:
    name, mask = file
    try:
      # Of a mask only the pixels show whether it is one; they decode in no time.
      return read_mask(self._folder / name).shape if mask else check_image(self._folder / name)
    except ImageError as error:
      return error

  def _problem(self, row: dict[str, str], results) -> ImageError | None:
    sizes = {c: results[row[c], c == 'mask'] for c in REQUIRED_COLUMNS if row[c]}
    for size in sizes.values():
      if isinstance(size, ImageError):
        return size
    try:
      for column in ('target', 'mask'):
        if column in sizes:
          _require_size(self._folder, row, column, sizes[column], sizes['forged'])
    except ImageError as error:
      return error
    return None


class WithPristine:
  """A source followed by its target photographs as pristine examples, for evaluation.

  Index i < n is example i of `source`; then each forged example's target comes once as pristine.
  Examples that are pristine already, where the source states `labels`, are not doubled.
  """

  def __init__(self, source):
    self._source = source
    labels = getattr(source, 'labels', None)
    self._forged = range(len(source)) if labels is None else np.flatnonzero(labels).tolist()

  def __len__(self) -> int:
    return len(self._source) + len(self._forged)

  def __getitem__(self, index: int) -> Example:
    if index < len(self._source):
      return self._source[index]
    return pristine_of(self._source[self._forged[index - len(self._source)]])


def pristine_of(example: Example, photo: str = 'target') -> Example:
  """Returns the pristine example of one of the two photographs.

  Args:
    example: one example of the data contract.
    photo: 'target' or 'source'.

  Returns:
    forged = source = target = the photograph, mask all zero and known, label 0, attack
    'pristine', both identities that person's.
  """
  image, person = example[photo], example[f'{photo}_identity']
  return {
    **{column: image for column in IMAGE_COLUMNS},
    'mask': np.zeros((*image.shape[:2], 1), np.float32),
    'has_mask': np.bool_(True),
    'label': np.int32(0),
    'attack': PRISTINE,
    'source_identity': person,
    'target_identity': person,
  }


def _read_manifest(path: epath.Path) -> tuple[list[int], list[dict[str, str]]]:
  """Returns each row's line number and its columns, the optional ones empty where absent."""
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
    raise ManifestError(
      f'There is no manifest {path}; give the folder as root= and a CSV file in it with the '
      f'columns {", ".join(REQUIRED_COLUMNS)} as train= and eval=.'
    ) from error
  except UnicodeDecodeError as error:
    raise ManifestError(f'The manifest {path} is not UTF-8 text; save it as CSV, UTF-8.') from error
  reader = csv.reader(io.StringIO(text, newline=''), skipinitialspace=True)
  try:
    columns = [name.strip() for name in next(reader, [])]
  except csv.Error as error:
    raise ManifestError(
      f'{path}, line 1 is not CSV ({error}); look for a quote that is not closed.'
    ) from error
  if missing := [name for name in REQUIRED_COLUMNS if name not in columns]:
    found = ', '.join(columns) or 'none'
    raise ManifestError(
      f'The manifest {path} lacks the column(s) {", ".join(missing)}; its first line must name '
      f'{", ".join(REQUIRED_COLUMNS)}, separated by commas (found: {found}).'
    )
  if len(set(columns)) < len(columns):
    raise ManifestError(f'The manifest {path} names a column twice; rename one of them.')
  try:
    numbered = [(reader.line_num, values) for values in reader if values]
  except csv.Error as error:
    raise ManifestError(
      f'{path}, line {reader.line_num} is not CSV ({error}); look for a quote that is not closed.'
    ) from error
  lines, rows = [], []
  for line, values in numbered:
    if len(values) != len(columns):
      raise ManifestError(
        f'{path}, line {line} has {len(values)} fields where the first line names '
        f'{len(columns)}; give it as many, quoting a field that holds a comma.'
      )
    row = dict.fromkeys(OPTIONAL_COLUMNS, '')
    rows.append(row | dict(zip(columns, map(str.strip, values), strict=True)))
    lines.append(line)
  if not rows:
    raise ManifestError(f'The manifest {path} has no rows; give it one line per forged image.')
  return lines, rows


def _label(where: str, row: dict[str, str]) -> int:
  label = row['label'] or ('0' if row['attack'] == PRISTINE else '1')
  if label not in ('0', '1'):
    raise ManifestError(f'{where}: label is {label!r}; give 0 (pristine) or 1 (forged).')
  if label == '1' and row['attack'] in (PRISTINE, 'all'):
    raise ManifestError(
      f'{where}: a forged image has the attack {row["attack"]!r}, which has a meaning of its own '
      'here; give the attack another name.'
    )
  if label == '0' and len({row[column] for column in IMAGE_COLUMNS}) > 1:
    raise ManifestError(
      f'{where}: a pristine row must name one photograph as forged, source and target; make the '
      'three paths equal or set label to 1.'
    )
  return int(label)


def _require_inside(where: str, column: str, value: str, base: pathlib.Path | None):
  """Refuses a path that leads out of the manifest's folder, through `..` or a link."""
  if not value:
    if column == 'mask':
      return
    raise ManifestError(f'{where}: {column} is empty; give the path of an image.')
  path = pathlib.PurePosixPath(value)
  outside = path.is_absolute() or '..' in path.parts or '://' in value or '\0' in value
  if not outside and base is not None:
    outside = not (base / value).resolve().is_relative_to(base)
  if outside:
    raise ManifestError(
      f"{where}: {column} is {value!r}, which leads outside the manifest's folder; give a path "
      'relative to that folder and inside it.'
    )


def _require_size(folder: epath.Path, row: dict[str, str], column: str, size, forged_size):
  if tuple(size) != tuple(forged_size):
    (h, w), (fh, fw) = size, forged_size
    raise ImageError(
      f'The {column} {folder / row[column]} is {w} x {h} pixels and the forged image '
      f'{folder / row["forged"]} is {fw} x {fh}; bring both to one size.'
    )
