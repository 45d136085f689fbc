"""The TIRM between the published checkpoint's `recover2_state_dict` and this package.

The authors' code computes the same as a model of `published` indexing with fusion `concat`, without
`forged_tokens`, `residual` and `refinement`; our PyTorch modules as any. Only numpy is needed.
"""

from collections.abc import Collection, Mapping
import re
from typing import Any

import numpy as np

from dfrec_jax.convert import extensions, layout, shapes

NETWORK = 'Target Identity Reconstruction Module'
# What the tensors do not show is taken from the published network (ViT-L/16 at 224 pixels).
_DEFAULTS = {
  'width': ('backbone.class_token', -1, 1024),
  'mlp': ('backbone.encoder.layers.encoder_layer_0.mlp.0.weight', 0, 4096),
  'decoder_width': ('mask_token', -1, 512),
  'decoder_mlp': ('decoder.layers.encoder_layer_0.mlp.0.weight', 0, 2048),
  'tokens': ('backbone.encoder.pos_embedding', 1, 197),
  'patch': ('backbone.conv_proj.weight', -1, 16),
  'fused': ('decoder.decoder_embed.weight', 1, 1220),
}
_BLOCKS = {
  'ln_1': ('layer_norm', 'norm_1'),
  'self_attention.in_proj': ('in_proj', 'qkv'),
  'self_attention.out_proj': ('dense', 'out'),
  'ln_2': ('layer_norm', 'norm_2'),
  'mlp.0': ('dense', 'mlp_1'),
  'mlp.3': ('dense', 'mlp_2'),
}
_CLASSES = 1000  # of the unused classifier
# Rows that only some options have, by the name of one of them; the options are told by these.
_FUSIONS = {'decoder.target_positions': 'sequence', 'decoder.target_projection.weight': 'add'}
_FORGED = 'decoder.forged_embedding.weight'
_REFINED = 'refinement.fine_1.weight'
_TRANSFORMERS = {'backbone.encoder': 'encoder', 'decoder': 'decoder'}


