"""The SIRM between the published checkpoint's `recover1_state_dict` and this package.

The authors' code computes the same as a model with fusion `concat` and without `residual`; our
PyTorch modules as any. Only numpy is needed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dfrec_jax.convert import layout, shapes

NETWORK = 'Source Identity Reconstruction Module'
_WIDTHS = (32, 64, 128, 256, 1024)
_TOKENS = 98


def from_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """`params`, `batch_stats` and `unused` (the step counters) of PyTorch tensors, of any widths.

  Raises:
    ValueError: naming every missing, extra and misshapen tensor.
  """
  shapes.require(arrays, _shapes(arrays), NETWORK)
  return layout.from_torch(arrays, _table(), NETWORK)


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The PyTorch tensors: the inverse of `from_torch`, bit for bit.

  Step counters that `unused` lacks, as in a model that was never PyTorch's, become zero.

  Raises:
    ValueError: naming every missing, extra and misshapen array.
  """
  present = {key: tree for key, tree in variables.items() if key != 'unused' or tree}
  arrays = layout.to_torch(present, _table(), NETWORK)
  shapes.require(arrays, _shapes(arrays), NETWORK)
  return arrays


def read_widths(arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
  """Channels of the five stages read off the tensors, the published ones where they are missing."""
  return tuple(
    shapes.size_of(arrays, f'Conv{i + 1}.conv.0.weight', 0, width)
    for i, width in enumerate(_WIDTHS)
  )


def read_token_count(arrays: Mapping[str, np.ndarray]) -> int:
  """How many target tokens the SIRM makes."""
  return shapes.size_of(arrays, 'tConv4.conv.0.weight', 0, _TOKENS)


def _table() -> layout.Table:
  table = {}

  def conv_norm(name, path, suffix, conv, norm):
    table.update(layout.conv(f'{name}.{conv}', f'{path}/conv_{suffix}', bias=True))
    table.update(layout.batch_norm(f'{name}.{norm}', f'{path}/norm_{suffix}'))

  def double_conv(name, path):
    conv_norm(name, path, '1', 'conv.0', 'conv.1')
    conv_norm(name, path, '2', 'conv.3', 'conv.4')

  for stage in range(1, 6):
    double_conv(f'Conv{stage}', f'encoder_{stage}')
  # PyTorch numbers a decoder stage by the encoder stage it comes from, we by the one it meets.
  for stage in (4, 3, 2, 1):
    path, number = f'decoder_{stage}', stage + 1
    conv_norm(f'Up{number}', path, 'up', 'up.1', 'up.2')
    double_conv(f'Up_conv{number}', f'{path}/join')
    gate = f'Att{number}'
    for name, suffix in (('W', 'alone'), ('W_g', 'guide'), ('W_x', 'skip'), ('psi', 'guided')):
      conv_norm(f'{gate}.{name}', f'{path}/gate', suffix, '0', '1')
    table.update(layout.conv(f'{gate}.Conv1x1', f'{path}/gate/alone_weight'))
  table.update(layout.conv('Conv_1x1', 'output', bias=True))
  double_conv('tConv4', 'target')
  return table


def _shapes(arrays) -> shapes.Shapes:
  """What a SIRM of the widths that the tensors show has."""
  widths, tokens = read_widths(arrays), read_token_count(arrays)
  out = {}

  def conv_norm(name, conv, norm, inputs, outputs, kernel=3):
    out.update(shapes.conv(f'{name}.{conv}', inputs, outputs, kernel))
    out.update(shapes.batch_norm(f'{name}.{norm}', outputs))

  def double_conv(name, inputs, outputs):
    conv_norm(name, 'conv.0', 'conv.1', inputs, outputs)
    conv_norm(name, 'conv.3', 'conv.4', outputs, outputs)

  for i, width in enumerate(widths):
    double_conv(f'Conv{i + 1}', widths[i - 1] if i else 3, width)
  inputs = widths[4] // 2
  for i in (3, 2, 1, 0):
    width, gate = widths[i], f'Att{i + 2}'
    conv_norm(f'Up{i + 2}', 'up.1', 'up.2', inputs, width)
    double_conv(f'Up_conv{i + 2}', 2 * width, width)
    for name in ('W', 'W_g', 'W_x'):
      conv_norm(f'{gate}.{name}', '0', '1', width, width // 2, 1)
    conv_norm(f'{gate}.psi', '0', '1', width // 2, 1, 1)
    out.update(shapes.conv(f'{gate}.Conv1x1', width // 2, 1, 1, bias=False))
    inputs = width
  out.update(shapes.conv('Conv_1x1', widths[0], 3, 1))
  double_conv('tConv4', widths[4] // 2, tokens)
  return out
