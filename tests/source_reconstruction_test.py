"""The SIRM, and its conversion from and to the published weights."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax.convert import sirm as convert
from dfrec_jax.models.source_reconstruction import SourceReconstruction, max_pool

WIDTHS = (4, 4, 8, 8, 16)


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
  model = SourceReconstruction(WIDTHS, 'add', remat='dots')
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