def from_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """`params`, an empty `batch_stats`, and `unused` (the classifier), of any sizes.

  Raises:
    ValueError: naming every missing, extra and misshapen tensor.
  """
  depths = {name: _depth(arrays, name) for name in _TRANSFORMERS}
  shapes.require(arrays, _shapes(arrays, depths), NETWORK)
  variables = layout.from_torch(arrays, _table(depths) | _extensions(arrays), NETWORK)
  params = variables['params']
  patches = params['patch_embedding']
  patches['kernel'] = patches['kernel'].reshape(-1, patches['kernel'].shape[-1])
  for name, path in _TRANSFORMERS.items():
    blocks = params[path]['blocks']
    params[path]['blocks'] = _stack([blocks[str(i)] for i in range(depths[name])])
  return {'batch_stats': {}, **variables}


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The PyTorch tensors: the inverse of `from_torch`, bit for bit.

  A classifier that `unused` lacks, as in a model that was never PyTorch's, is filled with zeros.

  Raises:
    ValueError: naming every missing, extra and misshapen array.
  """
  params = dict(variables['params'])
  depths = {}
  for name, path in _TRANSFORMERS.items():
    blocks = params[path]['blocks']
    depths[name] = len(blocks['qkv']['kernel'])
    unstacked = {str(i): _layer(blocks, i) for i in range(depths[name])}
    params[path] = {**params[path], 'blocks': unstacked}
  kernel = np.asarray(params['patch_embedding']['kernel'])
  patch, width = round((len(kernel) / 3) ** 0.5), kernel.shape[1]
  kernel = kernel.reshape(patch, patch, 3, width)
  params['patch_embedding'] = {**params['patch_embedding'], 'kernel': kernel}
  fill = {
    'backbone.heads.head.weight': np.zeros((_CLASSES, width), np.float32),
    'backbone.heads.head.bias': np.zeros(_CLASSES, np.float32),
  }
  variables = {key: tree for key, tree in variables.items() if key == 'unused' and tree}
  present = {
    name
    for name, row in (extensions.target_decoder('sequence', True) | extensions.refinement()).items()
    if row.path[0] in params
  }
  table = _table(depths) | _extensions(present)
  arrays = layout.to_torch({**variables, 'params': params}, table, NETWORK, fill)
  shapes.require(arrays, _shapes(arrays, depths), NETWORK)
  return arrays


def read_sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
  """Sizes read off the tensors, the published ones where they are missing.

  `width`, `depth`, `mlp`, the same with `decoder_`, `tokens` (with the class token), `patch`
  and `fused` (inputs of the decoder's embedding).
  """
  read = {name: shapes.size_of(arrays, *where) for name, where in _DEFAULTS.items()}
  depth, decoder_depth = (_depth(arrays, name) for name in _TRANSFORMERS)
  return {**read, 'depth': depth, 'decoder_depth': decoder_depth}


def _depth(arrays, transformer):
  """Blocks of a transformer, by the highest number among the tensors' names."""
  pattern = re.compile(re.escape(transformer) + r'\.layers\.encoder_layer_(\d+)\.')
  found = (pattern.match(name) for name in arrays)
  return max((int(match[1]) + 1 for match in found if match), default=1)


def _extensions(names: Collection[str]) -> layout.Table:
  """The rows of the options that the tensors' names show."""
  fusion = next((fusion for name, fusion in _FUSIONS.items() if name in names), 'concat')
  refinement = extensions.refinement() if _REFINED in names else {}
  return extensions.target_decoder(fusion, _FORGED in names) | refinement


def _table(depths) -> layout.Table:
  """Every block by itself: the axis of the layers is stacked after, or unstacked before."""
  table = {
    **layout.same('mask_token', 'mask_token'),
    **layout.same('backbone.class_token', 'class_token'),
    **layout.conv('backbone.conv_proj', 'patch_embedding', bias=True),
    **layout.same('backbone.encoder.pos_embedding', 'encoder_positions'),
    **layout.unused('backbone.heads.head.weight', 'backbone.heads.head.bias'),
    **layout.same('decoder.pos_embedding', 'decoder_positions'),
    **layout.dense('decoder.decoder_embed', 'decoder_embedding'),
    **layout.dense('decoder.prediction_head', 'prediction'),
  }
  make = {'layer_norm': layout.layer_norm, 'dense': layout.dense, 'in_proj': _in_proj}
  for name, path in _TRANSFORMERS.items():
    table |= layout.layer_norm(f'{name}.ln', f'{path}/norm')
    for i in range(depths[name]):
      for module, (kind, ours) in _BLOCKS.items():
        row = make[kind](f'{name}.layers.encoder_layer_{i}.{module}', f'{path}/blocks/{i}/{ours}')
        table |= row
  return table


def _in_proj(name, path) -> layout.Table:
  """PyTorch's attention keeps query, key and value in one tensor, named without a dot."""
  rows = layout.dense(name, path)
  return {f'{name}_{row.rsplit(".", 1)[1]}': tensor for row, tensor in rows.items()}


def _shapes(arrays, depths) -> shapes.Shapes:
  """What a TIRM of the sizes that the tensors show has."""
  size = {key: shapes.size_of(arrays, *where) for key, where in _DEFAULTS.items()}
  width, decoder = size['width'], size['decoder_width']
  out = {
    'mask_token': (1, 1, decoder),
    'backbone.class_token': (1, 1, width),
    'backbone.encoder.pos_embedding': (1, size['tokens'], width),
    'decoder.pos_embedding': (1, size['tokens'], decoder),
    **shapes.conv('backbone.conv_proj', 3, width, size['patch']),
    **shapes.dense('backbone.heads.head', width, _CLASSES),
    **shapes.dense('decoder.decoder_embed', size['fused'], decoder),
    **shapes.dense('decoder.prediction_head', decoder, size['patch'] ** 2 * 3),
  }
  if rows := _extensions(arrays):
    positions = 'decoder.target_positions'
    inputs = {
      'decoder.forged_embedding': size['patch'] ** 2 * 3,
      'decoder.target_projection': shapes.size_of(
        arrays, 'decoder.target_projection.weight', 1, decoder
      ),
    }
    for name, count in inputs.items():
      out |= shapes.dense(name, count, decoder) if f'{name}.weight' in rows else {}
    if _REFINED in rows:
      out |= _refinement_shapes(shapes.size_of(arrays, _REFINED, 0, 1))
    if positions in rows:
      out[positions] = (1, shapes.size_of(arrays, positions, 1, 1), decoder)
  for name, features, mlp in (
    ('backbone.encoder', width, size['mlp']),
    ('decoder', decoder, size['decoder_mlp']),
  ):
    out |= shapes.layer_norm(f'{name}.ln', features)
    for i in range(depths[name]):
      block = f'{name}.layers.encoder_layer_{i}'
      attention = f'{block}.self_attention'
      out |= {
        **shapes.layer_norm(f'{block}.ln_1', features),
        f'{attention}.in_proj_weight': (3 * features, features),
        f'{attention}.in_proj_bias': (3 * features,),
        **shapes.dense(f'{attention}.out_proj', features, features),
        **shapes.layer_norm(f'{block}.ln_2', features),
        **shapes.dense(f'{block}.mlp.0', features, mlp),
        **shapes.dense(f'{block}.mlp.3', mlp, features),
      }
  return out


def _refinement_shapes(features: int) -> shapes.Shapes:
  sizes = {
    'fine_1': (28, features),
    'fine_2': (features, features),
    'coarse_1': (features, 2 * features),
    'coarse_2': (2 * features, 2 * features),
    'conv_up': (2 * features, features),
    'join': (2 * features, features),
    'output': (features, 12),
  }
  out = {}
  for name, (inputs, outputs) in sizes.items():
    out |= shapes.conv(f'refinement.{name}', inputs, outputs, 3)
  return out


def _stack(blocks):
  """Trees of arrays to one tree with a leading axis of layers."""
  first = blocks[0]
  if isinstance(first, Mapping):
    return {key: _stack([block[key] for block in blocks]) for key in first}
  return np.stack(blocks)


def _layer(tree, index):
  """One layer of a stacked tree."""
  if isinstance(tree, Mapping):
    return {key: _layer(node, index) for key, node in tree.items()}
  return np.asarray(tree[index])
