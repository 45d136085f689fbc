"""A ViT of facebookresearch/mae, timm or torchvision as the TIRM's encoder, MAE's decoder too."""

from collections.abc import Mapping
import math
import re
from typing import Any

import jax
import numpy as np

from dfrec_jax.convert import layout, shapes
from dfrec_jax.convert.pretrained import placing
from dfrec_jax.convert.pretrained.report import Report
from dfrec_jax.errors import InputError
from dfrec_jax.models import sizes
from dfrec_jax.models.dfrec import DFREC

MAE, TORCHVISION = 'facebookresearch/mae and timm', 'torchvision'
# Tensors that nothing here takes: classifiers and what comes before them.
_UNUSED = {MAE: ('head.', 'fc_norm.', 'head_dist.', 'pre_logits.'), TORCHVISION: ('heads.',)}
_DECODER = ('decoder_', 'mask_token')  # how the names of MAE's decoder begin
_BLOCK = {
  'norm1': ('norm_1', layout.layer_norm),
  'attn.qkv': ('qkv', layout.dense),
  'attn.proj': ('out', layout.dense),
  'norm2': ('norm_2', layout.layer_norm),
  'mlp.fc1': ('mlp_1', layout.dense),
  'mlp.fc2': ('mlp_2', layout.dense),
}
# MAE's names as torchvision's, applied one after the other.
_TORCHVISION_NAMES = (
  (r'^cls_token$', 'class_token'),
  (r'^patch_embed\.proj\.', 'conv_proj.'),
  (r'^pos_embed$', 'encoder.pos_embedding'),
  (r'^norm\.', 'encoder.ln.'),
  (r'^blocks\.(\d+)\.', r'encoder.layers.encoder_layer_\1.'),
  (r'\.norm(1|2)\.', r'.ln_\1.'),
  (r'\.attn\.qkv\.', '.self_attention.in_proj_'),
  (r'\.attn\.proj\.', '.self_attention.out_proj.'),
  (r'\.mlp\.fc(1|2)\.', r'.mlp.linear_\1.'),
)
# Newer versions of torchvision number the MLP's layers; its published files have names.
_NEW_MLP = {'.mlp.0.': '.mlp.linear_1.', '.mlp.3.': '.mlp.linear_2.'}


def load(
  variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model: DFREC, path: str
) -> tuple[dict[str, Any], Report]:
  """`load_vit` with what it must know of the model, for `apply_pretrained`."""
  return load_vit(variables, arrays, path, indexing=model.indexing, residual=model.target_residual)


def load_vit(
  variables: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  path: str,
  *,
  indexing: str = 'aligned',
  residual: bool = True,
) -> tuple[dict[str, Any], Report]:
  """Puts a ViT into the TIRM's encoder, and MAE's decoder, if there is one, where it fits.

  The number of heads cannot be read off tensors: it is the model's own.

  Args:
    variables: of the model; only `tirm` is replaced.
    arrays: tensors of the file. Which naming they have is read off them.
    path: of the file, for the report and errors.
    indexing: of the TIRM, see `TargetReconstruction`.
    residual: the TIRM predicts a correction, which starts from zero: MAE's last layer, which
      predicts pixels, does not fit.

  Raises:
    InputError: a tensor of the encoder is missing, unexpected, or has another shape; positions
      alone are interpolated.
  """
  naming = _naming(arrays, path)
  arrays = _with_new_mlp_names(arrays) if naming == TORCHVISION else dict(arrays)
  leaves = placing.flatten(variables)
  report = Report(part='vit', path=path, naming=naming)
  file_name = _torchvision_name if naming == TORCHVISION else lambda name: name
  _check_sizes(arrays, leaves, file_name, path)

  rows = {file_name(name): row for name, row in _rows('encoder', _depth_of(leaves)).items()}
  _fit_positions(arrays, file_name('pos_embed'), 'encoder_positions', leaves, report)
  unexpected = [
    name
    for name in arrays
    if name not in rows and not name.startswith((*_UNUSED[naming], *_DECODER))
  ]
  placing.require(arrays, rows, leaves, what='ViT', path=path, unexpected=unexpected)
  if any(name.startswith(_DECODER) for name in arrays):
    rows |= _decoder_rows(arrays, leaves, report, indexing, residual)
  new = placing.converted(arrays, rows, leaves)

  taken = {placing.name_of(leaf) for leaf in new}
  report.resized = [name for name in report.resized if name in taken]
  report.loaded = [name for name in map(placing.name_of, new) if name not in report.resized]
  report.left = [placing.name_of(leaf) for leaf in leaves if leaf[1] == 'tirm' and leaf not in new]
  report.ignored = [name for name in arrays if name not in rows]
  return placing.replaced(leaves, new), report


