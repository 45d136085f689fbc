"""FaceForensics++ in miniature: pairs, crops, masks, names, splits, summary, resuming, loading."""

import hashlib
import json
import pickle
import re

import cv2
import numpy as np
import pytest

from dfrec_jax.errors import InputError
from input_pipeline import loader
from input_pipeline.prepare import ffpp
from input_pipeline.prepare.__main__ import main
from input_pipeline.prepare.video import read_frames
from input_pipeline.prepared import Prepared
from input_pipeline.transforms import Augmentation
from tests import raw_trees
from tests.preparing import names_of, place, prepare, read_all, summary, unusable

FRAMES = 5


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
  root = tmp_path_factory.mktemp('ffpp') / 'FaceForensics++'
  raw_trees.make_ffpp(root)
  return root


@pytest.fixture(scope='module')
def prepared(tree, tmp_path_factory):
  out = tmp_path_factory.mktemp('prepared')
  methods = '--methods=Deepfakes,FaceSwap,FaceShifter,Face2Face'
  assert prepare('ffpp', tree, out, f'--frames={FRAMES}', '--encoding=png', methods) == 0
  return out / 'ffpp'


@pytest.fixture(scope='module')
def version(prepared):
  return prepared / '1.0.0'


def test_forged_and_target_are_one_moment_and_one_place(tree, prepared):
  """Each crop lies in the raw frame of its index, all of a video at one place."""
  places = {}
  for record in read_all(prepared, 'train'):
    method, pair, index = record['name'].decode().split('/')
    target = pair.split('_')[0]
    fake = tree / f'manipulated_sequences/{method}/c23/videos/{pair}.mp4'
    original = tree / f'original_sequences/youtube/c23/videos/{target}.mp4'
    for path, key in ((fake, 'forged'), (original, 'target')):
      where, error = place(record[key], read_frames(path, [int(index)]).frames[int(index)])
      assert error == 0
      places.setdefault(target, set()).add((*where, len(record[key])))
  assert len(places) == 4 and all(len(of_video) == 1 for of_video in places.values())


def test_masks_are_read_at_the_same_place_or_made_and_marked(tree, prepared):
  kinds = {}
  for record in read_all(prepared, 'train'):
    method, pair, index = record['name'].decode().split('/')
    kind = record['mask_kind'].decode()
    kinds.setdefault((method, pair), {})[int(index)] = kind
    assert record['has_mask'] == (kind == 'read')
    frame = read_frames(
      tree / f'manipulated_sequences/{method}/c23/videos/{pair}.mp4', [int(index)]
    )
    (x, y), _ = place(record['forged'], frame.frames[int(index)])
    target, source = map(int, pair.split('_'))
    side = len(record['mask'])
    true = raw_trees.frame(raw_trees.swap(source, target)[1], int(index))
    true = true[y : y + side, x : x + side] > 127
    mask = record['mask'][..., 0] > 127
    overlap = (mask & true).sum() / (mask | true).sum()
    assert overlap == 1 if kind == 'read' else overlap > 0.75
  assert set(kinds['FaceShifter', '000_001'].values()) == {'difference'}
  assert set(kinds['Deepfakes', '000_001'].values()) == {'read'}
  # Its mask video ends after three frames of nine.
  early = kinds['FaceSwap', '001_000']
  assert {kind for index, kind in early.items() if index < 3} == {'read'}
  assert {kind for index, kind in early.items() if index >= 3} == {'difference'}


def test_names_labels_and_identities(prepared):
  source = Prepared(prepared, 'val')
  assert (source.labels == 1).all()
  for i in range(len(source)):
    example = source[i]
    assert example['label'] == 1 and example['attack'] in ('deepfakes', 'faceswap', 'faceshifter')
    people = {example['target_identity'], example['source_identity']}
    assert people == {'004', '005'}
    match = {
      v: place(example['source'], raw_trees.frame(raw_trees.portrait(int(v)).image, 0))[1]
      for v in people
    }
    assert min(match, key=match.get) == example['source_identity']
  expected = [f'{m}/{p}' for m in ffpp.SWAPS for p in ('004_005', '005_004')]
  names = names_of(prepared, 'val')
  assert len(names) == len(set(names)) == len(expected) * FRAMES
  assert {name.rpartition('/')[0] for name in names} == set(expected)


