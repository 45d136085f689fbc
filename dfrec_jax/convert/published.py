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
import numpy as np

from dfrec_jax import masking, trees
from dfrec_jax.checkpointing import build_model, init_variables
from dfrec_jax.convert import ism, shapes, sirm, tirm
from dfrec_jax.convert.torch_files import DICTIONARIES
from dfrec_jax.errors import InputError
from dfrec_jax.models import efficientnet, sizes
from dfrec_jax.models.dfrec import PUBLISHED

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
    InputError: the number of heads is not known.
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
  grid = math.isqrt(read['tokens'] - 1)
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


def from_torch(networks: Mapping[str, Arrays], settings: Mapping[str, Any]) -> dict[str, Any]:
  """The collections `params`, `batch_stats` and `unused` of a model of these settings.

  Args:
    networks: tensors by `ism`, `sirm` and `tirm`.
    settings: `config.model`.

  Raises:
    InputError: naming every tensor of the three networks that is missing, extra, misshapen, not
      finite or of another type.
  """
  size = sizes.get_size(settings['size'])
  problems = [problem for name, arrays in networks.items() for problem in _values(name, arrays)]
  found = {}
  for name, convert in (
    ('ism', lambda arrays: ism.from_torch(arrays, size.ism_depth)),
    ('sirm', sirm.from_torch),
    ('tirm', tirm.from_torch),
  ):
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
  if problems := _misfits(variables, settings):
    raise InputError(f'The tensors do not fit the model: {"; ".join(problems)}.')
  return variables


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
  """The settings for which the authors' code computes something else, as `name=value`."""
  free = ('size', 'image_size', 'mask_ratio')
  differing = [
    f'{name}={settings[name]}'
    for name, value in PUBLISHED.items()
    if name not in free and settings[name] != value
  ]
  if channels := sizes.get_size(settings['size']).detail_channels:
    differing.append(f'detail_channels={"-".join(map(str, channels))}')
  return differing


def _values(network: str, arrays: Arrays) -> Iterator[str]:
  for name, array in arrays.items():
    counter = name.endswith('.num_batches_tracked')
    if counter != (array.dtype.kind in 'iu') or array.dtype.kind not in 'fiu':
      yield f'{DICTIONARIES[network]}: {name} is of type {array.dtype}.'
    elif not counter and not np.isfinite(array).all():
      yield f'{DICTIONARIES[network]}: {name} is not finite.'


def _misfits(variables: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
  """What differs from the variables that the model would initialise."""
  model = build_model(settings)
  wanted = jax.eval_shape(lambda key: nn.unbox(init_variables(model, key)), jax.random.key(0))
  return trees.differences({name: variables[name] for name in ('params', 'batch_stats')}, wanted)


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
