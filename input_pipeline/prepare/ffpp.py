"""FaceForensics++ (Rössler et al. 2019): videos in the official tree, pairs by the official lists.

A unit is a pair of original videos and the fakes between them, in both directions: the tracks of
two faces are found once and serve every method.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import pathlib
from typing import Any

import numpy as np

from input_pipeline.prepare import masks
from input_pipeline.prepare.alignment import same_frames
from input_pipeline.prepare.faces import Box, FaceFinder, make_finder
from input_pipeline.prepare.ffpp_tree import (
  COMPRESSIONS,
  METHODS,
  REENACTMENTS,
  SWAPS,
  fake_path,
  leading,
  list_units,
  mask_path,
  methods_at,
  original_path,
)
from input_pipeline.prepare.source_frames import frontal_sharpest
from input_pipeline.prepare.tracks import Track, cut, follow_face
from input_pipeline.prepare.units import Settings, Unit, UnitLog, Unusable
from input_pipeline.prepare.video import frame_count, read_frames, spread

# Reenactments get splits of their own, `train_reenactment` and so on.
REENACTMENT_SPLIT = '{}_reenactment'

# A fake helps to decide which frames are taken if it has this share of its expected length.
_LEAST_LENGTH = 0.5

Frames = dict[int, np.ndarray]

__all__ = [
  'COMPRESSIONS',
  'METHODS',
  'REENACTMENTS',
  'SWAPS',
  'list_units',
  'make_examples',
  'methods_at',
]


@dataclasses.dataclass(frozen=True)
class Clip:
  """An original video: some of its frames, cut around its face.

  Attributes:
    path: of the video.
    shape: (height, width) of its frames.
    track: where the face is.
    crops: (S, S, 3) uint8 by index, for the frames of the track.
    masks: for each method, the masks of its fake with this target, (S, S) uint8 by index.
  """

  path: pathlib.Path
  shape: tuple[int, int]
  track: Track
  crops: Frames
  masks: dict[str, Frames]


def make_examples(
  unit: Unit, settings: Settings, log: UnitLog
) -> Iterator[tuple[str, dict[str, Any]]]:
  """The examples of the fakes in both directions."""
  first, second = unit.content
  clips: dict[str, Clip] = {}
  problems: dict[str, str] = {}
  counts = {
    video: _common_count(video, partner, settings, log)
    for video, partner in ((first, second), (second, first))
  }
  if settings.source_frame == 'same':
    shorter = min(filter(None, counts.values()), default=0)
    log.left_out['behind the end of the other original'] += max(counts.values()) - shorter
    counts = dict.fromkeys(counts, shorter)
  for video, partner in ((first, second), (second, first)):
    try:
      clips[video] = _read_clip(video, partner, counts[video], settings, log)
    except Unusable as problem:
      log.skip(problem.path, problem.reason)
      problems[video] = f'{video}.mp4: {problem.reason}'
  for target, source in ((first, second), (second, first)):
    for method in settings.methods:
      path = fake_path(method, target, source, settings)
      try:
        for role, video in (('target', target), ('source', source)):
          if video in problems:
            raise Unusable(path, f'its {role} cannot be used: {problems[video]}')
        split = REENACTMENT_SPLIT.format(unit.split) if method in REENACTMENTS else unit.split
        for example in _examples_of_fake(method, path, clips[target], clips[source], settings, log):
          example |= {'source_identity': source, 'target_identity': target}
          yield split, example
      except Unusable as problem:
        log.skip(problem.path, problem.reason)


def _examples_of_fake(
  method: str, path: pathlib.Path, target: Clip, source: Clip, settings: Settings, log: UnitLog
) -> Iterator[dict[str, Any]]:
  """The examples of one fake; the forged frames and the target's share index and crop."""
  log.record(path)
  forged = _read(path, target.track.inside, log)
  if any(frame.shape[:2] != target.shape for frame in forged.values()):
    raise Unusable(path, 'its frames are not of the size of its target')
  log.left_out['behind the end of the fake'] += len(target.track.inside) - len(forged)
  square = target.track.square
  forged = {index: cut(frame, square, settings.size) for index, frame in forged.items()}
  known = target.masks.get(method, {})
  if not same_frames(forged, target.crops, known):
    raise Unusable(path, 'does not show the same frames as its target')
  best = None if settings.source_frame == 'same' else frontal_sharpest(source.crops)
  for index in sorted(forged):
    read = index in known
    mask = known[index] if read else masks.from_difference(forged[index], target.crops[index])
    if masks.share(mask) < masks.LEAST_AREA:
      log.left_out['not manipulated'] += 1
      continue
    if best is None and index not in source.crops:
      log.left_out['source out of its place'] += 1
      continue
    yield {
      'forged': forged[index],
      'source': source.crops[index if best is None else best],
      'target': target.crops[index],
      'mask': mask,
      'has_mask': read or settings.trust_masks,
      'mask_kind': 'read' if read else 'difference',
      'label': 1,
      'attack': method.lower(),
      'name': f'{method}/{path.stem}/{index:05d}',
    }


