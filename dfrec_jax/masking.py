"""Semantic-guided masking: which patches the TIRM sees, and which it must fill.

DFREC, arXiv 2412.07260, section 3.3. Patches are numbered in raster order; both parts of a
partition have static lengths, so that everything compiles once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dfrec_jax.errors import InputError

INDEXINGS = ('published', 'aligned')
COVERED = 0.05  # Mean of the mask in a patch above which the face covers it.
_PUBLISHED_AREA = 256  # Pixels of the patch that the published thresholds are meant for.


class Partition(NamedTuple):
  """Patch indices, int32: `kept` (B, K) and `masked` (B, N - K)."""

  kept: jax.Array
  masked: jax.Array


def kept_count(num_patches: int, ratio: float, indexing: str) -> int:
  """How many patches are kept when `ratio` of them are to be masked.

  `published` counts the class token as one more patch: int((N + 1) * (1 - ratio)), 98 of 196.
  `aligned` keeps N - round(N * ratio).

  Raises:
    InputError: where nothing would be kept or nothing masked, or for an unknown indexing.
  """
  if indexing == 'published':
    kept = int((num_patches + 1) * (1 - ratio))
  elif indexing == 'aligned':
    kept = num_patches - round(num_patches * ratio)
  else:
    raise InputError(f'Unknown indexing {indexing!r}; the indexings are {", ".join(INDEXINGS)}.')
  if not 0 < kept < num_patches:
    raise InputError(
      f'A mask ratio of {ratio} keeps {kept} of {num_patches} patches; some must be kept and some '
      'masked.'
    )
  return kept


def patch_weights(mask: jax.Array, patch: int) -> jax.Array:
  """(B, H, W, 1) mask to (B, N) float32: its sum in each patch, in raster order."""
  batch, height, width = mask.shape[:3]
  blocks = mask.reshape(batch, height // patch, patch, width // patch, patch)
  return blocks.astype(jnp.float32).sum((2, 4)).reshape(batch, -1)


def published_masking(
  mask: jax.Array,
  noise: jax.Array,
  *,
  patch: int,
  ratio: float,
  threshold: float = 250.0,
  low: float = 50.0,
) -> Partition:
  """The published inference's masking; both parts ascend by the patches' weights.

  Args:
    mask: (B, H, W, 1) in [0, 1].
    noise: (B, N) in [0, 1), the weight of patches that the mask does not cover.
    patch: side of a patch in pixels.
    ratio: share of patches to mask.
    threshold: mean weight from which a whole image counts as uncovered, its patches masked at
      random.
    low: weight up to which a patch counts as uncovered. Both thresholds are sums over 16x16 pixels
      and scale with the patch's area.
  """
  weights = patch_weights(mask, patch)
  scale = patch * patch / _PUBLISHED_AREA
  uncovered = weights <= low * scale
  everywhere = weights.mean(1, keepdims=True) >= threshold * scale
  order = jnp.argsort(jnp.where(uncovered | everywhere, noise, weights), axis=1, stable=True)
  kept = kept_count(weights.shape[1], ratio, 'published')
  return Partition(order[:, :kept], order[:, kept:])


def aligned_masking(
  mask: jax.Array,
  key: jax.Array,
  *,
  patch: int,
  ratio: float,
  progress: jax.Array | float,
  same_draws: bool = False,
) -> Partition:
  """Masking that moves from random patches to those that the face covers.

  Each patch that the face covers counts as covered with probability `progress`. Those that count
  are masked first, the most covered before the others; the rest of the static number is drawn
  uniformly. Both parts are in raster order.

  Args:
    mask: (B, H, W, 1) in [0, 1].
    key: a random key.
    patch: side of a patch in pixels.
    ratio: share of patches to mask.
    progress: scalar in [0, 1], may be traced; see `masking_progress`.
    same_draws: every image gets the same random numbers, so that what is masked of one image does
      not depend on its place in the batch.
  """
  coverage = patch_weights(mask, patch) / (patch * patch)
  batch, patches = coverage.shape
  draw_key, rank_key = jax.random.split(key)
  shape = (1 if same_draws else batch, patches)
  counted = (coverage > COVERED) & (jax.random.uniform(draw_key, shape) < progress)
  rank = jnp.broadcast_to(jax.random.uniform(rank_key, shape), coverage.shape)
  # The second key orders all that does not count, and breaks ties among fully covered patches.
  order = jnp.lexsort((rank, jnp.where(counted, -coverage, 0.0)), axis=1)
  masked = patches - kept_count(patches, ratio, 'aligned')
  return Partition(jnp.sort(order[:, masked:], axis=1), jnp.sort(order[:, :masked], axis=1))


def masking_progress(step: jax.Array | int, *, start: int, end: int) -> jax.Array:
  """The curriculum: 0 until step `start`, 1 from step `end`, linear between; float32 scalar."""
  step = jnp.asarray(step, jnp.float32)
  return jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)
