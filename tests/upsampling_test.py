"""Upsampling with its convolution: its forms, and their gradients, are those of the plain one."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax.models.upsampling import UpsampledConv


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('shape', [(2, 5, 4, 3), (1, 1, 6, 2), (1, 1, 1, 1)])
def test_each_form_equals_the_convolution_of_the_large_image(shape):
  x = _normal(*shape)
  folded, transposed, default = (UpsampledConv(7, folded=how) for how in (True, False, None))
  params = nn.unbox(default.init(jax.random.key(0), x))
  params['params']['bias'] = _normal(7)
  batch, height, width, _ = shape

  def direct(params, x):
    large = x.repeat(2, axis=1).repeat(2, axis=2)
    return nn.Conv(7, (3, 3), padding=1).apply(params, large)

  def run(function):
    out, pullback = jax.vjp(jax.jit(function), params, x)
    return jax.tree.leaves((out, *pullback(_normal(*out.shape, seed=1))))

  expected = run(direct)
  assert expected[0].shape == (batch, 2 * height, 2 * width, 7)
  for module in (folded, transposed, default):
    for ours, reference in zip(run(module.apply), expected, strict=True):
      np.testing.assert_allclose(ours, reference, atol=2e-5)
  half = UpsampledConv(7, folded=True, dtype=jnp.bfloat16).apply(params, x)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half, expected[0], atol=0.2)
