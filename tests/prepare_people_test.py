"""Folders of people in miniature: crops, landmarks, and sets of TensorFlow Datasets."""

import re

import cv2
import numpy as np
import pytest

from dfrec_jax.errors import InputError
from input_pipeline.people.landmarks import read_landmarks
from input_pipeline.prepare.landmarks import MeshFinder
from tests import raw_trees
from tests.preparing import place, prepare, stand_in_for_mediapipe, summary, unusable


@pytest.fixture
def mesh(tmp_path, monkeypatch):
  with stand_in_for_mediapipe(tmp_path, monkeypatch) as python:
    yield python


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
  assert reasons.pop('bob/broken.jpg').endswith('replace the file by a JPEG or PNG')
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


@pytest.mark.parametrize('raw', ['raw', 'tfds:lfw'])
def test_a_folder_of_somebodys_own_is_no_place_for_crops(tmp_path, monkeypatch, capsys, raw):
  monkeypatch.chdir(tmp_path)
  make_people(tmp_path / 'raw')
  make_people(tmp_path / 'own')
  before = (tmp_path / 'own/ann/1.jpg').read_bytes()
  assert prepare('faces', raw, tmp_path / 'own') == 1
  assert 'give as --out a folder that is new or empty' in capsys.readouterr().err
  assert (tmp_path / 'own/ann/1.jpg').read_bytes() == before
  assert not (tmp_path / 'own/unfinished').exists()


def test_an_empty_folder_or_one_that_a_killed_run_has_begun_is_a_place_for_crops(tmp_path):
  make_people(tmp_path / 'raw')
  np.savez(tmp_path / 'raw/landmarks.npz', **landmarks_at('ann/1.jpg'))
  (tmp_path / 'out/unfinished').mkdir(parents=True)
  assert prepare('faces', tmp_path / 'raw', tmp_path / 'out') == 0


def test_a_folder_without_photographs_leaves_no_work(tmp_path, mesh, capsys):
  (tmp_path / 'raw').mkdir()
  assert prepare('faces', tmp_path / 'raw', tmp_path / 'out') == 1
  assert 'holds no photographs' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_crops_of_photographs_that_were_removed_go_too(tmp_path, monkeypatch):
  raw, out = tmp_path / 'raw', tmp_path / 'out'
  make_people(raw)
  np.savez(raw / 'landmarks.npz', **landmarks_at('ann/1.jpg', 'bob/1.jpg'))

  def kill(*unused, **kwargs):
    raise KeyboardInterrupt

  # Before the unit has a report, and behind the last one.
  for moment in ('portraits.write_report', 'summary.write'):
    with monkeypatch.context() as patch:
      patch.setattr(f'input_pipeline.prepare.{moment}', kill)
      assert prepare('faces', raw, out) == 130
    assert (out / 'bob/1.jpg').exists()
  (out / 'bob/of_my_own.txt').write_text('kept')
  (raw / 'ann/1.jpg').rename(raw / 'bob/2.jpg')
  (raw / 'bob/1.jpg').unlink()
  np.savez(raw / 'landmarks.npz', **landmarks_at('bob/2.jpg'))
  assert prepare('faces', raw, out) == 0
  crops = sorted(path.relative_to(out).as_posix() for path in out.glob('*/*'))
  assert crops == ['bob/2.jpg', 'bob/of_my_own.txt']
  assert not (out / 'ann').exists()


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


def landmarks_at(*names, at=(20, 30), side=64):
  """Meshes whose corners lie at `at` and `side` pixels further."""
  (x, y) = at
  return {
    'names': np.array(names),
    'points': np.tile(np.float32([[x, y], [x + side, y + side]]), (len(names), 234, 1)),
  }


