"""Sets of images in miniature, prepared and loaded."""

import cv2
import numpy as np

from input_pipeline.prepare import ffhq_e4s, splits
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
  for name in ('FTM/list.txt', 'LCR/.DS_Store'):
    (tmp_path / 'raw' / name).write_text('no photograph')
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
  assert total['left_out'] == {splits.ACROSS_SPLITS: 1, 'files that are no photographs': 2}
  ignored = (folder / '1.0.0/ignored.csv').read_text()
  assert ignored.count(splits.ACROSS_SPLITS) == 1
  assert 'FTM/list.txt,files that are no photographs\n' in ignored.replace('\r', '')
  assert total['unusable']['its target cannot be used'] == 2, 'counted by kind'
  checksums = (folder / '1.0.0/checksums.tsv').read_text()
  assert 'identity_CelebA.txt\n' in checksums and 'CelebA-HQ-to-CelebA-mapping.txt\n' in checksums
  reasons = unusable(folder / '1.0.0')
  assert 'truncated' in reasons.pop('FTM/2_0.jpg')
  assert reasons == {
    'CelebA-HQ-img/3.jpg': 'no face',
    'CelebA-HQ-img/4.jpg': 'not of the shape of its forged image',
    'LCR/cover.jpg': 'not called TARGET_SOURCE with numbers of CelebA-HQ',
    'FTM/3_0.jpg': 'its target cannot be used: CelebA-HQ-img/3.jpg: no face',
    'LCR/4_0.jpg': 'its target cannot be used: CelebA-HQ-img/4.jpg: not of the shape of its forged '
    'image',
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


def test_swaps_that_are_lost_with_a_photograph_are_listed_one_by_one(tmp_path):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  photo = tmp_path / 'raw/ffhq/00001.png'
  photo.write_bytes(photo.read_bytes()[:500])
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 0
  total, reasons = (read(tmp_path / 'ffhq_e4s/1.0.0') for read in (summary, unusable))
  assert total['examples'] == {'train': {'e4s': 2}}
  assert reasons.pop('ffhq/00001.png').startswith('is truncated')
  assert reasons == {
    f'swaps/{name}.png': f'its {role} cannot be used: ffhq/00001.png: is truncated; copy or '
    'download it again'
    for name, role in (('1_0', 'target'), ('1_3', 'target'), ('0_1', 'source'), ('3_1', 'source'))
  }
  assert total['unusable']['its target cannot be used'] == 2


def test_strips_of_megafs_on_ffpp(tmp_path):
  raw_trees.make_megafs_ffpp(tmp_path / 'raw')
  (tmp_path / 'raw/images/notes.txt').write_text('no strip')
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
    'images/001_000/12.png': 'not three squares side by side: 256 x 128 pixels',
    'images/readme.png': 'its path names no pair of videos',
  }
  left_out = summary(folder / '1.0.0')['left_out']
  assert (folder / '1.0.0/ignored.csv').read_text().count(splits.ACROSS_SPLITS) == 1
  assert left_out == {splits.ACROSS_SPLITS: 1, 'files that are no photographs': 1}
  assert 'splits/test.json\n' in (folder / '1.0.0/checksums.tsv').read_text()
