"""Each term of the objective: its value on a case done by hand, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax import losses, metrics

ONES = jnp.ones(2)


def _random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def check_gradient(function, x, seed=1):
  """Compares the gradient with a central difference along a random direction."""
  direction = _random(*x.shape, seed=seed)
  step = 1e-2
  numeric = (function(x + step * direction) - function(x - step * direction)) / (2 * step)
  analytic = (jax.grad(function)(x) * direction).sum()
  np.testing.assert_allclose(analytic, numeric, rtol=2e-2, atol=1e-4)


def test_identity_loss_is_one_minus_cosine():
  a = jnp.array([[1.0, 0.0], [0.0, 2.0]])
  b = jnp.array([[3.0, 0.0], [4.0, 0.0]])  # cosines 1 and 0
  np.testing.assert_allclose(losses.identity_loss(a, b, ONES), 0.5, atol=1e-6)
  np.testing.assert_allclose(losses.identity_loss(a, b, jnp.array([1.0, 0.0])), 0, atol=1e-6)
  np.testing.assert_allclose(losses.identity_loss(-b, b, ONES), 2, atol=1e-6)


def test_identity_loss_has_a_finite_gradient_at_zero():
  gradient = jax.grad(losses.identity_loss)(jnp.zeros((2, 4)), jnp.ones((2, 4)), ONES)
  assert np.isfinite(gradient).all()


def test_perceptual_loss_averages_the_maps():
  a = [jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 2, 2, 8))]
  b = [jnp.ones((2, 4, 4, 3)), -3 * jnp.ones((2, 2, 2, 8))]
  np.testing.assert_allclose(losses.perceptual_loss(a, b, ONES), 2)


def test_perceptual_loss_refuses_another_number_of_maps():
  with pytest.raises(ValueError, match='zip'):
    losses.perceptual_loss([jnp.zeros((1, 1, 1, 1))], [], jnp.ones(1))


@pytest.mark.parametrize('loss', [losses.attribute_loss, losses.patch_loss, losses.refinement_loss])
def test_squared_errors(loss):
  a = jnp.stack([jnp.zeros((2, 2, 3)), jnp.full((2, 2, 3), 2.0)])
  np.testing.assert_allclose(loss(a, jnp.zeros_like(a), ONES), 2)  # (0 + 4) / 2
  np.testing.assert_allclose(loss(a, jnp.zeros_like(a), jnp.array([0.0, 1.0])), 4)


def test_structure_loss_is_what_is_measured():
  a, b = (np.asarray(jax.nn.sigmoid(_random(2, 12, 12, 3, seed=s))) for s in (1, 2))
  b = 0.7 * a + 0.3 * b
  measured = [metrics.ssim(255 * x, 255 * y) for x, y in zip(a, b, strict=True)]
  assert 0.2 < np.mean(measured) < 0.95
  np.testing.assert_allclose(losses.structure_loss(a, b, ONES), 1 - np.mean(measured), rtol=1e-4)
  only = jnp.array([0.0, 1.0])
  np.testing.assert_allclose(losses.structure_loss(a, b, only), 1 - measured[1], rtol=1e-4)
  np.testing.assert_allclose(losses.structure_loss(a, a, ONES), 0, atol=1e-5)


def test_source_loss_is_the_absolute_error():
  a = jnp.full((2, 4, 4, 3), 0.25)
  np.testing.assert_allclose(losses.source_loss(a, a - 0.5, ONES), 0.5)


def test_mask_cross_entropy():
  logits = jnp.zeros((2, 4, 4, 1))
  mask = jnp.stack([jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))])
  np.testing.assert_allclose(losses.mask_cross_entropy(logits, mask, ONES), np.log(2), rtol=1e-6)
  certain = jnp.where(mask > 0, 20.0, -20.0)
  assert losses.mask_cross_entropy(certain, mask, ONES) < 1e-6


def test_dice_loss():
  mask = jnp.zeros((2, 4, 4, 1)).at[:, :2].set(1.0)  # 8 of 16 pixels
  certain = jnp.where(mask > 0, 50.0, -50.0)
  np.testing.assert_allclose(losses.dice_loss(certain, mask, ONES), 0, atol=1e-6)
  # All predicted: overlap 8, sizes 16 and 8, one added to both sides.
  everything = jnp.full_like(mask, 50.0)
  np.testing.assert_allclose(losses.dice_loss(everything, mask, ONES), 1 - 17 / 25, rtol=1e-5)
  empty = jnp.zeros_like(mask)
  np.testing.assert_allclose(losses.dice_loss(empty - 50, empty, ONES), 0, atol=1e-6)


def test_detection_loss():
  logits = jnp.array([[0.0, 0.0], [0.0, np.log(3.0)]])
  expected = (np.log(2) + np.log(4 / 3)) / 2
  np.testing.assert_allclose(losses.detection_loss(logits, jnp.array([0, 1])), expected, rtol=1e-6)


def test_a_batch_without_examples_that_count_gives_zero():
  nobody = jnp.zeros(2)
  assert losses.patch_loss(_random(2, 3), _random(2, 3, seed=1), nobody) == 0
  assert losses.dice_loss(_random(2, 4, 4, 1), jnp.ones((2, 4, 4, 1)), nobody) == 0


@pytest.mark.parametrize(
  ('loss', 'shape'),
  [
    (losses.identity_loss, (2, 8)),
    (losses.attribute_loss, (2, 3, 3, 4)),
    (losses.patch_loss, (2, 5, 12)),
    (losses.source_loss, (2, 4, 4, 3)),
    (losses.refinement_loss, (2, 4, 4, 3)),
    (losses.structure_loss, (2, 8, 8, 3)),
    (losses.anchor_loss, (2, 4, 4, 3)),
    (losses.mask_cross_entropy, (2, 4, 4, 1)),
    (losses.dice_loss, (2, 4, 4, 1)),
  ],
)
def test_gradients(loss, shape):
  true = _random(*shape, seed=7)
  if shape[-1] == 1:
    true = jax.nn.sigmoid(true)
  check_gradient(lambda x: loss(x, true, jnp.array([1.0, 0.5])), _random(*shape))


def test_gradients_of_perceptual_and_detection():
  true = [_random(2, 4, 4, 2, seed=3)]
  check_gradient(lambda x: losses.perceptual_loss([x], true, ONES), _random(2, 4, 4, 2))
  check_gradient(lambda x: losses.detection_loss(x, jnp.array([1, 0])), _random(2, 2))
