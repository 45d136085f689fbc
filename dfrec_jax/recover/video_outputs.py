"""Images and entries of results.json for the tracks of a video."""

from collections.abc import Sequence
import dataclasses
import itertools
import pathlib
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageFont

from dfrec_jax import figures
from dfrec_jax.recover import crops, drawing, wording
from dfrec_jax.recover.candidates import ROLES, Gallery, nearest_people
from dfrec_jax.recover.recoverer import Recoverer
from dfrec_jax.recover.score_plot import Curve, score_plot
from dfrec_jax.recover.side_by_side import Mark, draw_marks
from dfrec_jax.recover.track_recovery import (
  Shot,
  TrackRecovery,
  average,
  mean_embedding,
)
from dfrec_jax.recover.tracking import Track
from dfrec_jax.recover.video_files import SampledVideo

_LARGEST_PICTURE = 1600  # pixels
_DRAWN = 20  # Tracks behind a plot, those of the most frames: more would be one grey field.


@dataclasses.dataclass(frozen=True)
class TrackFace:
  """A track whose images are written.

  Attributes:
    number: of the face, from 1.
    swapped: whether its median score reaches the threshold.
    shown: places in the track where it is marked, and restored if it is swapped.
    best_sample: number of the sampled frame that shows it best.
    picture: path for that frame, in the folder of the video.
    curve: its scores.
    entry: of results.json.
  """

  number: int
  swapped: bool
  shown: frozenset[int]
  best_sample: int
  picture: str
  curve: Curve
  entry: dict[str, Any]


