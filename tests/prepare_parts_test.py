"""The parts of a preparation: tracks, crops, masks, alignment, source frames."""

import av
import cv2
import numpy as np
import pytest

from dfrec_jax.errors import InputError
from input_pipeline.prepare import masks
from input_pipeline.prepare.alignment import same_frames
from input_pipeline.prepare.faces import CascadeFinder, Face, make_finder, only_face
from input_pipeline.prepare.source_frames import frontal_sharpest, symmetry
from input_pipeline.prepare.splits import split_of_pair
from input_pipeline.prepare.tracks import Square, cut, follow_face, square_around
from input_pipeline.prepare.units import Unusable
from input_pipeline.prepare.video import frame_count, read_frames, spread
from tests import raw_trees
from tests.h264 import write_lossy_h264


def face(x, y, side=40.0):
  return Face((float(x), float(y), float(side), float(side)))


@pytest.mark.parametrize('count, frames', [(1, 5), (7, 5), (8, 8), (300, 16), (0, 4)])
def test_frames_are_spread_evenly(count, frames):
  indices = spread(count, frames)
  assert len(indices) == len(set(indices)) == min(count, frames)
  assert all(0 <= index < count for index in indices)
  if count > frames:
    assert max(np.diff(indices)) - min(np.diff(indices)) <= 1
    assert abs(indices[0] - (count - 1 - indices[-1])) <= 1


def test_videos_are_read_by_index_and_broken_ones_are_empty(tmp_path):
  rng = np.random.default_rng(0)
  image = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (raw_trees.SIDE,) * 2)
  path = tmp_path / 'a.mp4'
  raw_trees.video(path, image, 9)
  assert path.read_bytes()[4:8] == b'ftyp' and b'avc1' in path.read_bytes()
  assert frame_count(path) == 9
  frames, problem = read_frames(path, [7, 2, 40])
  assert sorted(frames) == [2, 7] and not problem, 'the header promises no more'
  shift = lambda index: np.roll(frames[index], -index, 1)[:, 40:-40].astype(int)
  assert np.abs(shift(2) - shift(7)).max() < 30
  assert np.abs(frames[2].astype(int) - frames[7]).max() > 60
  for content in (b'', b'no video', path.read_bytes()[:3000]):
    (tmp_path / 'b.mp4').write_bytes(content)
    assert frame_count(tmp_path / 'b.mp4') == 0
    assert read_frames(tmp_path / 'b.mp4', [0]) == ({}, 'unreadable')


@pytest.mark.skipif('libx264' not in av.codecs_available, reason='PyAV without x264')
def test_damage_inside_a_video_is_not_painted_over(tmp_path):
  path = tmp_path / 'a.mp4'
  raw_trees.video(path, raw_trees.portrait(0).image, 24, write=write_lossy_h264)
  whole, problem = read_frames(path, range(24))
  assert len(whole) == 24 and not problem
  with av.open(str(path)) as container:
    packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
  data, rng, told = path.read_bytes(), np.random.default_rng(0), []
  for where, size in packets[8:23]:
    middle = where + size // 2
    path.write_bytes(data[:middle] + rng.bytes(3) + data[middle + 3 :])
    frames, problem = read_frames(path, range(24))
    if problem:
      told.append(problem)
      assert problem == f'broken: from frame {len(frames)} of 24' and len(frames) >= 2
      assert all((frames[i] == whole[i]).all() for i in frames), 'what is returned is undamaged'
      assert read_frames(path, [0, 1]).problem == '', 'damage behind what is wanted does not matter'
  # Bytes may happen to mean something else that can be decoded.
  assert len(told) >= 12


def test_a_video_that_ends_before_its_header_says_is_told(tmp_path):
  path = tmp_path / 'a.mp4'
  raw_trees.video(tmp_path / 'b.mp4', raw_trees.portrait(0).image, 8)
  # The same with its header in front, as it is after an interrupted download of such a file.
  with (
    av.open(str(tmp_path / 'b.mp4')) as source,
    av.open(str(path), 'w', options={'movflags': 'faststart'}) as copy,
  ):
    stream = copy.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(video=0):
      if packet.size:
        packet.stream = stream
        copy.mux(packet)
  assert len(read_frames(path, range(8)).frames) == 8
  with av.open(str(path)) as container:
    places = [p.pos for p in container.demux(video=0) if p.size]
  data = path.read_bytes()
  for end, told in (
    (places[5], 'ends early: after 5 of 8 frames'),
    (places[5] + 999, 'broken: from frame 5 of 8'),
  ):
    path.write_bytes(data[:end])
    assert frame_count(path) == 8
    frames, problem = read_frames(path, range(8))
    assert sorted(frames) == [*range(5)] and problem == told


