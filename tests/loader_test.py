"""Batches: the same for any number of workers and processes, and resumed bit for bit."""

import itertools
import shutil

import grain
import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image
import pytest

from input_pipeline import loader
from input_pipeline.images import ImageError
from input_pipeline.transforms import Augmentation, resize
from input_pipeline.triplets import Triplets

STRONG = Augmentation(
  flip=True, crop=0.2, probability=0.5, colour=0.2, blur=1, noise=4, jpeg=(40, 95)
)
SETTINGS = {
  'batch_size': 4,
  'image_size': 16,
  'seed': 3,
  'pristine_rate': 0.3,
  'augmentation': STRONG,
}
ROWS = 10


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Ten rows of 24 x 24 pixels; the mask's value is 20 times the row's number."""
  root = tmp_path_factory.mktemp('faces')
  rng = np.random.default_rng(0)
  lines = ['forged,source,target,mask,attack,source_identity,target_identity']
  for i in range(ROWS):
    names = [f'{kind}{i}.png' for kind in ('forged', 'source', 'target')]
    for name in names:
      Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(root / name)
    Image.fromarray(np.full((24, 24), 20 * i, np.uint8)).save(root / f'mask{i}.png')
    lines.append(','.join([*names, f'mask{i}.png', 'lab', f's{i}', f't{i}']))
  (root / 'train.csv').write_text('\n'.join(lines))
  return root


@pytest.fixture(scope='module')
def source(folder):
  return Triplets(folder, 'train.csv')


def take(iterator, count):
  batches = [jax.tree.map(np.array, next(iterator)) for _ in range(count)]
  iterator.close()
  return batches


def rows_of(batches):
  """Which rows of the data set the batches hold; needs examples as they are."""
  values = np.concatenate([batch['mask'][:, 8, 8, 0] for batch in batches])
  return np.rint(values * 255 / 20).astype(int).tolist()


def plain(**changes):
  return SETTINGS | {'pristine_rate': 0, 'augmentation': Augmentation.none()} | changes


def assert_same(first, second):
  assert len(first) == len(second)
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_batches_follow_the_contract(source):
  (batch,) = take(loader.train_loader(source, **SETTINGS), 1)
  shapes = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
  image = ((4, 16, 16, 3), 'uint8')
  assert shapes == {
    'forged': image,
    'source': image,
    'target': image,
    'mask': ((4, 16, 16, 1), 'float32'),
    'has_mask': ((4,), 'bool'),
    'label': ((4,), 'int32'),
  }


def test_twins_differ_from_forged_images_by_the_paste_alone(source):
  (batch,) = take(loader.train_loader(source, **SETTINGS, twins=True), 1)
  assert batch['twin'].shape == (4, 16, 16, 3) and batch['twin'].dtype == np.uint8
  pristine = batch['label'] == 0
  np.testing.assert_array_equal(batch['twin'][pristine], batch['forged'][pristine])
  assert (batch['twin'][~pristine] != batch['forged'][~pristine]).any()
  (plain_batch,) = take(loader.train_loader(source, **plain(), twins=True), 1)
  np.testing.assert_array_equal(plain_batch['twin'], plain_batch['target'])


def test_seed_and_position_determine_every_bit(source):
  first = take(loader.train_loader(source, **SETTINGS), 6)
  assert_same(first, take(loader.train_loader(source, **SETTINGS), 6))
  other = take(loader.train_loader(source, **(SETTINGS | {'seed': 4})), 6)
  assert any((a['forged'] != b['forged']).any() for a, b in zip(first, other, strict=True))


def test_each_pass_is_complete_and_in_an_order_of_its_own(source):
  rows = rows_of(take(loader.train_loader(source, **plain(batch_size=5)), 8))
  passes = [rows[i : i + ROWS] for i in range(0, 4 * ROWS, ROWS)]
  assert all(sorted(one) == list(range(ROWS)) for one in passes)
  assert len({tuple(one) for one in passes}) == 4
  ordered = take(loader.train_loader(source, **plain(batch_size=5, shuffle=False)), 4)
  assert rows_of(ordered) == list(range(ROWS)) * 2


def test_each_pass_is_augmented_anew(source):
  settings = SETTINGS | {'pristine_rate': 0, 'batch_size': ROWS, 'shuffle': False}
  first, second = take(loader.train_loader(source, **settings), 2)
  assert (first['target'] != second['target']).any(axis=(1, 2, 3)).mean() > 0.7


class Endless(Triplets):
  """A source of more examples than its length: number 13 is row 3, a little brighter."""

  def draw(self, index):
    example = self[index % len(self)]
    return example | {'mask': example['mask'] + np.float32(index // len(self) / 255)}


@pytest.mark.parametrize('shuffle', [False, True])
def test_each_pass_shows_other_examples_of_a_source_that_has_more(folder, shuffle):
  endless = Endless(folder, 'train.csv')
  settings = plain(batch_size=5, shuffle=shuffle)
  batches = take(loader.train_loader(endless, **settings), 6)
  drawn = np.rint(np.concatenate([b['mask'][:, 8, 8, 0] for b in batches]) * 255).astype(int)
  row, number = drawn // 20, drawn % 20
  for i in range(3):
    one = slice(i * ROWS, (i + 1) * ROWS)
    assert sorted(row[one]) == list(range(ROWS)) and set(number[one]) == {i}
  resumed = loader.train_loader(endless, **settings, workers=1)
  resumed.set_state({'next_batch': 3})
  assert_same(take(resumed, 3), batches[3:])
  shares = [
    take(loader.train_loader(endless, **settings, process_index=i, process_count=5), 6)
    for i in range(5)
  ]
  for i, batch in enumerate(batches):
    joined = np.concatenate([share[i]['mask'] for share in shares])
    np.testing.assert_array_equal(joined, batch['mask'])


def test_pristine_rate(source):
  batches = take(loader.train_loader(source, **(SETTINGS | {'batch_size': 10})), 30)
  assert 0.2 < 1 - np.mean([batch['label'].mean() for batch in batches]) < 0.4


def test_workers_make_the_same_batches_and_resume(source):
  expected = take(loader.train_loader(source, **SETTINGS), 7)
  assert_same(take(loader.train_loader(source, **SETTINGS, workers=2), 7), expected)
  resumed = loader.train_loader(source, **SETTINGS, workers=2)
  resumed.set_state({'next_batch': 3})
  assert_same(take(resumed, 3), expected[3:6])


def sharding():
  mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  return NamedSharding(mesh, PartitionSpec('data'))


def test_devices_get_their_share_and_the_same_bits(source):
  iterator = loader.train_loader(source, **SETTINGS, sharding=sharding())
  batch = next(iterator)
  assert batch['forged'].sharding == sharding() and batch['forged'].shape == (4, 16, 16, 3)
  assert {shard.data.shape for shard in batch['label'].addressable_shards} == {(1,)}
  expected = take(loader.train_loader(source, **SETTINGS), 1)
  assert_same([jax.tree.map(np.array, batch)], expected)
  iterator.close()


@pytest.mark.parametrize('workers', [0, 1])
def test_checkpoint_resumes_in_the_middle_of_a_pass(source, tmp_path, workers):
  """The state saved is that of the batches taken, though more were sent to the devices."""
  expected = take(loader.train_loader(source, **SETTINGS), 9)
  iterator = loader.train_loader(source, **SETTINGS, sharding=sharding(), workers=workers)
  for _ in range(4):
    next(iterator)
  with ocp.CheckpointManager(tmp_path) as manager:
    manager.save(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    manager.wait_until_finished()
    assert_same(take(iterator, 5), expected[4:])
    resumed = loader.train_loader(source, **SETTINGS, sharding=sharding())
    next(resumed)
    restore = grain.checkpoint.CheckpointRestore(resumed)
    manager.restore(4, args=ocp.args.Composite(data=restore))
  assert_same(take(resumed, 5), expected[4:])


def test_processes_share_each_batch(source):
  """Each example of a pass reaches one process, augmented as it would be in a single one."""
  share = [
    take(loader.train_loader(source, **SETTINGS, process_index=i, process_count=2), 5)
    for i in range(2)
  ]
  whole = take(loader.train_loader(source, **SETTINGS), 5)
  for a, b, both in zip(*share, whole, strict=True):
    assert len(a['label']) == len(b['label']) == 2
    for key in both:
      joined = np.concatenate([a[key], b[key]])
      np.testing.assert_array_equal(joined, both[key])
  settings = plain(batch_size=2)
  rows = [
    rows_of(take(loader.train_loader(source, **settings, process_index=i, process_count=2), 5))
    for i in range(2)
  ]
  assert sorted(rows[0] + rows[1]) == list(range(ROWS))


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_breaks_during_training_is_named(folder, tmp_path, workers):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  broken = Triplets(tmp_path, 'train.csv')
  (tmp_path / 'target7.png').write_bytes(b'')
  iterator = loader.train_loader(broken, **SETTINGS, workers=workers)
  with pytest.raises(ImageError, match=r'target7\.png'):
    take(iterator, 5)
  iterator.close()


@pytest.mark.parametrize(
  'changes, says',
  [
    ({'batch_size': 3}, 'batch_size is 3; it must be a positive multiple of the 2 process'),
    ({'batch_size': 0}, 'batch_size is 0'),
    ({'batch_size': 12}, 'batch_size is 12 and the data set has 10 examples'),
    ({'pristine_rate': -1}, 'pristine_rate is -1'),
  ],
)
def test_settings_are_checked_at_once(source, changes, says):
  with pytest.raises(ValueError, match=says):
    loader.train_loader(source, **(SETTINGS | changes), process_index=0, process_count=2)


def test_evaluation_covers_rows_and_pristine_targets_in_order(source):
  batches = list(loader.eval_batches(source, batch_size=8, image_size=16))
  assert len(batches) == 3
  examples = [example for _, natives in batches for example in natives]
  assert [example['target_identity'] for example in examples] == [f't{i}' for i in range(ROWS)] * 2
  assert [int(example['label']) for example in examples] == [1] * ROWS + [0] * ROWS
  assert examples[3]['forged'].shape == (24, 24, 3), 'native resolution'
  forged, natives = batches[2]
  assert forged.shape == (8, 16, 16, 3) and forged.dtype == np.uint8
  assert len(natives) == 4 and not forged[4:].any()
  for image, example in zip(forged, natives, strict=False):
    np.testing.assert_array_equal(image, resize(example['forged'], 16))


@pytest.mark.parametrize('process_count', [2, 3, 24])
def test_processes_evaluate_equally_many_batches_and_everything_once(source, process_count):
  shares = [
    list(
      loader.eval_batches(
        source,
        batch_size=process_count * 2,
        image_size=16,
        process_index=i,
        process_count=process_count,
      )
    )
    for i in range(process_count)
  ]
  assert len({len(share) for share in shares}) == 1
  seen = [
    (example['label'], example['target_identity'])
    for _, natives in itertools.chain.from_iterable(shares)
    for example in natives
  ]
  assert len(seen) == len(set(seen)) == 2 * ROWS
  for forged, natives in itertools.chain.from_iterable(shares):
    assert len(forged) == 2 >= len(natives)


def test_evaluation_settings_are_checked_at_once(source):
  with pytest.raises(ValueError, match='batch_size is 3'):
    loader.eval_batches(source, batch_size=3, image_size=16, process_index=0, process_count=2)
  with pytest.raises(ValueError, match='evaluation data set is empty'):
    loader.eval_batches([], batch_size=2, image_size=16)