def test_splits_are_the_official_ones_and_reenactments_have_their_own(prepared):
  people = {
    split: {
      record[key].decode()
      for record in read_all(prepared, split)
      for key in ('source_identity', 'target_identity')
    }
    for split in ('train', 'val', 'train_reenactment')
  }
  assert people['train'] == people['train_reenactment'] == {'000', '001', '006', '007'}
  assert people['val'] == {'004', '005'}
  both = Prepared(prepared, 'train+train_reenactment')
  assert len(both) == len(Prepared(prepared, 'train')) + len(
    read_all(prepared, 'train_reenactment')
  )
  assert {r['attack'] for r in read_all(prepared, 'train_reenactment')} == {b'face2face'}


def test_what_cannot_be_used_is_listed_and_counted(version):
  fakes = 'manipulated_sequences/{}/c23/videos/{}.mp4'.format
  expected = {
    'original_sequences/youtube/c23/videos/003.mp4': 'missing',
    'original_sequences/youtube/c23/videos/009.mp4': 'no face',
    fakes('Deepfakes', '006_007'): 'unreadable',
    fakes('Deepfakes', '007_006'): 'does not show the same frames as its target',
  }
  for method in ('Deepfakes', 'FaceSwap', 'FaceShifter', 'Face2Face'):
    for pair, problem in (('012_003', '003.mp4: missing'), ('010_009', '009.mp4: no face')):
      for name, role in ((pair, 'source'), ('_'.join(pair.split('_')[::-1]), 'target')):
        expected[fakes(method, name)] = f'its {role} cannot be used: {problem}'
  assert unusable(version) == expected
  total = summary(version)
  assert sum(total['unusable'].values()) == len(expected)
  of_pair = 2 * FRAMES
  assert total['examples'] == {
    'train': {'deepfakes': of_pair, 'faceshifter': 2 * of_pair, 'faceswap': 2 * of_pair},
    'train_reenactment': {'face2face': 2 * of_pair - 1},
    'val': {'deepfakes': of_pair, 'faceshifter': of_pair, 'faceswap': of_pair},
    'val_reenactment': {'face2face': of_pair - 2},
  }
  assert total['left_out'] == {'behind the end of the fake': 3}, 'the reenactments are shorter'
  made = 3 * of_pair + 3  # FaceShifter, and where the mask video had ended
  assert total['masks']['difference'] == made
  everything = sum(sum(of_split.values()) for of_split in total['examples'].values())
  assert sum(total['masks'].values()) == everything
  sheet = cv2.imread(str(version / 'contact_sheet.png'))
  assert sheet.shape[0] > 500 and sheet.std() > 30
  assert not (version.parent / 'unfinished').exists()


def test_checksums_are_of_what_was_read(tree, version):
  lines = [line.split('\t') for line in (version / 'checksums.tsv').read_text().splitlines()]
  assert len(lines) == summary(version)['files_read'] > 40
  for digest, size, name in lines[::7]:
    data = (tree / name).read_bytes()
    assert len(data) == int(size) and hashlib.sha256(data).hexdigest() == digest


def test_an_interrupted_run_goes_on_and_ends_alike(tree, version, tmp_path, monkeypatch, capsys):
  calls, make_examples = [], ffpp.make_examples

  def interrupted(unit, settings, log):
    if len(calls) == 3:
      raise KeyboardInterrupt
    calls.append(unit.key)
    return make_examples(unit, settings, log)

  options = ('--encoding=png', '--methods=Deepfakes,FaceSwap,FaceShifter,Face2Face')
  monkeypatch.setattr(ffpp, 'make_examples', interrupted)
  assert prepare('ffpp', tree, tmp_path, f'--frames={FRAMES}', *options) == 130
  assert 'the same command goes on from here' in capsys.readouterr().err
  assert not (tmp_path / 'ffpp/1.0.0').exists()
  assert prepare('ffpp', tree, tmp_path, '--frames=3', *options) == 1
  assert 'begun with frames=5, not 3' in capsys.readouterr().err
  done = calls.copy()
  calls.clear()
  # Now in two processes, which see the original function.
  monkeypatch.setattr(ffpp, 'make_examples', make_examples)
  out = [f'--out={tmp_path}', f'--frames={FRAMES}', *options]
  assert main(['ffpp', f'--raw={tree}', '--workers=2', *out]) == 0
  assert len(done) == 3 and '3 of 5 parts are there already' in ''.join(capsys.readouterr())
  for path in version.glob('*.array_record*'):
    assert path.read_bytes() == (tmp_path / 'ffpp/1.0.0' / path.name).read_bytes()
  # A run of what is done says so again; one with other settings is refused.
  assert prepare('ffpp', tree, tmp_path, f'--frames={FRAMES}', *options) == 0
  assert prepare('ffpp', tree, tmp_path, '--frames=3', *options) == 1