def test_a_crop_reaches_over_the_border():
  image = np.arange(60, dtype=np.uint8).reshape(6, 10)[..., None].repeat(3, -1)
  crop = cut(image, Square(-2, 3, 5), 100)
  assert crop.shape == (5, 5, 3)
  np.testing.assert_array_equal(crop[:3, 2:], image[3:, :3])
  np.testing.assert_array_equal(crop[:, 0], crop[:, 2])
  mask = cut(np.full((6, 10), 255, np.uint8), Square(-2, 3, 5), 100, mask=True)
  assert mask[:3, 2:].all() and not mask[3:].any() and not mask[:, :2].any()
  assert cut(image, Square(0, 0, 6), 3).shape == (3, 3, 3)
  for left, top in ((10, 0), (-5, 0), (0, 6), (0, -9)):
    with pytest.raises(ValueError, match='lies beside an image of 10 x 6'):
      cut(image, Square(left, top, 5), 100)


def test_a_crop_puts_the_face_where_the_identity_encoder_expects_it():
  square = square_around((100, 200, 60, 80), 1.5)
  assert square.side == 120
  assert (100 + 30 - square.left) / 120 == pytest.approx(0.5)
  assert (200 + 40 - square.top) / 120 == pytest.approx(0.56, abs=0.01)


def test_the_cascade_finds_the_oval_that_landmarks_bound(shared):
  folder = shared / 'faces/london512'
  with np.load(folder / 'landmarks.npz') as arrays:
    photos = dict(zip(arrays['names'][:24:8], arrays['points'][:24:8].astype(float), strict=True))
  for name, points in photos.items():
    found = CascadeFinder().find(cv2.imread(str(folder / name))[..., ::-1])
    box = np.array([*points.min(0), *np.ptp(points, axis=0)])
    assert np.abs(np.array(only_face(found).box) - box).max() < 0.08 * box[3]


def test_one_square_for_a_video_and_frames_out_of_place_left_out():
  faces = {i: [face(100 + i, 50)] for i in range(8)}
  faces[5] = []  # The finder missed it.
  faces[6] = [face(160, 50)]  # The person leant out of the picture.
  faces[7] = [face(100, 50, side=80)]
  track = follow_face('v', range(8), faces, {}, 1.5)
  assert track.inside == (0, 1, 2, 3, 4)
  assert track.square.side == 60 and abs(track.square.left - (102 + 20 - 30)) <= 2


def test_gaps_are_bridged():
  faces = {i: [face(100 + i, 50)] if i % 2 == 0 else [] for i in range(7)}
  assert follow_face('v', range(7), faces, {}, 1.5).inside == tuple(range(7))


def test_masks_say_which_face_is_meant():
  faces = {i: [face(200, 50, 60), face(100, 50, 50)] for i in range(4)}
  with pytest.raises(Unusable, match='several faces'):
    follow_face('v', range(4), faces, {}, 1.5)
  regions = {i: (110.0, 60.0, 30.0, 30.0) for i in range(4)}
  track = follow_face('v', range(4), faces, regions, 1.5)
  assert track.square.left < 125 < track.square.left + track.square.side < 200
  # A small face in the background and a false one in a single frame do not matter.
  faces = {i: [face(100, 50), face(10, 10, 20)] for i in range(4)}
  faces[2] = [face(300, 200, 90), *faces[2]]
  assert follow_face('v', range(4), faces, {}, 1.5).inside == (0, 1, 2, 3)


@pytest.mark.parametrize('seen', [0, 1])
def test_a_video_without_a_face(seen):
  faces = {i: [face(100, 50)] if i < seen else [] for i in range(4)}
  with pytest.raises(Unusable, match='no face'):
    follow_face('v', range(4), faces, {}, 1.5)
  regions = {i: (100.0, 60.0, 40.0, 30.0) for i in range(4)}
  if seen:
    assert follow_face('v', range(4), faces, regions, 1.5).inside
  else:
    with pytest.raises(Unusable, match='no face'):
      follow_face('v', range(4), faces, regions, 1.5)


