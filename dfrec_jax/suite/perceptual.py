"""LPIPS (Zhang et al., arXiv 1801.03924), version 0.1, with AlexNet's or VGG16's features.

The weights are those of torchvision (the features) and of the `lpips` package (the heads); the
configuration names their files.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import cv2
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax import programs
from dfrec_jax.encoders.weights import check_tensors, read_arrays
from dfrec_jax.errors import InputError
from dfrec_jax.models import layers

# Network -> convolutions (torchvision's index, channels, kernel, stride, padding), poolings
# (kernel, stride), in order; 'tap' is where LPIPS looks.
_VGG_POOL = ('pool', 2, 2)
NETWORKS: dict[str, tuple] = {
  'alex': (
    (0, 64, 11, 4, 2),
    'tap',
    ('pool', 3, 2),
    (3, 192, 5, 1, 2),
    'tap',
    ('pool', 3, 2),
    (6, 384, 3, 1, 1),
    'tap',
    (8, 256, 3, 1, 1),
    'tap',
    (10, 256, 3, 1, 1),
    'tap',
  ),
  'vgg': tuple(
    step
    for indices, width in (
      ((0, 2), 64),
      ((5, 7), 128),
      ((10, 12, 14), 256),
      ((17, 19, 21), 512),
      ((24, 26, 28), 512),
    )
    for step in (*((i, width, 3, 1, 1) for i in indices), 'tap', _VGG_POOL)
  )[:-1],
}
# Of the images in [-1, 1], from the `lpips` package.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_SMALLEST_SIDE = 64  # AlexNet's third stage has nothing left of smaller ones.
_EPSILON = 1e-10


class LPIPS(nn.Module):
  """The distance of two images.

  Attributes:
    network: `alex` or `vgg`.
  """

  network: str = 'alex'

  @nn.compact
  def __call__(self, a: jax.Array, b: jax.Array) -> list[jax.Array]:
    """Compares images pixel by pixel.

    Args:
      a, b: (B, H, W, 3) RGB in [0, 1].

    Returns:
      The scales' maps (B, h, w), from fine to coarse, whose means add up to LPIPS.
    """
    taps = self._taps(jnp.concatenate([a, b]))
    maps = []
    for i, tap in enumerate(taps):
      norm = jnp.sqrt(jnp.square(tap).sum(-1, keepdims=True))
      first, second = jnp.split(tap / (norm + _EPSILON), 2)
      head = self.param(f'head_{i}', nn.initializers.ones, (tap.shape[-1],), jnp.float32)
      maps.append(jnp.square(first - second) @ head)
    return maps

  def _taps(self, images):
    x = (2 * images - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    taps = []
    for step in NETWORKS[self.network]:
      if step == 'tap':
        taps.append(x)
      elif step[0] == 'pool':
        x = nn.max_pool(x, (step[1],) * 2, (step[2],) * 2)
      else:
        index, width, kernel, stride, padding = step
        conv = layers.conv(
          width, kernel, strides=stride, padding=padding, use_bias=True, name=f'features_{index}'
        )
        x = nn.relu(conv(x))
    return taps


def from_torch_arrays(
  network: str, features: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Parameters of `LPIPS` from PyTorch's tensors.

  Args:
    network: `alex` or `vgg`.
    features: torchvision's `features.N.{weight,bias}`; its classifier is ignored.
    heads: the `lpips` package's `linK.model.1.weight` (1, channels, 1, 1).

  Raises:
    ValueError: names every missing, unexpected and misshapen tensor.
  """
  expected, widths, channels = {}, [], 3
  for step in NETWORKS[network]:
    if step == 'tap':
      widths.append(channels)
    elif step[0] != 'pool':
      index, width, kernel, *_ = step
      expected[f'features.{index}.weight'] = (width, channels, kernel, kernel)
      expected[f'features.{index}.bias'] = (width,)
      channels = width
  features = {k: v for k, v in features.items() if not k.startswith('classifier.')}
  check_tensors(f"LPIPS's {network}", features, expected)
  named = {f'lin{i}.model.1.weight': (1, width, 1, 1) for i, width in enumerate(widths)}
  check_tensors(f"LPIPS's heads for {network}", heads, named)
  params: dict[str, Any] = {
    f'head_{i}': np.asarray(heads[name], np.float32).reshape(-1) for i, name in enumerate(named)
  }
  for name in expected:
    if name.endswith('.weight'):
      stem = name.removesuffix('.weight')
      params[stem.replace('.', '_')] = {
        'kernel': np.ascontiguousarray(features[name].transpose(2, 3, 1, 0), np.float32),
        'bias': np.asarray(features[f'{stem}.bias'], np.float32),
      }
  return params


class Distance:
  """LPIPS of pairs of photographs, on the whole image and in a mask.

  Raises:
    InputError: an unknown network, or files that do not hold its weights.
  """

  def __init__(self, network: str, features: str | os.PathLike, heads: str | os.PathLike):
    if network not in NETWORKS:
      raise InputError(f'Unknown LPIPS network {network!r}; it is {" or ".join(NETWORKS)}.')
    try:
      self._params = from_torch_arrays(network, read_arrays(features), read_arrays(heads))
    except ValueError as error:
      raise InputError(
        f'{os.fspath(features)} and {os.fspath(heads)} do not fit LPIPS. {error}'
      ) from error
    self._apply = programs.jit(LPIPS(network).apply)

  def __call__(
    self, a: Sequence[np.ndarray], b: Sequence[np.ndarray], masks: Sequence[np.ndarray]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Distances of n pairs of images (H, W, 3) uint8, and the same in masks (H, W).

    In a mask it is the mean, over the mask's pixels, of the maps enlarged to the image's size, as
    the package's `spatial=True` gives them. NaN where a mask is empty or an image smaller than 64
    pixels.
    """
    whole, inside = np.full(len(a), np.nan), np.full(len(a), np.nan)
    for i, (x, y, mask) in enumerate(zip(a, b, masks, strict=True)):
      if min(x.shape[:2]) < _SMALLEST_SIDE:
        continue
      pair = [np.asarray(image, np.float32)[None] / 255 for image in (x, y)]
      maps = [np.asarray(m[0]) for m in self._apply({'params': self._params}, *pair)]
      whole[i] = sum(m.mean() for m in maps)
      if (mask > 0.5).any():
        size = mask.shape[1], mask.shape[0]
        inside[i] = sum(
          cv2.resize(m, size, interpolation=cv2.INTER_LINEAR)[mask > 0.5].mean() for m in maps
        )
    return whole, inside
