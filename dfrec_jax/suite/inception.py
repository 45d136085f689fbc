"""InceptionV3 (Szegedy et al., arXiv 1512.00567) as FID and KID take it, frozen.

It is the network of TensorFlow's 2015 graph, whose weights the packages pytorch-fid and
torch-fidelity hold in PyTorch's layout: average pools do not count their padding, and the last
block pools by the maximum.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.encoders.weights import check_tensors, scale_and_shift
from dfrec_jax.models import layers

SIDE = 299
FEATURES = 2048
_EPSILON = 1e-3

# A convolution is (name, channels, kernel (h, w), stride); it is padded to keep the size, unless
# its stride is 2 or its name is in `_UNPADDED`. A block is a list of branches, which are joined; a
# branch is a chain of convolutions and pools, whose last element may be a tuple of convolutions
# side by side.
_UNPADDED = ('Conv2d_1a_3x3', 'Conv2d_2a_3x3', 'Conv2d_4a_3x3')


def _block_a(pool_features):
  return (
    (('branch1x1', 64, (1, 1), 1),),
    (('branch5x5_1', 48, (1, 1), 1), ('branch5x5_2', 64, (5, 5), 1)),
    (
      ('branch3x3dbl_1', 64, (1, 1), 1),
      ('branch3x3dbl_2', 96, (3, 3), 1),
      ('branch3x3dbl_3', 96, (3, 3), 1),
    ),
    ('average', ('branch_pool', pool_features, (1, 1), 1)),
  )


def _block_c(width):
  return (
    (('branch1x1', 192, (1, 1), 1),),
    (
      ('branch7x7_1', width, (1, 1), 1),
      ('branch7x7_2', width, (1, 7), 1),
      ('branch7x7_3', 192, (7, 1), 1),
    ),
    (
      ('branch7x7dbl_1', width, (1, 1), 1),
      ('branch7x7dbl_2', width, (7, 1), 1),
      ('branch7x7dbl_3', width, (1, 7), 1),
      ('branch7x7dbl_4', width, (7, 1), 1),
      ('branch7x7dbl_5', 192, (1, 7), 1),
    ),
    ('average', ('branch_pool', 192, (1, 1), 1)),
  )


def _block_e(pool):
  return (
    (('branch1x1', 320, (1, 1), 1),),
    (
      ('branch3x3_1', 384, (1, 1), 1),
      (('branch3x3_2a', 384, (1, 3), 1), ('branch3x3_2b', 384, (3, 1), 1)),
    ),
    (
      ('branch3x3dbl_1', 448, (1, 1), 1),
      ('branch3x3dbl_2', 384, (3, 3), 1),
      (('branch3x3dbl_3a', 384, (1, 3), 1), ('branch3x3dbl_3b', 384, (3, 1), 1)),
    ),
    (pool, ('branch_pool', 192, (1, 1), 1)),
  )


_BLOCK_B = (
  (('branch3x3', 384, (3, 3), 2),),
  (
    ('branch3x3dbl_1', 64, (1, 1), 1),
    ('branch3x3dbl_2', 96, (3, 3), 1),
    ('branch3x3dbl_3', 96, (3, 3), 2),
  ),
  ('halve',),
)
_BLOCK_D = (
  (('branch3x3_1', 192, (1, 1), 1), ('branch3x3_2', 320, (3, 3), 2)),
  (
    ('branch7x7x3_1', 192, (1, 1), 1),
    ('branch7x7x3_2', 192, (1, 7), 1),
    ('branch7x7x3_3', 192, (7, 1), 1),
    ('branch7x7x3_4', 192, (3, 3), 2),
  ),
  ('halve',),
)
_STEM = (
  ('Conv2d_1a_3x3', 32, (3, 3), 2),
  ('Conv2d_2a_3x3', 32, (3, 3), 1),
  ('Conv2d_2b_3x3', 64, (3, 3), 1),
  'halve',
  ('Conv2d_3b_1x1', 80, (1, 1), 1),
  ('Conv2d_4a_3x3', 192, (3, 3), 1),
  'halve',
)
BLOCKS = {
  'Mixed_5b': _block_a(32),
  'Mixed_5c': _block_a(64),
  'Mixed_5d': _block_a(64),
  'Mixed_6a': _BLOCK_B,
  'Mixed_6b': _block_c(128),
  'Mixed_6c': _block_c(160),
  'Mixed_6d': _block_c(160),
  'Mixed_6e': _block_c(192),
  'Mixed_7a': _BLOCK_D,
  'Mixed_7b': _block_e('average'),
  'Mixed_7c': _block_e('maximum'),
}


class InceptionV3(nn.Module):
  """The features before the classifier; batch norms are folded into the convolutions."""

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """(B, H, W, 3) RGB in [0, 1], H and W of 75 or more, to (B, 2048) float32.

    The published features are of 299 pixels; `frechet.Features` resizes to that.
    """
    x = 2 * images - 1
    x = self._chain(x, _STEM, '')
    for name, branches in BLOCKS.items():
      x = jnp.concatenate([self._chain(x, branch, f'{name}.') for branch in branches], -1)
    return x.mean((1, 2))

  def _chain(self, x, steps, prefix):
    for step in steps:
      if isinstance(step, str):
        x = _POOLS[step](x)
      elif isinstance(step[0], tuple):
        x = jnp.concatenate([self._conv(x, *one, prefix) for one in step], -1)
      else:
        x = self._conv(x, *step, prefix)
    return x

  def _conv(self, x, name, width, kernel, stride, prefix):
    padded = stride == 1 and name not in _UNPADDED
    conv = nn.Conv(
      width,
      kernel,
      strides=stride,
      padding=[(k // 2,) * 2 if padded else (0, 0) for k in kernel],
      kernel_init=layers.conv_init,
      name=prefix + name,
    )
    return nn.relu(conv(x))


_POOLS = {
  'average': lambda x: nn.avg_pool(
    x, (3, 3), (1, 1), padding=((1, 1), (1, 1)), count_include_pad=False
  ),
  'maximum': lambda x: nn.max_pool(x, (3, 3), (1, 1), padding=((1, 1), (1, 1))),
  'halve': lambda x: nn.max_pool(x, (3, 3), (2, 2)),
}


def convolutions() -> dict[str, tuple[int, ...]]:
  """PyTorch's name of each convolution -> shape of its weights (out, in, h, w)."""
  shapes = {}

  def chain(steps, channels, prefix):
    for step in steps:
      if isinstance(step, str):
        continue
      if isinstance(step[0], tuple):
        channels = sum(chain((one,), channels, prefix) for one in step)
        continue
      name, width, kernel, _ = step
      shapes[prefix + name] = (width, channels, *kernel)
      channels = width
    return channels

  channels = chain(_STEM, 3, '')
  for name, branches in BLOCKS.items():
    channels = sum(chain(branch, channels, f'{name}.') for branch in branches)
  return shapes


def from_torch_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of `InceptionV3` from the tensors of pytorch-fid's or torch-fidelity's file.

  Args:
    arrays: `NAME.conv.weight` and `NAME.bn.{weight,bias,running_mean,running_var}`; the classifier
      `fc` and the counts of batches are ignored.

  Raises:
    ValueError: names every missing, unexpected and misshapen tensor.
  """
  arrays = {
    name: array
    for name, array in arrays.items()
    if not name.startswith('fc.') and not name.endswith('num_batches_tracked')
  }
  expected = {}
  for name, shape in convolutions().items():
    expected[f'{name}.conv.weight'] = shape
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      expected[f'{name}.bn.{leaf}'] = shape[:1]
  check_tensors('InceptionV3', arrays, expected)
  params = {}
  for name in convolutions():
    scale, shift = scale_and_shift(arrays, f'{name}.bn', _EPSILON)
    kernel = arrays[f'{name}.conv.weight'].transpose(2, 3, 1, 0) * scale
    params[name] = {'kernel': kernel.astype(np.float32), 'bias': shift.astype(np.float32)}
  return params
