"""The terms of DFREC's objective (section 3 of the paper), each a pure function.

Every term is a float32 scalar, a mean over the examples by their `weights` (B,), 0 for those that
do not count; a batch without any that counts gives 0.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean of `values` (B,) by `weights` (B,) in [0, 1]; less where these sum to less than 1."""
  return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)


def _per_example(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32).reshape(x.shape[0], -1).mean(axis=1)


def _squared_error(recovered: jax.Array, true: jax.Array, weights: jax.Array) -> jax.Array:
  return weighted_mean(_per_example(jnp.square(recovered - true)), weights)


def cosine_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Cosine (B,) of embeddings (B, D), which need not be normalised."""
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  # The epsilon stands under the root: the gradient at a zero vector is finite.
  norms = jax.lax.rsqrt((a * a).sum(-1) + 1e-12) * jax.lax.rsqrt((b * b).sum(-1) + 1e-12)
  return (a * b).sum(-1) * norms


def identity_loss(recovered: jax.Array, true: jax.Array, weights: jax.Array) -> jax.Array:
  """L_id: 1 - cosine between the frozen identity embeddings (B, D) of two faces, in [0, 2]."""
  return weighted_mean(1 - cosine_similarity(recovered, true), weights)


def perceptual_loss(
  recovered: Sequence[jax.Array], true: Sequence[jax.Array], weights: jax.Array
) -> jax.Array:
  """L_perc: L1 between frozen feature maps [(B, h, w, C), ...], averaged over the maps."""
  taps = [
    weighted_mean(_per_example(jnp.abs(a - b)), weights)
    for a, b in zip(recovered, true, strict=True)
  ]
  return sum(taps) / len(taps)


def attribute_loss(recovered: jax.Array, true: jax.Array, weights: jax.Array) -> jax.Array:
  """L_attr: mean squared distance of the face encoder's spatial features (B, h, w, C).

  Taken before pooling, they hold expression, pose and light, which an embedding forgets.
  """
  return _squared_error(recovered, true, weights)


def patch_loss(predicted: jax.Array, true: jax.Array, weights: jax.Array) -> jax.Array:
  """L_patch: mean squared error on the masked patches (B, M, patch * patch * 3) of the target."""
  return _squared_error(predicted, true, weights)


def refinement_loss(recovered: jax.Array, true: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean squared error of the target's picture (B, H, W, 3) as it is shown. Not in the paper."""
  return _squared_error(recovered, true, weights)


def structure_loss(
  recovered: jax.Array, true: jax.Array, weights: jax.Array, window: int = 7
) -> jax.Array:
  """1 - SSIM (Wang et al. 2004) of images (B, H, W, 3) in [0, 1]. Not in the paper.

  As `metrics.ssim` measures it: a uniform window, unbiased covariances, no border. Squared errors
  alone blur; this asks for the target's edges and against the forgery's.
  """
  mean = lambda x: nn.avg_pool(x, (window, window))
  unbiased = window**2 / (window**2 - 1)
  mean_a, mean_b = mean(recovered), mean(true)
  covariance = lambda a, b, mean_a, mean_b: unbiased * (mean(a * b) - mean_a * mean_b)
  variances = covariance(recovered, recovered, mean_a, mean_a) + covariance(
    true, true, mean_b, mean_b
  )
  similarity = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
  similarity *= (2 * covariance(recovered, true, mean_a, mean_b) + 0.03**2) / (variances + 0.03**2)
  return weighted_mean(_per_example(1 - similarity), weights)


def source_loss(recovered: jax.Array, true: jax.Array, weights: jax.Array) -> jax.Array:
  """The source's part of L_patch: mean absolute error of the image (B, H, W, 3)."""
  return weighted_mean(_per_example(jnp.abs(recovered - true)), weights)


def anchor_loss(recovered: jax.Array, uncorrected: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean squared change that the source's recovery makes to the forged face (B, H, W, 3).

  Not in the paper. The true source is another photograph, in another pose, so that its pixels
  hardly hold back a pattern that pleases the identity encoder and shows no face; this does.
  """
  return _squared_error(recovered, uncorrected, weights)


def mask_cross_entropy(logits: jax.Array, mask: jax.Array, weights: jax.Array) -> jax.Array:
  """Binary cross-entropy of mask logits (B, H, W, 1) against a mask in [0, 1]."""
  return weighted_mean(_per_example(optax.sigmoid_binary_cross_entropy(logits, mask)), weights)


def dice_loss(logits: jax.Array, mask: jax.Array, weights: jax.Array) -> jax.Array:
  """1 - Dice coefficient of a mask (B, H, W, 1), in [0, 1].

  One pixel's worth is added to both sides, so that an empty mask predicted empty costs nothing.
  """
  axes = (1, 2, 3)
  predicted = jax.nn.sigmoid(logits.astype(jnp.float32))
  overlap = (predicted * mask).sum(axes)
  dice = (2 * overlap + 1) / (predicted.sum(axes) + mask.sum(axes) + 1)
  return weighted_mean(1 - dice, weights)


def detection_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of real/fake logits (B, 2) against labels (B,): 0 pristine, 1 forged."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean()