def resize_positions(table: np.ndarray, side: int) -> np.ndarray:
  """Interpolates (1, 1 + n * n, D) positions to (1, 1 + side * side, D).

  Bicubic, with a low-pass filter where the grid shrinks, as timm does. The first row, of the class
  token, is kept.
  """
  grid = math.isqrt(table.shape[1] - 1)
  patches = table[0, 1:].astype(np.float32).reshape(grid, grid, -1)
  patches = jax.image.resize(patches, (side, side, patches.shape[-1]), 'bicubic', antialias=True)
  patches = np.asarray(patches).reshape(1, side * side, -1)
  return np.concatenate([table[:, :1], patches], axis=1)


def _naming(arrays, path):
  for naming, name in ((TORCHVISION, 'conv_proj.weight'), (MAE, 'patch_embed.proj.weight')):
    if name in arrays:
      return naming
  raise InputError(
    f'{path} holds no ViT: it has neither `patch_embed.proj.weight` ({MAE}) nor '
    f'`conv_proj.weight` ({TORCHVISION}).'
  )


def _torchvision_name(name):
  for pattern, replacement in _TORCHVISION_NAMES:
    name = re.sub(pattern, replacement, name)
  return name


def _with_new_mlp_names(arrays):
  result = {}
  for name, array in arrays.items():
    for new, old in _NEW_MLP.items():
      name = name.replace(new, old)
    result[name] = array
  return result


def _leaf(*path):
  return ('params', 'tirm', *path)


def _depth_of(leaves, transformer='encoder'):
  return leaves[_leaf(transformer, 'blocks', 'qkv', 'kernel')].shape[0]


def _blocks_in(arrays, prefix):
  """Blocks in the file, by the highest number among their names."""
  matches = (re.match(re.escape(prefix) + r'(\d+)\.', name) for name in arrays)
  return max((int(match[1]) + 1 for match in matches if match), default=0)


def _check_sizes(arrays, leaves, file_name, path):
  """One short error instead of a list of all tensors where the networks' sizes differ."""
  kernel = leaves[_leaf('patch_embedding', 'kernel')].shape
  ours = {
    'width': kernel[1],
    'depth': _depth_of(leaves),
    'mlp': leaves[_leaf('encoder', 'blocks', 'mlp_1', 'kernel')].shape[-1],
    'patch': round((kernel[0] / 3) ** 0.5),
  }
  size = lambda name, axis, default: shapes.size_of(arrays, file_name(name), axis, default)
  theirs = {
    'width': size('cls_token', -1, ours['width']),
    'depth': _blocks_in(arrays, file_name('blocks.0.').removesuffix('0.')),
    'mlp': size('blocks.0.mlp.fc1.weight', 0, ours['mlp']),
    'patch': size('patch_embed.proj.weight', -1, ours['patch']),
  }
  if theirs == ours:
    return
  describe = lambda of: ', '.join(f'{name} {value}' for name, value in of.items())
  fitting = [
    name
    for name, known in sizes.SIZES.items()
    if all(getattr(known, field) == value for field, value in theirs.items())
  ]
  choice = f'size {" or ".join(fitting)}' if fitting else 'another file'
  raise InputError(
    f"{path} holds a ViT of {describe(theirs)}, but the model's has {describe(ours)}, and of these "
    f'none is interpolated; choose {choice}.'
  )


