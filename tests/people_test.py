"""Swaps among the photographs of a folder of people: who, where exactly, and how alike."""

import collections
import itertools
import pickle

import cv2
import jax
import numpy as np
from PIL import Image
import pytest

from configs import common
from dfrec_jax.errors import InputError
from input_pipeline.loader import train_loader
from input_pipeline.people import ATTACKS, PeopleFolder
from input_pipeline.people import swap as swaps
from input_pipeline.people.framing import MARGIN, MIDDLE, frame_face
from input_pipeline.people.mesh import OVAL, FaceMesh
from input_pipeline.people.pose import HEAD_POINTS, HEAD_SHAPE, head_pose
from input_pipeline.people.swap import SwapStyle, swap_faces
from input_pipeline.sources import make_source, require_strangers
from input_pipeline.triplets import Triplets

SIDE = 96


def head():
  """A made-up head: 468 points, x right, y up, z towards the camera."""
  points = np.zeros((468, 3))
  i = np.arange(468)
  radius, angle = np.sqrt((i + 0.5) / 500), i * 2.4
  points[:, 0], points[:, 1] = 7 * radius * np.sin(angle), 8.5 * radius * np.cos(angle)
  around = 2 * np.pi * np.arange(len(OVAL)) / len(OVAL)
  points[OVAL, 0], points[OVAL, 1] = 7.6 * np.sin(around), 9 * np.cos(around)
  points[:, 2] = 6 - 0.1 * points[:, 0] ** 2 - 0.02 * points[:, 1] ** 2
  points[list(HEAD_POINTS)] = HEAD_SHAPE
  points[[13, 14]] = (0, -4, 5), (0, -4.6, 5)
  return points


def view(yaw=0.0, pitch=0.0, roll=0.0):
  """Its mesh (468, 2) with y down: looking right, up, and turned clockwise by so many degrees."""
  y, p, r = np.radians([yaw, pitch, roll])
  turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
  turn_p = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
  turn_r = np.array([[np.cos(r), np.sin(r), 0], [-np.sin(r), np.cos(r), 0], [0, 0, 1]])
  return (head() @ (turn_r @ turn_p @ turn_y).T)[:, :2] * (1, -1)


def crop_points(side=SIDE, **pose):
  """The mesh where the framing has it in a square crop, in pixels from the corner."""
  points = view(**pose)
  low, high = points[OVAL].min(0), points[OVAL].max(0)
  scale = side / (MARGIN * (high - low).max())
  return ((points - (low + high) / 2) * scale + side * np.array([0.5, MIDDLE])).astype(np.float32)


