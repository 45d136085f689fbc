"""Videos in the examiner's tool: sampling by time, tracks, averages, and what is written."""

import dataclasses
from fractions import Fraction
import json
import shutil
import weakref

import av
import cv2
import numpy as np
from PIL import Image
import pytest

from dfrec_jax.errors import InputError
from dfrec_jax.recover import averaging, crops, track_recovery, tracking, video
from dfrec_jax.recover.recoverer import Recovered
from dfrec_jax.recover.scenes import CutDetector
from dfrec_jax.recover.video_files import SampledVideo
from input_pipeline.prepare.faces import Face

RED, BLUE, GREY = (200, 40, 40), (40, 60, 200), (90, 90, 90)


def write_video(path, frames, *, rate=10, times=None, rotation=0, options=None, audio=False):
  """Writes (H, W, 3) uint8 frames; `times` are in thousandths of a second."""
  with av.open(str(path), 'w', options=options or {}) as container:
    stream = container.add_stream('libx264', rate=rate, options={'crf': '1', 'preset': 'ultrafast'})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = 'yuv444p'
    if times:
      stream.codec_context.time_base = Fraction(1, 1000)
    if rotation:
      stream.set_display_rotation(rotation)
    for i, pixels in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(pixels)
      if times:
        frame.pts, frame.time_base = times[i], Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def scene(faces, size=(96, 128), ground=GREY):
  """A frame with squares of 24 pixels as faces: {colour: (x, y) of the middle}."""
  frame = np.full((*size, 3), ground, np.uint8)
  for colour, (x, y) in faces.items():
    x, y = round(x), round(y)
    frame[y - 12 : y + 12, x - 12 : x + 12] = colour
    frame[y - 4 : y - 1, x - 8 : x + 8] = 250  # brows
  return frame


class Finder:
  """Finds the squares of `scene`."""

  def find(self, image):
    faces = []
    for colour in (RED, BLUE):
      mask = (np.abs(image.astype(int) - colour).max(-1) < 40).astype(np.uint8)
      if mask.sum() > 50:
        faces.append(Face(tuple(map(float, cv2.boundingRect(mask)))))
    return faces


class FakeRecoverer:
  """Red faces are swapped: their source is white, their target the crop turned green."""

  image_size, margin, threshold, batch_size, draws, checkpoint = 16, 1.5, 0.5, 4, 2, {}

  def __init__(self):
    self.batches = []

  def recover(self, images, *, seed=0):
    self.batches.append(len(images))
    return [self._one(image, seed) for image in images]

  def _one(self, image, seed):
    side = image.shape[0]
    red = (np.abs(image.astype(int) - RED).max(-1) < 60).mean() > 0.05
    mask = np.zeros((side, side), np.float32)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 1
    target = np.where(mask[..., None] > 0, np.uint8([20, 180 + seed, 20]), image)
    return Recovered(
      source=np.full_like(image, 255),
      target=target,
      mask=mask,
      score=0.9 if red else 0.1,
      false_alarm_rate=0.0 if red else 0.5,
      swapped=bool(red),
      spread=2 * mask,
      instability=2.0,
    )


@pytest.fixture(autouse=True)
def no_cautions(monkeypatch):
  """Squares are no sharp faces; what judges crops has tests of its own."""
  monkeypatch.setattr(crops, 'warnings_of', lambda crop, image_size, name: [])


def recover(path, out, recoverer=None, fps=10, **options):
  recoverer = recoverer or FakeRecoverer()
  return video.recover_video(path, recoverer, Finder(), fps=fps, seed=3, out=out, **options)


def moving(count, x=40.0, colour=RED, step=1.0):
  return [scene({colour: (x + step * i, 48)}) for i in range(count)]


def test_frames_are_sampled_by_time_stamp(tmp_path):
  # Ten a second, then one that is shown for a second, then a burst of forty a second.
  times = [0, 100, 200, 300, 400, 1400, 1425, 1450, 1475, 1500, 1900]
  path = write_video(tmp_path / 'a.mkv', moving(len(times)), times=times)
  frames = list(SampledVideo(path, 5).frames())
  assert [frame.index for frame in frames] == [0, 2, 4, 5, 10]
  assert [round(frame.time, 3) for frame in frames] == [0, 0.2, 0.4, 1.4, 1.9]
  assert [frame.slot for frame in frames] == [0, 1, 2, 7, 9]
  every = list(SampledVideo(path, 100).frames())
  assert [round(1000 * frame.time) for frame in every] == times


