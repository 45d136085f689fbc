"""The suite's metrics against references: scikit-image, SciPy, PyTorch, and cases done by hand.

Numbers called golden were computed on the same arrays by pytorch-msssim 1.0.0 and torchmetrics
1.9.0, which are not needed to run the tests.
"""

import cv2
import numpy as np
import pytest
from scipy import linalg, ndimage, optimize
from skimage import metrics as reference
from skimage.restoration import inpaint_biharmonic
from skimage.segmentation import find_boundaries

from dfrec_jax import metrics
from dfrec_jax.suite import baselines, bootstrap, detection, frechet, image_quality, retrieval
from dfrec_jax.suite.landmark_error import landmark_errors


def _pictures(side):
  """A smooth picture, 7 pixels wider than high, and a noisy copy."""
  rng = np.random.default_rng(0)
  base = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((32, 32, 1)))
  a = np.round(ndimage.gaussian_filter(base, (12, 12, 0))[:side, : side + 7]).astype(np.uint8)
  return a, np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize('side,golden', [(170, 0.8008627), (160, 0.7898048), (113, 0.8006629)])
def test_ms_ssim_equals_pytorch_msssim(side, golden):
  a, b = _pictures(side)
  assert image_quality.ms_ssim(a, b) == pytest.approx(golden, abs=1e-5)
  assert image_quality.ms_ssim(a, b, np.ones(a.shape[:2])) == pytest.approx(golden, abs=1e-5)
  assert image_quality.ms_ssim(a, a) == pytest.approx(1)


def test_figures_in_a_mask_see_nothing_else():
  a, b = _pictures(160)
  mask = np.zeros(a.shape[:2])
  mask[40:120, 40:120] = 1
  half = a.copy()
  half[:20] = b[:20]  # far from the mask
  assert image_quality.ssim_in_mask(a, half, mask) == pytest.approx(1)
  assert image_quality.detail(half, a, mask) == pytest.approx(1)
  assert image_quality.detail(b, a, mask) > 2 > 1 > image_quality.detail(cv2.blur(a, (9, 9)), a)
  assert np.isnan(image_quality.ms_ssim(a, b, mask * 0))
  assert np.isnan(image_quality.ssim_in_mask(a, b, mask * 0))
  whole = image_quality.ssim_in_mask(a, b, np.ones(a.shape[:2]))
  assert whole == pytest.approx(reference.structural_similarity(a, b, channel_axis=2), abs=1e-7)


def test_images_too_small_for_five_scales_have_no_ms_ssim():
  assert [image_quality.ms_ssim_window(side) for side in (161, 160, 97, 96)] == [11, 7, 7, None]
  assert np.isnan(image_quality.ms_ssim(*(np.zeros((64, 64, 3), np.uint8),) * 2))


def test_boundary_f1_equals_a_search_of_the_nearest_boundary_pixels():
  true = np.zeros((90, 100))
  cv2.ellipse(true, (50, 45), (30, 22), 20, 0, 360, 1, -1)
  found = np.roll(true, (1, 3), (0, 1))
  edges = [np.argwhere(find_boundaries(m > 0.5, mode='inner')) for m in (found, true)]
  apart = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1)
  near = apart <= np.ceil(0.008 * np.hypot(90, 100))
  precision, recall = near.any(1).mean(), near.any(0).mean()
  expected = 2 * precision * recall / (precision + recall)
  assert 0.5 < expected < 1
  assert image_quality.boundary_f1(found, true) == pytest.approx(expected)
  assert image_quality.boundary_f1(true, true) == 1
  assert image_quality.boundary_f1(true * 0, true) == 0
  assert image_quality.boundary_f1(true * 0, true * 0) == 1


def _scores(n=513):
  rng = np.random.default_rng(1)
  labels = rng.integers(0, 2, n)
  noisy = 0.5 + 0.4 * (labels - 0.5) + rng.normal(0, 0.25, n)
  return np.round(np.clip(noisy, 0, 1), 2), labels


def test_detection_against_references():
  scores, labels = _scores()
  once = np.ones(len(labels))
  assert detection.auc(scores, labels, once) == pytest.approx(metrics.roc_auc(scores, labels))
  assert detection.accuracy(scores, labels, once) == np.mean((scores > 0.5) == labels)
  assert detection.calibration_error(scores, labels, once) == pytest.approx(0.0512086, abs=1e-6)
  false_alarms, hits = detection.roc(scores, labels, once)
  excess = lambda x: 1 - x - np.interp(x, false_alarms, hits)
  expected = optimize.brentq(excess, 0, 1)
  assert detection.equal_error_rate(scores, labels, once) == pytest.approx(expected, abs=1e-6)
  # torchmetrics takes the nearest point of the curve.
  assert expected == pytest.approx(0.22423, abs=0.01)


def test_weights_count_as_repetitions():
  scores, labels = _scores(40)
  times = np.random.default_rng(2).integers(0, 4, 40)
  repeated = np.repeat(scores, times), np.repeat(labels, times), np.ones(times.sum())
  for figure in (
    detection.auc,
    detection.equal_error_rate,
    detection.accuracy,
    detection.calibration_error,
  ):
    many = figure(scores, labels, np.stack([np.ones(40), times]))
    assert many[1] == pytest.approx(figure(*repeated))
    assert many[0] == pytest.approx(figure(scores, labels, np.ones(40)))
  assert np.isnan(detection.auc(scores, labels, (labels == 1).astype(float)))


