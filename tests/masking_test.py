"""Semantic-guided masking, and where the result is composited."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax import masking
from dfrec_jax.compositing import composite_mask, fill_holes

PATCH, SIDE = 4, 8  # 64 patches


def face(rows, columns, batch=2):
  """A mask that covers whole patches."""
  mask = np.zeros((batch, SIDE * PATCH, SIDE * PATCH, 1), np.float32)
  mask[:, rows[0] * PATCH : rows[1] * PATCH, columns[0] * PATCH : columns[1] * PATCH] = 1
  return jnp.asarray(mask)


def aligned(mask, progress, seed=0, **kwargs):
  return masking.aligned_masking(
    mask, jax.random.key(seed), patch=PATCH, ratio=0.5, progress=progress, **kwargs
  )


def test_kept_count():
  assert masking.kept_count(196, 0.5, 'published') == 98
  assert masking.kept_count(196, 0.75, 'aligned') == 49
  with pytest.raises(ValueError, match='indexing'):
    masking.kept_count(196, 0.5, 'other')
  with pytest.raises(ValueError, match='keeps 0 of 4'):
    masking.kept_count(4, 1.0, 'aligned')


def test_patch_weights_are_sums_in_raster_order():
  weights = masking.patch_weights(face((1, 2), (3, 5)), PATCH)
  expected = np.zeros((2, SIDE, SIDE))
  expected[:, 1, 3:5] = PATCH * PATCH
  np.testing.assert_array_equal(weights, expected.reshape(2, -1))


@pytest.mark.parametrize('progress', [0.0, 0.3, 1.0])
def test_a_partition_holds_every_patch_once_in_raster_order(progress):
  kept, masked = aligned(face((1, 6), (2, 7)), progress)
  assert kept.shape == masked.shape == (2, 32)
  for part in (kept, masked):
    assert (np.diff(part, axis=1) > 0).all()
  together = np.sort(np.concatenate([kept, masked], 1), axis=1)
  np.testing.assert_array_equal(together, np.tile(np.arange(64), (2, 1)))


def test_without_progress_the_masked_patches_are_uniform():
  masked = aligned(face((2, 6), (2, 6), batch=2000), 0.0).masked
  frequency = np.bincount(np.ravel(masked), minlength=64) / 2000
  # Five standard deviations of a mean of 2000 draws at one half.
  assert np.abs(frequency - 0.5).max() < 5 * 0.5 / np.sqrt(2000)


def test_with_full_progress_the_face_is_masked_before_anything_else():
  mask = face((2, 6), (1, 6))  # 20 patches
  covered = np.flatnonzero(masking.patch_weights(mask, PATCH)[0])
  first, second = np.asarray(aligned(mask, 1.0).masked)
  assert set(covered) <= set(first) and set(covered) <= set(second)
  assert set(first) != set(second), 'the rest is drawn for each image'


def test_the_most_covered_are_masked_first_where_not_all_can_be():
  mask = face((0, 8), (0, 8)).at[:, 4 * PATCH :].multiply(0.5)
  np.testing.assert_array_equal(aligned(mask, 1.0).masked[0], np.arange(32))


def test_half_way_covered_patches_are_masked_more_often_but_not_always():
  covered = np.flatnonzero(masking.patch_weights(face((2, 6), (2, 6)), PATCH)[0])
  masked = np.asarray(aligned(face((2, 6), (2, 6), batch=500), 0.5).masked)
  assert 0.6 < np.isin(masked, covered).sum() / (500 * len(covered)) < 0.85


def test_the_key_alone_decides():
  mask = face((2, 6), (1, 6))
  np.testing.assert_array_equal(aligned(mask, 0.5).masked, aligned(mask, 0.5).masked)
  assert (aligned(mask, 0.5).masked != aligned(mask, 0.5, seed=1).masked).any()


def test_the_same_draws_make_the_result_independent_of_the_batch():
  batch = jnp.concatenate([face((2, 6), (1, 6), 1), face((0, 3), (1, 4), 1)])
  together = aligned(batch, 1.0, same_draws=True)
  alone = aligned(batch[1:], 1.0, same_draws=True)
  np.testing.assert_array_equal(together.masked[1:], alone.masked)


def test_published_masking_sorts_stably_and_scales_its_thresholds():
  # A patch of 4x4 pixels counts as uncovered up to 50 / 16 = 3.125 pixels.
  mask = jnp.zeros((1, 8, 8, 1)).at[0, 0, :4].set(1.0).at[0, 4:, :3].set(1.0)  # 4, 0, 12, 0
  noise = jnp.array([[0.9, 0.7, 0.8, 0.7]])
  kept, masked = masking.published_masking(mask, noise, patch=4, ratio=0.5)
  assert (kept.tolist(), masked.tolist()) == ([[1, 3]], [[0, 2]])
  everywhere = masking.published_masking(jnp.ones((1, 8, 8, 1)), noise, patch=4, ratio=0.5)
  assert (everywhere.kept.tolist(), everywhere.masked.tolist()) == ([[1, 3]], [[2, 0]])


def test_the_curriculum_is_a_ramp():
  progress = [float(masking.masking_progress(s, start=10, end=30)) for s in (0, 10, 20, 30, 99)]
  assert progress == [0, 0, 0.5, 1, 1]
  assert float(jax.jit(lambda s: masking.masking_progress(s, start=0, end=4))(1)) == 0.25


def test_a_composite_mask_is_zero_far_away_and_one_inside():
  mask = jnp.full((1, 64, 64, 1), 0.01).at[:, 24:40, 24:40].set(0.99)
  soft = np.asarray(composite_mask(mask, 2, 2.0))[0, :, :, 0]
  far = np.ones((64, 64), bool)
  far[24 - 8 : 40 + 8, 24 - 8 : 40 + 8] = False
  assert not soft[far].any()
  np.testing.assert_allclose(soft[28:36, 28:36], 1, atol=1e-3)
  edge = soft[32, 14:28]
  assert (np.diff(edge) >= 0).all() and edge[0] == 0 and 0 < edge[7] < 1


def test_a_composite_mask_covers_the_image_where_the_mask_does():
  np.testing.assert_allclose(composite_mask(jnp.ones((1, 16, 16, 1)), 3, 1.5), 1, atol=1e-6)


def test_holes_are_filled_and_outlines_kept():
  face = jnp.zeros((1, 64, 64, 1)).at[:, :40, 16:48].set(0.9)  # At the image's edge.
  np.testing.assert_array_equal(fill_holes(face, 6), face)
  near = jnp.zeros((1, 64, 64, 1)).at[:, 4:30, 4:30].set(0.9)
  np.testing.assert_array_equal(fill_holes(near, 6), near)
  torn = face.at[:, 10:20, 20:30].set(0.1).at[:, 24:30, 40:].set(0.0)
  np.testing.assert_array_equal(fill_holes(torn, 6), face)
  # Of 15 pixels a side, more than twice the radius.
  np.testing.assert_array_equal(
    fill_holes(face.at[:, 12:27, 24:39].set(0.1), 6)[:, 19, 31], np.float32(0.1)
  )


def test_a_composite_mask_keeps_its_type():
  mask = jnp.ones((1, 16, 16, 1), jnp.bfloat16)
  assert composite_mask(mask, 1, 1.0).dtype == jnp.bfloat16
  np.testing.assert_array_equal(composite_mask(mask.at[:, :8].set(0), 0, 0.0)[:, :8], 0)
