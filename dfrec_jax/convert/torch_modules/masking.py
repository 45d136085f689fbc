"""Semantic-guided masking and compositing in PyTorch, by the rules of the JAX functions."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dfrec_jax.masking import COVERED, kept_count


class Partition(NamedTuple):
  """Patch indices in raster numbering, int64: `kept` (B, K) and `masked` (B, N - K)."""

  kept: torch.Tensor
  masked: torch.Tensor


def patch_weights(mask: torch.Tensor, patch: int) -> torch.Tensor:
  """(B, 1, H, W) mask to (B, N): its sum in each patch, in raster order."""
  batch, _, height, width = mask.shape
  blocks = mask.reshape(batch, height // patch, patch, width // patch, patch)
  return blocks.sum((2, 4)).flatten(1)


def published_masking(
  mask: torch.Tensor,
  noise: torch.Tensor,
  *,
  patch: int,
  ratio: float,
  threshold: float = 250.0,
  low: float = 50.0,
) -> Partition:
  """The published inference's masking; both parts ascend by the patches' weights.

  Args:
    mask: (B, 1, H, W) in [0, 1].
    noise: (B or 1, N) in [0, 1), the weight of patches that the mask does not cover.
    patch: side of a patch in pixels.
    ratio: share of patches to mask.
    threshold: mean weight from which a whole image counts as uncovered.
    low: weight up to which a patch counts as uncovered. Both thresholds are sums over 16x16 pixels
      and scale with the patch's area.
  """
  weights = patch_weights(mask, patch)
  scale = patch * patch / 256
  uncovered = weights <= low * scale
  everywhere = weights.mean(1, keepdim=True) >= threshold * scale
  order = torch.where(uncovered | everywhere, noise, weights).argsort(dim=1, stable=True)
  kept = kept_count(weights.shape[1], ratio, 'published')
  return Partition(order[:, :kept], order[:, kept:])


def aligned_masking(
  mask: torch.Tensor, noise: torch.Tensor, *, patch: int, ratio: float, progress: float = 1.0
) -> Partition:
  """Masks the patches that the face covers, the most covered first, then patches at random.

  Both parts are in raster order.

  Args:
    mask: (B, 1, H, W) in [0, 1].
    noise: (2, B or 1, N) in [0, 1): which covered patches count, and the random patches' order.
    patch: side of a patch in pixels.
    ratio: share of patches to mask.
    progress: probability in [0, 1] that a covered patch counts as covered.
  """
  coverage = patch_weights(mask, patch) / (patch * patch)
  counted = (coverage > COVERED) & (noise[0] < progress)
  # A stable sort of what was shuffled orders all that does not count, and breaks ties.
  shuffled = noise[1].expand_as(coverage).argsort(dim=1, stable=True)
  weights = torch.where(counted, -coverage, 0.0).gather(1, shuffled)
  order = shuffled.gather(1, weights.argsort(dim=1, stable=True))
  masked = order.shape[1] - kept_count(order.shape[1], ratio, 'aligned')
  return Partition(order[:, masked:].sort(1).values, order[:, :masked].sort(1).values)


def composite_mask(mask: torch.Tensor, dilation: int, softness: float) -> torch.Tensor:
  """Where the recovered target replaces the input: the mask, dilated and with a soft edge.

  Args:
    mask: (B, 1, H, W) in [0, 1].
    dilation: pixels by which it grows, in a square.
    softness: standard deviation of the Gaussian edge in pixels; 0 for none.

  Returns:
    (B, 1, H, W) in [0, 1].
  """
  # A sigmoid is never quite 0: what is surely out must be, or nothing would stay untouched.
  x = ((mask - 0.1) / (0.9 - 0.1)).clamp(0, 1)
  x = _dilate(x, dilation)
  if softness > 0:
    radius = int(np.ceil(3 * softness))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / softness) ** 2)
    kernel = torch.as_tensor(kernel / kernel.sum(), dtype=x.dtype, device=x.device)
    # Beyond the edges the image goes on as it ends.
    x = F.pad(x, (radius, radius, radius, radius), mode='replicate')
    x = F.conv2d(F.conv2d(x, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))
  return x.clamp(0, 1)


def fill_holes(mask: torch.Tensor, radius: int) -> torch.Tensor:
  """The mask (B, 1, H, W) with holes and notches of up to twice `radius` pixels filled."""
  # Room to grow: what lies between the mask and the image's edge is no hole.
  filled = -_dilate(-_dilate(F.pad(mask, 4 * (radius,)), radius), radius)
  return filled[:, :, radius : filled.shape[2] - radius, radius : filled.shape[3] - radius]


def _dilate(x, pixels):
  """Each pixel's largest neighbour in a square; what is beyond the edges does not count."""
  side = 2 * pixels + 1
  x = F.max_pool2d(x, (side, 1), stride=1, padding=(pixels, 0))
  return F.max_pool2d(x, (1, side), stride=1, padding=(0, pixels))
