"""What data sets of single swapped images share: from a row of three images to an example."""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib
from typing import Any

import cv2
import numpy as np

from input_pipeline.prepare import masks
from input_pipeline.prepare.faces import Face, make_finder, only_face
from input_pipeline.prepare.photos import read_photograph
from input_pipeline.prepare.tracks import cut, square_around
from input_pipeline.prepare.units import SPLITS, Settings, Unit, UnitLog, Unusable

_ROWS_OF_A_UNIT = 64


@dataclasses.dataclass(frozen=True)
class Row:
  """One swap.

  Attributes:
    name: of the example.
    forged, source, target: files, relative to `raw`; equal where one file is a strip of the three.
    attack: how it was forged.
    source_identity, target_identity: who they are.
  """

  name: str
  forged: str
  source: str
  target: str
  attack: str
  source_identity: str
  target_identity: str


def make_units(rows: Sequence[tuple[str, Row]], limit: int) -> list[Unit]:
  """Units of a few dozen rows of one split, in the rows' order.

  Args:
    rows: (split, row).
    limit: rows of a split at most; 0 for all.
  """
  units = []
  for split in SPLITS:
    of_split = [dataclasses.astuple(row) for where, row in rows if where == split]
    of_split = of_split[: limit or None]
    for start in range(0, len(of_split), _ROWS_OF_A_UNIT):
      content = of_split[start : start + _ROWS_OF_A_UNIT]
      units.append(Unit(f'{split}-{start // _ROWS_OF_A_UNIT:06d}', split, list(map(list, content))))
  return units


def make_examples(
  unit: Unit, settings: Settings, log: UnitLog
) -> Iterator[tuple[str, dict[str, Any]]]:
  """The examples of a unit of `make_units`."""
  for fields in unit.content:
    row = Row(*fields)
    try:
      yield unit.split, _example(row, settings, log)
    except Unusable as problem:
      log.skip(problem.path, problem.reason)
      _skip_swap(row, problem, settings, log)


def _skip_swap(row: Row, problem: Unusable, settings: Settings, log: UnitLog):
  """Lists a swap that is lost with one of its photographs."""
  raw = pathlib.Path(settings.raw)
  for role, name in (('target', row.target), ('source', row.source)):
    if name != row.forged and problem.path == raw / name:
      log.skip(raw / row.forged, f'its {role} cannot be used: {name}: {problem.reason}')
      return


def _example(row: Row, settings: Settings, log: UnitLog) -> dict[str, Any]:
  raw = pathlib.Path(settings.raw)
  forged_path, source_path, target_path = raw / row.forged, raw / row.source, raw / row.target
  if row.forged == row.source == row.target:
    source, target, forged = _cut_strip(forged_path, read_photograph(forged_path, log))
  else:
    forged, source, target = (
      read_photograph(path, log) for path in (forged_path, source_path, target_path)
    )
  target = _match_size(target_path, target, forged)
  face, source_face = (
    _face(path, image, settings) for path, image in ((target_path, target), (source_path, source))
  )
  square = square_around(face.box, settings.margin)
  crops = {
    'forged': cut(forged, square, settings.size),
    'target': cut(target, square, settings.size),
    'source': cut(source, square_around(source_face.box, settings.margin), settings.size),
  }
  if settings.mask == 'box':
    mask = cut(masks.from_box(target.shape, face.box), square, settings.size, mask=True)
  else:
    mask = masks.from_difference(crops['forged'], crops['target'])
    if masks.share(mask) < masks.LEAST_AREA:
      raise Unusable(forged_path, 'does not differ from its target')
  return {
    **crops,
    'mask': mask,
    'has_mask': settings.trust_masks,
    'mask_kind': settings.mask,
    'label': 1,
    'attack': row.attack,
    'source_identity': row.source_identity,
    'target_identity': row.target_identity,
    'name': row.name,
  }


def _face(path: pathlib.Path, image: np.ndarray, settings: Settings) -> Face:
  face = only_face(make_finder(settings.finder).find(image))
  if isinstance(face, str):
    raise Unusable(path, face)
  return face


def _match_size(path: pathlib.Path, target: np.ndarray, forged: np.ndarray) -> np.ndarray:
  """The target in the forged image's size, where they are the same picture in two sizes."""
  (height, width), (h, w) = forged.shape[:2], target.shape[:2]
  if (h, w) == (height, width):
    return target
  if h * width != w * height:
    raise Unusable(path, 'not of the shape of its forged image')
  method = cv2.INTER_AREA if h > height else cv2.INTER_CUBIC
  return cv2.resize(target, (width, height), interpolation=method)


def _cut_strip(path: pathlib.Path, strip: np.ndarray) -> list[np.ndarray]:
  """Three images side by side, of equal width."""
  height, width = strip.shape[:2]
  if width != 3 * height:
    raise Unusable(path, f'not three squares side by side: {width} x {height} pixels')
  return [np.ascontiguousarray(part) for part in np.split(strip, 3, axis=1)]
