"""The manifest of real triplets: its examples, and every mistake that a manifest may hold."""

import csv
import pickle

import numpy as np
from PIL import Image
import pytest

from input_pipeline.images import ImageError
from input_pipeline.triplets import ManifestError, Triplets, WithPristine, pristine_of

COLUMNS = ('forged', 'source', 'target', 'mask', 'attack', 'source_identity', 'target_identity')


def save(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def write_manifest(path, rows, columns=COLUMNS):
  with open(path, 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(rows)


def row(i, mask=True, attack='lab'):
  paths = [f'{kind}/{i}.png' for kind in ('forged', 'source', 'target')]
  return [*paths, f'mask/{i}.png' if mask else '', attack, f's{i}', f't{i}']


@pytest.fixture
def folder(tmp_path):
  """Four rows of 20 x 16 pixels whose red channel is the row; the sources are 12 x 12."""
  for i in range(4):
    for j, kind in enumerate(('forged', 'source', 'target')):
      size = (12, 12, 3) if kind == 'source' else (20, 16, 3)
      image = np.full(size, 40 * j, np.uint8)
      image[..., 0] = i
      save(tmp_path / f'{kind}/{i}.png', image)
    mask = np.zeros((20, 16), np.uint8)
    mask[:, : i + 1] = 255
    save(tmp_path / f'mask/{i}.png', mask)
  write_manifest(tmp_path / 'train.csv', [row(i) for i in range(4)])
  return tmp_path


def test_examples_follow_the_data_contract(folder):
  source = Triplets(folder, 'train.csv')
  assert len(source) == 4
  example = source[2]
  for key, green, shape in (('forged', 0, (20, 16, 3)), ('source', 40, (12, 12, 3))):
    assert example[key].shape == shape and example[key].dtype == np.uint8
    assert (example[key] == [2, green, green]).all()
  assert (example['target'] == [2, 80, 80]).all()
  assert example['mask'].shape == (20, 16, 1) and example['mask'].dtype == np.float32
  np.testing.assert_array_equal(example['mask'][0, :, 0], np.arange(16) < 3)
  assert example['has_mask'].dtype == np.bool_ and example['has_mask']
  assert example['label'] == 1 and example['label'].dtype == np.int32
  assert [example[key] for key in COLUMNS[4:]] == ['lab', 's2', 't2']


def test_source_survives_pickling_for_worker_processes(folder):
  source = pickle.loads(pickle.dumps(Triplets(folder, 'train.csv')))
  np.testing.assert_array_equal(source[1]['forged'], Triplets(folder, 'train.csv')[1]['forged'])


def test_optional_columns_may_be_absent_and_extra_ones_are_kept(folder):
  columns = (*COLUMNS[:4], 'video', 'label')
  write_manifest(folder / 'bare.csv', [[*row(0, mask=False)[:4], '012_345', '1']], columns)
  source = Triplets(folder, 'bare.csv')
  example = source[0]
  assert source.rows[0]['video'] == '012_345'
  assert not example['has_mask'] and example['mask'].shape == (20, 16, 1)
  assert not example['mask'].any()
  assert [example[key] for key in COLUMNS[4:]] == ['unknown', '', '']


def test_byte_order_mark_blank_lines_and_spaces_are_no_trouble(folder):
  text = (folder / 'train.csv').read_text().replace(',', ', ')
  (folder / 'excel.csv').write_bytes(b'\xef\xbb\xbf' + text.encode() + b'\r\n\r\n')
  assert len(Triplets(folder, 'excel.csv')) == 4


def test_manifest_in_a_subfolder_counts_paths_from_there(folder):
  (folder / 'lists').mkdir()
  (folder / 'train.csv').rename(folder / 'lists/train.csv')
  with pytest.raises(ManifestError, match='missing'):
    Triplets(folder, 'lists/train.csv')
  for kind in ('forged', 'source', 'target', 'mask'):
    (folder / kind).rename(folder / 'lists' / kind)
  assert Triplets(folder, 'lists/train.csv')[3]['forged'][0, 0, 0] == 3


def test_pristine_rows(folder):
  rows = [['target/1.png'] * 3 + ['', 'pristine', '', 't1'], row(0)]
  write_manifest(folder / 'mixed.csv', rows)
  source = Triplets(folder, 'mixed.csv')
  assert source.labels.tolist() == [0, 1]
  example = source[0]
  assert example['label'] == 0 and example['has_mask'] and not example['mask'].any()
  assert [example[key] for key in COLUMNS[4:]] == ['pristine', 't1', 't1']
  assert len(WithPristine(source)) == 3, 'a pristine row is not evaluated twice'


@pytest.mark.parametrize('photo', ['target', 'source'])
def test_pristine_of_is_one_photograph_in_all_three_places(folder, photo):
  example = Triplets(folder, 'train.csv')[3]
  pristine = pristine_of(example, photo)
  assert pristine.keys() == example.keys()
  for key in ('forged', 'source', 'target'):
    np.testing.assert_array_equal(pristine[key], example[photo])
  assert pristine['mask'].shape == (*example[photo].shape[:2], 1) and not pristine['mask'].any()
  assert pristine['label'] == 0 and pristine['has_mask']
  assert pristine['source_identity'] == pristine['target_identity'] == f'{photo[0]}3'
  assert pristine['attack'] == 'pristine'


def test_with_pristine_appends_each_target_once(folder):
  source = WithPristine(Triplets(folder, 'train.csv'))
  assert len(source) == 8
  assert [int(source[i]['label']) for i in range(8)] == [1] * 4 + [0] * 4
  np.testing.assert_array_equal(source[6]['forged'], source[2]['target'])


def test_missing_manifest_says_how_to_give_one(tmp_path):
  for root in (tmp_path, tmp_path / 'nowhere'):
    with pytest.raises(ManifestError, match=r'root=.*train=') as error:
      Triplets(root, 'train.csv')
    assert str(root / 'train.csv') in str(error.value)


@pytest.mark.parametrize(
  'text, says',
  [
    ('', 'lacks the column.*forged, source, target, mask'),
    ('forged;source;target;mask\n', 'separated by commas'),
    ('forged,source,mask\na,b,c\n', r'lacks the column\(s\) target;'),
    ('forged,source,target,mask\n', 'no rows'),
    ('forged,source,target,mask,mask\n', 'twice'),
    ('forged,source,target,mask\na,b,c,d,e\n', 'line 2 has 5 fields'),
    ('forged,source,target,mask\na,b\n', 'line 2 has 2 fields'),
    ('forged,source,target,mask\n"a' + 'b' * 200000, 'quote'),
    ('forged,source,target,mask\n,b,c,d\n', 'line 2: forged is empty'),
    ('forged,source,target,mask,label\na,b,c,d,2\n', "label is '2'"),
    ('forged,source,target,mask,label\na,b,c,d,0\n', 'one photograph as forged, source and target'),
    ('forged,source,target,mask,attack\na,b,c,d,all\n', "the attack 'all'"),
  ],
)
def test_malformed_manifests(tmp_path, text, says):
  (tmp_path / 'train.csv').write_text(text)
  with pytest.raises(ManifestError, match=says) as error:
    Triplets(tmp_path, 'train.csv')
  assert str(tmp_path / 'train.csv') in str(error.value)


def test_manifest_that_is_not_text(tmp_path):
  (tmp_path / 'train.csv').write_bytes(b'\xff\xfe\x00\x80')
  with pytest.raises(ManifestError, match='UTF-8') as error:
    Triplets(tmp_path, 'train.csv')
  assert 'train.csv' in str(error.value)


@pytest.mark.parametrize('column', range(4))
@pytest.mark.parametrize('escape', ['/etc/a.png', '../a.png', 'forged/../../a.png', 'gs://b/a.png'])
def test_paths_must_stay_inside_the_folder(folder, column, escape):
  bad = row(1)
  bad[column] = escape
  write_manifest(folder / 'train.csv', [row(0), bad])
  with pytest.raises(ManifestError, match=r"line 3: .*outside the manifest's folder") as error:
    Triplets(folder, 'train.csv', check=False)
  assert escape in str(error.value)


def test_links_must_stay_inside_the_folder(folder, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp('elsewhere') / 'secret.png'
  (folder / 'forged/1.png').rename(elsewhere)
  (folder / 'forged/1.png').symlink_to(elsewhere)
  with pytest.raises(ManifestError, match=r'line 3.*outside'):
    Triplets(folder, 'train.csv')
  (folder / 'forged/1.png').unlink()
  (folder / 'forged/1.png').symlink_to(folder / 'forged/0.png')
  assert len(Triplets(folder, 'train.csv')) == 4


def test_missing_images_name_line_file_and_their_number(folder):
  (folder / 'source/1.png').unlink()
  (folder / 'mask/3.png').unlink()
  with pytest.raises(ManifestError, match=r'line 3 \(2 rows have.*missing') as error:
    Triplets(folder, 'train.csv')
  assert str(folder / 'source/1.png') in str(error.value)


@pytest.mark.parametrize('kind', ['forged', 'source', 'target', 'mask'])
def test_truncated_images_are_found_before_training(folder, kind):
  path = folder / kind / '2.png'
  path.write_bytes(path.read_bytes()[:-6])
  with pytest.raises(ManifestError, match=r'line 4: .*truncated') as error:
    Triplets(folder, 'train.csv')
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  'array, says',
  [
    (np.zeros((20, 16), np.uint8), 'grey'),
    (np.zeros((20, 16), np.uint16), '16-bit'),
    (np.zeros((20, 16, 4), np.uint8), 'alpha'),
  ],
)
def test_images_of_the_wrong_kind_are_found_before_training(folder, array, says):
  save(folder / 'target/0.png', array)
  with pytest.raises(ManifestError, match=f'line 2: .*{says}.*convert it to 8-bit RGB') as error:
    Triplets(folder, 'train.csv')
  assert str(folder / 'target/0.png') in str(error.value)


@pytest.mark.parametrize('kind, shape', [('mask', (20, 20)), ('target', (16, 20, 3))])
def test_images_of_another_size_name_both_files(folder, kind, shape):
  save(folder / f'{kind}/1.png', np.zeros(shape, np.uint8))
  with pytest.raises(ManifestError, match=f'line 3: The {kind}.*20 x .*16 x 20') as error:
    Triplets(folder, 'train.csv')
  assert str(folder / f'{kind}/1.png') in str(error.value)
  assert str(folder / 'forged/1.png') in str(error.value)
  with pytest.raises(ImageError, match='one size'):
    Triplets(folder, 'train.csv', check=False)[1]


def test_shared_faces(shared):
  source = Triplets(shared / 'faces', 'val.csv', check=False)
  assert len(source) == 256
  for i in range(4):
    example = source[i]
    assert example['forged'].shape == example['target'].shape == (160, 160, 3)
    outside = example['mask'][..., 0] < 0.01
    error = np.abs(example['forged'].astype(int) - example['target']).mean(-1)
    assert 0.1 < outside.mean() < 0.95
    assert error[outside].mean() < error[~outside].mean(), 'the mask covers what was pasted'