def test_source_frames_of_the_same_index(tree, tmp_path):
  options = ('--source_frame=same', '--methods=Deepfakes', '--frames=4', '--limit=1')
  assert prepare('ffpp', tree, tmp_path, *options, '--encoding=png') == 0
  for record in read_all(tmp_path / 'ffpp', 'train'):
    index, source = int(record['name'].split(b'/')[-1]), record['source_identity'].decode()
    path = tree / f'original_sequences/youtube/c23/videos/{source}.mp4'
    assert place(record['source'], read_frames(path, [index]).frames[index])[1] == 0
  assert set(summary(tmp_path / 'ffpp/1.0.0')['examples']['train']) == {'deepfakes'}


def test_prepared_examples_train_through_the_loader(prepared):
  source = pickle.loads(pickle.dumps(Prepared(prepared, 'train')))
  example = source[3]
  assert example['mask'].dtype == np.float32 and example['mask'].max() == 1
  assert example['mask'].shape == (*example['forged'].shape[:2], 1)
  assert example['has_mask'].dtype == np.bool_ and example['label'].dtype == np.int32
  iterator = loader.train_loader(
    source,
    batch_size=4,
    image_size=32,
    seed=0,
    pristine_rate=0.2,
    augmentation=Augmentation.none(),
    workers=1,
  )
  batch = next(iterator)
  iterator.close()
  assert batch['forged'].shape == (4, 32, 32, 3) and batch['mask'].shape == (4, 32, 32, 1)
  (forged, natives), *_ = loader.eval_batches(
    Prepared(prepared, 'val'), batch_size=4, image_size=32
  )
  assert len(forged) == len(natives) == 4
  with pytest.raises(IndexError):
    source[len(source)]


def test_absent_data_and_splits_are_named(prepared, tmp_path):
  with pytest.raises(InputError, match=r'no prepared data set in .*none: ask for it'):
    Prepared(tmp_path / 'none', 'train', how_to_get='ask for it.')
  with pytest.raises(InputError, match=r"no split 'dev'; it has train, train_reenactment, val"):
    Prepared(prepared, 'dev')


@pytest.mark.parametrize(
  'change, says',
  [
    (lambda root: (root / 'splits/val.json').unlink(), r'val\.json; put the three lists of https'),
    (
      lambda root: (root / 'splits/val.json').write_text('[["000", "005"]]'),
      '000 is in train.json',
    ),
    (lambda root: (root / 'splits/val.json').write_text('[[4, 5]]'), 'three-digit numbers'),
    (lambda root: (root / 'original_sequences').rename(root / 'originals'), 'original videos'),
  ],
)
def test_a_tree_that_is_not_the_official_one(tmp_path, capsys, change, says):
  root = tmp_path / 'raw'
  for split, pairs in raw_trees.SPLITS.items():
    (root / 'splits').mkdir(parents=True, exist_ok=True)
    (root / f'splits/{split}.json').write_text(json.dumps(pairs))
  (root / 'original_sequences/youtube/c23/videos').mkdir(parents=True)
  (root / 'manipulated_sequences/FaceSwap/c23/videos').mkdir(parents=True)
  change(root)
  assert prepare('ffpp', root, tmp_path / 'out') == 1
  assert re.search(says, capsys.readouterr().err)


def test_methods_that_are_not_there_are_named(tree, tmp_path, capsys):
  assert prepare('ffpp', tree, tmp_path, '--methods=NeuralTextures') == 1
  assert 'leave it out: --methods' in capsys.readouterr().err
  assert prepare('ffpp', tree, tmp_path, '--methods=Sora') == 1
  assert "no method 'Sora'" in capsys.readouterr().err
  assert prepare('ffpp', tree, tmp_path, '--compression=c40') == 1
  assert prepare('ffpp', tmp_path / 'nothing', tmp_path) == 1
