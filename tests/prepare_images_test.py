"""Sets of images and folders of people in miniature, prepared and loaded."""

import stat
import sys

import cv2
import numpy as np
import pytest

from dfrec_jax.errors import InputError
from input_pipeline.people.landmarks import read_landmarks
from input_pipeline.prepare import faces, ffhq_e4s, portraits, splits
from input_pipeline.prepare.landmarks import MeshFinder
from input_pipeline.prepare.units import Settings, UnitLog
from tests import raw_trees
from tests.preparing import place, prepare, read_all, summary, unusable


def people_of_splits():
  """Six names of people: four of train, one of val, one of test."""
  names = [str(n) for n in range(400)]
  of = {split: [n for n in names if splits.split_of(n) == split] for split in ('train', 'val')}
  assert 300 < len(of['train']) < 370 and len(of['val']) > 8
  return [*of['train'][:5], of['val'][0]]


def test_celeba_megafs(tmp_path):
  people = people_of_splits()
  raw_trees.make_celeba_megafs(tmp_path / 'raw', people)
  assert prepare('celeba_megafs', tmp_path / 'raw', tmp_path) == 0
  folder = tmp_path / 'celeba_megafs'
  records = read_all(folder, 'train')
  assert [r['name'] for r in records] == [b'FTM/0_1', b'IDInjection/0_1', b'LCR/1_0']
  assert [r['attack'] for r in records] == [b'megafs_ftm', b'megafs_idinjection', b'megafs_lcr']
  example = records[2]
  assert example['target_identity'].decode() == people[1]
  assert example['source_identity'].decode() == people[0]
  mask = example['mask'][..., 0] > 127
  y, x = np.nonzero(mask)
  assert example['has_mask'] and mask.sum() > 0.9 * (np.ptp(y) + 1) * (np.ptp(x) + 1), 'a box'
  difference = np.abs(example['forged'].astype(int) - example['target']).mean(-1)
  assert difference[mask].mean() > 4 * difference[~mask].mean(), 'the box covers what was pasted'
  total = summary(folder / '1.0.0')
  assert total['left_out'] == {splits.ACROSS_SPLITS: 1}
  reasons = unusable(folder / '1.0.0')
  assert 'truncated' in reasons.pop('FTM/2_0.jpg')
  assert reasons == {
    'CelebA-HQ-img/3.jpg': 'no face',
    'CelebA-HQ-img/4.jpg': 'not of the shape of its forged image',
    'LCR/cover.jpg': 'not called TARGET_SOURCE with numbers of CelebA-HQ',
  }


def test_celeba_megafs_needs_to_know_its_people(tmp_path, capsys):
  raw_trees.make_celeba_megafs(tmp_path / 'raw', people_of_splits())
  (tmp_path / 'raw/identity_CelebA.txt').unlink()
  assert prepare('celeba_megafs', tmp_path / 'raw', tmp_path) == 1
  assert 'identity_CelebA.txt; docs/data.md says where to get it' in capsys.readouterr().err


def test_ffhq_e4s_with_masks_from_the_difference(tmp_path):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  options = ('--mask=difference', '--encoding=png', '--no-trust_masks')
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path, *options) == 0
  of = {name: splits.split_of(name) for name in ('00000', '00001', '00003')}
  folder = tmp_path / 'ffhq_e4s'
  for split, counts in summary(folder / '1.0.0')['examples'].items():
    alike = sum(s == split for s in of.values())
    assert counts == {'e4s': alike * (alike - 1)}
    for record in read_all(folder, split):
      assert not record['has_mask'] and record['mask_kind'] == b'difference'
      assert {of[record[f'{who}_identity'].decode()] for who in ('source', 'target')} == {split}


def test_a_set_of_which_nothing_is_left_says_why(tmp_path, capsys):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  (tmp_path / 'raw/list.csv').write_text('swaps/1_0.png ffhq/00000.png ffhq/00000.png\n')
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 1
  assert ': one person (1); see' in capsys.readouterr().err
  (tmp_path / 'raw/list.csv').write_text('swaps/1_0.png,../ffhq/00000.png,ffhq/00001.png\n')
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 1
  assert 'swap 1: it must name three files inside' in capsys.readouterr().err


