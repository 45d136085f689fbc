"""The shared layers against plain convolutions, hand computation and closed forms."""

import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax.models import layers


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


DEPTHWISE = [
  dict(kernel=3),
  dict(kernel=5, padding=((0, 0), (3, 1))),
  dict(kernel=3, strides=2, padding=((0, 1), (0, 1))),
  dict(kernel=5, strides=2, padding=((1, 2), (1, 2))),
  dict(kernel=3, dilation=2, padding=2),
  dict(kernel=5, dilation=2, padding=4),
  dict(kernel=3, dilation=9),  # most taps lie outside the image
]


@pytest.mark.parametrize('shape', [(2, 8, 10, 3), (3, 7, 9, 2)], ids=str)
@pytest.mark.parametrize('arguments', DEPTHWISE, ids=str)
def test_shifted_depthwise_equals_the_convolution_and_its_gradients(arguments, shape):
  x = _normal(*shape)
  shifted = layers.DepthwiseConv(**arguments, shifted=True)
  direct = layers.DepthwiseConv(**arguments, shifted=False)
  params = nn.unbox(direct.init(jax.random.key(0), x))
  assert params['params']['kernel'].shape == (arguments['kernel'],) * 2 + (1, shape[-1])
  _check_equal_with_gradients(shifted, direct, params, x)


def test_shifted_depthwise_sums_its_gradient_in_float32():
  x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
  module = layers.DepthwiseConv(1, dtype=jnp.bfloat16, shifted=True)
  params = nn.unbox(module.init(jax.random.key(0), x))
  gradient = jax.grad(lambda params: module.apply(params, x).sum(dtype=jnp.float32))(params)
  # A sum of 4,096 ones in bfloat16 stops at 256.
  np.testing.assert_array_equal(gradient['params']['kernel'], 64 * 64)


@pytest.mark.parametrize('product', [True, False, None])
def test_pointwise_equals_the_convolution_and_its_gradients(product):
  x = _normal(2, 4, 6, 3)
  module = layers.conv(5, 1, use_bias=True).clone(product=product)
  convolution = nn.Conv(5, (1, 1))
  params = jax.tree.map(jnp.ones_like, nn.unbox(convolution.init(jax.random.key(0), x)))
  params['params']['kernel'] = _normal(1, 1, 3, 5, seed=2)
  _check_equal_with_gradients(module, convolution, params, x)


def test_pointwise_pads_and_strides_where_it_is_asked_to():
  x = _normal(1, 4, 6, 3)
  for arguments, shape in (({'strides': 2}, (1, 2, 3, 5)), ({'padding': 1}, (1, 6, 8, 5))):
    out, _ = layers.conv(5, 1, **arguments).init_with_output(jax.random.key(0), x)
    assert out.shape == shape


def _check_equal_with_gradients(ours, reference, params, x):
  def run(module):
    out, pullback = jax.vjp(module.apply, params, x)
    return out, *pullback(_normal(*out.shape, seed=1))

  for a, b in zip(*map(jax.tree.leaves, (run(ours), run(reference))), strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=3e-5)


def test_depthwise_keeps_the_size_by_default():
  for kernel, dilation in itertools.product((3, 5), (1, 2, 4)):
    module = layers.DepthwiseConv(kernel, dilation=dilation)
    out = jax.eval_shape(
      lambda m=module: m.init_with_output(jax.random.key(0), _normal(1, 6, 7, 2))
    )
    assert out[0].shape == (1, 6, 7, 2)


def test_batch_norm_against_hand_computation():
  x = 3 + 2 * _normal(4, 3, 5, 2)
  module = layers.BatchNorm(momentum=0.3, epsilon=1e-2)
  params = {'scale': np.array([2.0, 0.5], np.float32), 'bias': np.array([1.0, -1.0], np.float32)}
  old = {'mean': np.array([1.0, 2.0], np.float32), 'var': np.array([3.0, 4.0], np.float32)}
  variables = {'params': params, 'batch_stats': old}

  out, updated = module.apply(variables, x, train=True, mutable=['batch_stats'])
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  expected = (x - mean) / np.sqrt(var + 1e-2) * params['scale'] + params['bias']
  np.testing.assert_allclose(out, expected, atol=1e-5)
  new, unbiased = updated['batch_stats'], x.var((0, 1, 2), ddof=1)
  np.testing.assert_allclose(new['mean'], 0.7 * old['mean'] + 0.3 * mean, rtol=1e-6)
  np.testing.assert_allclose(new['var'], 0.7 * old['var'] + 0.3 * unbiased, rtol=1e-6)

  out = module.apply(variables, x, train=False)
  expected = (x - old['mean']) / np.sqrt(old['var'] + 1e-2) * params['scale'] + params['bias']
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_batch_norm_of_a_single_value_stays_finite():
  module = layers.BatchNorm()
  x = _normal(1, 1, 1, 4)
  variables = module.init(jax.random.key(0), x, train=True)
  np.testing.assert_array_equal(nn.unbox(variables)['batch_stats']['var'], 1)  # not updated by init
  out, updated = module.apply(variables, x, train=True, mutable=['batch_stats'])
  assert np.isfinite(out).all()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nn.unbox(updated)))


