"""Recovery from videos: faces tracked through sampled frames, and averaged over each track.

The video is read three times: to find the faces, to recover them, and to compose the side-by-side
video once it is known which tracks are swapped. So no more is ever held than a frame, a batch of
crops, and the best crops of the tracks that are on the screen.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
import pathlib
import tempfile
from typing import Any, BinaryIO

import cv2
import numpy as np

from dfrec_jax.errors import InputError
from dfrec_jax.recover import crops, drawing, video_outputs, wording
from dfrec_jax.recover.candidates import Gallery
from dfrec_jax.recover.recoverer import Recoverer
from dfrec_jax.recover.side_by_side import Mark, SideBySide
from dfrec_jax.recover.track_recovery import TrackRecovery
from dfrec_jax.recover.tracking import Linker, Track
from dfrec_jax.recover.video_files import Frame, SampledVideo
from input_pipeline.prepare.faces import Face, FaceFinder
from input_pipeline.prepare.tracks import CENTRE_HEIGHT, cut

_LARGEST_CROP = 512  # pixels: far more than a model sees; its change is enlarged to the face


def recover_video(
  path: str | os.PathLike,
  recoverer: Recoverer,
  finder: FaceFinder | None,
  *,
  fps: float,
  seed: int,
  out: pathlib.Path,
  gallery: Gallery | None = None,
) -> dict[str, Any]:
  """Recovers both people of each track of a video.

  A track's score is the median over the frames in which the face was found. Its source, target,
  mask and spread are averages over its best frames, in the square of the very best one, which
  `box` and `crop` are of. The false-alarm rate is that of a single photograph of this score.

  Args:
    path: of the video.
    recoverer: recovers crops, in its own batches.
    finder: finds the faces of a frame; None where every frame is the crop of one face.
    fps: frames that are looked at, a second.
    seed: of the masking keys.
    out: the folder for images and the video; nothing is written elsewhere.
    gallery: of known people, searched with the mean of each track's identity vectors.

  Returns:
    The entry of results.json without `input`, `sha256` and `folder`; paths are relative to `out`.

  Raises:
    InputError: one sentence: no video, sound only, no frame that can be decoded, too large, or,
      without a finder, too elongated to be the crop of a face.
  """
  video = SampledVideo(path, fps)
  finder = finder or _WholeFrame(video, recoverer.margin)
  out.mkdir(parents=True, exist_ok=True)
  plan = _find_tracks(video, finder, recoverer.margin)
  warnings, files, faces = list(video.warnings), {}, []
  if plan.tracks:
    with tempfile.TemporaryFile(dir=out) as store:
      changes = _Changes(store)
      shown = _recover_tracks(video, plan, recoverer, seed, gallery, changes, out)
      files = _show(video, plan, shown, changes, out)
    faces = [face.entry for face in shown]
  else:
    looked = f'the {len(plan.times)} frames' if len(plan.times) > 1 else 'the one frame'
    warnings.append(
      f'No face was found in {looked} of {video.name} that were looked at; {wording.UNSEEN}, and '
      'small ones are not found.'
    )
  return {
    'kind': 'video',
    'width': video.width,
    'height': video.height,
    'status': 'done',
    'error': None,
    'warnings': warnings,
    'frames': len(plan.times),
    'fps': float(video.fps),
    'rate': round(video.rate, 3),
    'duration': round(video.duration, 3),
    'files': files,
    'faces': faces,
  }


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What the first reading finds.

  Attributes:
    indices, times: of the sampled frames.
    cuts: times at which a scene begins.
    tracks: the faces.
    present: number of the sampled frame to (which track, which place in it).
  """

  indices: list[int]
  times: list[float]
  cuts: list[float]
  tracks: list[Track]
  present: Mapping[int, list[tuple[int, int]]]


def _find_tracks(video: SampledVideo, finder: FaceFinder, margin: float) -> _Plan:
  linker = Linker(float(1 / video.fps), margin)
  indices, times, cuts = [], [], []
  for frame in video.frames():
    boxes = [face.box for face in finder.find(frame.pixels)]
    linker.add(frame.time, boxes, cut=frame.cut is not None)
    indices.append(frame.index)
    times.append(frame.time)
    cuts += [] if frame.cut is None else [frame.cut]
  tracks, present = linker.tracks(), defaultdict(list)
  for which, track in enumerate(tracks):
    for place, sample in enumerate(track.samples):
      present[sample].append((which, place))
  return _Plan(indices, times, cuts, tracks, present)


def _recover_tracks(
  video: SampledVideo,
  plan: _Plan,
  recoverer: Recoverer,
  seed: int,
  gallery: Gallery | None,
  changes: '_Changes',
  out: pathlib.Path,
) -> list[video_outputs.TrackFace]:
  """The second reading: recovers every crop, and writes a track's images when it is complete."""
  recoveries = [TrackRecovery(track) for track in plan.tracks]
  writer = video_outputs.FaceWriter(video, plan.indices, plan.times, recoverer, gallery, out)
  faces = {}
  for batch in _batches(video, plan, recoverer.batch_size):
    results = recoverer.recover([crop for *_, crop in batch], seed=seed)
    for (which, place, crop), recovered in zip(batch, results, strict=True):
      changes.put((which, place), recovered.target - crop)
      if recoveries[which].add(place, crop, recovered):
        faces[which] = writer.write(which + 1, recoveries[which])
        recoveries[which].release()
  if len(faces) < len(recoveries):
    raise InputError(f'{video.name} changed while it was read; run the command again.')
  in_order = [faces[which] for which in range(len(faces))]
  writer.write_plots(in_order, plan.cuts)
  return in_order


