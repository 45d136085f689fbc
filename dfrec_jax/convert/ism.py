"""The Identity Segmentation Module's weights to and from the published layout."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dfrec_jax.convert import extensions, layout
from dfrec_jax.models import efficientnet

NETWORK = 'Identity Segmentation Module'


def table(depth: float = 1.0, detail: bool = False) -> layout.Table:
  """Where each PyTorch tensor goes.

  Args:
    depth: EfficientNet's multiplier.
    detail: whether there is a detail branch, which the published network lacks.
  """
  rows = {
    **layout.conv('encoder._conv_stem', 'encoder/stem'),
    **layout.batch_norm('encoder._bn0', 'encoder/stem_norm'),
  }
  # The widths do not matter to the names.
  for index, block in enumerate(efficientnet.blocks(1.0, depth)):
    rows |= _block(f'encoder._blocks.{index}', f'encoder/block_{index}', block.expansion > 1)
  return rows | _head() | _decoder() | (extensions.detail_branch() if detail else {})


def _block(name: str, path: str, expanded: bool) -> layout.Table:
  rows = {}
  if expanded:
    rows |= layout.conv(f'{name}._expand_conv', f'{path}/expand')
    rows |= layout.batch_norm(f'{name}._bn0', f'{path}/expand_norm')
  return {
    **rows,
    **layout.conv(f'{name}._depthwise_conv', f'{path}/depthwise'),
    **layout.batch_norm(f'{name}._bn1', f'{path}/depthwise_norm'),
    **layout.conv(f'{name}._se_reduce', f'{path}/squeeze_excite/reduce', bias=True),
    **layout.conv(f'{name}._se_expand', f'{path}/squeeze_excite/expand', bias=True),
    **layout.conv(f'{name}._project_conv', f'{path}/project'),
    **layout.batch_norm(f'{name}._bn2', f'{path}/project_norm'),
  }


def _head() -> layout.Table:
  """The classifier of the published encoder, which nothing calls."""
  norm = [f'encoder._bn1.{leaf}' for leaf in ('weight', 'bias', 'running_mean', 'running_var')]
  return layout.unused('encoder._conv_head.weight', *norm, 'encoder._bn1.num_batches_tracked')


def _decoder() -> layout.Table:
  pyramid, rows = 'decoder.aspp.0', {}
  rows |= layout.conv(f'{pyramid}.convs.0.0', 'pyramid/pointwise/pointwise')
  rows |= layout.batch_norm(f'{pyramid}.convs.0.1', 'pyramid/pointwise/norm')
  for index in range(3):
    rows |= _separable(
      f'{pyramid}.convs.{index + 1}.0', f'{pyramid}.convs.{index + 1}.1', f'pyramid/atrous_{index}'
    )
  return {
    **rows,
    **layout.conv(f'{pyramid}.convs.4.1', 'pyramid/pooled/pointwise'),
    **layout.batch_norm(f'{pyramid}.convs.4.2', 'pyramid/pooled/norm'),
    **layout.conv(f'{pyramid}.project.0', 'pyramid/project/pointwise'),
    **layout.batch_norm(f'{pyramid}.project.1', 'pyramid/project/norm'),
    **_separable('decoder.aspp.1', 'decoder.aspp.2', 'refine'),
    **layout.conv('decoder.block1.0', 'low_level/pointwise'),
    **layout.batch_norm('decoder.block1.1', 'low_level/norm'),
    **_separable('decoder.block2.0', 'decoder.block2.1', 'fuse'),
    **layout.conv('segmentation_head.0', 'mask_head', bias=True),
    **layout.dense('classification_head.3', 'class_head'),
  }


def _separable(name: str, norm: str, path: str) -> layout.Table:
  return {
    **layout.conv(f'{name}.0', f'{path}/depthwise'),
    **layout.conv(f'{name}.1', f'{path}/pointwise'),
    **layout.batch_norm(norm, f'{path}/norm'),
  }


def from_torch(arrays: Mapping[str, np.ndarray], depth: float = 1.0) -> dict[str, Any]:
  """The collections `params`, `batch_stats` and `unused` of the published `state_dict`.

  Raises:
    ValueError: naming every missing and extra tensor, and those of a wrong rank.
  """
  detail = any(name.startswith('detail.') for name in arrays)
  return layout.from_torch(arrays, table(depth, detail), NETWORK)


def to_torch(variables: Mapping[str, Any], depth: float = 1.0) -> dict[str, np.ndarray]:
  """The `state_dict`; a model trained here, without `unused`, gets an encoder head of zeros.

  Raises:
    ValueError: naming every missing and extra array.
  """
  features = np.shape(variables['params']['class_head']['kernel'])[0]
  head = 4 * features
  fill = {
    'encoder._conv_head.weight': np.zeros((head, features, 1, 1), np.float32),
    'encoder._bn1.weight': np.ones(head, np.float32),
    'encoder._bn1.bias': np.zeros(head, np.float32),
    'encoder._bn1.running_mean': np.zeros(head, np.float32),
    'encoder._bn1.running_var': np.ones(head, np.float32),
  }
  detail = 'detail' in variables['params']
  return layout.to_torch(variables, table(depth, detail), NETWORK, fill)