@pytest.mark.parametrize('turns', [1, 2, 3])
def test_a_turned_video_is_read_upright(tmp_path, turns):
  pixels = scene({RED: (20, 20)})
  path = write_video(tmp_path / 'a.mp4', [pixels] * 3, rotation=90 * turns)
  sampled = SampledVideo(path, 10)
  upright = next(sampled.frames()).pixels
  expected = np.rot90(pixels, turns)
  assert (sampled.height, sampled.width) == expected.shape[:2] == sampled.size[::-1]
  assert np.abs(upright.astype(int) - expected).mean() < 3


def test_large_frames_are_shrunk_and_places_are_those_of_the_video(tmp_path, monkeypatch):
  path = write_video(tmp_path / 'a.mp4', moving(6))
  full = recover(path, tmp_path / 'full')['faces'][0]
  monkeypatch.setattr('dfrec_jax.recover.video_files.LARGEST_SIDE', 64)
  assert next(SampledVideo(path, 1).frames()).pixels.shape == (48, 64, 3)
  shrunk = recover(path, tmp_path / 'small')['faces'][0]
  assert np.allclose(shrunk['box'], full['box'], atol=3)
  assert np.allclose(shrunk['crop'], full['crop'], atol=4)
  monkeypatch.setattr('dfrec_jax.recover.video_files.LARGEST_PIXELS', 1000)
  with pytest.raises(InputError, match=r'more than \d+ megapixels; shrink it'):
    SampledVideo(path, 1)


def test_a_damaged_end_is_said_and_the_rest_used(tmp_path):
  noise = np.random.default_rng(0).integers(0, 60, (40, 96, 128, 3), np.uint8)
  frames = [np.maximum(a, b) for a, b in zip(moving(40), noise, strict=True)]
  whole = write_video(tmp_path / 'a.mp4', frames, options={'movflags': 'faststart'})
  cut = tmp_path / 'cut.mp4'
  cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
  entry = recover(cut, tmp_path / 'out')
  assert 10 < entry['frames'] < 35
  assert any('cut.mp4 is cut short or damaged' in warning for warning in entry['warnings'])
  assert len(entry['faces']) == 1
  assert not recover(whole, tmp_path / 'whole')['warnings']


def test_what_is_no_video_is_refused(tmp_path):
  (tmp_path / 'empty.mp4').touch()
  (tmp_path / 'text.mp4').write_text('no film')
  # A playlist would open other files and addresses.
  (tmp_path / 'list.mp4').write_text('#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/passwd\n')
  whole = write_video(tmp_path / 'whole.mp4', moving(5))
  (tmp_path / 'headless.mp4').write_bytes(whole.read_bytes()[:400])
  with av.open(str(tmp_path / 'sound.mp4'), 'w') as container:
    stream = container.add_stream('aac', rate=48000)
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), 'fltp', 'mono')
    sound.sample_rate = 48000
    container.mux([*stream.encode(sound), *stream.encode(None)])
  for name in ('empty', 'text', 'list', 'headless', 'sound', 'absent'):
    with pytest.raises(InputError, match=f'{name}.mp4') as caught:
      recover(tmp_path / f'{name}.mp4', tmp_path / 'out')
    assert str(caught.value).endswith('.') and '\n' not in str(caught.value)
    assert ('sound only' in str(caught.value)) == (name == 'sound')
  assert not (tmp_path / 'out').exists()
  with pytest.raises(InputError, match='fps is 0'):
    recover(whole, tmp_path / 'out', fps=0)


