"""Upsampling with its convolution: both forms, and their gradients, are one."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax.models.upsampling import UpsampledConv


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('shape', [(2, 5, 4, 3), (1, 1, 6, 2), (1, 1, 1, 1)])
def test_folded_upsampling_equals_the_convolution_of_the_large_image(shape):
  x = _normal(*shape)
  folded, direct, default = (UpsampledConv(7, folded=how) for how in (True, False, None))
  params = nn.unbox(direct.init(jax.random.key(0), x))
  params['params']['bias'] = _normal(7)
  batch, height, width, _ = shape

  def run(module):
    out, pullback = jax.vjp(jax.jit(module.apply), params, x)
    return out, *pullback(_normal(*out.shape, seed=1))

  results = [jax.tree.leaves(run(module)) for module in (folded, default, direct)]
  assert results[0][0].shape == (batch, 2 * height, 2 * width, 7)
  for ours, by_default, reference in zip(*results, strict=True):
    np.testing.assert_allclose(ours, reference, atol=2e-5)
    np.testing.assert_allclose(by_default, reference, atol=2e-5)
  half = UpsampledConv(7, folded=True, dtype=jnp.bfloat16).apply(params, x)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half, results[2][0], atol=0.2)
