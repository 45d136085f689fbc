"""The three networks of a PyTorch checkpoint and the variables and settings of a `DFREC`.

Works on NumPy arrays: files are read and written by `torch_files` and the command line.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax import masking, trees
from dfrec_jax.checkpointing import build_model, init_variables
from dfrec_jax.convert import ism, shapes, sirm, tirm
from dfrec_jax.convert.torch_files import DICTIONARIES
from dfrec_jax.errors import InputError
from dfrec_jax.models import efficientnet, sizes
from dfrec_jax.models.dfrec import LATER_SETTINGS, PUBLISHED
from dfrec_jax.models.identity_segmentation import IdentitySegmentation

Arrays = Mapping[str, np.ndarray]
_CLASS_HEAD = ('classification_head.3.weight', 'classification_head.3.bias')


def add_class_head(state: Arrays) -> tuple[dict[str, np.ndarray], bool]:
  """The ISM's tensors with a class head, and whether it was missing.

  The published inference checkpoint has none. One of zeros scores every image 0.5.
  """
  state = dict(state)
  missing = not any(name in state for name in _CLASS_HEAD)
  if missing:
    last = 'encoder._conv_head.weight'
    features = shapes.size_of(state, last, 1, 320)
    weight, bias = _CLASS_HEAD
    state |= {weight: np.zeros((2, features), np.float32), bias: np.zeros(2, np.float32)}
  return state, missing


def read_model_settings(
  networks: Mapping[str, Arrays], heads: int = 0, decoder_heads: int = 0
) -> dict[str, Any]:
  """The `config.model` settings of a published checkpoint, read off its tensors.

  Args:
    networks: tensors by `ism`, `sirm` and `tirm`.
    heads, decoder_heads: of the TIRM's attention, which no tensor shows; 0 takes the ones that a
      known size of the same width has.

  Raises:
    InputError: the number of heads is not known or does not fit, or the positions are no grid's.
  """
  sirm_arrays, tirm_arrays = networks['sirm'], networks['tirm']
  read = tirm.read_sizes(tirm_arrays)
  known = sizes.SIZES['L/16']
  width, depth, aspp, low_level = _ism_sizes(networks['ism'])
  size = dataclasses.replace(
    known,
    **{name: read[name] for name in ('patch', 'width', 'depth', 'mlp')},
    **{name: read[name] for name in ('decoder_width', 'decoder_depth', 'decoder_mlp')},
    heads=heads or _heads(read['width'], read['patch']),
    decoder_heads=decoder_heads or _decoder_heads(read['decoder_width']),
    sirm_widths=sirm.read_widths(sirm_arrays),
    ism_width=width,
    ism_depth=depth,
    aspp_channels=aspp,
    low_level_channels=low_level,
  )
  grid = math.isqrt(max(read['tokens'] - 1, 0))
  if grid == 0 or grid * grid + 1 != read['tokens']:
    raise InputError(
      f"backbone.encoder.pos_embedding has {read['tokens']} rows, which are not the class token's "
      'and those of a square grid of patches.'
    )
  for name, width, count in (
    ('heads', size.width, size.heads),
    ('decoder_heads', size.decoder_width, size.decoder_heads),
  ):
    if count < 1 or width % count:
      raise InputError(
        f'A width of {width} cannot be divided among {count} heads: correct --{name}.'
      )
  patches, kept = grid * grid, sirm.read_token_count(sirm_arrays)
  ratio = PUBLISHED['mask_ratio']
  if masking.kept_count(patches, ratio, 'published') != kept:
    ratio = 1 - (kept + 0.5) / (patches + 1)
  return {
    **PUBLISHED,
    'size': sizes.describe(size),
    'image_size': grid * read['patch'],
    'mask_ratio': ratio,
  }


def from_torch(networks: Mapping[str, Arrays]) -> dict[str, Any]:
  """The collections `params`, `batch_stats` and `unused` of the model that the tensors are of.

  Args:
    networks: tensors by `ism`, `sirm` and `tirm`.

  Raises:
    InputError: naming every tensor of the three networks that is missing, extra, misshapen, not
      finite or of another type.
  """
  problems = [problem for name, arrays in networks.items() for problem in _values(name, arrays)]
  found = {}
  for name, convert in (('ism', _ism), ('sirm', sirm.from_torch), ('tirm', tirm.from_torch)):
    try:
      found[name] = convert(networks[name])
    except ValueError as error:
      problems.append(str(error))
  if problems:
    raise InputError(' '.join(problems))
  variables = {
    collection: {name: network.get(collection, {}) for name, network in found.items()}
    for collection in ('params', 'batch_stats', 'unused')
  }
  variables['batch_stats'] = {k: tree for k, tree in variables['batch_stats'].items() if tree}
  return variables


def check_fit(variables: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
  """Raises an InputError unless a model of these `config.model` settings has such variables."""
  model = build_model(settings)
  wanted = jax.eval_shape(lambda key: nn.unbox(init_variables(model, key)), jax.random.key(0))
  given = {name: variables[name] for name in ('params', 'batch_stats')}
  if problems := trees.differences(given, wanted):
    raise InputError(f'The tensors do not fit the model: {"; ".join(problems)}.')


def to_torch(variables: Mapping[str, Any], size: str) -> dict[str, dict[str, np.ndarray]]:
  """The three dictionaries under the published names: the inverse of `from_torch`.

  Raises:
    InputError: naming every array that is missing or extra.
  """
  part = lambda name: {
    collection: tree[name]
    for collection, tree in variables.items()
    if collection != 'unused' or tree
    if name in tree
  }
  depth = sizes.get_size(size).ism_depth
  return {
    DICTIONARIES['ism']: ism.to_torch(part('ism'), depth),
    DICTIONARIES['sirm']: sirm.to_torch(part('sirm')),
    DICTIONARIES['tirm']: tirm.to_torch(part('tirm')),
  }


def differences(settings: Mapping[str, Any]) -> list[str]:
  """The settings, as `name=value`, that keep the authors' code, of one size, from loading it."""
  settings = {**LATER_SETTINGS, **settings}
  same_size = sizes.get_size(settings['size']) == sizes.get_size(PUBLISHED['size'])
  return [
    f'{name}={settings[name]}'
    for name, value in PUBLISHED.items()
    if settings[name] != value and not (name == 'size' and same_size)
  ]


