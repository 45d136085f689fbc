"""A folder of people's photographs, cut alike, with the landmarks that swapping on the fly needs.

    RAW/PERSON/PHOTO.jpg           such as LFW, CelebA sorted by person, VGGFace2
    RAW/landmarks.npz              optional: `names` (n,) and `points` (n, 468, 2) in pixels

gives OUT/PERSON/PHOTO.jpg, squares around the faces, and OUT/landmarks.npz in their pixels. `RAW`
may be `tfds:NAME`, a set of TensorFlow Datasets with `image` and `label`, such as `tfds:lfw`.
"""

from collections.abc import Iterator
import functools
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.images import ImageError, read_rgb
from input_pipeline.prepare import summary, work
from input_pipeline.prepare.faces import Face, make_finder, only_face
from input_pipeline.prepare.image_sets import IMAGE_SUFFIXES
from input_pipeline.prepare.landmarks import POINTS, face_of, interpreter
from input_pipeline.prepare.records import encode_image
from input_pipeline.prepare.tracks import cut, square_around
from input_pipeline.prepare.units import Settings, Unit, UnitLog, Unusable

LANDMARKS = 'landmarks.npz'
TFDS = 'tfds:'
_PHOTOS_OF_A_UNIT = 64
_ATTACK = 'photographs'  # What the summary counts.


def prepare(settings: Settings, out: pathlib.Path, workers: int) -> dict[str, Any]:
  """Prepares a folder.

  Args:
    settings: `raw`, `size`, `margin`, `encoding`, `finder`, and `limit` on the number of photos.
    out: the folder to make.
    workers: processes; 0 works in this one.

  Returns:
    The summary.

  Raises:
    InputError: there are no photographs or no way to find landmarks, or nothing was usable.
  """
  if (out / summary.SUMMARY).exists():
    raise InputError(f'{out} is prepared already; delete it to prepare it anew.')
  if out.resolve().is_relative_to(pathlib.Path(settings.raw).resolve()):
    raise InputError(
      f'{out} lies in {settings.raw}, whose photographs would be overwritten; give another --out.'
    )
  folder = out / 'unfinished'
  work.open_folder(folder, settings)
  units = list_units(settings)
  task = functools.partial(do_unit, settings=settings, folder=folder)
  reports = work.run(units, task, folder, workers)
  total = summary.gather(settings, units, reports, UnitLog(settings.raw))
  if not total['examples']:
    raise summary.nothing_usable(folder, total, settings.raw)
  names, points = [], []
  # A unit that ended its process has a report, and nothing else.
  for unit in filter(lambda unit: _points_path(folder, unit).exists(), units):
    with np.load(_points_path(folder, unit), allow_pickle=False) as arrays:
      names.append(arrays['names'])
      points.append(arrays['points'])
  names, points = np.concatenate(names), np.concatenate(points)
  # Written beside and renamed: a loader takes whatever is under that name.
  np.savez(folder / LANDMARKS, names=names, points=points)
  (folder / LANDMARKS).replace(out / LANDMARKS)
  summary.write(out, total, _sheet(out, names, points))
  shutil.rmtree(folder)
  return total


def list_units(settings: Settings) -> list[Unit]:
  """Units of a few dozen photographs, by person and name."""
  if settings.raw.startswith(TFDS):
    photos = _list_tfds(settings.raw)
  else:
    root = pathlib.Path(settings.raw)
    paths = (p for p in sorted(root.glob('*/*')) if p.suffix.lower() in IMAGE_SUFFIXES)
    photos = [path.relative_to(root).as_posix() for path in paths]
    if not photos:
      raise InputError(f'{root} holds no photographs; it needs a folder for each person.')
  photos = photos[: settings.limit or None]
  starts = range(0, len(photos), _PHOTOS_OF_A_UNIT)
  return [
    Unit(f'photos-{i:06d}', 'all', photos[start : start + _PHOTOS_OF_A_UNIT])
    for i, start in enumerate(starts)
  ]


def do_unit(unit: Unit, *, settings: Settings, folder: pathlib.Path) -> work.Report:
  """Cuts the photographs of a unit, writes them, and keeps their landmarks with the work."""
  log = UnitLog(settings.raw)
  out = folder.parent
  names, points = [], []
  for name in unit.content:
    try:
      crop, mesh = _cut(name, settings, log)
    except Unusable as problem:
      log.skip(problem.path, problem.reason)
      continue
    path = out / _output_name(name, settings.encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(crop, settings.encoding))
    names.append(path.relative_to(out).as_posix())
    points.append(mesh)
  with open(f'{_points_path(folder, unit)}.tmp', 'wb') as file:
    meshes = np.array(points, np.float16).reshape(len(points), POINTS, 2)
    np.savez(file, names=np.array(names, np.str_), points=meshes)
  os.replace(f'{_points_path(folder, unit)}.tmp', _points_path(folder, unit))
  counts = {'all': {f'{_ATTACK}/landmarks': len(names)}} if names else {}
  return work.write_report(folder, unit, log, counts=counts, bytes={})


