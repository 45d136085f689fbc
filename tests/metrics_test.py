"""Metrics against scikit-image and cases done by hand."""

import numpy as np
import pytest
from skimage import metrics as reference

from dfrec_jax import metrics

RNG = np.random.default_rng(0)


def _images(side=40):
  a = RNG.integers(0, 256, (side, side + 8, 3), np.uint8)
  noise = RNG.normal(0, 12, a.shape)
  return a, np.clip(a + noise, 0, 255).astype(np.uint8)


def test_psnr_equals_scikit_image():
  a, b = _images()
  assert metrics.psnr(a, b) == pytest.approx(reference.peak_signal_noise_ratio(a, b), abs=1e-9)


def test_psnr_in_a_mask_counts_its_pixels_only():
  a = np.zeros((4, 4, 3), np.uint8)
  b = a.copy()
  b[0] = 255
  mask = np.zeros((4, 4))
  mask[0] = 1
  assert metrics.psnr(a, b, mask) == 0
  assert metrics.psnr(a, b, 1 - mask) == metrics.MAX_PSNR
  assert np.isnan(metrics.psnr(a, b, np.zeros((4, 4))))


def test_ssim_equals_scikit_image():
  a, b = _images()
  expected = reference.structural_similarity(a, b, channel_axis=2, win_size=7)
  assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-7)
  assert metrics.ssim(a, a) == pytest.approx(1)


def test_ssim_refuses_tiny_images():
  with pytest.raises(ValueError, match='at least 7'):
    metrics.ssim(np.zeros((6, 6, 3), np.uint8), np.zeros((6, 6, 3), np.uint8))


def test_mask_overlap():
  true = np.zeros((4, 4))
  true[:2] = 1  # 8 pixels
  predicted = np.zeros((4, 4))
  predicted[1:3] = 0.9  # 8 pixels, 4 of them shared
  assert metrics.mask_overlap(predicted, true) == pytest.approx((4 / 12, 8 / 16))
  assert metrics.mask_overlap(true * 0, true * 0) == (1, 1)


def test_auc():
  labels = np.array([0, 0, 1, 1])
  assert metrics.roc_auc(np.array([0.1, 0.2, 0.8, 0.9]), labels) == 1
  assert metrics.roc_auc(np.array([0.1, 0.8, 0.2, 0.9]), labels) == 0.75
  assert metrics.roc_auc(np.full(4, 0.5), labels) == 0.5
  assert np.isnan(metrics.roc_auc(np.array([0.1]), np.array([1])))


def test_copying_val_is_as_published_with_the_data(shared):
  from input_pipeline.triplets import Triplets

  source = Triplets(shared / 'faces', 'val.csv')
  rows = [
    (
      metrics.psnr(e['forged'], e['target']),
      metrics.psnr(e['forged'], e['target'], e['mask'][..., 0]),
      metrics.ssim(e['forged'], e['target']),
    )
    for e in (source[i] for i in range(len(source)))
  ]
  np.testing.assert_allclose(np.mean(rows, axis=0), (22.07, 16.50, 0.804), atol=0.006)
