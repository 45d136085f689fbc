"""The SIRM, and its conversion from and to the published weights."""

import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax.convert import sirm as convert
from dfrec_jax.models.source_reconstruction import SourceReconstruction, max_pool
from tests import parity

WIDTHS = (4, 4, 8, 8, 16)
BEFORE_NORM = re.compile(r'(conv\.[03]|up\.1|(W|W_g|W_x|psi)\.0)\.bias$')


def init(model, size=32):
  image = jnp.zeros((1, size, size, 3))
  init = jax.jit(lambda k: model.init(k, image, image, train=False))
  # This generator compiles in less than half of the time of the usual one.
  return nn.unbox(init(jax.random.key(0, impl='rbg')))


def images(batch=2, size=32):
  return jax.random.uniform(jax.random.key(1), (batch, size, size, 3))


def count(tree):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_published_parameter_count():
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  init = lambda key, x: SourceReconstruction().init(key, x, x, train=False)
  variables = jax.eval_shape(init, jax.random.key(0), image)
  assert count(variables['params']) == 17_569_839


@pytest.mark.parametrize('size', [32, 48, 96])
@pytest.mark.parametrize('fusion', ['concat', 'add', 'sequence'])
def test_shapes(size, fusion):
  model = SourceReconstruction(WIDTHS, fusion, token_count=5)
  image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  out, _ = jax.eval_shape(
    lambda key, x: model.init_with_output(key, x, x, train=True), jax.random.key(0), image
  )
  side = size // 16
  assert out.source.shape == (2, size, size, 3)
  expected = (2, 5, side * side) if fusion == 'concat' else (2, side, side, 8)
  assert out.target_tokens.shape == expected
  assert out.source_identity.shape == out.target_identity.shape == (2, 8)


def test_gradients_are_finite_and_reach_everything():
  model = SourceReconstruction(WIDTHS, 'add', remat=True)
  variables, x = init(model), images()

  @jax.grad
  def gradients(params):
    out, updated = model.apply(
      {**variables, 'params': params}, x, x, train=True, mutable=['batch_stats']
    )
    assert jax.tree.structure(updated['batch_stats']) == jax.tree.structure(
      variables['batch_stats']
    )
    return jnp.square(out.source).mean() + jnp.square(out.target_tokens).mean()

  found = jax.jit(gradients)(variables['params'])
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    assert np.isfinite(leaf).all(), path
    # A bias before a batch norm has no gradient but rounding errors.
    assert np.any(leaf) or (path[-2].key.startswith('conv_') and path[-1].key == 'bias'), path


def test_a_residual_model_starts_as_a_copy_and_clips_only_outside_training():
  model = SourceReconstruction(WIDTHS, 'add', residual=True)
  variables, x = init(model), images()
  clipped = jax.jit(lambda v: model.apply(v, x, x, train=False).source)
  free = jax.jit(lambda v: model.apply(v, x, x, train=True, mutable=['batch_stats'])[0].source)
  np.testing.assert_array_equal(clipped(variables), x)
  variables['params']['output']['bias'] += 2.0
  np.testing.assert_array_equal(clipped(variables), np.ones_like(x))
  np.testing.assert_allclose(free(variables), x + 2, atol=1e-6)


def test_bfloat16_keeps_parameters_and_pictures_float32():
  model = SourceReconstruction(WIDTHS, 'add', dtype=jnp.bfloat16)
  variables = init(model)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  out = jax.eval_shape(lambda v, x: model.apply(v, x, x, train=False), variables, images())
  assert out.source.dtype == jnp.float32 and out.target_tokens.dtype == jnp.bfloat16


def test_bad_sides_and_fusions_are_refused():
  with pytest.raises(ValueError, match='multiples of 16'):
    init(SourceReconstruction(WIDTHS), size=40)
  with pytest.raises(ValueError, match="Unknown fusion 'none'"):
    init(SourceReconstruction(WIDTHS, 'none'))