def _batches(
  video: SampledVideo, plan: _Plan, size: int
) -> Iterator[list[tuple[int, int, np.ndarray]]]:
  """(which track, which place in it, crop) in lists of `size`; the last one may be shorter."""
  batch = []
  for sample, frame in enumerate(video.frames()):
    for which, place in plan.present.get(sample, ()):
      square = plan.tracks[which].squares[place]
      batch.append((which, place, cut(frame.pixels, square, _LARGEST_CROP)))
      if len(batch) == size:
        yield batch
        batch = []
  if batch:
    yield batch


def _show(
  video: SampledVideo,
  plan: _Plan,
  faces: list[video_outputs.TrackFace],
  changes: '_Changes',
  out: pathlib.Path,
) -> dict[str, str]:
  """The third reading: whole frames and, where a track is swapped, the side-by-side video."""
  files = {'boxes': 'boxes.jpg'}
  typical = _most_faces(plan, faces)
  last = max(typical, *(face.best_sample for face in faces))
  film = None
  with contextlib.ExitStack() as stack:
    if any(face.swapped for face in faces):
      files |= {'restored': 'restored.png', 'side_by_side': 'side_by_side.mp4'}
      film = stack.enter_context(SideBySide(out / files['side_by_side'], video.fps, *video.size))
    frames = stack.enter_context(contextlib.closing(video.frames()))
    for sample, frame in enumerate(frames):
      present = [item for item in plan.present.get(sample, ()) if item[1] in faces[item[0]].shown]
      marks = [
        Mark(which + 1, tuple(plan.tracks[which].boxes[place]), faces[which].swapped)
        for which, place in present
      ]
      if film:
        restored = _restore(frame, plan, faces, changes, present)
        film.write(frame.pixels, restored, marks, frame.time, frame.slot)
        if sample == typical:
          drawing.write_shown(out / files['restored'], restored)
      if sample == typical:
        video_outputs.save_marked(frame.pixels, marks, out / files['boxes'])
      for face in faces:
        if sample == face.best_sample:
          own = [mark for mark in marks if mark.number == face.number]
          video_outputs.save_marked(frame.pixels, own, out / face.picture)
      if not film and sample == last:
        break
  return files


def _restore(
  frame: Frame,
  plan: _Plan,
  faces: list[video_outputs.TrackFace],
  changes: '_Changes',
  present: list[tuple[int, int]],
) -> np.ndarray:
  """The frame with the recovered targets of its swapped faces."""
  restored = frame.pixels
  for which, place in present:
    if faces[which].swapped:
      square = plan.tracks[which].squares[place]
      found = cut(frame.pixels, square, _LARGEST_CROP)
      restored = crops.put_back(restored, found, found + changes.get((which, place)), square)
  return restored


def _most_faces(plan: _Plan, faces: list[video_outputs.TrackFace]) -> int:
  """The sampled frame with the most swapped faces, then the most faces, then the largest."""

  def rank(sample: int) -> tuple[int, int, float, int]:
    present = plan.present[sample]
    swapped = sum(faces[which].swapped for which, _ in present)
    areas = [float(np.prod(plan.tracks[which].boxes[place, 2:])) for which, place in present]
    return swapped, len(present), sum(areas), -sample

  return max(plan.present, key=rank)


class _WholeFrame:
  """Finds one face in every frame, whose square is the smallest one around the frame."""

  def __init__(self, video: SampledVideo, margin: float):
    """Raises an InputError: the frames are too elongated, as pictures would be."""
    width, height = video.size
    crops.whole_picture(np.zeros((height, width, 3), np.uint8), video.name)
    self._margin = margin

  def find(self, image: np.ndarray) -> list[Face]:
    height, width = image.shape[:2]
    side = max(height, width)
    oval = side / self._margin
    middle = (height - side) / 2 + CENTRE_HEIGHT * side
    return [Face(((width - oval) / 2, middle - oval / 2, oval, oval))]


class _Changes:
  """What recovery changed, in a file by track and place, since a video has too much for memory.

  Differences of uint8 modulo 256: they are nothing outside the mask, and exact.
  """

  def __init__(self, file: BinaryIO):
    self._file = file
    self._where: dict[tuple[int, int], tuple[int, int]] = {}

  def put(self, key: tuple[int, int], change: np.ndarray) -> None:
    data = cv2.imencode('.png', change, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    self._where[key] = self._file.seek(0, os.SEEK_END), len(data)
    self._file.write(data)

  def get(self, key: tuple[int, int]) -> np.ndarray:
    start, length = self._where[key]
    self._file.seek(start)
    data = np.frombuffer(self._file.read(length), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)