def drawn_face(seed, points, side=SIDE):
  """A smooth background and a face of another colour with some texture."""
  rng = np.random.default_rng(seed)
  image = cv2.resize(rng.integers(60, 196, (4, 4, 3), np.uint8), (side, side))
  skin, dark = (rng.integers(*limits, 3).tolist() for limits in ((90, 230), (0, 80)))
  cv2.fillConvexPoly(image, cv2.convexHull(np.rint(points).astype(np.int32)), skin)
  for point in points[[33, 263, 1, 61, 291]]:
    cv2.circle(image, np.rint(point).astype(int).tolist(), side // 20, dark, -1)
  return cv2.GaussianBlur(image, (0, 0), 1.5)


def write_folder(root, poses):
  """`poses` maps person/photo to the head's pose; PNG files, which keep every bit."""
  names, points = sorted(poses), []
  for i, name in enumerate(names):
    points.append(crop_points(**poses[name]))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn_face(i, points[-1])).save(root / name)
  points = np.array(points, np.float16).reshape(-1, 468, 2)
  np.savez(root / 'landmarks.npz', names=np.array(names, str), points=points)
  return root


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Five people with one to five photographs, eleven in all."""
  rng = np.random.default_rng(0)
  poses = {
    f'p{person}/{photo}.png': {'yaw': rng.uniform(-15, 15), 'roll': rng.uniform(-5, 5)}
    for person, photos in enumerate((1, 5, 2, 1, 2))
    for photo in range(photos)
  }
  return write_folder(tmp_path_factory.mktemp('people'), poses)


def people(folder, **changes):
  settings = {'examples': 44, 'image_size': SIDE, 'compress': False}
  return PeopleFolder(folder, **(settings | changes))


def style(attack='alpha', **changes):
  plain = {'strength': 1, 'reshape': 0, 'inset': 0, 'feather': 0.1, 'softness': 1, 'smooth': False}
  return SwapStyle(attack, **(plain | changes))


@pytest.fixture(scope='module')
def mesh():
  return FaceMesh(view())


def test_examples_follow_the_data_contract_and_the_mask_is_exact(folder):
  source = people(folder)
  assert len(source) == 44 and source.labels.tolist() == [1] * 44
  attacks = set()
  for example in map(source.__getitem__, range(len(source))):
    for key in ('forged', 'source', 'target'):
      assert example[key].shape == (SIDE, SIDE, 3) and example[key].dtype == np.uint8
    mask = example['mask']
    assert mask.shape == (SIDE, SIDE, 1) and mask.dtype == np.float32
    assert mask.min() == 0 and mask.max() == 1 and 0.1 < mask.mean() < 0.5
    changed = (example['forged'] != example['target']).any(-1)
    assert not changed[mask[..., 0] == 0].any(), 'nothing changes where nothing was pasted'
    assert changed[mask[..., 0] > 0.9].mean() > 0.6
    assert example['has_mask'].dtype == np.bool_ and example['has_mask']
    assert example['label'] == 1 and example['label'].dtype == np.int32
    attacks.add(example['attack'])
  assert attacks == set(ATTACKS)


def test_nobody_is_swapped_with_themselves_and_targets_take_turns(folder):
  source = people(folder)
  pairs = [(e['source_identity'], e['target_identity']) for e in map(source.__getitem__, range(44))]
  assert all(a != b for a, b in pairs)
  targets = collections.Counter(target for _, target in pairs)
  assert targets == {f'p{i}': 4 * photos for i, photos in enumerate((1, 5, 2, 1, 2))}
  assert {a for a, _ in pairs} == set(targets), 'everybody is a source too'


def assert_same(first, second):
  assert first.keys() == second.keys()
  for key in first:
    np.testing.assert_array_equal(first[key], second[key])


def test_example_is_a_function_of_seed_and_index(folder):
  first, again = people(folder, compress=True), people(folder, compress=True)
  worker = pickle.loads(pickle.dumps(first))
  for i in (0, 7, 43):
    expected = first[i]
    assert_same(again[i], expected)
    assert_same(worker[i], expected)
  assert_same(people(folder, compress=True, examples=9)[7], first[7])
  other = people(folder, compress=True, seed=1)
  assert any((other[i]['forged'] != first[i]['forged']).any() for i in range(3))
  with pytest.raises(IndexError):
    first[44]


def test_each_pass_draws_other_swaps_of_the_same_targets(folder):
  """Eleven photographs, eleven examples: the second pass has the same targets, swapped anew."""
  source = people(folder, examples=11)
  assert_same(source.draw(7), source[7])
  first, second = ([source.draw(i + 11 * k) for i in range(11)] for k in (0, 1))
  differs = []
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a['target'], b['target'])
    differs.append((a['forged'] != b['forged']).any())
  assert np.mean(differs) > 0.8
  longer = people(folder, examples=22)
  assert_same(longer[15], source.draw(15))


def test_partners_look_the_same_way(tmp_path):
  sides = {'left': -25, 'right': 25}
  poses = {
    f'{side}{i}/0.png': {'yaw': yaw + 0.1 * i} for side, yaw in sides.items() for i in range(40)
  }
  source = people(write_folder(tmp_path, poses), examples=12, check=False)
  for i in range(12):
    example = source[i]
    assert example['source_identity'][:4] == example['target_identity'][:4]


def test_pose_is_recovered_in_degrees():
  poses = [(0, 0, 0), (20, 0, 0), (0, -15, 0), (0, 0, 10), (-12, 8, -6)]
  points = np.stack([3 * view(*pose) + 50 for pose in poses])
  np.testing.assert_allclose(head_pose(points), poses, atol=1.5)


def test_source_texture_lies_on_the_targets_mesh(mesh):
  """Red and green of the source are its x and y: the forged face shows where it came from."""
  points = crop_points()
  texture = np.zeros((SIDE, SIDE, 3), np.uint8)
  texture[..., 0], texture[..., 1] = np.arange(SIDE), np.arange(SIDE)[:, None]
  photo = np.full_like(texture, 200)
  shift = np.float32([7, -4])
  forged, mask = swap_faces(mesh, (texture, points + shift), (photo, points), style())
  rows, columns = np.nonzero(mask[..., 0] == 1)
  assert len(rows) > 1000
  found = forged[rows, columns, :2].astype(float)
  np.testing.assert_allclose(found, np.stack([columns, rows], 1) + shift, atol=1.01)


def test_reshaping_moves_features_and_leaves_the_outline(mesh):
  points = crop_points()
  middle, width = points[OVAL, 0].mean(), np.ptp(points[OVAL, 0])
  wide = points.copy()
  wide[:, 0] += 5 * np.sin((points[:, 0] - middle) * (2 * np.pi / width))
  texture = np.full((SIDE, SIDE, 3), 220, np.uint8)
  for corner in wide[[33, 263]]:
    cv2.circle(texture, np.rint(corner).astype(int).tolist(), 2, (0, 0, 0), -1)
  photo = np.full_like(texture, 220)
  apart, masks = [], []
  for reshape in (0, 1):
    forged, mask = swap_faces(mesh, (texture, wide), (photo, points), style(reshape=reshape))
    columns = np.nonzero(forged[..., 0] < 120)[1]
    right = columns > middle
    apart.append(columns[right].mean() - columns[~right].mean())
    masks.append(mask)
  assert apart[0] == pytest.approx(points[263, 0] - points[33, 0], abs=0.7), "the target's shape"
  assert apart[1] > apart[0] + 3, "the source's eyes are further apart"
  np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize('attack', ATTACKS)
def test_a_face_swapped_with_itself_stays(mesh, attack):
  points = crop_points(yaw=10)
  photo = drawn_face(1, points)
  forged, _ = swap_faces(mesh, (photo, points), (photo, points), style(attack, reshape=0.5))
  np.testing.assert_allclose(forged.astype(int), photo, atol=3)


def test_methods_make_colours_meet(mesh):
  points = crop_points()
  rng = np.random.default_rng(0)
  texture, photo = (
    np.clip(rng.normal(colour, 8, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    for colour in ((90, 60, 50), (210, 170, 150))
  )
  gap = {}
  for attack, strength in (('alpha', 1), ('lab_soft', 0.5), ('lab', 1), ('poisson', 1)):
    method = style(attack, strength=strength)
    forged, mask = swap_faces(mesh, (texture, points), (photo, points), method)
    inside = mask[..., 0] == 1
    gap[attack] = np.abs(forged[inside].mean(0) - photo[inside].mean(0)).mean()
  assert gap['alpha'] > 100 and 25 < gap['lab_soft'] < 75
  assert gap['lab'] < 4 and gap['poisson'] < 4


@pytest.mark.parametrize('smooth', [False, True])
def test_softness_takes_detail_from_the_pasted_face_alone(mesh, smooth):
  points = crop_points()
  noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
  sharp, mask = swap_faces(mesh, (noise, points), (noise, points), style())
  soft, _ = swap_faces(mesh, (noise, points), (noise, points), style(softness=2, smooth=smooth))
  inside = mask[..., 0] == 1
  assert soft[inside].std() < 0.7 * sharp[inside].std()
  np.testing.assert_array_equal(soft[mask[..., 0] == 0], noise[mask[..., 0] == 0])


def test_a_turned_face_shows_its_front_where_it_folds_over_itself():
  points = crop_points(yaw=55)
  folded = FaceMesh(view())
  values = folded.frontal[:, :1]  # How far to the right on the face.
  drawing = folded.draw(points, SIDE, SIDE)
  drawn = drawing.spread(values)[..., 0]
  nose = np.rint(points[1]).astype(int) - (drawing.box[1].start, drawing.box[0].start)
  assert abs(drawn[nose[1], nose[0]] - folded.frontal[1, 0]) < 0.3


def test_faces_that_reach_beyond_the_picture_are_drawn(mesh):
  points = crop_points() + np.float32([40, 50])
  photo = drawn_face(1, points)
  forged, mask = swap_faces(mesh, (255 - photo, crop_points()), (photo, points), style('poisson'))
  assert forged.shape == photo.shape and mask.any()
  gone, mask = swap_faces(mesh, (photo, points), (photo, points + 500), style())
  np.testing.assert_array_equal(gone[mask[..., 0] == 0], photo[mask[..., 0] == 0])


def test_compression_is_the_same_for_all_three_pictures(folder):
  """Far from the paste forged and target agree, so that compression tells nothing of forgery."""
  compressed, plain = (people(folder, compress=c, image_size=128) for c in (True, False))
  changed = []
  for i in range(12):
    example, before = compressed[i], plain[i]
    differs = {k: (example[k] != before[k]).any() for k in ('forged', 'source', 'target')}
    assert len(set(differs.values())) == 1
    changed.append(differs['target'])
    np.testing.assert_array_equal(example['mask'], before['mask'])
    far = cv2.dilate((example['mask'] > 0).astype(np.uint8), np.ones((49, 49))) == 0
    assert far.any()
    np.testing.assert_array_equal(example['forged'][far], example['target'][far])
  assert 0 < np.mean(changed) < 1


def test_splits_are_by_person_and_new_people_move_nobody(tmp_path):
  poses = {f'person{i}/{j}.png': {} for i in range(12) for j in range(2)}
  members = lambda split: {
    name.split('/')[0] for name in people(tmp_path, split=split, held_out=0.4).names
  }
  write_folder(tmp_path, poses)
  train, held = members('train'), members('eval')
  assert not train & held and len(train) + len(held) == 12 and len(held) > 1
  write_folder(tmp_path, poses | {f'new{i}/0.png': {} for i in range(3)})
  assert train <= members('train') and held <= members('eval')


def test_framing_is_one_rule_for_any_photograph():
  points = crop_points()
  crop = drawn_face(3, points)
  same, found = frame_face(crop, points, SIDE)
  np.testing.assert_array_equal(same, crop)
  np.testing.assert_allclose(found, points - 0.5, atol=0.01)
  photo = np.zeros((300, 400, 3), np.uint8)
  photo[120 : 120 + SIDE, 200 : 200 + SIDE] = crop
  again, found = frame_face(photo, points + (200, 120), SIDE)
  np.testing.assert_array_equal(again, crop)
  np.testing.assert_allclose(found, points - 0.5, atol=0.01)
  enlarged, found = frame_face(crop, points, 2 * SIDE)
  assert enlarged.shape == (2 * SIDE, 2 * SIDE, 3)
  np.testing.assert_allclose((found + 0.5) / 2, points, atol=0.01)
  at_the_edge, _ = frame_face(photo[120 + SIDE // 4 :, 200:], points - (0, SIDE // 4), SIDE)
  np.testing.assert_array_equal(at_the_edge[SIDE // 4 :], crop[SIDE // 4 :])


def make_config(**data):
  config = common.base()
  config.data.update(kind='people', train_examples=6, eval_examples=5, image_size=32, **data)
  return config.data


def test_sources_of_training_and_evaluation(folder, tmp_path):
  held_out = make_config(root=str(folder), eval='', held_out=0.5)
  names = {split: set(make_source(held_out, split, seed=0).names) for split in ('train', 'eval')}
  assert not names['train'] & names['eval'] and len(names['train'] | names['eval']) == 11

  write_folder(tmp_path, {f'q{i}/0.png': {} for i in range(3)})
  other = make_config(root=str(folder), eval=str(tmp_path))
  assert len(make_source(other, 'train', seed=0).names) == 11
  evaluated = make_source(other, 'eval', seed=0)
  assert len(evaluated) == 5 and evaluated[0]['target_identity'].startswith('q')
  assert evaluated[0]['forged'].shape == (32, 32, 3)

  (tmp_path / 'val.csv').write_text(
    'forged,source,target,mask\nq0/0.png,q1/0.png,q0/0.png,\n', encoding='utf-8'
  )
  listed = make_config(root=str(folder), eval=str(tmp_path / 'val.csv'))
  assert isinstance(make_source(listed, 'eval', seed=0), Triplets)


def test_a_list_of_swaps_is_mixed_into_those_made(folder, tmp_path):
  write_folder(tmp_path, {f'q{i}/0.png': {} for i in range(3)})
  rows = [f'q{i}/0.png,q{(i + 1) % 3}/0.png,q{i}/0.png,' for i in range(3)]
  manifest = tmp_path / 'more.csv'
  manifest.write_text('\n'.join(['forged,source,target,mask', *rows]), encoding='utf-8')
  config = make_config(root=str(folder), eval=str(manifest), list=str(manifest), list_share=0.25)
  source = make_source(config, 'train', seed=0)
  assert len(source) == 8  # One pass shows the six that are made.
  made = make_source(make_config(root=str(folder), eval=str(manifest)), 'train', seed=0)
  attacks = [source.draw(i)['attack'] for i in range(16)]
  assert [i for i, attack in enumerate(attacks) if attack == 'unknown'] == [3, 7, 11, 15]
  np.testing.assert_array_equal(source.draw(13)['forged'], made.draw(10)['forged'])
  for index in (3, 15):  # The list starts again.
    np.testing.assert_array_equal(
      source.draw(index)['forged'], Triplets(tmp_path, 'more.csv')[0]['forged']
    )
  with pytest.raises(IndexError):
    source[8]

  manifest.write_text(
    'forged,source,target,mask,target_identity\nq0/0.png,q1/0.png,q0/0.png,,q0', encoding='utf-8'
  )
  sources = [make_source(config, split, seed=0) for split in ('train', 'eval')]
  with pytest.raises(InputError, match=r'shows 1 of the people who are evaluated, q0 among them'):
    require_strangers(*sources)
  # Of photographs alone.
  made = make_source(make_config(root=str(folder), eval=str(manifest)), 'train', seed=0)
  require_strangers(made, sources[1])
  with pytest.raises(InputError, match='among them'):
    require_strangers(
      made, make_source(make_config(root=str(folder), eval=str(folder)), 'eval', seed=0)
    )
  config.eval, config.list_share = str(tmp_path), 1.0
  with pytest.raises(InputError, match='it must lie between 0 and 1'):
    make_source(config, 'train', seed=0)
  with pytest.raises(InputError, match=r'no config\.data\.eval is named'):
    make_source(make_config(root=str(folder), eval='', list=str(manifest)), 'train', seed=0)


def test_batches_of_swaps_repeat_resume_and_are_shared(folder):
  """Whoever makes a swap, in whatever order, it is drawn from the seed and its index alone."""
  source = people(folder)
  augmentation = common.base().data.augmentation.to_dict()

  def batches(first, count, **changes):
    settings = {'batch_size': 4, 'image_size': 32, 'seed': 2, 'pristine_rate': 0.2}
    iterator = train_loader(source, augmentation=augmentation, **(settings | changes))
    iterator.set_state({'next_batch': first})
    taken = list(itertools.islice(iterator, count))
    iterator.close()
    return taken

  whole = batches(0, 6)
  assert_same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  assert_same(batches(0, 6), whole)
  assert_same(batches(4, 2), whole[4:])
  later = batches(11, 4)  # The second pass over 44 examples.
  assert_same(batches(11, 4, workers=1), later)
  shares = [batches(0, 6, process_index=i, process_count=2) for i in range(2)]
  for first, second, both in zip(*shares, whole, strict=True):
    for key, value in both.items():
      joined = np.concatenate([first[key], second[key]])
      np.testing.assert_array_equal(joined, value)


def test_missing_landmarks_say_how_to_make_them(tmp_path):
  with pytest.raises(InputError, match=r'input_pipeline\.prepare faces --raw=.*--out=') as error:
    people(tmp_path)
  assert str(tmp_path / 'landmarks.npz') in str(error.value)
  assert '\n' not in str(error.value)


def test_one_person_alone_is_refused(tmp_path):
  write_folder(tmp_path, {'p/0.png': {}, 'p/1.png': {}})
  with pytest.raises(InputError, match=r'1 person.*needs two'):
    people(tmp_path)
  write_folder(tmp_path, {'p/0.png': {}, 'q/1.png': {}})
  with pytest.raises(InputError, match=r"0 person.*'eval'.*eval="):
    people(tmp_path, split='eval', held_out=0)


def landmarks(names=('p/0.png', 'q/0.png'), points=None, **more):
  points = np.stack([crop_points()] * len(names)) if points is None else points
  return {'names': np.array(names), 'points': points, **more}


@pytest.mark.parametrize(
  ('arrays', 'says'),
  [
    ({'names': np.array(['p/0.png'])}, 'arrays names and points'),
    (landmarks(points=np.zeros((2, 478, 2), np.float32)), r'shape \(2, 478, 2\).*\(2, 468, 2\)'),
    (landmarks(points=np.zeros((2, 468, 2), np.float32)), 'no extent'),
    (landmarks(points=np.full((2, 468, 2), np.nan, np.float32)), 'not finite'),
    (landmarks(names=('p/0.png', 'p/0.png')), 'twice'),
    (landmarks(names=('p/0.png', '../q/0.png')), r"'\.\./q/0\.png'.*inside"),
    (landmarks(names=('p/0.png', '/q/0.png')), 'inside'),
    (landmarks(names=('p/0.png', 'q.png')), '<person>/<photo>'),
    (landmarks(names=np.array(['p/0.png', {}], object)), 'arrays names and points'),
  ],
)
def test_landmarks_that_cannot_be_used(tmp_path, arrays, says):
  np.savez(tmp_path / 'landmarks.npz', **arrays)
  with pytest.raises(InputError, match=says) as error:
    people(tmp_path)
  assert str(tmp_path / 'landmarks.npz') in str(error.value)
  assert 'input_pipeline.prepare faces' in str(error.value)


def test_landmarks_that_are_no_archive(tmp_path):
  (tmp_path / 'landmarks.npz').write_bytes(b'PK\x03\x04 but not much more')
  with pytest.raises(InputError, match=r'landmarks\.npz is not'):
    people(tmp_path)


def test_broken_photographs_are_named_before_training(tmp_path):
  write_folder(tmp_path, {f'p{i}/0.png': {} for i in range(4)})
  path = tmp_path / 'p2/0.png'
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(InputError, match='truncated') as error:
    people(tmp_path)
  assert str(path) in str(error.value)
  Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(path)
  (tmp_path / 'p3/0.png').unlink()
  with pytest.raises(InputError, match=r'p2/0\.png is a grey image.*2 photographs have such'):
    people(tmp_path)
  late = people(tmp_path, check=False)
  with pytest.raises(InputError, match=r'p[23]/0\.png'):
    for i in range(8):
      late[i]


def test_landmarks_of_another_file_are_noticed(tmp_path):
  write_folder(tmp_path, {f'p{i}/0.png': {} for i in range(2)})
  Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / 'p1/0.png')
  with pytest.raises(InputError, match=r'p1/0\.png lies outside its 20 x 20 pixels'):
    people(tmp_path)


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'split': 'test'}, "not 'test'"),
    ({'examples': 0}, 'examples.* at least 1, not 0'),
    ({'image_size': 8}, 'image_size.* at least 16, not 8'),
    ({'held_out': 1}, 'held_out'),
    ({'seed': -1}, 'seed'),
    ({'shape_transfer': (0.5, 0.2)}, 'must be two numbers in'),
  ],
)
def test_arguments_are_checked(folder, changes, says):
  with pytest.raises(InputError, match=says):
    people(folder, **changes)


def test_styles_vary():
  rng = np.random.default_rng(0)
  styles = [swaps.draw_style(rng) for _ in range(400)]
  shapes = [s.reshape for s in styles]
  assert 0.2 <= min(shapes) < 0.25 and 0.75 < max(shapes) <= 0.8
  assert {swaps.draw_style(rng, (0, 0)).reshape for _ in range(20)} == {0}
  attacks = collections.Counter(s.attack for s in styles)
  assert min(attacks[a] for a in ATTACKS) > 60
  assert 0.2 < np.mean([s.softness > 1 for s in styles]) < 0.4


def test_shared_photographs(shared):
  root = shared / 'faces/lfw160/val'
  source = people(root, image_size=160, examples=8, check=False)
  for i in range(8):
    example = source[i]
    assert example['source_identity'] != example['target_identity']
    assert 0.15 < example['mask'].mean() < 0.4
    pictures = [
      cv2.imread(str(path))[..., ::-1] for path in (root / example['target_identity']).iterdir()
    ]
    assert any(np.array_equal(example['target'], picture) for picture in pictures), (
      'the crops are framed by the same rule, so they stay as they are'
    )
