"""FaceForensics++ in other compressions and methods, in real H.264, in several shards."""

import functools
import re
import shutil

import av
import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from input_pipeline.prepare import megafs_ffpp
from input_pipeline.prepare.units import Settings, UnitLog
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


def test_masks_that_were_not_downloaded_are_named(tmp_path, capsys):
  raw_trees.make_pair(tmp_path / 'raw', 'c23', ['FaceSwap', 'FaceShifter'], 3)
  absent = 'manipulated_sequences/FaceSwap/masks'
  shutil.rmtree(tmp_path / 'raw' / absent)
  assert prepare('ffpp', tmp_path / 'raw', tmp_path, '--frames=2') == 0
  total = summary(tmp_path / 'ffpp/1.0.0')
  assert total['masks'] == {'difference': 8}
  assert total['unusable'] == {f'there is no {absent}/videos, so masks are made': 1}
  assert [*unusable(tmp_path / 'ffpp/1.0.0')] == [f'{absent}/videos'], 'FaceShifter has none'
  told = capsys.readouterr().err
  assert 'FaceSwap' in told and '-t masks' in told and 'FaceShifter' not in told


@pytest.mark.parametrize(
  'length, of_fake, of_others', [(2, [1], [1, 4, 7, 10]), (10, [1, 3, 6, 8], [1, 3, 6, 8])]
)
def test_a_very_short_fake_does_not_cut_the_others(tmp_path, length, of_fake, of_others):
  raw = tmp_path / 'raw'
  raw_trees.make_pair(raw, 'c23', ['Deepfakes', 'FaceSwap', 'Face2Face'], 12)
  short = 'manipulated_sequences/Deepfakes/c23/videos/000_001.mp4'
  raw_trees.video(raw / short, raw_trees.swap(1, 0)[0], length)
  # A short reenactment changes nothing but its own examples.
  reenactment = 'manipulated_sequences/Face2Face/c23/videos/000_001.mp4'
  raw_trees.video(raw / reenactment, raw_trees.swap(1, 0)[0], 6)
  runs = []
  for methods in ('Deepfakes,FaceSwap', 'Deepfakes,FaceSwap,Face2Face'):
    out = tmp_path / methods
    assert prepare('ffpp', raw, out, '--frames=4', f'--methods={methods}') == 0
    indices = {}
    for record in read_all(out / 'ffpp', 'train'):
      fake, _, index = record['name'].decode().rpartition('/')
      indices.setdefault(fake, []).append((int(index), record['forged'].tobytes()))
    runs.append(indices)
    listed = {short: f'ends early: after {length} of 12 frames'} if length < 6 else {}
    assert unusable(out / 'ffpp/1.0.0') == listed
    cut = 0 if listed else 12 - length
    assert (
      summary(out / 'ffpp/1.0.0')['left_out'].get('behind the end of the shortest fake', 0) == cut
    )
  assert runs[0] == runs[1]
  taken = {fake: [index for index, _ in of] for fake, of in runs[0].items()}
  assert taken['Deepfakes/000_001'] == of_fake and taken['FaceSwap/000_001'] == of_others
  assert taken['FaceSwap/001_000'] == taken['Deepfakes/001_000'] == [1, 4, 7, 10]


def test_one_person_is_no_pair(tmp_path):
  raw_trees.make_megafs_ffpp(tmp_path)
  settings, log = Settings(dataset='megafs_ffpp', raw=str(tmp_path)), UnitLog(tmp_path)
  before = [unit.content for unit in megafs_ffpp.list_units(settings, log)]
  shutil.copytree(tmp_path / 'images/000_001', tmp_path / 'images/001_001')
  log = UnitLog(tmp_path)
  assert [unit.content for unit in megafs_ffpp.list_units(settings, log)] == before
  assert log.left_out['one person'] == 1


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
    (x, y), error = place(record['forged'], read_frames(path, [int(index)]).frames[int(index)])
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


@needs_x264
def test_a_damaged_fake_and_a_damaged_original_are_listed(tmp_path):
  raw, fake = tmp_path / 'raw', 'manipulated_sequences/FaceSwap/c23/videos/000_001.mp4'
  original = 'original_sequences/youtube/c23/videos/001.mp4'
  raw_trees.make_pair(raw, 'c23', ['FaceSwap', 'FaceShifter'], 24, write_lossy_h264)
  for name in (fake, original):
    data = bytearray((raw / name).read_bytes())
    with av.open(str(raw / name)) as container:
      damaged = [packet for packet in container.demux(video=0) if packet.size][14]
      data[damaged.pos + 8 : damaged.pos + damaged.size] = bytes(damaged.size - 8)
    (raw / name).write_bytes(data)
  assert prepare('ffpp', raw, tmp_path, '--frames=12') == 0
  listed = unusable(tmp_path / 'ffpp/1.0.0')
  ends = {
    name: int(re.fullmatch(r'broken: from frame (\d+) of 24', listed[name])[1]) for name in listed
  }
  assert set(ends) == {fake, original} and all(4 < end < 20 for end in ends.values())
  taken = {}
  for record in read_all(tmp_path / 'ffpp', 'train'):
    name, _, index = record['name'].decode().rpartition('/')
    taken.setdefault(name, []).append(int(index))
  every = range(1, 24, 2)
  before = lambda name: [index for index in every if index < ends[name]]
  assert taken['FaceSwap/000_001'] == before(fake)
  assert taken['FaceSwap/001_000'] == taken['FaceShifter/001_000'] == before(original)
  assert taken['FaceShifter/000_001'] == [*every], 'the others are whole'


def test_frames_are_those_of_their_index_in_both_kinds_of_files(tmp_path):
  frames = [np.full((32, 48, 3), 20 * i + 10, np.uint8) for i in range(12)]
  writers = {'pcm': write_h264}
  if 'libx264' in av.codecs_available:
    writers['x264'] = write_lossy_h264
  for name, write in writers.items():
    write(tmp_path / f'{name}.mp4', frames)
    read = read_frames(tmp_path / f'{name}.mp4', [0, 5, 6, 11]).frames
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