def _rows(transformer: str, depth: int) -> placing.Rows:
  """Rows of an encoder or decoder of `depth` blocks, in MAE's naming."""
  prefix = 'decoder_' if transformer == 'decoder' else ''
  rows = placing.rows_of(layout.layer_norm(f'{prefix}norm', f'{transformer}/norm'), 'tirm')
  for i in range(depth):
    for name, (ours, make) in _BLOCK.items():
      table = make(f'{prefix}blocks.{i}.{name}', f'{transformer}/blocks/{ours}')
      rows |= placing.rows_of(table, 'tirm', layer=i)
  if transformer == 'decoder':
    tables = (
      layout.dense('decoder_embed', 'decoder_embedding'),
      layout.same('mask_token', 'mask_token'),
      layout.same('decoder_pos_embed', 'decoder_positions'),
      layout.dense('decoder_pred', 'prediction'),
    )
    for table in tables:
      rows |= placing.rows_of(table, 'tirm')
    return rows
  rows['patch_embed.proj.weight'] = placing.Row(_leaf('patch_embedding', 'kernel'), 'patches')
  rows['patch_embed.proj.bias'] = placing.Row(_leaf('patch_embedding', 'bias'))
  rows['cls_token'] = placing.Row(_leaf('class_token'))
  rows['pos_embed'] = placing.Row(_leaf('encoder_positions'))
  return rows


def _fit_positions(arrays, name, ours, leaves, report):
  """Brings the table `name` of `arrays` to the model's grid, if it is a table of this width."""
  count, width = leaves[_leaf(ours)].shape[1:]
  if name not in arrays or arrays[name].ndim != 3 or arrays[name].shape[::2] != (1, width):
    return
  grid, side = math.isqrt(arrays[name].shape[1] - 1), math.isqrt(count - 1)
  if grid**2 + 1 != arrays[name].shape[1] or grid == side:
    return
  arrays[name] = resize_positions(arrays[name], side)
  report.resized.append(f'tirm/{ours}')
  report.notes.append(f'tirm/{ours}: a grid of {grid}x{grid} positions became {side}x{side}')


def _decoder_rows(arrays, leaves, report, indexing, residual) -> placing.Rows:
  """Rows of what fits the model's decoder; `arrays` is changed to fit in positions."""
  depth, found = _depth_of(leaves, 'decoder'), _blocks_in(arrays, 'decoder_blocks.')
  rows = _rows('decoder', max(found, 1))
  missing = [name for name in rows if name not in arrays]
  if missing:
    raise InputError(f"{report.path} lacks {', '.join(missing)} of MAE's decoder; give all of it.")
  width = shapes.size_of(arrays, 'mask_token', -1, 0)
  own = leaves[_leaf('mask_token')].shape[-1]
  if width != own:
    report.notes.append(f"Its decoder has width {width}, and the model's {own}: left out")
    return {}
  _fit_positions(arrays, 'decoder_pos_embed', 'decoder_positions', leaves, report)
  if indexing == 'published':
    # There token j of the decoder is patch j; the row of no patch comes last.
    arrays['decoder_pos_embed'] = np.roll(arrays['decoder_pos_embed'], -1, axis=1)
  unfit = {
    _module(row)
    for name, row in rows.items()
    if arrays[name].shape != placing.expected_shape(row, leaves)
  }
  if found < depth:
    unfit.add('decoder/blocks')
  if unfit:
    names = ', '.join(f'tirm/{module}' for module in sorted(unfit))
    report.notes.append(f"Its decoder of {found} blocks does not fit the model's in {names}")
  elif found > depth:
    report.notes.append(f'Of the {found} blocks of its decoder the first {depth} were taken')
  if residual and 'prediction' not in unfit:
    report.notes.append('decoder_pred predicts pixels, and the model corrections: left out')
    unfit.add('prediction')
  return {
    name: row
    for name, row in rows.items()
    if (row.layer or 0) < depth and _module(row) not in unfit
  }


def _module(row):
  """What of the decoder is taken as a whole or not at all."""
  return '/'.join(row.path[2:4]) if row.path[2] == 'decoder' else row.path[2]
