"""A folder of people's photographs, cut alike, with the landmarks that swapping on the fly needs.

    RAW/PERSON/PHOTO.jpg           such as LFW, CelebA sorted by person, VGGFace2
    RAW/landmarks.npz              optional: `names` (n,) and `points` (n, 468, 2) in pixels

gives OUT/PERSON/PHOTO.jpg, squares around the faces, and OUT/landmarks.npz in their pixels. `RAW`
may be `tfds:NAME`, a set of TensorFlow Datasets with `image` and `label`, such as `tfds:lfw`.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import functools
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.images import read_rgb
from input_pipeline.people.landmarks import FILE as LANDMARKS
from input_pipeline.people.landmarks import lies_in, parse_landmarks
from input_pipeline.prepare import summary, tfds_people, work
from input_pipeline.prepare.faces import Face, make_finder, only_face
from input_pipeline.prepare.landmarks import POINTS, face_of, interpreter, make_environment
from input_pipeline.prepare.photos import only_photographs, read_photograph
from input_pipeline.prepare.records import encode_image
from input_pipeline.prepare.reports import SETTINGS, Report, temporary, write_json, write_report
from input_pipeline.prepare.tracks import cut, square_around
from input_pipeline.prepare.units import Settings, Unit, UnitLog, Unusable, file_state

_PHOTOS_OF_A_UNIT = 64
_WORK = 'unfinished'  # In the folder to make.
_CROPS = 'crops.list'  # In it; JSON, but files called so are reports.
_ATTACK = 'photographs'  # What the summary counts.
# Why files are left out.
_ELSEWHERE = 'files that are not PERSON/PHOTO'
_ROWS_WITHOUT_PHOTO = f'rows of {LANDMARKS} without a photograph'


def prepare(
  settings: Settings, out: pathlib.Path, workers: int, beam: dict[str, Any] | None = None
) -> dict[str, Any]:
  """Prepares a folder, or finishes what was begun; what is done already stays.

  Args:
    settings: `raw`, `size`, `margin`, `encoding`, `finder`, and `limit` on the number of photos.
    out: the folder to make.
    workers: processes; 0 works in this one.
    beam: `runner` and `options` of `apache_beam.Pipeline`, which works in place of processes.

  Returns:
    The summary.

  Raises:
    InputError: there are no photographs or no way to find landmarks, nothing was usable, or `out`
      was prepared with other settings.
  """
  folder = out / _WORK
  if done := summary.read_done(out, settings):
    shutil.rmtree(folder, ignore_errors=True)
    return done
  _check_places(settings.raw, out)
  if tfds_people.is_tfds(settings.raw):
    tfds_people.require(settings.raw)
    make_environment()
  settings = dataclasses.replace(settings, raw=tfds_people.resolve(settings.raw))
  _require_landmarks(settings.raw)
  listing = UnitLog(settings.raw)
  units = list_units(settings, listing)
  work.open_folder(folder, settings)
  planned = _plan_crops(folder, units, settings.encoding)
  task = functools.partial(do_unit, settings=settings, folder=folder)
  if beam:
    reports = work.run_on_beam(units, task, folder, **beam)
  else:
    reports = work.run(units, task, folder, workers)
  total = summary.gather(settings, units, reports, listing)
  if not total['examples']:
    raise summary.nothing_usable(folder, total, settings.raw)
  names, points = _join_landmarks(folder, reports)
  _remove_crops(out, planned.difference(names.tolist()))
  # Written beside and renamed: a loader takes whatever is under that name.
  np.savez(folder / LANDMARKS, names=names, points=points)
  (folder / LANDMARKS).replace(out / LANDMARKS)
  # The summary is written last: it says that all is there.
  summary.write(out, total, _sheet(out, names, points))
  shutil.rmtree(folder)
  return total


def list_units(settings: Settings, log: UnitLog) -> list[Unit]:
  """Units of a few dozen photographs, [name, place in a set of TensorFlow Datasets], by name.

  Raises:
    InputError: there are no photographs.
  """
  if tfds_people.is_tfds(settings.raw):
    photos = tfds_people.list_photographs(settings.raw)
  else:
    photos = [[name, -1] for name in _list_folder(pathlib.Path(settings.raw), log)]
  photos = photos[: settings.limit or None]
  starts = range(0, len(photos), _PHOTOS_OF_A_UNIT)
  return [
    Unit(f'photos-{i:06d}', 'all', photos[start : start + _PHOTOS_OF_A_UNIT])
    for i, start in enumerate(starts)
  ]


def _list_folder(root: pathlib.Path, log: UnitLog) -> list[str]:
  photos = only_photographs(root.glob('*/*'), log)
  known = _known_landmarks(str(root))
  elsewhere = [*root.glob('*'), *root.glob('*/*/**/*')]
  for path in elsewhere:
    if path.is_file() and path.name != LANDMARKS:
      log.ignore(path, _ELSEWHERE)
  names = [path.relative_to(root).as_posix() for path in photos]
  if not names:
    deeper = ' itself, not one of its parents' if log.left_out[_ELSEWHERE] else ''
    raise InputError(
      f'{root} holds no photographs; give as --raw the folder that holds one for each person'
      f'{deeper}.'
    )
  if known is not None:
    log.record(root / LANDMARKS)
    for name in known.keys() - set(names):
      log.ignore(root / name, _ROWS_WITHOUT_PHOTO)
  return names


def do_unit(unit: Unit, *, settings: Settings, folder: pathlib.Path) -> Report:
  """Cuts the photographs of a unit, writes them, and keeps their landmarks with the work."""
  log = UnitLog(settings.raw)
  if not tfds_people.is_tfds(settings.raw):
    log.look_at(pathlib.Path(settings.raw, LANDMARKS))
  out = folder.parent
  names, points = [], []
  for name, place in unit.content:
    try:
      crop, mesh = _cut(name, place, settings, log)
    except Unusable as problem:
      log.skip(problem.path, problem.reason)
      continue
    except InputError:
      raise
    # A file that breaks a decoder in a way of its own must not end a run of hours.
    except Exception as error:
      log.skip(name, f'failed: {type(error).__name__}: {error}')
      log.failed = True
      continue
    path = out / _output_name(name, settings.encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(crop, settings.encoding))
    names.append(path.relative_to(out).as_posix())
    points.append(mesh)
  part = folder / f'{unit.key}.npz'
  with open(temporary(part), 'wb') as file:
    meshes = np.array(points, np.float16).reshape(len(points), POINTS, 2)
    np.savez(file, names=np.array(names, np.str_), points=meshes)
  os.replace(temporary(part), part)
  counts = {'all': {f'{_ATTACK}/': len(names)}} if names else {}
  return write_report(folder, unit, log, counts=counts, parts={part.name: part.stat().st_size})


def _join_landmarks(folder: pathlib.Path, reports: list[Report]) -> tuple[np.ndarray, np.ndarray]:
  names, points = [], []
  for part in (part for report in reports for part in report['parts']):
    with np.load(folder / part, allow_pickle=False) as arrays:
      names.append(arrays['names'])
      points.append(arrays['points'])
  return np.concatenate(names), np.concatenate(points)


def _plan_crops(folder: pathlib.Path, units: list[Unit], encoding: str) -> set[str]:
  """Names of all crops that this run and those before it, stopped or killed, may have written."""
  path = folder / _CROPS
  known = set(json.loads(path.read_text())) if path.exists() else set()
  photos = (name for unit in units for name, _ in unit.content)
  planned = known | {pathlib.PurePath(_output_name(name, encoding)).as_posix() for name in photos}
  if planned != known:
    write_json(path, sorted(planned))
  return planned


def _remove_crops(out: pathlib.Path, names: Iterable[str]):
  """Removes crops of photographs that are gone, or no longer usable, since a run before."""
  for path in (out / name for name in names):
    if path.is_file():
      path.unlink()
      if not any(path.parent.iterdir()):
        path.parent.rmdir()


def _cut(name: str, place: int, settings: Settings, log: UnitLog) -> tuple[np.ndarray, np.ndarray]:
  """A photograph's crop and the landmarks in the crop's pixels."""
  if tfds_people.is_tfds(settings.raw):
    path, image = name, tfds_people.read_image(settings.raw, place)
  else:
    path = pathlib.Path(settings.raw, name)
    image = read_photograph(path, log)
  face = _face(name, image, _known_landmarks(settings.raw))
  if isinstance(face, str):
    raise Unusable(path, face)
  square = square_around(face.box, settings.margin)
  crop = cut(image, square, settings.size)
  scale = crop.shape[0] / square.side
  return crop, (face.points - np.float32([square.left, square.top])) * np.float32(scale)


def _face(name: str, image: np.ndarray, known: dict[str, np.ndarray] | None) -> Face | str:
  """The one face of a photograph, or why there is none."""
  if known is None:
    return only_face(make_finder('mesh').find(image))
  if name not in known:
    return f'not in {LANDMARKS}'
  if not lies_in(known[name], *image.shape[:2]):
    return f'its face lies outside it by {LANDMARKS}, which was made of another file'
  return face_of(known[name])


def _known_landmarks(raw: str) -> dict[str, np.ndarray] | None:
  """Landmarks that lie beside the photographs, by name; None where there are none."""
  path = pathlib.Path(raw, LANDMARKS)
  state = file_state(path)
  return state and _read_landmarks(path, state)


@functools.lru_cache(maxsize=1)
def _read_landmarks(path: pathlib.Path, state: tuple[int, int]) -> dict[str, np.ndarray]:
  """`state` is that of the file, which is read anew once it has changed."""
  remedy = 'mend it, or delete it and have landmarks found anew (`make landmarks`)'
  try:
    data = path.read_bytes()
  except OSError as error:
    raise InputError(f'{path} cannot be opened ({error.strerror}); {remedy}.') from error
  names, points = parse_landmarks(data, path, remedy)
  return dict(zip(names.tolist(), points.astype(np.float32), strict=True))


def _output_name(name: str, encoding: str) -> str:
  """The photograph's name, with a suffix behind it where the file becomes one of another kind."""
  suffixes = ('.png',) if encoding == 'png' else ('.jpg', '.jpeg')
  return name if name.lower().endswith(suffixes) else name + suffixes[0]


def _check_places(raw: str, out: pathlib.Path):
  if not tfds_people.is_tfds(raw):
    if not pathlib.Path(raw).is_dir():
      raise InputError(f'There is no folder {raw}; give one of PERSON/PHOTO.jpg.')
    if out.resolve().is_relative_to(pathlib.Path(raw).resolve()):
      raise InputError(
        f'{out} lies in {raw}, whose photographs would be overwritten; give another --out.'
      )
  # Crops have the photographs' names: in a folder of somebody's own they would take their places.
  begun = (out / _WORK / SETTINGS).exists()
  if out.is_dir() and not begun and any(path.name != _WORK for path in out.iterdir()):
    raise InputError(
      f'{out} holds files that are not of this command, which might be overwritten; give as --out '
      'a folder that is new or empty.'
    )


def _require_landmarks(raw: str):
  """Raises InputError, before any work, where there are no landmarks and none can be found."""
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