def test_a_list_is_read_by_its_header(tmp_path):
  raw_trees.make_ffhq_e4s(tmp_path)
  settings = Settings(dataset='ffhq_e4s', raw=str(tmp_path))
  rows = lambda: [unit.content for unit in ffhq_e4s.list_units(settings, UnitLog(settings.raw))]
  expected = rows()
  lines = [line.split(',') for line in (tmp_path / 'list.csv').read_text().splitlines()]
  lines[0] = ['Forged', 'Source', 'Target']
  text = '\n'.join(f'{target},{forged},{source}' for forged, source, target in lines)
  (tmp_path / 'list.csv').write_text(text)
  assert rows() == expected and expected


def test_strips_of_megafs_on_ffpp(tmp_path):
  raw_trees.make_megafs_ffpp(tmp_path / 'raw')
  assert prepare('megafs_ffpp', tmp_path / 'raw', tmp_path, '--encoding=png') == 0
  folder = tmp_path / 'megafs_ffpp'
  (record,) = read_all(folder, 'train')
  for key, image in (
    ('source', raw_trees.portrait(1).image),
    ('target', raw_trees.portrait(0).image),
    ('forged', raw_trees.swap(1, 0)[0]),
  ):
    assert place(record[key], cv2.copyMakeBorder(image, *[64] * 4, cv2.BORDER_REPLICATE))[1] == 0
  assert (record['target_identity'], record['source_identity']) == (b'000', b'001')
  (record,) = read_all(folder, 'val')
  assert record['name'] == b'images/004_005_0007.png'
  assert unusable(folder / '1.0.0') == {
    'images/001_000/12.png': '256 x 128 pixels, not three squares side by side',
    'images/readme.png': 'its path names no pair of videos',
  }
  assert summary(folder / '1.0.0')['left_out'] == {splits.ACROSS_SPLITS: 1}


MEDIAPIPE = """
import types

class FaceMesh:
  def __init__(self, static_image_mode, max_num_faces, refine_landmarks):
    print('libraries print things')

  def process(self, image):
    faces = 0 if image.std() < 5 else 2 if image[0, 0, 0] == 255 else 1
    height = lambda k, i: 0.2 + 0.5 * i / 467 - 0.1 * k
    point = lambda k, i: types.SimpleNamespace(x=0.3 + 0.4 * (i % 2), y=height(k, i))
    mesh = lambda k: types.SimpleNamespace(landmark=[point(k, i) for i in range(478)])
    return types.SimpleNamespace(multi_face_landmarks=[mesh(k) for k in range(faces)] or None)

solutions = types.SimpleNamespace(face_mesh=types.SimpleNamespace(FaceMesh=FaceMesh))
"""


