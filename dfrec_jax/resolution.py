"""From the model's resolution back to the photograph's own."""

import cv2
import numpy as np


def to_photograph(
  photograph: np.ndarray,
  seen: np.ndarray,
  recovered: np.ndarray,
  *,
  residual: bool | np.ndarray,
  weight: np.ndarray | None = None,
) -> np.ndarray:
  """A recovered image at the resolution of the photograph that it was recovered from.

  Args:
    photograph: (H, W, 3) uint8, at its own resolution.
    seen: (h, w, 3) float in [0, 1], the photograph as the model saw it.
    recovered: (h, w, 3) float in [0, 1], what the model made of it.
    residual: the model predicts a change. The change is enlarged, not the picture, so that detail
      finer than the model's resolution survives. Weights (h, w, 1) in [0, 1] say where it does.
    weight: (h, w, 1) in [0, 1]; the photograph is kept where it is 0. None replaces all of it.

  Returns:
    (H, W, 3) uint8.
  """
  size = photograph.shape[1], photograph.shape[0]
  original = photograph.astype(np.float32) / 255
  change = _resize(recovered - seen, size, cv2.INTER_CUBIC)
  if residual is not True:
    detail = original - _resize(seen, size, cv2.INTER_CUBIC)
    kept = _weights(residual, size) if isinstance(residual, np.ndarray) else float(residual)
    change -= (1 - kept) * detail
  if weight is not None:
    change = change * _weights(weight, size)
  return to_uint8(original + change)


def mask_to_photograph(mask: np.ndarray, photograph: np.ndarray) -> np.ndarray:
  """A mask (h, w, 1) in [0, 1] at the photograph's resolution, (H, W)."""
  size = photograph.shape[1], photograph.shape[0]
  return np.clip(_resize(mask[..., 0], size, cv2.INTER_LINEAR), 0, 1)


def _weights(weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  return np.clip(_resize(weights[..., 0], size, cv2.INTER_LINEAR), 0, 1)[..., None]


def _resize(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
  shrinks = size[0] < image.shape[1]
  return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else interpolation)


def to_uint8(image: np.ndarray) -> np.ndarray:
  """[0, 1] to uint8, rounded."""
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
