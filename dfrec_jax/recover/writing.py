"""An input's images and its entry of results.json."""

from collections.abc import Sequence
import pathlib
from typing import Any

from dfrec_jax.recover import drawing, inputs, wording
from dfrec_jax.recover.candidates import ROLES, Gallery, nearest_people
from dfrec_jax.recover.crops import mask_warnings, put_back
from dfrec_jax.recover.finding import make_finder
from dfrec_jax.recover.jobs import Job, Settings
from dfrec_jax.recover.outputs import OutputFolder, below
from dfrec_jax.recover.recoverer import Recovered, Recoverer

_SEARCHED_TOGETHER = 16  # Faces whose source and target are embedded at once.


class Writer:
  """Writes inputs whose faces are recovered. Threads may share it."""

  def __init__(self, recoverer: Recoverer, out: OutputFolder, gallery: Gallery | None = None):
    """`gallery`: of the people who are to be searched, if any."""
    self._recoverer, self._out, self._gallery = recoverer, out, gallery

  def search(self, jobs: Sequence[Job]) -> dict[tuple[int, int], dict[str, list[dict[str, Any]]]]:
    """The most similar people to each swapped face, by the job's index and the face's place."""
    if self._gallery is None:
      return {}
    swapped = [(job, place) for job in jobs for place, p in enumerate(job.predictions) if p.swapped]
    found = {}
    for start in range(0, len(swapped), _SEARCHED_TOGETHER):
      part = swapped[start : start + _SEARCHED_TOGETHER]
      recovered = [self._enlarge(job, place) for job, place in part]
      images = [getattr(r, role) for r in recovered for role in ROLES]
      embeddings = self._gallery.embed(images, self._recoverer.margin)
      people = iter(nearest_people(self._gallery, embeddings))
      for job, place in part:
        found[job.index, place] = {role: next(people) for role in ROLES}
    return found

  def write(self, job: Job, candidates: dict[tuple[int, int], Any]) -> dict[str, Any]:
    """Writes the folder of an image, and returns its entry.

    Args:
      candidates: of `search`.

    Raises:
      OSError: the folder cannot be written.
    """
    picture = job.photograph.pixels
    with self._out.fresh(job.folder) as (folder, finish):
      faces, restored = [], picture
      for place, crop in enumerate(job.crops):
        swapped = job.predictions[place].swapped
        recovered = self._enlarge(job, place) if swapped else None
        if recovered:
          restored = put_back(restored, crop.pixels, recovered.target, crop.square)
        faces.append(self._face(job, place, recovered, candidates.get((job.index, place)), folder))
      files = {'boxes': 'boxes.jpg'}  # Also without faces: it shows what was looked at.
      boxes = drawing.draw_boxes(picture, job.crops, [p.swapped for p in job.predictions])
      drawing.write_shown(folder / files['boxes'], boxes)
      if restored is not picture:
        files['restored'] = 'restored.png'
        drawing.write_shown(folder / files['restored'], restored)
      entry = self._entry(job, faces, files)
      finish(entry)
    return entry

  def write_video(self, job: Job, settings: Settings) -> dict[str, Any]:
    """Recovers a video and writes its folder; returns its entry.

    Raises:
      InputError: it cannot be read.
      OSError: the folder cannot be written.
    """
    from dfrec_jax.recover import video  # It needs decoders, which most runs do not.

    with self._out.fresh(job.folder) as (folder, finish):
      entry = video.recover_video(
        job.item.path,
        self._recoverer,
        make_finder(settings.finder, self._recoverer.smallest_face) if settings.finder else None,
        fps=settings.fps,
        seed=settings.seed,
        out=folder,
        gallery=self._gallery,
      )
      entry = self._complete(job, entry)
      finish(entry)
    return entry

  def _complete(self, job: Job, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a video with what only the command knows; paths become relative to OUT."""
    put = lambda files: below(job.folder, files)
    faces = []
    for face in entry['faces']:
      track = dict(face['track'])
      for name in ('plot', 'images'):
        if track.get(name):
          one = isinstance(track[name], str)
          track[name] = (
            f'{job.folder}/{track[name]}' if one else [f'{job.folder}/{f}' for f in track[name]]
          )
      faces.append({**face, 'files': put(face['files']), 'track': track})
    return {
      'input': job.item.path,
      'sha256': job.sha256,
      **entry,
      'warnings': [*entry['warnings'], *self._general_warnings(job)],
      'folder': job.folder,
      'files': put(entry['files']),
      'faces': faces,
    }

  def _enlarge(self, job: Job, place: int) -> Recovered:
    return self._recoverer.enlarge(job.crops[place].pixels, job.predictions[place])

  def _face(
    self,
    job: Job,
    place: int,
    recovered: Recovered | None,
    candidates: dict[str, Any] | None,
    folder: pathlib.Path,
  ) -> dict[str, Any]:
    """Writes the images of a face, and returns its entry; `recovered` is None if not swapped."""
    crop, prediction, own = job.crops[place], job.predictions[place], f'face-{place + 1}'
    pictures = {'crop.jpg': crop.pixels}
    if recovered:
      pictures = {
        'crop.png': crop.pixels,
        'overlay.jpg': drawing.overlay(crop.pixels, recovered.mask),
        'source.png': recovered.source,
        'target.png': recovered.target,
      }
      if recovered.instability is not None:
        pictures['spread.jpg'] = drawing.heat_map(recovered.spread)
      drawing.write_image(folder / own / 'mask.png', drawing.mask_image(recovered.mask))
    for name, pixels in pictures.items():
      drawing.write_shown(folder / own / name, pixels)
    names = [*pictures, 'mask.png'] if recovered else pictures
    name = f'Face {place + 1} of {job.item.path}'
    doubts = mask_warnings(recovered.mask, name) if recovered else []
    square = crop.square
    return {
      'number': place + 1,
      'box': [round(value, 1) for value in crop.box],
      'crop': [square.left, square.top, square.side],
      'score': prediction.score,
      'false_alarm_rate': prediction.false_alarm_rate,
      'swapped': prediction.swapped,
      'warnings': job.warnings[place] + doubts,
      'instability': recovered.instability if recovered else None,
      'draws': self._recoverer.draws,
      'files': below(job.folder, {name.split('.')[0]: f'{own}/{name}' for name in names}),
      'candidates': candidates or {},
    }

  def _entry(self, job: Job, faces: list[dict[str, Any]], files: dict[str, str]) -> dict[str, Any]:
    height, width = job.photograph.pixels.shape[:2]
    warnings = [*job.photograph.warnings, *self._general_warnings(job)]
    if not faces:
      size = f' below {round(job.smallest_face)} pixels' if job.smallest_face else ''
      warnings.append(
        f'No face was found in {job.item.path}; {wording.UNSEEN}, and small ones{size}, are not '
        'found.'
      )
    return {
      'input': job.item.path,
      'sha256': job.sha256,
      'kind': inputs.IMAGE,
      'width': width,
      'height': height,
      'turned': job.photograph.turned,
      'status': 'done',
      'error': None,
      'warnings': warnings,
      'folder': job.folder,
      'files': below(job.folder, files),
      'faces': faces,
    }

  def _general_warnings(self, job: Job) -> list[str]:
    if self._recoverer.calibration:
      return []
    return [
      f'The checkpoint was not evaluated, so that nobody knows how many genuine photographs score '
      f'as high as {job.item.path}; evaluate it with `python -m dfrec_jax.main --mode=eval`.'
    ]