@pytest.fixture
def mesh(tmp_path, monkeypatch):
  """An environment with a stand-in for MediaPipe, which knows nothing of this project."""
  (tmp_path / 'site').mkdir()
  (tmp_path / 'site/mediapipe.py').write_text(MEDIAPIPE)
  python = tmp_path / 'python'
  python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n')
  python.chmod(python.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv('DFREC_LANDMARKS_PYTHON', str(python))
  faces.make_finder.cache_clear()
  portraits._known_landmarks.cache_clear()
  yield python
  if faces.make_finder.cache_info().currsize:
    faces.make_finder('mesh').close()
  faces.make_finder.cache_clear()


def test_the_mesh_comes_from_a_process_of_its_own(mesh):
  finder = MeshFinder()
  image = raw_trees.portrait(0).image[:100]
  (face,) = finder.find(image)
  assert face.points.shape == (468, 2)
  np.testing.assert_allclose(face.points[0], [0.3 * 128, 0.2 * 100], rtol=1e-6)
  np.testing.assert_allclose(face.box, [38.4, 20, 51.2, 50], rtol=1e-5)
  assert finder.find(np.full((50, 60, 3), 9, np.uint8)) == []
  two = image.copy()
  two[0, 0] = 255
  assert len(finder.find(two)) == 2
  finder.close()
  mesh.write_text('#!/bin/sh\nexit 1\n')
  with pytest.raises(InputError, match=r'cannot find landmarks; try .*import mediapipe'):
    MeshFinder().find(image)


def test_an_absent_environment_is_named_at_once(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('DFREC_LANDMARKS_PYTHON', str(tmp_path / 'none'))
  raw_trees.save(tmp_path / 'raw/ann/1.jpg', raw_trees.portrait(0).image)
  with pytest.raises(InputError, match='make landmarks'):
    MeshFinder()
  assert prepare('faces', tmp_path / 'raw', tmp_path / 'out') == 1
  assert 'make landmarks' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def make_people(root):
  for number, name in enumerate(('ann/1.jpg', 'ann/2.png', 'bob/1.jpg', 'bob/group.png')):
    image = raw_trees.portrait(number % 2).image.copy()
    if name == 'bob/group.png':
      image[0, 0] = 255
    raw_trees.save(root / name, image)
  raw_trees.save(root / 'bob/empty.jpg', np.full((64, 64, 3), 9, np.uint8))
  (root / 'bob/broken.jpg').write_bytes(b'\xff\xd8nothing')
  (root / 'readme.txt').write_text('about')


def test_a_folder_of_people_gets_crops_and_landmarks(mesh, tmp_path):
  raw, out = tmp_path / 'raw', tmp_path / 'out'
  make_people(raw)
  assert prepare('faces', raw, out, '--encoding=png', '--margin=1.25') == 0
  names, points = read_landmarks(out)
  assert names.tolist() == ['ann/1.jpg.png', 'ann/2.png', 'bob/1.jpg.png']
  assert points.shape == (3, 468, 2) and points.dtype == np.float16
  for name, mesh_points in zip(names, points.astype(float), strict=True):
    crop = cv2.imread(str(out / name))[..., ::-1].copy()
    original = cv2.imread(str(raw / name.replace('.jpg.png', '.jpg')))[..., ::-1].copy()
    (x, y), error = place(crop, original)
    assert crop.shape == (80, 80, 3) and error == 0, '1.25 of 64 pixels'
    np.testing.assert_allclose(mesh_points[0] + [x, y], [0.3 * 128, 0.2 * 128], atol=0.1)
  reasons = unusable(out)
  assert reasons.pop('bob/broken.jpg').endswith('replace the file by a JPEG or PNG.')
  assert reasons == {'bob/empty.jpg': 'no face', 'bob/group.png': 'several faces'}
  assert summary(out)['examples'] == {'all': {'photographs': 3}}
  assert (out / 'contact_sheet.png').exists() and not (out / 'unfinished').exists()


def test_photographs_are_never_overwritten(mesh, tmp_path, capsys):
  make_people(tmp_path)
  before = (tmp_path / 'ann/1.jpg').read_bytes()
  for out in (tmp_path, tmp_path / 'out'):
    assert prepare('faces', tmp_path, out) == 1
    assert 'photographs would be overwritten' in capsys.readouterr().err
  assert (tmp_path / 'ann/1.jpg').read_bytes() == before


def test_landmarks_beside_the_photographs_are_taken_over(tmp_path, monkeypatch):
  raw = tmp_path / 'raw'
  make_people(raw)
  points = np.tile(np.float16([[20, 30], [84, 94]]), (1, 234, 1))
  np.savez(raw / 'landmarks.npz', names=np.array(['ann/1.jpg']), points=points)
  monkeypatch.setenv('DFREC_LANDMARKS_PYTHON', str(tmp_path / 'none'))
  assert prepare('faces', raw, tmp_path / 'out', '--size=40', '--margin=1.25') == 0
  names, found = read_landmarks(tmp_path / 'out')
  assert names.tolist() == ['ann/1.jpg']
  assert cv2.imread(str(tmp_path / 'out/ann/1.jpg')).shape == (40, 40, 3)
  np.testing.assert_allclose(np.ptp(found[0].astype(float), axis=0), 64 * 40 / 80, atol=0.1)
  assert unusable(tmp_path / 'out')['ann/2.png'] == 'not in landmarks.npz'


def test_a_set_of_tensorflow_datasets_is_a_folder(mesh, tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  class SmallPortraits(tfds.core.GeneratorBasedBuilder):
    """Two people."""

    VERSION = tfds.core.Version('1.0.0')
    url_infos = {}  # noqa: RUF012

    def _info(self):
      image = tfds.features.Image(shape=(None, None, 3))
      features = tfds.features.FeaturesDict({'label': tfds.features.Text(), 'image': image})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for number, label in enumerate(('ann', 'bob', 'ann')):
        image = raw_trees.portrait(number % 2).image
        yield number, {'label': label, 'image': cv2.imencode('.png', image)[1].tobytes()}

  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  assert prepare('faces', 'tfds:small_portraits', tmp_path / 'out') == 0
  names, _ = read_landmarks(tmp_path / 'out')
  assert names.tolist() == ['ann/ann_0001.jpg', 'ann/ann_0002.jpg', 'bob/bob_0001.jpg']