class FaceWriter:
  """Writes the images of tracks.

  Args:
    video: what they are of.
    indices, times: of its sampled frames.
    recoverer: gives the threshold.
    gallery: is searched, if any.
    out: folder of the video.
  """

  def __init__(
    self,
    video: SampledVideo,
    indices: Sequence[int],
    times: Sequence[float],
    recoverer: Recoverer,
    gallery: Gallery | None,
    out: pathlib.Path,
  ):
    self._video, self._indices, self._times = video, indices, times
    self._recoverer, self._gallery, self._out = recoverer, gallery, out

  def write(self, number: int, recovery: TrackRecovery) -> TrackFace:
    """Writes the images of a track, and of its best single frame."""
    track, shots, folder = recovery.track, recovery.shots, f'face-{number}'
    best, (score, rate) = shots[0], recovery.verdict()
    swapped = score >= self._recoverer.threshold
    picture = f'{folder}/frame.jpg'
    files, images, instability, candidates = {'crop': f'{folder}/crop.png'}, [picture], None, {}
    doubts = []
    drawing.write_shown(self._out / files['crop'], best.crop)
    if swapped:
      merged = average(shots)
      instability = merged.instability
      doubts = crops.mask_warnings(merged.mask, f'Face {number} of {self._video.name}')
      pictures = {
        'mask': drawing.mask_image(merged.mask),
        'overlay': drawing.overlay(best.crop, merged.mask),
        'source': merged.source,
        'target': merged.target,
      }
      if instability is not None:
        pictures['spread'] = drawing.heat_map(merged.spread)
      singles = {'source': best.recovered.source, 'target': best.recovered.target}
      for name, pixels in pictures.items():
        files[name] = f'{folder}/{name}.png'
        drawing.write_image(self._out / files[name], pixels)
      for name, pixels in singles.items():
        images.append(f'{folder}/{name}-of-best-frame.png')
        drawing.write_shown(self._out / images[-1], pixels)
      candidates = self._search(shots)
    box, crop = self._places(track, best.place)
    entry = {
      'number': number,
      'box': box,
      'crop': crop,
      'score': score,
      'false_alarm_rate': rate,
      'swapped': swapped,
      'warnings': self._warnings(number, track, best) + doubts,
      'instability': instability,
      'draws': self._recoverer.draws,
      'files': files,
      'candidates': candidates,
      'track': self._track(recovery, shots, f'{folder}/scores.png', images),
    }
    return TrackFace(
      number=number,
      swapped=swapped,
      shown=frozenset(recovery.shown),
      best_sample=track.samples[best.place],
      picture=picture,
      curve=self._curve(recovery),
      entry=entry,
    )

  def write_plots(self, faces: Sequence[TrackFace], cuts: Sequence[float]) -> None:
    """Writes the plot of each track, with the others behind."""
    for face in faces:
      track, times = face.entry['track'], face.curve.times
      verdict = wording.SCORES_AS_SWAPPED if face.swapped else wording.NO_SWAP_FOUND
      plot = score_plot(
        face.curve,
        [other.curve for other in faces[:_DRAWN] if other is not face],
        title=f'Face {face.number}: {verdict}',
        threshold=self._recoverer.threshold,
        verdict=face.entry['score'],
        best=list(times).index(self._times[face.best_sample]),
        duration=self._video.duration,
        cuts=cuts,
      )
      figures.save_figure(plot, self._out / track['plot'])

  def _search(self, shots: Sequence[Shot]) -> dict[str, list[dict[str, Any]]]:
    """The nearest people to the mean identity of what was recovered, for source and target."""
    if self._gallery is None:
      return {}
    found = {}
    for role in ROLES:
      faces = [getattr(shot.recovered, role) for shot in shots]
      embeddings = self._gallery.embed(faces, self._recoverer.margin)
      found[role] = nearest_people(self._gallery, mean_embedding(embeddings, shots))[0]
    return found

  def _places(self, track: Track, place: int) -> tuple[list[float], list[int]]:
    """Box and square in pixels of the video, which may be larger than the frames that were read."""
    square, scale = track.squares[place], self._video.scale
    box = [round(float(value) / scale, 1) for value in track.boxes[place]]
    return box, [round(value / scale) for value in (square.left, square.top, square.side)]

  def _warnings(self, number: int, track: Track, best: Shot) -> list[str]:
    name, found = f'Face {number} of {self._video.name}', []
    if len(track.samples) == 1:
      time = self._times[track.samples[0]]
      found.append(
        f'{name} was found in one frame only, at {time:.2f} s: nothing could be averaged over time.'
      )
    crop = crops.Crop(tuple(track.boxes[best.place]), track.squares[best.place], best.crop)
    return found + crops.warnings_of(crop, self._recoverer.image_size, name)

  def _track(
    self, recovery: TrackRecovery, shots: Sequence[Shot], plot: str, images: Sequence[str]
  ) -> dict[str, Any]:
    """The frames, as numbers of the video's frames from 0, and their scores."""
    track = recovery.track
    index = lambda place: self._indices[track.samples[place]]
    return {
      'frames': [index(place) for place, *_ in recovery.scores],
      'times': [round(time, 3) for time in self._curve(recovery).times],
      'scores': [score for _, score, _ in recovery.scores],
      'best_frame': index(shots[0].place),
      'averaged_frames': sorted(index(shot.place) for shot in shots),
      'bridged_frames': [index(place) for place, seen in enumerate(track.found) if not seen],
      'plot': plot,
      'images': list(images),
    }

  def _curve(self, recovery: TrackRecovery) -> Curve:
    places = [place for place, *_ in recovery.scores]
    return Curve(
      times=[self._times[recovery.track.samples[place]] for place in places],
      scores=[score for _, score, _ in recovery.scores],
      gaps=[False, *(b - a > 1 for a, b in itertools.pairwise(places))],
    )


def save_marked(pixels: np.ndarray, marks: Sequence[Mark], path: pathlib.Path) -> None:
  """Writes a frame (H, W, 3) uint8 with boxes around its faces, shrunk if it is large."""
  scale = min(1.0, _LARGEST_PICTURE / max(pixels.shape))
  if scale < 1:
    pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  picture = Image.fromarray(pixels)
  size = min(max(max(picture.size) // 64, 12), 28)
  draw_marks(picture, marks, scale, ImageFont.load_default(size), estimate=False)
  drawing.write_shown(path, np.asarray(picture))