def _values(network: str, arrays: Arrays) -> Iterator[str]:
  for name, array in arrays.items():
    counter = name.endswith('.num_batches_tracked')
    if counter != (array.dtype.kind in 'iu') or array.dtype.kind not in 'fiu':
      yield f'{DICTIONARIES[network]}: {name} is of type {array.dtype}.'
    elif not counter and not np.isfinite(array).all():
      yield f'{DICTIONARIES[network]}: {name} is not finite.'


def _ism(arrays: Arrays) -> dict[str, Any]:
  """The ISM's collections; its table knows no shapes, so a module of its sizes is asked."""
  width, depth, aspp, low_level = _ism_sizes(arrays)
  detail = tuple(
    shapes.size_of(arrays, f'detail.conv_{stage}_0.weight', 0, 1) for stage in range(5)
  )
  module = IdentitySegmentation(
    width=width,
    depth=depth,
    aspp_channels=aspp,
    low_level_channels=low_level,
    detail_channels=detail if any(name.startswith('detail.') for name in arrays) else (),
  )
  init = lambda key: nn.unbox(module.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
  like = jax.tree.map(
    lambda x: np.broadcast_to(np.float32(0), x.shape), jax.eval_shape(init, jax.random.key(0))
  )
  expected = {name: array.shape for name, array in ism.to_torch(like, depth).items()}
  shapes.require(arrays, expected, ism.NETWORK)
  return ism.from_torch(arrays, depth)


def _ism_sizes(arrays: Arrays) -> tuple[float, float, int, int]:
  """EfficientNet's multipliers, by the known sizes, and the decoder's two widths."""
  pattern = re.compile(r'encoder\._blocks\.(\d+)\.')
  numbers = [int(match[1]) for name in arrays if (match := pattern.match(name))]
  count, stem = (
    max(numbers, default=-1) + 1,
    shapes.size_of(arrays, 'encoder._conv_stem.weight', 0, 0),
  )
  known = {(size.ism_width, size.ism_depth) for size in sizes.SIZES.values()}
  fitting = [
    (width, depth)
    for width, depth in sorted(known, reverse=True)
    if len(efficientnet.blocks(width, depth)) == count
    and efficientnet.round_features(efficientnet.STEM, width) == stem
  ]
  # Tensors that fit none are named by the strict conversion.
  width, depth = fitting[0] if fitting else (1.0, 1.0)
  aspp = shapes.size_of(arrays, 'decoder.aspp.0.project.0.weight', 0, 256)
  return width, depth, aspp, shapes.size_of(arrays, 'decoder.block1.0.weight', 0, 48)


def _heads(width: int, patch: int) -> int:
  known = {s.heads for s in sizes.SIZES.values() if (s.width, s.patch) == (width, patch)}
  if len(known) != 1:
    raise InputError(
      f'No known size has a width of {width} and patches of {patch} pixels, and no tensor shows '
      "the encoder's number of attention heads: give it as --heads."
    )
  return known.pop()


def _decoder_heads(width: int) -> int:
  known = {s.decoder_heads for s in sizes.SIZES.values() if s.decoder_width == width}
  if len(known) != 1:
    raise InputError(
      f'No known size has a decoder of width {width}, and no tensor shows its number of attention '
      'heads: give it as --decoder_heads.'
    )
  return known.pop()
