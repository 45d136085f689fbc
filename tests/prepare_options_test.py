"""Options that cannot be meant are refused with one sentence, before any work."""

import re
import sys

import pytest

from tests import raw_trees
from tests.preparing import prepare


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
  root = tmp_path_factory.mktemp('raw')
  raw_trees.make_pair(root / 'ffpp', 'c23', ['Deepfakes'], 2)
  raw_trees.make_ffhq_e4s(root / 'ffhq_e4s')
  raw_trees.make_celeba_megafs(root / 'celeba_megafs', ['1'] * 6)
  raw_trees.save(root / 'faces/ann/1.jpg', raw_trees.portrait(0).image)
  return root


@pytest.mark.parametrize(
  ('dataset', 'option', 'says'),
  [
    ('ffpp', '--frames=0', r'--frames is 0; it must be at least 1\.'),
    ('ffpp', '--workers=-1', r'--workers is -1; it must be at least 0'),
    ('faces', '--workers=-1', r'--workers is -1'),
    ('ffhq_e4s', '--limit=-1', r'--limit is -1; it must be at least 0'),
    ('ffhq_e4s', '--size=0', r'--size is 0; it must be at least 32'),
    ('ffhq_e4s', '--margin=nan', r'--margin is nan; it must be at least 1 and at most 4'),
    ('ffhq_e4s', '--margin=0.5', r'--margin is 0\.5'),
    ('ffpp', '--methods=Deepfakes,Deepfakes', r'--methods names Deepfakes 2 times; name it once'),
    ('ffpp', '--methods=,', r'--methods names none; the methods are Deepfakes'),
    ('celeba_megafs', '--methods=FTM,LCR,FTM', r'--methods names FTM 2 times'),
    ('celeba_megafs', '--methods=Deepfakes', r"no method 'Deepfakes'; the methods are FTM"),
    ('ffpp', '--beam_options=--direct_num_workers=2', r"not installed; .*pip install -e '\.\[beam"),
    ('faces', '--beam_runner=DirectRunner', r"not installed; .*pip install -e '\.\[beam"),
    ('ffhq_e4s', '--finder=mesh', r'which finds landmarks; run `make landmarks`'),
    ('ffhq_e4s', '--list=none.csv', r'no readable list .*none\.csv in UTF-8'),
  ],
)
def test_options_are_checked_before_any_work(
  trees, tmp_path, capsys, monkeypatch, dataset, option, says
):
  monkeypatch.setenv('DFREC_LANDMARKS_PYTHON', str(tmp_path / 'none'))
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  assert prepare(dataset, trees / dataset, tmp_path / 'out', option) == 1
  said = capsys.readouterr().err
  assert re.search(says, said) and said.strip().count('\n') == 0
  assert not list(tmp_path.glob('**/*.array_record*')) and not list(tmp_path.glob('**/*.jpg'))


def test_out_must_be_a_folder(trees, tmp_path, capsys):
  (tmp_path / 'out').write_text('a file')
  assert prepare('ffhq_e4s', trees / 'ffhq_e4s', tmp_path / 'out') == 1
  assert 'is a file; give a folder to make' in capsys.readouterr().err
  assert (tmp_path / 'out').read_text() == 'a file'
