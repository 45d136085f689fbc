"""The figures of single examples, for every method alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
from typing import Any

import cv2
import numpy as np

from dfrec_jax import metrics
from dfrec_jax.suite import image_quality
from dfrec_jax.suite.baselines import Answer
from dfrec_jax.suite.landmark_error import Finder, landmark_errors

Embed = Callable[[Sequence[np.ndarray]], np.ndarray]
CHANGE = 2  # Grey levels that nobody sees.


def quality(image: np.ndarray, true: np.ndarray, mask: np.ndarray | None) -> dict[str, float]:
  """Figures of an image against the true one, whole and, with a mask (H, W), in it."""
  result = {
    'psnr': metrics.psnr(image, true),
    'ssim': metrics.ssim(image, true),
    'ms_ssim': image_quality.ms_ssim(image, true),
    'detail': image_quality.detail(image, true),
  }
  if mask is not None and (mask > 0.5).any():
    result |= {
      'psnr_masked': metrics.psnr(image, true, mask),
      'ssim_masked': image_quality.ssim_in_mask(image, true, mask),
      'ms_ssim_masked': image_quality.ms_ssim(image, true, mask),
      'detail_masked': image_quality.detail(image, true, mask),
    }
  return result


def measure_example(example: Mapping[str, Any], answer: Answer) -> dict[str, float]:
  """The figures of one answer that need no network; what is not defined is left out."""
  true_mask = np.asarray(example['mask'], np.float32)[..., 0]
  target = quality(answer.target, example['target'], true_mask)
  row = {f'target_{name}': value for name, value in target.items()}
  change = np.abs(answer.target.astype(int) - example['forged']).max(-1)
  row['changed_pixels'] = float((change > CHANGE).mean())
  row['untouched'] = float((change <= CHANGE).all())
  if answer.source is not None and example['label'] == 1:
    # The source's photograph has a size and a frame of its own: there is no mask on it.
    height, width = answer.source.shape[:2]
    true = fit(example['source'], width, height)
    row |= {f'source_{name}': value for name, value in quality(answer.source, true, None).items()}
  if answer.mask is not None:
    row['mask_area'] = float((answer.mask > 0.5).mean())
    if example['has_mask']:
      row['mask_iou'], row['mask_f1'] = metrics.mask_overlap(answer.mask, true_mask)
      row['mask_boundary_f1'] = image_quality.boundary_f1(answer.mask, true_mask)
  if answer.score is not None:
    row['score'] = answer.score
  return {name: value for name, value in row.items() if math.isfinite(value)}


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
  """An image resized to these sides; itself if it has them."""
  if image.shape[:2] == (height, width):
    return image
  shrinks = image.shape[0] > height
  method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
  return cv2.resize(image, (width, height), interpolation=method)


class Remembered:
  """An embedder that embeds each array once, until it is told to forget.

  Of a pristine example forged, source and target are one array, and every method is compared with
  the same true photographs.
  """

  def __init__(self, embed: Embed):
    self._embed = embed
    self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    new = list({id(image): image for image in images if id(image) not in self._known}.values())
    if new:
      # The array is kept as well: another one could get its id.
      embeddings = self._embed(new)
      self._known |= {id(x): (x, e) for x, e in zip(new, embeddings, strict=True)}
    return np.stack([self._known[id(image)][1] for image in images])

  def forget(self, *, but: Iterable[np.ndarray] = ()) -> None:
    """Forgets all arrays, or all but these."""
    kept = {id(image) for image in but}
    self._known = {key: known for key, known in self._known.items() if key in kept}


class LandmarkMeasure:
  """Landmark errors of recovered targets; the true photograph's mesh is found once."""

  def __init__(self, find: Finder):
    self._find = find

  def __call__(
    self, example: Mapping[str, Any], answers: Mapping[str, Answer]
  ) -> dict[str, dict[str, float]]:
    """Each method's figures of a forged example.

    Errors are given where every method's face is found, so that all are means of the same examples;
    nothing where the true one is not.
    """
    mask = np.asarray(example['mask'], np.float32)[..., 0]
    true = self._find(example['target'])
    if true is None:
      return {}
    found = {method: self._find(answer.target) for method, answer in answers.items()}
    result = {m: {'target_landmarks_found': float(p is not None)} for m, p in found.items()}
    if all(points is not None for points in found.values()):
      for method, points in found.items():
        errors = landmark_errors(points, true, mask)
        names = ('target_landmarks', 'target_landmarks_masked')
        result[method] |= {n: e for n, e in zip(names, errors, strict=True) if math.isfinite(e)}
    return result
