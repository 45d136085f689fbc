"""Frozen encoders of random weights: a benchmark needs their shapes, not what they know."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dfrec_jax.benchmark.encoder_flops import IRESNET_50
from dfrec_jax.encoders import inception_resnet, iresnet_arrays, mobilefacenet, registry, vgg
from dfrec_jax.errors import InputError
from dfrec_jax.models import layers
from dfrec_jax.objective import Encoders

_TERMS = {'identity': ('identity', 'attribute'), 'perceptual': ('perceptual',)}


def load_encoders(config: ml_collections.ConfigDict) -> tuple[Encoders, list[str]]:
  """The encoders that the terms of `config.loss` need, from files where it names any.

  Where it names none, the weights are random; the perceptual encoder is then VGG19, the paper's,
  whatever the configuration makes do with.

  Returns:
    The encoders, and the name of each network among them once.

  Raises:
    InputError: an unknown encoder, or a file that does not hold its weights.
  """
  dtype = layers.compute_dtype('config.loss.encoder_dtype', config.encoder_dtype)
  loaded, by_key = {}, {}
  for role, terms in _TERMS.items():
    if not any(config.weights[term] for term in terms):
      continue
    setting = config[f'{role}_encoder']
    name = setting.name if setting.weights or role == 'identity' else 'vgg19'
    key = name, setting.weights
    if key not in by_key:
      load = registry.load_encoder if setting.weights else random_encoder
      by_key[key] = load(*filter(None, key), dtype=dtype)
    loaded[role] = by_key[key]
  return Encoders(**loaded), [name for name, _ in by_key]


def random_encoder(name: str, *, dtype: layers.Dtype = jnp.float32) -> registry.FrozenEncoder:
  """The encoder of that name with random weights; an iResNet is the one of 50 layers.

  Raises:
    InputError: for an unknown name.
  """
  if name not in _SHAPES:
    raise InputError(f'Unknown encoder {name!r}; the encoders are {", ".join(_SHAPES)}.')
  generator = np.random.default_rng(0)
  arrays = {key: _array(key, shape, generator) for key, shape in _SHAPES[name]().items()}
  return registry.ENCODERS[name](arrays, dtype)


def abstract(encoders: Encoders, sharding: jax.sharding.Sharding) -> dict:
  """Shapes of `encoders.params`, each on every device, for a program that is only compiled."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), encoders.params
  )


def _array(name, shape, generator):
  if len(shape) > 1:
    scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return generator.standard_normal(shape, np.float32) * scale
  ones = name.endswith(('running_var', 'weight'))
  return np.full(shape, 1.0 if ones else 0.0, np.float32)


def _vgg_shapes():
  shapes, index, inputs = {}, 0, 3
  for width in vgg.LAYERS:
    if width == 'pool':
      index += 1
      continue
    shapes[f'features.{index}.weight'] = (width, inputs, 3, 3)
    shapes[f'features.{index}.bias'] = (width,)
    index, inputs = index + 2, width  # a ReLU follows
  return shapes


_SHAPES = {
  'mobilefacenet': mobilefacenet.tensor_shapes,
  'vgg19': _vgg_shapes,
  'inception_resnet_v1': inception_resnet.tensor_shapes,
  'iresnet': lambda: iresnet_arrays.tensor_shapes(IRESNET_50),
}
