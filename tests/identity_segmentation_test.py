"""The Identity Segmentation Module: shapes, training, and parity with the published network."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax.convert import ism
from dfrec_jax.models import efficientnet
from dfrec_jax.models.efficientnet import EfficientNet
from dfrec_jax.models.identity_segmentation import IdentitySegmentation

SMALL = dict(width=0.25, depth=0.25, aspp_channels=16, aspp_rates=(1, 2, 3), low_level_channels=8)


def _images(batch, height, width, seed=0):
  return np.random.default_rng(seed).random((batch, height, width, 3), np.float32)


def _init(model, images):
  """Variables such as `init` gives, without compiling it."""
  init = lambda: model.init(jax.random.key(0), images, train=False)
  rng = np.random.default_rng(0)

  def values(path, leaf):
    if path[-1].key == 'kernel':
      scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
      return rng.normal(0, scale, leaf.shape).astype(np.float32)
    return np.full(leaf.shape, path[-1].key in ('scale', 'var'), np.float32)

  return jax.tree_util.tree_map_with_path(values, nn.unbox(jax.eval_shape(init)))


@pytest.fixture(scope='module')
def small():
  model = IdentitySegmentation(**SMALL)
  return model, _init(model, _images(2, 32, 32))


def test_parameter_count():
  init = lambda: IdentitySegmentation().init(jax.random.key(0), _images(1, 32, 32), train=False)
  params = nn.unbox(jax.eval_shape(init))['params']
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 4_495_951


@pytest.mark.parametrize('size', [(32, 32), (48, 96), (160, 80)])
def test_features_and_masks_of_any_multiple_of_16(small, size):
  model, variables = small
  images = _images(1, *size)
  mask, logits = jax.eval_shape(lambda: model.apply(variables, images, train=False))
  assert mask.shape == (1, *size, 1)
  assert logits.shape == (1, 2)
  encoder = EfficientNet()
  features, _ = jax.eval_shape(
    lambda: encoder.init_with_output(jax.random.key(0), images, train=False)
  )
  assert [feature.shape[-1] for feature in features] == [3, 32, 24, 40, 112, 320]
  for feature, stride in zip(features, (1, 2, 4, 8, 16, 16), strict=True):
    assert feature.shape[1:3] == (size[0] // stride, size[1] // stride)


def test_other_sizes_raise(small):
  with pytest.raises(ValueError, match=r'multiples of 16, not 40 x 32'):
    small[0].apply(small[1], _images(1, 40, 32), train=False)


def test_multipliers():
  assert [efficientnet.round_features(n, 0.5) for n in (32, 16, 40, 112)] == [16, 8, 24, 56]
  assert efficientnet.round_features(40, 1.1) == 48  # 44 rounds up; 40 would do at 1.0
  assert [block.dilated for block in efficientnet.blocks(1.0, 1.0)] == [False] * 9 + [True] * 7
  for depth in (0.1, 0.5, 1.0, 2.0):
    plan = efficientnet.blocks(0.25, depth)
    assert len(plan) >= len(efficientnet.STAGES)
    assert np.prod([block.strides for block in plan if not block.dilated]) == 8  # and the stem's 2
    assert sum(block.feature for block in plan) == 4
  assert len(efficientnet.blocks(1.0, 2.0)) == 32


def test_bfloat16_gives_float32_logits(small):
  images = _images(2, 32, 32)
  evaluate = lambda model: jax.jit(lambda v: model.apply(v, images, train=False))(small[1])
  outputs = evaluate(IdentitySegmentation(**SMALL, dtype=jnp.bfloat16))
  for ours, reference in zip(outputs, evaluate(small[0]), strict=True):
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, reference, atol=0.1)


@pytest.mark.parametrize('rates', [{'drop_connect': 0.5}, {'dropout': 0.5}], ids=str)
def test_dropping_is_random_in_training_only(rates):
  model = IdentitySegmentation(**SMALL | {'depth': 0.5, 'drop_connect': 0, 'dropout': 0} | rates)
  images = _images(4, 32, 32)
  variables = _init(model, images)

  @jax.jit
  def train(key):
    out, _ = model.apply(
      variables, images, train=True, mutable=['batch_stats'], rngs={'dropout': key}
    )
    return out

  first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
  for a, b, c in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-4
  evaluate = jax.jit(lambda rngs: model.apply(variables, images, train=False, rngs=rngs))
  for a, b in zip(evaluate(None), evaluate({'dropout': jax.random.key(0)}), strict=True):
    np.testing.assert_array_equal(a, b)


def test_gradients_are_finite_and_reach_every_parameter(small):
  model, variables = small
  images = _images(4, 32, 32)

  @jax.jit
  def gradients(params):
    def loss(params):
      (mask, logits), _ = model.apply(
        variables | {'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(0)},
      )
      return jnp.square(mask - 1).mean() + jnp.square(logits - 1).mean()

    return jax.grad(loss)(params)

  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(variables['params'])):
    assert np.isfinite(leaf).all(), path
    assert np.abs(leaf).max() > 0, path


def _trained():
  """Variables as of a model that was trained here, and the same in PyTorch's layout."""
  variables = _init(IdentitySegmentation(), _images(1, 32, 32))
  return variables, ism.to_torch(variables)


def test_export_of_a_trained_model_fills_what_is_unused():
  variables, arrays = _trained()
  assert len(arrays) == 421
  assert sum(array.size for array in arrays.values()) == 4_954_377
  assert arrays['encoder._conv_head.weight'].shape == (1280, 320, 1, 1)
  assert arrays['encoder._blocks.3._depthwise_conv.weight'].shape == (144, 1, 5, 5)
  assert arrays['encoder._bn0.num_batches_tracked'].dtype == np.int64
  assert arrays['encoder._bn0.num_batches_tracked'].shape == ()
  back = ism.from_torch(arrays)
  for collection in ('params', 'batch_stats'):
    jax.tree.map(np.testing.assert_array_equal, back[collection], variables[collection])


def test_conversion_names_every_wrong_tensor():
  _, arrays = _trained()
  del arrays['encoder._conv_stem.weight'], arrays['decoder.block1.1.bias']
  arrays['encoder._blocks.16._bn1.bias'] = np.zeros(3)
  arrays['segmentation_head.0.weight'] = np.zeros((1, 256))
  with pytest.raises(ValueError, match='Identity Segmentation') as error:
    ism.from_torch(arrays)
  for words in (
    'missing encoder._conv_stem.weight',
    'missing decoder.block1.1.bias',
    'extra encoder._blocks.16._bn1.bias',
    'segmentation_head.0.weight of shape (1, 256)',
  ):
    assert words in str(error.value)


@pytest.mark.parametrize('depth', [0.25, 1.5])
def test_conversion_of_other_depths(depth):
  model = IdentitySegmentation(**SMALL | {'depth': depth})
  variables = _init(model, _images(1, 32, 32))
  back = ism.from_torch(ism.to_torch(variables, depth), depth)
  assert jax.tree.map(np.shape, back['params']) == jax.tree.map(np.shape, variables['params'])
  with pytest.raises(ValueError, match='block_'):
    ism.to_torch(variables)
