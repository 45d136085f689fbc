"""FaceForensics++ in other compressions and methods, in real H.264, in several shards."""

import functools

import av
import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from input_pipeline.prepare.video import read_frames
from input_pipeline.tfds import builders
from tests import raw_trees
from tests.h264 import write_h264, write_lossy_h264
from tests.preparing import place, prepare, read_all, summary, unusable

needs_x264 = pytest.mark.skipif('libx264' not in av.codecs_available, reason='PyAV without x264')


@pytest.mark.parametrize('compression', ['raw', 'c40'])
def test_compressions_have_folders_of_their_own(tmp_path, compression):
  raw_trees.make_pair(tmp_path / 'raw', compression, ['Deepfakes', 'NeuralTextures'], 3)
  raw_trees.make_pair(tmp_path / 'raw', 'c23', ['FaceSwap'], 3)
  for name in ('000_001.mp4', 'extra.mp4', '000_002.mp4'):
    path = tmp_path / 'raw/manipulated_sequences/Deepfakes' / compression / 'videos' / name
    path.touch()
  options = (f'--compression={compression}', '--frames=3')
  assert prepare('ffpp', tmp_path / 'raw', tmp_path, *options, '--source_frame=same') == 0
  total = summary(tmp_path / 'ffpp/1.0.0')
  assert total['examples'] == {'train': {'deepfakes': 6}}, 'what is there of the swaps, by default'
  assert total['settings']['methods'] == ['Deepfakes']
  assert total['left_out'] == {'files that no official list names': 2}
  assert not unusable(tmp_path / 'ffpp/1.0.0')
  checksums = (tmp_path / 'ffpp/1.0.0/checksums.tsv').read_text()
  read = [line.split('\t')[2] for line in checksums.splitlines()]
  lists = {f'splits/{split}.json' for split in ('train', 'val', 'test')}
  assert lists <= set(read) and not any('c23' in name for name in read)


def test_neural_textures_have_splits_of_their_own(tmp_path):
  raw_trees.make_pair(tmp_path / 'raw', 'c23', ['FaceSwap', 'NeuralTextures'], 3)
  options = ('--methods=FaceSwap,NeuralTextures', '--frames=2', '--encoding=png')
  assert prepare('ffpp', tmp_path / 'raw', tmp_path, *options) == 0
  total = summary(tmp_path / 'ffpp/1.0.0')
  assert total['examples'] == {'train': {'faceswap': 4}, 'train_reenactment': {'neuraltextures': 4}}
  assert total['masks'] == {'read': 8}
  for record in read_all(tmp_path / 'ffpp', 'train_reenactment'):
    assert record['attack'] == b'neuraltextures' and record['has_mask']
    assert record['target_identity'] != record['source_identity']


@needs_x264
@pytest.mark.parametrize(('quality', 'made'), [(23, 0.75), (40, 0.6)])
def test_videos_of_a_real_encoder(tmp_path, quality, made):
  """As c23 and c40 are: frames predicted from others, noise, masks whose black is not 0."""
  write = functools.partial(write_lossy_h264, quality=quality)
  methods = ['Deepfakes', 'FaceShifter']
  raw_trees.make_pair(tmp_path / 'raw', 'c23', methods, 12, write)
  assert prepare('ffpp', tmp_path / 'raw', tmp_path, '--frames=4', '--encoding=png') == 0
  total = summary(tmp_path / 'ffpp/1.0.0')
  assert total['examples'] == {'train': {'deepfakes': 8, 'faceshifter': 8}}
  assert not unusable(tmp_path / 'ffpp/1.0.0') and not total['left_out']
  for record in read_all(tmp_path / 'ffpp', 'train'):
    method, pair, index = record['name'].decode().split('/')
    target, source = map(int, pair.split('_'))
    path = tmp_path / f'raw/manipulated_sequences/{method}/c23/videos/{pair}.mp4'
    (x, y), error = place(record['forged'], read_frames(path, [int(index)])[int(index)])
    assert error == 0, 'the frame of that index, though others are needed to decode it'
    true = raw_trees.frame(raw_trees.portrait(target).image, int(index))
    side = len(record['target'])
    true = true[y : y + side, x : x + side].astype(int)
    assert np.abs(true - record['target']).mean() < 8
    mask = raw_trees.frame(raw_trees.swap(source, target)[1], int(index))
    mask = mask[y : y + side, x : x + side] > 127
    found = record['mask'][..., 0] > 127
    overlap = (mask & found).sum() / (mask | found).sum()
    assert overlap > (0.9 if method == 'Deepfakes' else made)
    assert record['has_mask'] == (method == 'Deepfakes')


def test_frames_are_those_of_their_index_in_both_kinds_of_files(tmp_path):
  frames = [np.full((32, 48, 3), 20 * i + 10, np.uint8) for i in range(12)]
  writers = {'pcm': write_h264}
  if 'libx264' in av.codecs_available:
    writers['x264'] = write_lossy_h264
  for name, write in writers.items():
    write(tmp_path / f'{name}.mp4', frames)
    read = read_frames(tmp_path / f'{name}.mp4', [0, 5, 6, 11])
    for index, frame in read.items():
      assert abs(float(frame.mean()) - (20 * index + 10)) < 4, name
    assert len(read) == 4


def test_shards_are_read_by_grain_and_tensorflow_datasets_alone(tmp_path, monkeypatch):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  monkeypatch.setattr('input_pipeline.prepare.image_sets._ROWS_OF_A_UNIT', 1)
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path / 'whole') == 0
  monkeypatch.setattr(builders, '_SHARD_BYTES', 1)
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path / 'many') == 0
  examples = sum(summary(tmp_path / 'many/ffhq_e4s/1.0.0')['examples']['train'].values())
  shards = sorted((tmp_path / 'many/ffhq_e4s/1.0.0').glob('*-train.array_record-*'))
  assert [path.name[-14:] for path in shards] == [
    f'-{i:05d}-of-{examples:05d}'[-14:] for i in range(examples)
  ]
  assert examples > 1
  one, many = (
    tfds.data_source('ffhq_e4s', data_dir=tmp_path / out, split='train')
    for out in ('whole', 'many')
  )
  assert len(one) == len(many) == examples
  rows = list(grain.MapDataset.source(many).shuffle(seed=0))
  assert {row['name'] for row in rows} == {one[i]['name'] for i in range(examples)}
  for i in range(examples):
    for key, value in one[i].items():
      np.testing.assert_array_equal(many[i][key], value)
  part = tfds.data_source('ffhq_e4s', data_dir=tmp_path / 'many', split='train[1:]')
  assert len(part) == examples - 1 and part[0]['name'] == one[1]['name']