def _cut(name: str, settings: Settings, log: UnitLog) -> tuple[np.ndarray, np.ndarray]:
  """A photograph's crop and the landmarks in the crop's pixels."""
  path, image = _read(name, settings, log)
  known = _known_landmarks(settings.raw)
  face: Face | str
  if known is None:
    face = only_face(make_finder('mesh').find(image))
  else:
    face = face_of(known[name]) if name in known else f'not in {LANDMARKS}'
  if isinstance(face, str):
    raise Unusable(path, face)
  square = square_around(face.box, settings.margin)
  crop = cut(image, square, settings.size)
  scale = crop.shape[0] / square.side
  return crop, (face.points - np.float32([square.left, square.top])) * np.float32(scale)


def _read(name: str, settings: Settings, log: UnitLog) -> tuple[str, np.ndarray]:
  if settings.raw.startswith(TFDS):
    return name, _tfds_source(settings.raw)[_tfds_index(settings.raw)[name]]['image']
  path = pathlib.Path(settings.raw) / name
  log.record(path)
  try:
    return str(path), read_rgb(path)
  except ImageError as error:
    raise Unusable(path, str(error)) from error


@functools.cache
def _known_landmarks(raw: str) -> dict[str, np.ndarray] | None:
  """Landmarks that lie beside the photographs, by name."""
  path = pathlib.Path(raw) / LANDMARKS
  if not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return dict(zip(arrays['names'].tolist(), arrays['points'].astype(np.float32), strict=True))
  except (OSError, ValueError, KeyError) as error:
    raise InputError(
      f'{path} does not hold the arrays names and points; delete it, or make it anew.'
    ) from error


def _output_name(name: str, encoding: str) -> str:
  """The photograph's name, with a suffix behind it where the file becomes one of another kind."""
  suffixes = ('.png',) if encoding == 'png' else ('.jpg', '.jpeg')
  return name if name.lower().endswith(suffixes) else name + suffixes[0]


def _points_path(folder: pathlib.Path, unit: Unit) -> pathlib.Path:
  return folder / f'{unit.key}.npz'


def check_landmarks(raw: str):
  """Raises InputError, before any work, where there are no landmarks and none can be found."""
  if not raw.startswith(TFDS) and not pathlib.Path(raw).is_dir():
    raise InputError(f'There is no folder {raw}; give one of PERSON/PHOTO.jpg.')
  if _known_landmarks(raw) is None and not interpreter().exists():
    raise InputError(
      f'Photographs are cut and swapped by their landmarks, which are neither in {raw} '
      f'({LANDMARKS}) nor can be found; run `make landmarks` once.'
    )


def _sheet(out: pathlib.Path, names: np.ndarray, points: np.ndarray) -> Iterator[dict[str, Any]]:
  """Photographs to look at, in the shape of examples: the mask is the face's landmarks."""
  count = min(summary.SHEET_ROWS, len(names))
  for i in np.arange(count) * len(names) // count:
    image = read_rgb(out / names[i])
    mask = np.zeros(image.shape[:2], np.uint8)
    x, y = np.clip(points[i].astype(int).T, 0, image.shape[0] - 1)
    mask[y, x] = 255
    photo = dict.fromkeys(('source', 'target', 'forged'), image)
    yield photo | {'mask': mask, 'has_mask': True, 'name': str(names[i])}


@functools.cache
def _tfds_source(raw: str) -> Any:
  """The `train` split of a set of TensorFlow Datasets."""
  import tensorflow_datasets as tfds

  name = raw.removeprefix(TFDS)
  try:
    builder = tfds.builder(name)
    if not builder.is_prepared():
      builder.download_and_prepare(file_format='array_record')
    return builder.as_data_source('train')
  except ImportError as error:
    raise InputError(
      f'TensorFlow Datasets downloads {name} with TensorFlow; install it '
      "(pip install -e '.[tensorflow]')."
    ) from error
  except tfds.core.DatasetNotFoundError as error:
    raise InputError(f'TensorFlow Datasets has no {name}.') from error


@functools.cache
def _tfds_index(raw: str) -> dict[str, int]:
  """Names of the photographs, PERSON/PERSON_NUMBER, to their places in the set."""
  index, counts = {}, {}
  for i, example in enumerate(_tfds_source(raw)):
    person = example['label'].decode().replace('/', '_')
    counts[person] = counts.get(person, 0) + 1
    index[f'{person}/{person}_{counts[person]:04d}.jpg'] = i
  return index


def _list_tfds(raw: str) -> list[str]:
  return sorted(_tfds_index(raw))