def test_a_mask_of_the_mouth_does_not_decide_the_crop():
  """The face is found in three of eight frames; masks follow it in all, or never beside it."""
  ovals = {i: face(100 + 2 * i, 50) for i in range(8)}
  mouths = {i: (112.0 + 2 * i, 78.0, 16.0, 8.0) for i in range(8)}
  seen = {i: [ovals[i]] if i in (0, 3, 5) else [] for i in range(8)}
  everywhere = follow_face('v', range(8), {i: [f] for i, f in ovals.items()}, {}, 1.5)
  assert follow_face('v', range(8), seen, mouths, 1.5) == everywhere
  elsewhere = {i: box for i, box in mouths.items() if not seen[i]}
  with pytest.raises(Unusable, match='no face'):
    follow_face('v', range(8), seen, elsewhere, 1.5)


@pytest.mark.parametrize('quality', [None, 60])
def test_masks_from_the_difference(quality):
  """Also under compression, whose noise is everywhere."""
  target, (forged, true) = raw_trees.portrait(0).image, raw_trees.swap(1, 0)
  if quality:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    target, forged = (
      cv2.imdecode(cv2.imencode('.jpg', image, flags)[1], 1) for image in (target, forged)
    )
  mask = masks.from_difference(forged, target)
  overlap = ((mask > 127) & (true > 0)).sum() / ((mask > 127) | (true > 0)).sum()
  assert mask.dtype == np.uint8 and overlap > 0.75
  count, _ = cv2.connectedComponents((mask > 127).astype(np.uint8))
  assert count == 2, 'one region'
  assert masks.share(masks.from_difference(target, target)) == 0


def test_boxes_and_levels_of_masks():
  frame = np.zeros((20, 30, 3), np.uint8)
  frame[...] = 9  # what compression makes of black
  frame[5:9, 10:20, 1] = 200
  mask = masks.binary(frame)
  assert masks.bounding_box(mask) == (10, 5, 10, 4) and set(np.unique(mask)) == {0, 255}
  assert masks.bounding_box(np.zeros((4, 4), np.uint8)) is None
  assert masks.share(masks.from_box((10, 10), (-5, 5, 10, 10))) == pytest.approx(0.25)


def moving(image, first):
  return {i: raw_trees.frame(image, first + 2 * i) for i in range(4)}


@pytest.mark.parametrize('first, expected', [(0, True), (9, False)])
def test_fakes_of_another_stretch_are_found_out(first, expected):
  square = Square(25, 5, 140)
  crops = lambda frames: {i: cut(frame, square, 256) for i, frame in frames.items()}
  forged, mask = raw_trees.swap(7, 6)
  targets = crops(moving(raw_trees.portrait(6).image, 0))
  fakes, of_mask = crops(moving(forged, first)), crops(moving(mask, first))
  assert same_frames(fakes, targets, of_mask) is same_frames(fakes, targets, {}) is expected


def test_nothing_that_moves_is_no_sign_of_another_stretch():
  target, noise = (
    raw_trees.portrait(0).image,
    np.random.default_rng(0).integers(-3, 4, (128, 128, 3)),
  )
  fake = np.clip(raw_trees.swap(1, 0)[0] + noise, 0, 255).astype(np.uint8)
  assert same_frames(dict.fromkeys(range(3), fake), dict.fromkeys(range(3), target), {})


def test_the_source_frame_is_frontal_and_sharp():
  frontal, turned = raw_trees.portrait(5).image, raw_trees.turned(5)
  assert symmetry(frontal) > symmetry(turned) + 0.05
  darker = (frontal * np.linspace(1, 0.5, raw_trees.SIDE)[None, :, None]).astype(np.uint8)
  assert symmetry(darker) > symmetry(turned), 'light from one side does not turn a head'
  blurred = cv2.GaussianBlur(frontal, (0, 0), 1.5)
  crops = dict(enumerate([turned, blurred, turned, turned, frontal, turned, turned, turned]))
  assert frontal_sharpest(crops) == 4
  assert frontal_sharpest({3: turned}) == 3


def test_splits_are_by_person_and_the_same_everywhere():
  assert split_of_pair('1', '1') in ('train', 'val', 'test')
  pairs = [split_of_pair(str(i), str(i + 1)) for i in range(300)]
  assert pairs[:6] == [split_of_pair(str(i), str(i + 1)) for i in range(6)]
  assert pairs.count('train') > 180 and pairs.count(None) > 30


def test_unknown_finders_are_refused():
  with pytest.raises(InputError, match='cascade or mesh'):
    make_finder('guess')