def test_cuts_are_told_from_flashes_and_pans():
  rng = np.random.default_rng(0)
  first, second = (rng.integers(0, 200, (36, 64)).astype(np.uint8) for _ in range(2))

  def begins(frames):
    detector = CutDetector()
    known = [detector.add(frame) for frame in [*frames, None]]
    return [i - 1 for i, cut in enumerate(known) if cut]

  assert begins([first] * 4 + [second] * 4) == [4]
  assert begins([first] * 4 + [first // 2 + 120] + [first] * 4) == []
  assert begins([np.roll(first, 3 * i, 1) for i in range(9)]) == []
  assert begins([first] * 3 + [second]) == [3]


def link(samples, interval=0.5, cuts=()):
  linker = tracking.Linker(interval, 1.5)
  for number, boxes in enumerate(samples):
    linker.add(number * interval, boxes, cut=number in cuts)
  return linker.tracks()


def at(x, y=0.0, side=100.0):
  return (x, y, side, side)


def test_gaps_are_bridged_and_cuts_end_tracks():
  steady = [[at(10.0 * i)] for i in range(8)]
  gap = [boxes if i not in (3, 4) else [] for i, boxes in enumerate(steady)]
  (track,) = link(gap)
  assert track.samples == tuple(range(8))
  assert track.found == tuple(i not in (3, 4) for i in range(8))
  assert np.allclose(track.boxes, [box for (box,) in steady])
  long = [boxes if i < 2 or i > 6 else [] for i, boxes in enumerate(steady)]
  assert [track.samples for track in link(long)] == [(0, 1), (7,)]
  assert [track.samples for track in link(steady, cuts=[3])] == [(3, 4, 5, 6, 7), (0, 1, 2)]


def test_several_people_keep_their_tracks():
  # Two walk towards each other and stop; a third appears; a face is found twice in one frame.
  left, right = ([at(40.0 * i) for i in range(5)], [at(600 - 40.0 * i, 20) for i in range(5)])
  samples = [[b, a] if i % 2 else [a, b] for i, (a, b) in enumerate(zip(left, right, strict=True))]
  samples[2].append(at(100, 20, 60))
  samples[4].append(at(900))
  tracks = link(samples)
  assert [track.samples for track in tracks] == [tuple(range(5))] * 2 + [(4,)]
  assert np.allclose(tracks[0].boxes[:, 0], [x for x, *_ in left])
  assert np.allclose(tracks[1].boxes[:, 0], [x for x, *_ in right])
  # A face of another size, or far away, is another face.
  assert len(link([[at(0)], [at(0, side=200.0)]])) == len(link([[at(0)], [at(300)]])) == 2


def test_squares_do_not_jitter():
  rng = np.random.default_rng(0)
  times = np.arange(60) / 25
  true = np.stack([100 + 50 * times, 80 - 20 * times], 1)
  noisy = true + rng.normal(0, 3, true.shape)
  smooth = tracking.smooth(times, noisy, times, 0.3)
  assert np.abs(np.diff(smooth, 2, axis=0)).max() < 0.1 * np.abs(np.diff(noisy, 2, axis=0)).max()
  assert np.abs(smooth - true).mean() < 1.2
  assert np.allclose(tracking.smooth(times, true, times, 0.3), true)


@pytest.fixture(scope='module')
def face():
  """Something smooth and irregular, (64, 64, 3)."""
  noise = np.random.default_rng(5).integers(0, 255, (9, 9, 3)).astype(np.uint8)
  return cv2.resize(noise, (64, 64), interpolation=cv2.INTER_CUBIC)


def test_crops_are_aligned_and_averaged_robustly(face):
  shifted = cv2.warpAffine(
    face, np.float32([[1.03, 0.02, 2], [-0.02, 1.03, -3]]), (64, 64), borderMode=1
  )
  transform = averaging.alignment(face, shifted)
  inside = np.s_[12:52, 12:52]
  error = lambda image: np.abs(image.astype(int) - face)[inside].mean()
  assert error(averaging.move(shifted, transform, 64)) < 0.15 * error(shifted)
  assert np.array_equal(averaging.move(face, averaging.STAY, 64), face)
  flat = np.full_like(face, 7)
  assert np.array_equal(averaging.alignment(face, flat), averaging.STAY)
  noise = np.random.default_rng(0).normal(0, 2, (5, *face.shape))
  images = [np.clip(face + n, 0, 255) for n in noise]
  robust = averaging.robust_mean([*images, flat], [1, 1, 1, 1, 1, 1])
  assert np.abs(robust - face).mean() < 1.5
  weighted = averaging.robust_mean([face * 0.0 + 10, face * 0.0 + 12], [3, 1])
  assert np.allclose(weighted, 10.5, atol=0.05)


def test_what_hides_a_face_in_most_frames_is_not_averaged(face):
  rng = np.random.default_rng(1)
  hidden = face.copy()
  hidden[:, 20:] = rng.integers(0, 255, (64, 44, 3))
  mask = np.zeros((64, 64), np.float32)
  mask[20:50, 15:49] = 1
  recovered = lambda image: Recovered(image, image, mask, 0.9, 0.0, True, mask * 4, 4.0)
  shots = [
    track_recovery.Shot(place, 1.0 - 0.1 * place, image, recovered(image))
    for place, image in enumerate([face, hidden, hidden, hidden])
  ]
  averaged = track_recovery.average(shots)
  assert np.abs(averaged.target.astype(int) - face).mean() < 1
  assert np.allclose(averaged.mask, mask, atol=1e-3) and averaged.instability == pytest.approx(4)


def test_sharp_and_frontal_frames_count_more(face):
  frontal = np.concatenate([face[:, :32], face[:, :32][:, ::-1]], 1)
  blurred = cv2.GaussianBlur(frontal, (0, 0), 3)
  assert averaging.quality(frontal, 0.9) > averaging.quality(blurred, 0.9)
  assert averaging.quality(frontal, 0.9) > averaging.quality(face, 0.9)
  assert averaging.quality(frontal, 0.9) > averaging.quality(frontal, 0.5)


@pytest.fixture(scope='module')
def film(tmp_path_factory):
  """Two people, red and blue; red is lost for two frames; then a cut to red alone."""
  first = [
    scene({RED: (30 + i, 40), BLUE: (95, 60)} if i not in (5, 6) else {BLUE: (95, 60)})
    for i in range(14)
  ]
  second = [scene({RED: (64, 48 + i)}, ground=(230, 220, 180)) for i in range(8)]
  return write_video(tmp_path_factory.mktemp('film') / 'a "film" <b>.mp4', first + second)


def test_the_entry_of_a_film(film, tmp_path):
  entry = recover(film, tmp_path / 'out')
  assert json.loads(json.dumps(entry)) == entry
  assert entry | {'files': 0, 'faces': 0} == {
    'kind': 'video', 'width': 128, 'height': 96, 'status': 'done', 'error': None, 'warnings': [],
    'frames': 22, 'fps': 10.0, 'rate': 10.0, 'duration': 2.2, 'files': 0, 'faces': 0,
  }  # fmt: skip
  blue, red, later = entry['faces']
  assert [face['number'] for face in entry['faces']] == [1, 2, 3]
  assert [face['swapped'] for face in entry['faces']] == [False, True, True]
  assert blue['track']['frames'] == list(range(14))
  assert red['track']['frames'] == [0, 1, 2, 3, 4, *range(7, 14)]
  assert red['track']['bridged_frames'] == [5, 6]
  assert later['track']['frames'] == list(range(14, 22))
  assert red['track']['scores'] == [0.9] * 12 and red['score'] == 0.9
  assert red['false_alarm_rate'] == 0.0 and blue['false_alarm_rate'] == 0.5
  assert red['instability'] == pytest.approx(2) and blue['instability'] is None
  assert set(blue['files']) == {'crop'} and len(blue['track']['images']) == 1
  assert set(red['files']) == {'crop', 'mask', 'overlay', 'source', 'target', 'spread'}
  best = red['track']['best_frame']
  assert np.allclose(red['box'], (18 + best, 28, 24, 24), atol=1.5)
  named = set(entry['files'].values())
  for face in entry['faces']:
    named |= {*face['files'].values(), *face['track']['images'], face['track']['plot']}
  written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*') if p.is_file()}
  thumbnails = {path for path in written if 'thumbnails/' in path}
  assert written - thumbnails == {f'out/{path}' for path in named}
  target = np.asarray(Image.open(tmp_path / 'out' / red['files']['target']))
  assert np.abs(target[18, 18].astype(int) - (20, 183, 20)).max() <= 2
  assert np.asarray(Image.open(tmp_path / 'out' / red['files']['source'])).min() == 255


def test_the_side_by_side_video(film, tmp_path):
  entry = recover(film, tmp_path, fps=5)
  with av.open(str(tmp_path / entry['files']['side_by_side'])) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == 'h264' and stream.codec_context.pix_fmt == 'yuv420p'
    frames = [(frame.time, frame.to_ndarray(format='rgb24')) for frame in container.decode(stream)]
  assert [round(time, 3) for time, _ in frames] == [round(0.2 * i, 3) for i in range(11)]
  height, width = frames[0][1].shape[:2]
  pane = frames[0][1][-height + 32 :]
  scale = width / 2 / 128
  pixel = lambda x, y: pane[round(y * scale), round(x * scale)].astype(int)
  # The middle of the swapped face is restored on the right, nothing else is.
  assert np.abs(pixel(30, 40) - RED).max() < 30
  assert np.abs(pixel(128 + 30, 40) - (20, 183, 20)).max() < 30
  assert np.abs(pixel(128 + 95, 60) - BLUE).max() < 30
  assert np.abs(pixel(128 + 60, 15) - GREY).max() < 15


def test_nothing_is_invented_where_no_track_is_swapped(tmp_path):
  path = write_video(tmp_path / 'a.mp4', moving(6, colour=BLUE))
  entry = recover(path, tmp_path / 'out')
  assert set(entry['files']) == {'boxes'} and set(entry['faces'][0]['files']) == {'crop'}
  assert not list((tmp_path / 'out').rglob('*.mp4'))


def test_a_video_without_faces_and_a_track_of_one_frame(tmp_path):
  path = write_video(tmp_path / 'none.mp4', [scene({})] * 4)
  entry = recover(path, tmp_path / 'none')
  assert entry['faces'] == [] and entry['status'] == 'done' and entry['files'] == {}
  (warning,) = entry['warnings']
  assert warning.startswith(f'No face was found in the 4 frames of {path} that were looked at; ')
  path = write_video(tmp_path / 'one.mp4', [scene({})] * 4 + [scene({RED: (60, 40)})])
  (face,) = recover(path, tmp_path / 'one')['faces']
  assert face['swapped'] and face['track']['frames'] == [4]
  assert face['warnings'][0].startswith(f'Face 1 of {path} was found in one frame only, at 0.40 s')


def test_equal_runs_give_equal_bytes(film, tmp_path):
  first, second = ((recover(film, tmp_path / name), tmp_path / name) for name in 'ab')
  assert first[0] == second[0]
  paths = [path.relative_to(first[1]) for path in first[1].rglob('*.*')]
  same = lambda path: (first[1] / path).read_bytes() == (second[1] / path).read_bytes()
  assert len(paths) > 10 and [path for path in paths if not same(path)] == []


def test_memory_does_not_grow_with_the_video(tmp_path, monkeypatch):
  path = write_video(tmp_path / 'long.mp4', moving(60))
  pictures, alive = [], []
  read = SampledVideo._frame

  def count(*arguments):
    frame = read(*arguments)
    pictures.append(weakref.ref(frame.pixels))
    alive.append(sum(picture() is not None for picture in pictures))
    return frame

  monkeypatch.setattr(SampledVideo, '_frame', count)
  recoverer = FakeRecoverer()
  held = []
  keep = track_recovery.TrackRecovery.add

  def watch(self, *arguments):
    finished = keep(self, *arguments)
    held.append(len(self.shots))
    return finished

  monkeypatch.setattr(track_recovery.TrackRecovery, 'add', watch)
  entry = recover(path, tmp_path / 'out', recoverer)
  assert entry['frames'] == 60 and max(recoverer.batches) == recoverer.batch_size
  assert len(alive) == 180 and max(alive) <= 2
  assert max(held) == track_recovery.STRETCHES < 60
  averaged = entry['faces'][0]['track']['averaged_frames']
  assert [frame // 5 for frame in averaged] == list(range(12))


def test_the_gallery_is_searched_with_the_mean_of_the_track(film, tmp_path):
  @dataclasses.dataclass
  class Person:
    person: str
    similarity: float

  class Gallery:
    def embed(self, images, margin):
      return np.stack([image.mean((0, 1)) / 255 for image in images])

    def search(self, embeddings, top):
      assert np.allclose(np.linalg.norm(embeddings, axis=1), 1)
      return [
        [Person('white', float(e @ np.ones(3) / 3**0.5)) for _ in range(top)] for e in embeddings
      ]

  blue, red, _ = recover(film, tmp_path, gallery=Gallery())['faces']
  assert blue['candidates'] == {}
  assert len(red['candidates']['source']) == 5
  assert red['candidates']['source'][0] == {'person': 'white', 'similarity': pytest.approx(1)}
  assert red['candidates']['target'][0]['similarity'] < 0.99


def test_a_video_that_is_a_crop_already(tmp_path):
  path = write_video(tmp_path / 'a.mp4', moving(5))
  entry = video.recover_video(path, FakeRecoverer(), None, fps=10, seed=0, out=tmp_path / 'out')
  (face,) = entry['faces']
  assert face['crop'] == [0, -16, 128] and len(face['track']['frames']) == 5


def test_an_elongated_video_is_no_crop(tmp_path):
  path = write_video(tmp_path / 'a.mp4', [np.full((48, 128, 3), GREY, np.uint8)] * 3)
  with pytest.raises(InputError, match=r'a\.mp4 is 128 x 48 pixels, which is no crop of a face'):
    video.recover_video(path, FakeRecoverer(), None, fps=10, seed=0, out=tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_a_video_with_the_name_of_a_picture(tmp_path):
  path = write_video(tmp_path / 'a.mp4', moving(5))
  for name in ('a.jpg', 'a'):
    assert recover(shutil.copy(path, tmp_path / name), tmp_path / f'of {name}')['frames'] == 5
