"""Augmentation: what is paired stays paired, and corruption touches the forged image alone."""

import numpy as np
import pytest

from input_pipeline import transforms
from input_pipeline.transforms import Augmentation, ForgedCorruption, MixPristine, PairedGeometry

STRONG = Augmentation(
  flip=True, crop=0.3, probability=1, colour=0.3, blur=2, noise=10, jpeg=(30, 60)
)
IMAGES = ('forged', 'source', 'target')


def rng(seed=0):
  return np.random.default_rng(seed)


def coordinates(side):
  """An image whose red is x and whose green is y, and a mask that is x."""
  y, x = (np.mgrid[:side, :side] + 0.5) / side * 255
  image = np.stack([x, y, np.full_like(x, 90)], -1).astype(np.uint8)
  return image, (x / 255).astype(np.float32)[..., None]


def example(side=96, source_side=96):
  image, mask = coordinates(side)
  return {
    'forged': image,
    'source': coordinates(source_side)[0],
    'target': image.copy(),
    'mask': mask,
    'has_mask': np.bool_(True),
    'label': np.int32(1),
    'attack': 'lab',
    'source_identity': 's',
    'target_identity': 't',
  }


@pytest.mark.parametrize('source_side', [96, 64])
def test_geometry_moves_forged_source_target_and_mask_alike(source_side):
  geometry = PairedGeometry(48, flip=True, crop=0.3)
  flipped, spans = [], []
  for seed in range(20):
    result = geometry.random_map(example(source_side=source_side), rng(seed))
    assert result['forged'].shape == (48, 48, 3) and result['mask'].shape == (48, 48, 1)
    np.testing.assert_array_equal(result['forged'], result['target'])
    np.testing.assert_allclose(result['mask'][..., 0], result['forged'][..., 0] / 255, atol=0.01)
    difference = np.abs(result['source'].astype(int) - result['forged'])
    assert difference.max() <= (0 if source_side == 96 else 8)
    x = result['forged'][24, :, 0].astype(int)
    y = result['forged'][:, 24, 1].astype(int)
    assert y[-1] > y[0], 'never upside down'
    flipped.append(x[-1] < x[0])
    spans.append(abs(x[-1] - x[0]) / 255)
  assert 0 < sum(flipped) < 20
  assert min(spans) > 0.65 and max(spans) < 1 and max(spans) - min(spans) > 0.1


def test_geometry_without_variation_is_resize():
  plain = PairedGeometry(48, flip=False, crop=0).random_map(example(), rng())
  for key in (*IMAGES, 'mask'):
    np.testing.assert_array_equal(plain[key], transforms.resize(example()[key], 48))
  assert plain['attack'] == 'lab'


def test_resize_enlarges_and_averages():
  image = np.zeros((4, 4, 3), np.uint8)
  image[::2] = 200
  assert (transforms.resize(image, 2) == 100).all()
  assert transforms.resize(image, 7).shape == (7, 7, 3)
  assert transforms.resize(image, 4) is image


def test_corruption_touches_forged_alone_and_changes_no_input():
  given = example()
  before = given['forged'].copy()
  result = ForgedCorruption(STRONG).random_map(given, rng())
  np.testing.assert_array_equal(given['forged'], before)
  assert (result['forged'] != before).mean() > 0.5 and result['forged'].dtype == np.uint8
  for key in given.keys() - {'forged'}:
    assert result[key] is given[key]


def test_corruption_also_meets_pristine_examples():
  pristine = MixPristine(1.0).random_map(example(), rng())
  result = ForgedCorruption(STRONG).random_map(pristine, rng())
  assert (result['forged'] != result['target']).any()
  np.testing.assert_array_equal(result['source'], result['target'])


def test_a_twin_is_the_target_under_the_corruption_of_the_forged_image():
  given = example()
  twin = transforms.AddTwin().map(given)
  np.testing.assert_array_equal(twin['twin'], given['target'])
  corrupted = ForgedCorruption(STRONG).random_map(twin, rng())
  swapped = ForgedCorruption(STRONG).random_map(given | {'forged': given['target']}, rng())
  assert (corrupted['twin'] != given['target']).any()
  np.testing.assert_array_equal(corrupted['twin'], swapped['forged'])
  np.testing.assert_array_equal(corrupted['target'], given['target'])