def test_batch_norm_keeps_float32_statistics_under_bfloat16():
  module = layers.BatchNorm(dtype=jnp.bfloat16)
  x = jnp.asarray(100 + _normal(4, 4, 4, 2), jnp.bfloat16)  # bfloat16 sums would lose the variance
  variables = module.init(jax.random.key(0), x, train=False)
  out, updated = module.apply(variables, x, train=True, mutable=['batch_stats'])
  assert out.dtype == jnp.bfloat16
  stats = nn.unbox(updated)['batch_stats']
  assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype('float32')}
  mean = np.asarray(x, np.float64).mean((0, 1, 2))
  np.testing.assert_allclose(stats['mean'], 0.1 * mean, rtol=1e-5)


def _resize_by_definition(x, size):
  """Each output pixel from its four neighbours, in float64."""
  height, width = x.shape[1:3]
  out = np.zeros((x.shape[0], *size, x.shape[3]))
  for i, j in np.ndindex(*size):
    y = i * (height - 1) / max(size[0] - 1, 1)
    z = j * (width - 1) / max(size[1] - 1, 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(z), max(width - 2, 0))
    for a, b in itertools.product((0, 1), (0, 1)):
      weight = (1 - abs(y - top - a)) * (1 - abs(z - left - b))
      if weight > 0:
        out[:, i, j] += weight * x[:, top + a, left + b]
  return out


@pytest.mark.parametrize(
  ('shape', 'size'),
  [((3, 4), (12, 16)), ((1, 1), (4, 4)), ((1, 5), (4, 5)), ((7, 5), (3, 1)), ((14, 14), (56, 56))],
)
def test_resize_aligns_corners(shape, size):
  x = _normal(2, *shape, 3)
  out = jax.jit(layers.resize_align_corners, static_argnums=1)(x, size)
  np.testing.assert_allclose(out, _resize_by_definition(x, size), atol=1e-5)
  np.testing.assert_allclose(out[:, 0, 0], x[:, 0, 0], atol=1e-6)
  if min(size) > 1:
    np.testing.assert_allclose(out[:, -1, -1], x[:, -1, -1], atol=1e-6)


def test_resize_keeps_the_type():
  out = layers.resize_align_corners(jnp.ones((1, 3, 3, 2), jnp.bfloat16), (6, 6))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float32), 1, atol=0.01)


def test_drop_connect_drops_whole_examples_and_keeps_the_mean():
  x = np.ones((4000, 2, 3), np.float32)
  module = layers.DropConnect(0.25)
  out = np.asarray(module.apply({}, x, train=True, rngs={'dropout': jax.random.key(0)}))
  per_example = out.reshape(len(x), -1)
  assert (per_example == per_example[:, :1]).all()
  assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
  assert abs(out.mean() - 1) < 0.04  # standard error 0.009
  np.testing.assert_array_equal(module.apply({}, x, train=False), x)
  np.testing.assert_array_equal(layers.DropConnect(0.0).apply({}, x, train=True), x)


def test_spatial_max_is_the_maximum_and_divides_by_nothing():
  x = _normal(2, 4, 5, 3)
  np.testing.assert_array_equal(layers.spatial_max(x), x.max((1, 2)))
  weights = _normal(2, 3)
  gradient = jax.grad(lambda x: (layers.spatial_max(x) * weights).sum())
  expected = np.where(x == x.max((1, 2), keepdims=True), weights[:, None, None], 0)
  np.testing.assert_array_equal(gradient(x), expected)
  # How many values equal the maximum is 0 where `x` was rounded in another way the second time.
  assert 'div' not in str(jax.make_jaxpr(gradient)(x))