def test_extreme_detectors():
  labels = np.array([0, 0, 1, 1])
  for scores, auc, eer in (([0.1, 0.2, 0.8, 0.9], 1, 0), ([0.9, 0.8, 0.2, 0.1], 0, 1)):
    arguments = np.array(scores), labels, np.ones(4)
    assert detection.auc(*arguments) == auc
    assert detection.equal_error_rate(*arguments) == eer
  same = np.full(4, 0.5), labels, np.ones(4)
  assert detection.equal_error_rate(*same) == detection.auc(*same) == 0.5
  assert detection.calibration_error(*same) == 0


def test_intervals_are_of_people_and_not_of_examples():
  rng = np.random.default_rng(3)
  of_person = rng.normal(size=60)
  few, many = np.repeat(of_person, 2), np.repeat(of_person, 50)
  widths = []
  for values in (few, many):
    people = [f'p{i}' for i in np.repeat(np.arange(60), len(values) // 60)]
    weights = bootstrap.person_weights(people, 1000)
    low, high = bootstrap.interval(bootstrap.weighted_mean(values, weights))
    assert low < values.mean() < high
    widths.append(high - low)
  # Fifty photographs of each person say no more than two, if all are alike.
  assert widths[0] == pytest.approx(widths[1])
  assert widths[0] == pytest.approx(2 * 1.96 * of_person.std() / np.sqrt(60), rel=0.1)


def test_nameless_examples_are_people_of_their_own():
  weights = bootstrap.person_weights([''] * 3 + ['a', 'a'], 100)
  assert (weights[:, 3] == weights[:, 4]).all()
  assert (weights[:, 0] != weights[:, 1]).any()
  assert weights[:, :4].sum(1).tolist() == [4] * 100
  values = np.array([1, np.nan, 3, 5, np.nan])
  assert bootstrap.weighted_mean(values, np.ones(5)) == 3
  assert np.isnan(bootstrap.interval(np.full(3, np.nan))).all()


def test_fid_and_kid():
  rng = np.random.default_rng(4)
  a, b = rng.normal(size=(300, 40)), rng.normal(0.3, 1.2, (300, 40))
  cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  cross = np.trace(linalg.sqrtm(cov_a @ cov_b)).real
  gap = np.square(a.mean(0) - b.mean(0)).sum()
  expected = gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
  assert frechet.frechet_distance(a, b) == pytest.approx(expected)
  assert frechet.frechet_distance(a, b) == pytest.approx(8.6047124, rel=1e-6)
  assert frechet.kernel_distance(a, b) == pytest.approx(0.31101276, rel=1e-6)
  # Fewer images than features: the covariance is singular.
  assert frechet.frechet_distance(a[:20], a[:20]) == pytest.approx(0, abs=1e-6)
  assert abs(frechet.kernel_distance(a[:150], a[150:])) < 0.1 * frechet.kernel_distance(a, b)
  assert np.isnan(frechet.frechet_distance(a[:1], b))


def test_the_part_in_the_mask_is_its_bounding_box():
  image = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
  mask = np.zeros((5, 6))
  mask[1, 2] = mask[3, 4] = 0.9
  np.testing.assert_array_equal(frechet.crop_to_mask(image, mask), image[1:4, 2:5])
  assert frechet.crop_to_mask(image, mask * 0) is None


def test_ranks_among_people():
  gallery = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0.1]])
  known = ['ann', 'bob', 'cid', 'ann']
  queries = np.array([[1, 0.1], [0.9, 0.5], [0.7, 0.7], [-1, 0]])
  ranks = retrieval.ranks(queries, ['ann', 'ann', 'cid', 'eve'], gallery, known)
  # Of two entries that are alike the wrong one counts as the nearer.
  np.testing.assert_array_equal(ranks, [0, 1, 2, np.nan])
  # A query that is like everybody finds nobody.
  assert retrieval.ranks(np.zeros((1, 2)), ['bob'], gallery, known)[0] == 3
  templates, names = retrieval.templates(gallery[:3], ['ann', 'bob', 'ann'])
  assert names == ['ann', 'bob']
  np.testing.assert_allclose(templates, [[1, 1], [0.8, 0.6]])


def test_biharmonic_filling_equals_scikit_image():
  image, _ = _pictures(60)
  hole = np.zeros(image.shape[:2], bool)
  hole[15:40, 20:45] = hole[30:45, 30:35] = True
  expected = inpaint_biharmonic(image / 255, hole, channel_axis=2)
  filled = baselines.fill_biharmonic(image, hole)
  np.testing.assert_array_less(np.abs(filled / 255 - np.clip(expected, 0, 1)), 0.6 / 255)
  np.testing.assert_array_equal(filled[~hole], image[~hole])
  assert baselines.fill_biharmonic(image, hole | True) is image


def test_a_large_photograph_is_filled_at_a_smaller_size():
  image = np.full((400, 400, 3), 90, np.uint8)
  image[150:250, 150:250] = 255
  hole = np.zeros((400, 400), bool)
  hole[145:255, 145:255] = True
  filled = baselines.fill_biharmonic(image, hole)
  np.testing.assert_array_equal(filled, np.full_like(image, 90))


def test_landmark_errors():
  true = np.zeros((468, 2))
  true[:, 0] = np.linspace(0, 99, 468)
  true[[33, 263]] = (20, 0), (60, 0)
  mask = np.zeros((10, 100))
  mask[:, 60:] = 1
  found = true.copy()
  moved = np.round(true[:, 0]) >= 60
  found[moved, 1] += 8
  whole, inside = landmark_errors(found, true, mask)
  assert inside == pytest.approx(8 / 40)
  assert whole == pytest.approx(8 / 40 * moved.mean())
  assert np.isnan(landmark_errors(None, true, mask)).all()