def test_no_probability_no_corruption():
  given = example()
  result = ForgedCorruption(Augmentation.none()).random_map(given, rng())
  np.testing.assert_array_equal(result['forged'], given['forged'])


def test_colour_factors():
  image = rng().integers(60, 120, (8, 8, 3), np.uint8)
  same = transforms.change_colour(image, 1, 1, 1)
  np.testing.assert_array_equal(same, image)
  brighter = transforms.change_colour(image, 1.5, 1, 1)
  np.testing.assert_allclose(brighter, image * 1.5, atol=0.51)
  grey = transforms.change_colour(image, 1, 1, 0)
  np.testing.assert_array_equal(grey, grey[..., :1].repeat(3, -1))
  np.testing.assert_allclose(grey[..., 0], image @ [0.299, 0.587, 0.114], atol=0.6)
  flat = transforms.change_colour(image, 1, 0.1, 1)
  np.testing.assert_allclose(flat, 127.5 + 0.1 * (image - 127.5), atol=0.51)


def test_noise_has_the_given_deviation():
  grey = np.full((128, 128, 3), 128, np.uint8)
  noisy = transforms.add_noise(grey, 6, rng()).astype(float)
  assert abs(noisy.mean() - 128) < 0.2 and abs(noisy.std() - 6) < 0.2


def test_jpeg_keeps_the_order_of_channels_and_obeys_quality():
  image, _ = coordinates(64)
  good, poor = (
    np.abs(transforms.compress_jpeg(image, quality).astype(int) - image).mean()
    for quality in (95, 10)
  )
  assert good < 4 and poor > 1.5 * good


def test_pristine_mixing_rate_and_contents():
  mix = MixPristine(0.3)
  given = example(source_side=64)
  results = [mix.random_map(given, rng(seed)) for seed in range(1000)]
  pristine = [result for result in results if result['label'] == 0]
  assert 240 < len(pristine) < 360
  assert all(result is given for result in results if result['label'] == 1)
  of_target = [result for result in pristine if result['target_identity'] == 't']
  assert 0.35 < len(of_target) / len(pristine) < 0.65
  for result in pristine[:50]:
    photo = given['target' if result['target_identity'] == 't' else 'source']
    assert all(result[key] is photo for key in IMAGES)
    assert result['source_identity'] == result['target_identity']
    assert not result['mask'].any() and result['has_mask']


def test_pristine_examples_stay_one_photograph_under_geometry():
  geometry = PairedGeometry(40, flip=True, crop=0.4)
  for seed in range(10):
    pristine = MixPristine(1.0).random_map(example(source_side=70), rng(seed))
    result = geometry.random_map(pristine, rng(seed))
    np.testing.assert_array_equal(result['forged'], result['target'])
    np.testing.assert_array_equal(result['forged'], result['source'])


def test_model_keys_and_types():
  result = transforms.SelectModelKeys().map(example())
  assert {key: value.dtype for key, value in result.items()} == transforms.MODEL_KEYS
  assert 'twin' in transforms.SelectModelKeys().map(transforms.AddTwin().map(example()))


@pytest.mark.parametrize(
  'change, says',
  [
    ({'crop': 1.0}, 'augmentation.crop is 1.0'),
    ({'probability': 2}, 'augmentation.probability is 2'),
    ({'jpeg': (90, 40)}, 'augmentation.jpeg'),
    ({'noise': -1}, 'augmentation.noise'),
    ({'hue': 1}, 'missing or unknown: hue'),
  ],
)
def test_augmentation_is_checked(change, says):
  fields = {
    'flip': True,
    'crop': 0.1,
    'probability': 0.5,
    'colour': 0.1,
    'blur': 1,
    'noise': 1,
    'jpeg': (40, 95),
  }
  assert Augmentation.create(fields).crop == 0.1
  with pytest.raises(ValueError, match=says):
    Augmentation.create(fields | change)
  with pytest.raises(ValueError, match=r'pristine_rate is 1\.5'):
    MixPristine(1.5)
