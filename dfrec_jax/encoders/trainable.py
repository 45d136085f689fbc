"""The face encoders that `dfrec_jax.identity` trains, by name, and what they have in common."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import ml_collections
import numpy as np

from dfrec_jax.encoders import iresnet, iresnet_arrays, mobilefacenet
from dfrec_jax.errors import InputError
from dfrec_jax.models import layers

# Channels of the first convolution of either network, as published.
_STEM = mobilefacenet.STEM

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trainable:
  """A network, and its tensors as PyTorch has them.

  Attributes:
    network: the linen module, of `(*sizes, norms=False, dtype=float32)`. It has `size` (side of its
      input), `from_pixels` (images in [0, 1] as it takes them), `residual_norms` (paths of the last
      norms of the residual branches), and returns an `embedding` and `taps`.
    sizes: tensors by name -> `sizes` of the network that has them.
    from_torch_arrays: tensors by name -> parameters, batch norms folded.
    to_torch_arrays: variables of a network with batch norms -> tensors by name.
    parse_depth: the first of `sizes` from its name in a configuration; None if there is one depth.
  """

  network: Callable[..., nn.Module]
  sizes: Callable[[Arrays], tuple]
  from_torch_arrays: Callable[[Arrays], dict[str, Any]]
  to_torch_arrays: Callable[[Mapping[str, Any]], dict[str, np.ndarray]]
  parse_depth: Callable[[str], tuple[int, ...]] | None = None


TRAINABLE = {
  'mobilefacenet': Trainable(
    mobilefacenet.MobileFaceNet,
    mobilefacenet.sizes,
    mobilefacenet.from_torch_arrays,
    mobilefacenet.to_torch_arrays,
  ),
  'iresnet': Trainable(
    iresnet.IResNet,
    iresnet_arrays.sizes,
    iresnet_arrays.from_torch_arrays,
    iresnet_arrays.to_torch_arrays,
    iresnet.parse_depth,
  ),
}


def find(network: str) -> Trainable:
  """The network of that name. Raises an InputError: there is none."""
  if network not in TRAINABLE:
    raise InputError(f'config.model.network is {network!r}; it is {" or ".join(TRAINABLE)}.')
  return TRAINABLE[network]


def build(config: ml_collections.ConfigDict) -> nn.Module:
  """The network, with batch norms, of a `config.model` section.

  Args:
    config: `network`, `depth` (empty if the network has one), `width`, `pool`, `dtype`.

  Raises:
    InputError: a setting is out of range.
  """
  trainable = find(config.network)
  if config.width * _STEM < 4 or config.width * _STEM % 1:
    raise InputError(
      f'config.model.width is {config.width}; {_STEM} times it must be a whole number of at least '
      '4.'
    )
  if config.pool < 1:
    raise InputError(f'config.model.pool is {config.pool}; it must be 1 or more.')
  sizes = [config.width, config.pool]
  if trainable.parse_depth:
    sizes.insert(0, trainable.parse_depth(config.depth))
  elif config.depth:
    raise InputError(
      f'config.model.depth is {config.depth!r}, and {config.network} has one depth: leave it empty.'
    )
  dtype = layers.compute_dtype('config.model.dtype', config.dtype)
  return trainable.network(*sizes, norms=True, dtype=dtype)