@pytest.mark.parametrize(
  ('arrays', 'says'),
  [
    ({'names': np.array(['ann/1.jpg'])}, 'arrays names and points'),
    (landmarks_at('ann/1.jpg') | {'points': np.zeros((1, 5, 2), np.float32)}, r'\(1, 468, 2\)'),
    (landmarks_at('ann/1.jpg') | {'points': np.full((1, 468, 2), np.nan)}, 'not finite'),
    (landmarks_at('ann/1.jpg', 'ann/1.jpg'), 'twice'),
    (landmarks_at('../1.jpg'), 'inside the folder'),
    (landmarks_at('ann/1.jpg') | {'points': np.array([None])}, 'arrays names and points'),
  ],
)
def test_landmarks_that_cannot_be_used_are_named_before_any_work(tmp_path, capsys, arrays, says):
  make_people(tmp_path / 'raw')
  np.savez(tmp_path / 'raw/landmarks.npz', **arrays)
  assert prepare('faces', tmp_path / 'raw', tmp_path / 'out') == 1
  said = capsys.readouterr().err
  assert re.search(says, said) and said.startswith(str(tmp_path / 'raw/landmarks.npz'))
  assert 'mend it, or delete it' in said and said.count('\n') == 1
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 not much more', b'names, points'])
def test_landmarks_that_are_no_archive_are_named(tmp_path, capsys, content):
  make_people(tmp_path / 'raw')
  (tmp_path / 'raw/landmarks.npz').write_bytes(content)
  assert prepare('faces', tmp_path / 'raw', tmp_path / 'out') == 1
  assert 'is not a file of the arrays names and points; mend it' in capsys.readouterr().err


def test_faces_outside_their_photographs_are_listed(tmp_path):
  raw = tmp_path / 'raw'
  make_people(raw)
  each = [
    landmarks_at('ann/1.jpg'),
    landmarks_at('ann/2.png', at=(5000, -7000)),
    landmarks_at('bob/1.jpg', at=(-15000, -15000), side=30000),
    landmarks_at('carl/1.jpg'),
  ]
  arrays = {key: np.concatenate([one[key] for one in each]) for key in ('names', 'points')}
  np.savez(raw / 'landmarks.npz', **arrays)
  assert prepare('faces', raw, tmp_path / 'out') == 0
  assert read_landmarks(tmp_path / 'out')[0].tolist() == ['ann/1.jpg']
  reasons = unusable(tmp_path / 'out')
  assert 'outside it by landmarks.npz' in reasons['ann/2.png']
  assert 'outside it by landmarks.npz' in reasons['bob/1.jpg']
  assert reasons['bob/empty.jpg'] == 'not in landmarks.npz'
  left_out = summary(tmp_path / 'out')['left_out']
  assert left_out == {
    'files that are not PERSON/PHOTO': 1,
    'rows of landmarks.npz without a photograph': 1,
  }
  assert (tmp_path / 'out/ignored.csv').read_text().splitlines() == [
    'file,reason',
    'carl/1.jpg,rows of landmarks.npz without a photograph',
    'readme.txt,files that are not PERSON/PHOTO',
  ]
  checksums = (tmp_path / 'out/checksums.tsv').read_text()
  assert '\tlandmarks.npz\n' in checksums and '\tann/1.jpg\n' in checksums


def test_other_landmarks_make_other_crops(tmp_path, monkeypatch):
  """Also where the run before was stopped behind the last photograph."""
  raw, out = tmp_path / 'raw', tmp_path / 'out'
  make_people(raw)
  np.savez(raw / 'landmarks.npz', **landmarks_at('ann/1.jpg'))

  def stop(*unused):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr('input_pipeline.prepare.summary.write', stop)
    assert prepare('faces', raw, out) == 130
  np.savez(raw / 'landmarks.npz', **landmarks_at('ann/1.jpg', side=32))
  assert prepare('faces', raw, out) == 0
  assert cv2.imread(str(out / 'ann/1.jpg')).shape == (46, 46, 3), '1.45 of 32 pixels'
  assert not (out / 'unfinished').exists()


def test_a_folder_too_high_up_is_named(tmp_path, mesh, capsys):
  make_people(tmp_path / 'raw/train')
  assert prepare('faces', tmp_path / 'raw', tmp_path / 'out') == 1
  assert 'holds no photographs; give as --raw the folder that holds one for each person' in (
    capsys.readouterr().err
  )


def test_what_is_prepared_stays(tmp_path, capsys):
  raw, out = tmp_path / 'raw', tmp_path / 'out'
  make_people(raw)
  np.savez(raw / 'landmarks.npz', **landmarks_at('ann/1.jpg'))
  assert prepare('faces', raw, out) == 0
  capsys.readouterr()
  (raw / 'ann/1.jpg').unlink()
  assert prepare('faces', raw, out) == 0
  assert 'is prepared already; delete it to prepare it anew' in ''.join(capsys.readouterr())
  assert prepare('faces', raw, out, '--size=64') == 1
  assert 'prepared with other settings' in capsys.readouterr().err
  for content in ('[]', '{}', '{"settings": {}}', 'no JSON'):
    (out / 'summary.json').write_text(content)
    assert prepare('faces', raw, out) == 1
    said = capsys.readouterr().err
    assert f'delete {out} to prepare it anew' in said and said.count('\n') == 1
