"""EfficientNet-B0 of efficientnet-pytorch or torchvision as the ISM's encoder."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dfrec_jax.convert import ism
from dfrec_jax.convert.pretrained import placing
from dfrec_jax.convert.pretrained.report import Report
from dfrec_jax.errors import InputError
from dfrec_jax.models import efficientnet
from dfrec_jax.models.dfrec import DFREC

_PREFIX = 'encoder.'  # of the encoder's tensors in the published ISM
# The head, which the ISM does without, in each naming.
_UNUSED = {
  'efficientnet-pytorch': ('_conv_head.', '_bn1.', '_fc.'),
  'torchvision': ('features.8.', 'classifier.'),
}


def load(
  variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model: DFREC, path: str
) -> tuple[dict[str, Any], Report]:
  """Puts EfficientNet-B0 into the ISM's encoder, running statistics included.

  Args:
    variables: of the model; only `ism/encoder` is replaced.
    arrays: tensors of the file. Which naming they have is read off them.
    model: of which only the size's name is used, for errors.
    path: of the file.

  Raises:
    InputError: these are not EfficientNet-B0's tensors, or the model's encoder is another.
  """
  naming = _naming(arrays, path)
  leaves = placing.flatten(variables)
  _check_size(leaves, model.size, path)
  rows = _rows()
  if naming == 'torchvision':
    names = _torchvision_names()
    rows = {_renamed(name, names): row for name, row in rows.items()}
  ignored = [name for name in arrays if name not in rows]
  needless = (*_UNUSED[naming],)
  unexpected = [
    name
    for name in ignored
    if not name.startswith(needless) and not name.endswith('.num_batches_tracked')
  ]
  placing.require(arrays, rows, leaves, what='EfficientNet-B0', path=path, unexpected=unexpected)
  new = placing.converted(arrays, rows, leaves)
  report = Report(
    part='efficientnet',
    path=path,
    naming=naming,
    loaded=[placing.name_of(leaf) for leaf in new],
    left=[placing.name_of(leaf) for leaf in leaves if leaf[1] == 'ism' and leaf not in new],
    ignored=ignored,
  )
  if naming == 'torchvision':
    report.notes.append(
      "torchvision's network pads and normalises a little differently (symmetric padding, epsilon "
      '1e-5 instead of 1e-3), which training has to make up for'
    )
  return placing.replaced(leaves, new), report


def _naming(arrays, path):
  for naming, name in (
    ('efficientnet-pytorch', '_conv_stem.weight'),
    ('torchvision', 'features.0.0.weight'),
  ):
    if name in arrays:
      return naming
  raise InputError(
    f'{path} holds no EfficientNet: it has neither `_conv_stem.weight` (efficientnet-pytorch) nor '
    '`features.0.0.weight` (torchvision).'
  )


def _check_size(leaves, size, path):
  stem = leaves['params', 'ism', 'encoder', 'stem', 'kernel'].shape[-1]
  blocks = len({leaf[3] for leaf in leaves if leaf[:3] == ('params', 'ism', 'encoder')}) - 2
  wanted = efficientnet.STEM, len(efficientnet.blocks(1.0, 1.0))
  if (stem, blocks) != wanted:
    raise InputError(
      f'{path} is taken for EfficientNet-B0, of {wanted[0]} channels in the stem and {wanted[1]} '
      f'blocks, but the encoder of size {size} has {stem} and {blocks}; choose a size whose '
      'ism_width and ism_depth are 1, or no config.pretrained.efficientnet.'
    )


def _rows() -> placing.Rows:
  """In efficientnet-pytorch's naming, which is the published one without its prefix."""
  rows = placing.rows_of(ism.table(), 'ism')
  encoder = {name: row for name, row in rows.items() if name.startswith(_PREFIX)}
  return {name.removeprefix(_PREFIX): row for name, row in encoder.items()}


def _torchvision_names() -> dict[str, str]:
  """torchvision's name of each module of efficientnet-pytorch."""
  names = {'_conv_stem': 'features.0.0', '_bn0': 'features.0.1'}
  index = 0
  for number, stage in enumerate(efficientnet.STAGES, start=1):
    for repeat in range(stage.repeats):
      ours, theirs = f'_blocks.{index}', f'features.{number}.{repeat}.block'
      first = int(stage.expansion > 1)  # a block without expansion begins with the depthwise layer
      if first:
        names |= {f'{ours}._expand_conv': f'{theirs}.0.0', f'{ours}._bn0': f'{theirs}.0.1'}
      names |= {
        f'{ours}._depthwise_conv': f'{theirs}.{first}.0',
        f'{ours}._bn1': f'{theirs}.{first}.1',
        f'{ours}._se_reduce': f'{theirs}.{first + 1}.fc1',
        f'{ours}._se_expand': f'{theirs}.{first + 1}.fc2',
        f'{ours}._project_conv': f'{theirs}.{first + 2}.0',
        f'{ours}._bn2': f'{theirs}.{first + 2}.1',
      }
      index += 1
  return names


def _renamed(name, names):
  module, _, leaf = name.rpartition('.')
  return f'{names[module]}.{leaf}'