def test_max_pool_equals_the_windowed_maximum():
  x = jnp.round(4 * images(size=8))  # Many values are equal.
  np.testing.assert_array_equal(max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))
  gradient = lambda pool: jax.grad(lambda y: jnp.square(pool(y)).sum())(x)
  np.testing.assert_allclose(
    gradient(max_pool), gradient(lambda y: nn.max_pool(y, (2, 2), (2, 2))), atol=1e-6
  )


def test_evaluation_is_the_published_one():
  case = parity.Case('tiny')
  variables = convert.from_torch(case.state_dict('recover1_state_dict'))
  variables.pop('unused')
  expected = case.outputs('sirm')
  x = parity.to_nhwc(expected['masked_image'])
  out = jax.jit(lambda v, x: SourceReconstruction().apply(v, x, x, train=False))(variables, x)
  np.testing.assert_allclose(out.source, parity.to_nhwc(expected['source']), atol=1e-5)
  for name in ('target_tokens', 'source_identity', 'target_identity'):
    np.testing.assert_allclose(getattr(out, name), expected[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_training_step_is_the_published_one():
  case = parity.Case('tiny')
  variables = convert.from_torch(case.state_dict('recover1_state_dict'))
  unused = variables.pop('unused')
  expected = case.outputs('sirm_train')
  x = parity.to_nhwc(expected['input'])
  true = case.image(int(expected['target_seed']))

  def loss(params):
    out, updated = SourceReconstruction().apply(
      {**variables, 'params': params}, x, x, train=True, mutable=['batch_stats']
    )
    total = jnp.square(out.source - true).mean() + jnp.square(out.target_tokens).mean()
    return total, (out, updated['batch_stats'])

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (total, (out, batch_stats)), gradients = step(variables['params'])
  np.testing.assert_allclose(total, expected['loss'], rtol=1e-5)
  np.testing.assert_allclose(out.target_tokens, expected['target_tokens'], atol=1e-4)
  # Gradients and statistics by PyTorch's names: a conversion moves, it does not compute.
  named = convert.to_torch({'params': gradients, 'batch_stats': batch_stats, 'unused': unused})
  for name, norm in zip(expected['grad_names'], expected['grad_norms'], strict=True):
    # The norms go from 1e-10 to 1. A bias before a batch norm has none but rounding errors.
    found = np.linalg.norm(named[name])
    if BEFORE_NORM.search(name):
      assert found < 1e-4, name
    else:
      np.testing.assert_allclose(found, norm, rtol=1e-3, atol=1e-6, err_msg=name)
  for name in expected['stat_names']:
    np.testing.assert_allclose(named[name], expected[f'stat/{name}'], atol=1e-5, err_msg=name)


def test_conversion_is_bit_for_bit():
  case = parity.Case('tiny')
  arrays = case.state_dict('recover1_state_dict')
  variables = convert.from_torch(arrays)
  assert count(variables['params']) == 17_569_839
  parity.assert_same_tensors(convert.to_torch(variables), arrays)


def test_a_model_trained_here_exports_with_step_counters():
  variables = init(SourceReconstruction(WIDTHS, 'concat', token_count=2))
  arrays = convert.to_torch(variables)
  assert arrays['Conv1.conv.1.num_batches_tracked'].dtype == np.int64
  back = convert.from_torch(arrays)
  jax.tree.map(np.testing.assert_array_equal, back['params'], variables['params'])


def test_one_error_names_all_that_is_wrong():
  arrays = convert.to_torch(init(SourceReconstruction(WIDTHS, 'concat', token_count=2)))
  del arrays['Up5.up.1.bias']
  arrays['Conv9.bias'] = np.zeros(1)
  arrays['Att3.psi.0.weight'] = np.zeros((1, 3, 1, 1), np.float32)
  with pytest.raises(ValueError) as error:
    convert.from_torch(arrays)
  for part in (
    'missing Up5.up.1.bias',
    'extra Conv9.bias',
    'Att3.psi.0.weight has shape (1, 3, 1, 1) instead of (1, 2, 1, 1)',
  ):
    assert part in str(error.value)