def _read_clip(video: str, partner: str, count: int, settings: Settings, log: UnitLog) -> Clip:
  path = original_path(video, settings)
  log.record(path)
  indices = spread(count, settings.frames)
  frames = _read(path, indices, log)
  log.left_out['behind the end of the original'] += len(indices) - len(frames)
  shape = next(iter(frames.values())).shape[:2]
  read = {
    method: _read_masks(method, video, partner, sorted(frames), shape, log, settings)
    for method in settings.methods
  }
  of_leading = [read[method] for method in leading(settings.methods)]
  track = _track(path, frames, of_leading, make_finder(settings.finder), settings.margin)
  log.left_out['face out of its place'] += len(frames) - len(track.inside)
  size = settings.size
  return Clip(
    path,
    shape,
    track,
    {index: cut(frames[index], track.square, size) for index in track.inside},
    {
      method: {
        index: cut(of_method[index], track.square, size, mask=True)
        for index in track.inside
        if index in of_method
      }
      for method, of_method in read.items()
    },
  )


def _track(
  path: pathlib.Path,
  frames: Frames,
  read: Iterable[Frames],
  finder: FaceFinder,
  margin: float,
) -> Track:
  regions: dict[int, Box] = {}
  for index in frames:
    present = [of_method[index] for of_method in read if index in of_method]
    box = masks.bounding_box(np.maximum.reduce(present)) if present else None
    if box:
      regions[index] = box
  faces = {index: finder.find(frame) for index, frame in frames.items()}
  return follow_face(str(path), sorted(frames), faces, regions, margin)


def _read_masks(
  method: str,
  target: str,
  source: str,
  indices: list[int],
  shape: tuple[int, int],
  log: UnitLog,
  settings: Settings,
) -> Frames:
  """The masks that there are: `list_units` names absent folders, and some videos end early."""
  path = mask_path(method, target, source, settings)
  log.look_at(path)
  if not path.parent.is_dir():
    return {}
  try:
    log.record(path)
    frames = _read(path, indices, log)
    if any(frame.shape[:2] != shape for frame in frames.values()):
      raise Unusable(path, 'its frames are not of the size of its target')
  except Unusable as problem:
    log.skip(problem.path, problem.reason)
    return {}
  return {index: masks.binary(frame) for index, frame in frames.items()}


def _read(path: pathlib.Path, indices: Iterable[int], log: UnitLog) -> Frames:
  """Some frames of a video; one that gives fewer than its header promises is listed.

  Raises:
    Unusable: there are none of these.
  """
  frames, problem = read_frames(path, indices)
  if not frames:
    raise Unusable(path, problem or 'ends early: before the first frame that is taken')
  if problem:
    log.skip(path, problem)
  return frames


def _common_count(video: str, partner: str, settings: Settings, log: UnitLog) -> int:
  """Frames of the original and of those of its leading fakes that can be read.

  Fakes end with the target or, of some methods, with the shorter of the two originals. One that is
  much shorter than that does not count: it would cut short what the others show.
  """
  originals = [original_path(name, settings) for name in (video, partner)]
  for path in originals:
    log.look_at(path)
  whole, of_partner = map(frame_count, originals)
  common, expected = whole, min(whole, of_partner or whole)
  for method in settings.methods:
    path = fake_path(method, video, partner, settings)
    log.look_at(path)
    count = frame_count(path) if method in leading(settings.methods) else 0
    if count and count >= _LEAST_LENGTH * expected:
      common = min(common, count)
    elif count:
      log.skip(path, f'ends early: after {count} of {expected} frames')
  log.left_out['behind the end of the shortest fake'] += whole - common
  return common
