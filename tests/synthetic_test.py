"""Synthetic faces: the data contract, purity, disjoint people and recognisable persons."""

import pickle

import numpy as np
import pytest

from input_pipeline.synthetic import ATTACKS, SyntheticFaces
from input_pipeline.synthetic.person import draw_person
from input_pipeline.synthetic.photo import draw_photo
from input_pipeline.synthetic.render import render

SIZE = 48


def make(split='train', examples=64, image_size=SIZE, **kwargs):
  return SyntheticFaces(split, examples=examples, image_size=image_size, **kwargs)


@pytest.fixture(scope='module')
def examples():
  source = make()
  return [source[i] for i in range(len(source))]


def same(first, second):
  return all(np.array_equal(first[key], second[key]) for key in first)


def test_contract(examples):
  assert len(make(examples=5)) == 5
  for example in examples:
    for key in ('forged', 'source', 'target'):
      assert example[key].shape == (SIZE, SIZE, 3) and example[key].dtype == np.uint8
    assert example['mask'].shape == (SIZE, SIZE, 1) and example['mask'].dtype == np.uint8
    assert set(np.unique(example['mask'])) == {0, 1}
    assert isinstance(example['has_mask'], np.bool_) and example['has_mask']
    assert isinstance(example['label'], np.int32) and example['label'] == 1
    assert type(example['attack']) is str
    assert example['source_identity'].startswith('train-')
    assert example['source_identity'] != example['target_identity']
    assert not np.array_equal(example['source'], example['target'])


def test_an_example_is_a_pure_function_of_seed_and_index(examples):
  fresh = make()
  draw_person.cache_clear()
  assert all(same(fresh[i], examples[i]) for i in (41, 3))
  assert same(pickle.loads(pickle.dumps(fresh))[3], examples[3])
  assert same(make(examples=9)[3], examples[3])
  assert not np.array_equal(examples[0]['forged'], examples[1]['forged'])
  other = make(seed=1)
  assert not any(np.array_equal(other[i]['target'], examples[i]['target']) for i in range(4))


def test_the_picture_does_not_depend_on_its_size(examples):
  large = make(image_size=2 * SIZE)
  for i in range(8):
    example = large[i]
    for key in ('attack', 'source_identity', 'target_identity'):
      assert example[key] == examples[i][key]
    small = example['target'].reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))
    assert np.abs(small - examples[i]['target']).mean() < 8


def test_splits_share_nobody():
  people = {}
  for split in ('train', 'eval', 'test'):
    source = make(split, image_size=16, people=6, examples=30)
    people[split] = {
      source[i][k] for i in range(30) for k in ('source_identity', 'target_identity')
    }
    assert len(people[split]) == 6
  assert not people['train'] & people['eval'] and not people['eval'] & people['test']
  # Not in name alone.
  skins = {draw_person(split, 0).complexion.skin.tobytes() for split in people}
  assert len(skins) == 3


def test_forged_is_the_target_outside_the_mask(examples):
  areas = []
  for example in examples:
    outside = example['mask'][..., 0] == 0
    assert np.array_equal(example['forged'][outside], example['target'][outside])
    areas.append(1 - outside.mean())
  assert 0.15 < np.mean(areas) < 0.3
  assert min(areas) > 0.05


@pytest.mark.parametrize('attack', ATTACKS)
def test_every_attack_changes_the_face_to_a_plausible_degree(examples, attack):
  errors = []
  for example in examples:
    if example['attack'] == attack:
      inside = example['mask'][..., 0] == 1
      difference = example['forged'][inside] / 255 - example['target'][inside] / 255
      errors.append(-10 * np.log10(np.square(difference).mean()))
  assert errors, f'No example of {attack} among {len(examples)}.'
  assert 9 < np.mean(errors) < 24


def test_attacks_are_the_known_ones(examples):
  assert {example['attack'] for example in examples} == set(ATTACKS)


def portraits(split, number, count):
  """Blurred inner faces (count, 6, 6, 3) of one person, relative to the picture's brightness."""
  person = draw_person(split, number)
  pictures = []
  for k in range(count):
    rng = np.random.default_rng([number, k])
    picture, _ = render(person, draw_photo(rng), SIZE, rng)
    inner = picture[12:42, 9:39].reshape(6, 5, 6, 5, 3).mean((1, 3))
    pictures.append(inner / inner.mean())
  return np.stack(pictures)


def test_two_photographs_of_one_person_resemble_each_other():
  people = np.stack([portraits('eval', number, 4) for number in range(16)])  # (16, 4, 6, 6, 3)
  flat = people.reshape(16, 4, -1)
  within = np.mean([np.abs(p[0::2] - p[1::2]).mean() for p in flat])
  between = np.mean([np.abs(flat[i] - flat[i - 1]).mean() for i in range(16)])
  assert within < 0.8 * between


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match="train, eval, test, not 'val'"):
    make('val')
  for name, value in (('examples', 0), ('image_size', 8), ('people', 1), ('seed', -1)):
    with pytest.raises(ValueError, match=name):
      make(**{name: value})
  with pytest.raises(IndexError, match='64'):
    make()[64]
