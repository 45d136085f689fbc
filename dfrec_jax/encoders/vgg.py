"""VGG19 (Simonyan & Zisserman, arXiv 1409.1556), frozen: features of the perceptual loss."""

from collections.abc import Mapping
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.encoders import weights
from dfrec_jax.models import layers

# Widths of the convolutions; 'pool' halves the resolution. Nothing after relu5_1 is used.
LAYERS = (
  64,
  64,
  'pool',
  128,
  128,
  'pool',
  256,
  256,
  256,
  256,
  'pool',
  512,
  512,
  512,
  512,
  'pool',
  512,
)
# Tap -> torchvision's index of the convolution that it follows.
TAPS = {'relu1_1': 0, 'relu2_1': 5, 'relu3_1': 10, 'relu4_1': 19, 'relu5_1': 28}
# torchvision's tensors that no tap depends on: the last three convolutions and the classifier.
UNUSED = re.compile(r'features\.(30|32|34)\.(weight|bias)|classifier\..*')


def _convolutions():
  """(torchvision's index, input channels, output channels) of each convolution."""
  index, inputs = 0, 3
  for width in LAYERS:
    if width == 'pool':
      index += 1
    else:
      yield index, inputs, width
      index, inputs = index + 2, width  # a ReLU follows


class VGG19Features(nn.Module):
  """Taps of VGG19.

  Attributes:
    dtype: of the computation and of the taps.
  """

  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
    """Taps of `images`, (B, H, W, 3) RGB in [0, 1] with sides of 16 pixels or more.

    Returns:
      relu1_1 (B, H, W, 64), relu2_1 (B, H/2, W/2, 128), relu3_1 (B, H/4, W/4, 256), relu4_1
      (B, H/8, W/8, 512) and relu5_1 (B, H/16, W/16, 512), sides rounded down.
    """
    x = (images - jnp.array(layers.IMAGENET_MEAN)) / jnp.array(layers.IMAGENET_STD)
    names = {index: name for name, index in TAPS.items()}
    taps, index = {}, 0
    for width in LAYERS:
      if width == 'pool':
        x = nn.max_pool(x, (2, 2), (2, 2))
        index += 1
        continue
      conv = layers.conv(width, 3, use_bias=True, dtype=self.dtype, name=f'features_{index}')
      x = nn.relu(conv(x))
      if index in names:
        taps[names[index]] = x
      index += 2
    return taps


def from_torch_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of `VGG19Features` from torchvision's tensors.

  Args:
    arrays: tensors by name, `features.N.{weight,bias}` (weights O, I, 3, 3); what follows relu5_1
      (`features.30` to `features.34`, `classifier`) may be there and is ignored.

  Returns:
    Nested dictionary of float32 numpy arrays.

  Raises:
    ValueError: names every missing, unexpected and misshapen tensor.
  """
  arrays = {name: array for name, array in arrays.items() if not UNUSED.fullmatch(name)}
  expected = {}
  for index, inputs, outputs in _convolutions():
    expected[f'features.{index}.weight'] = (outputs, inputs, 3, 3)
    expected[f'features.{index}.bias'] = (outputs,)
  weights.check_tensors('VGG19', arrays, expected)
  return {
    f'features_{index}': {
      'kernel': np.ascontiguousarray(
        arrays[f'features.{index}.weight'].transpose(2, 3, 1, 0), np.float32
      ),
      'bias': np.asarray(arrays[f'features.{index}.bias'], np.float32),
    }
    for index, _, _ in _convolutions()
  }
