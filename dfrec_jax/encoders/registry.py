"""Frozen encoders by name, as losses and metrics take them."""

from collections.abc import Callable
import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp

from dfrec_jax.encoders import alignment, inception_resnet, vgg
from dfrec_jax.encoders import weights as weight_files
from dfrec_jax.encoders.trainable import TRAINABLE
from dfrec_jax.errors import InputError
from dfrec_jax.models import layers

Params = Any
Maps = tuple[jax.Array, ...]

# Side in pixels of the aligned faces of MobileFaceNet and IResNet as they are published.
_PUBLISHED_SIZE = 112


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenEncoder:
  """A network with fixed weights, which are no parameters of the model.

  The functions take `params` first, so that a jitted caller can pass them as an argument instead of
  compiling them in. Images are (B, H, W, 3) RGB in [0, 1] of any size. Maps come from fine to
  coarse, of decreasing resolution; the last is the one before pooling.

  Attributes:
    name: as in the configuration.
    params: tree of float32 arrays.
    embed: (params, images) -> (B, D) float32 of unit length; None if the network embeds nothing.
    both: (params, images) -> (embedding, maps) in one pass; the embedding is None as above, the
      maps are (B, h, w, C) of the computation's dtype.
  """

  name: str
  params: Params
  embed: Callable[[Params, jax.Array], jax.Array] | None
  both: Callable[[Params, jax.Array], tuple[jax.Array | None, Maps]]


def _face_encoder(name, net, params, prepare):
  """The encoder of a network that embeds faces; `prepare` makes its input of images."""

  def both(params, images):
    result = net.apply({'params': params}, prepare(images))
    embedding = result.embedding
    # The floor keeps the gradient finite for an embedding of zero.
    squared = jnp.maximum(jnp.square(embedding).sum(-1, keepdims=True), 1e-12)
    return embedding * jax.lax.rsqrt(squared), result.taps

  return FrozenEncoder(
    name=name,
    params=params,
    embed=lambda params, images: both(params, images)[0],
    both=both,
  )


def _trainable(name, arrays, dtype):
  trainable = TRAINABLE[name]
  params = trainable.from_torch_arrays(arrays)
  net = trainable.network(*trainable.sizes(arrays), dtype=dtype)
  align = alignment.align_to_template
  if net.size != _PUBLISHED_SIZE:  # trained by `dfrec_jax.identity`, which shrinks with averages
    align = functools.partial(alignment.align_filtered, size=net.size)
  return _face_encoder(name, net, params, lambda images: net.from_pixels(align(images)))


def _inception_resnet_v1(arrays, dtype):
  net = inception_resnet.InceptionResnetV1(dtype=dtype)
  params = inception_resnet.from_torch_arrays(arrays)
  points = inception_resnet.face_points()

  def prepare(images):
    faces = alignment.align_to_template(images, size=inception_resnet.SIZE, points=points)
    return inception_resnet.normalise(faces)

  return _face_encoder('inception_resnet_v1', net, params, prepare)


def _vgg19(arrays, dtype):
  net = vgg.VGG19Features(dtype=dtype)

  def both(params, images):
    taps = net.apply({'params': params}, images)
    return None, tuple(taps[name] for name in vgg.TAPS)

  return FrozenEncoder(
    name='vgg19',
    params=vgg.from_torch_arrays(arrays),
    embed=None,
    both=both,
  )


ENCODERS = {
  'mobilefacenet': functools.partial(_trainable, 'mobilefacenet'),
  'vgg19': _vgg19,
  'inception_resnet_v1': _inception_resnet_v1,
  'iresnet': functools.partial(_trainable, 'iresnet'),
}


def load_encoder(
  name: str, weights: str | os.PathLike, *, dtype: layers.Dtype = jnp.float32
) -> FrozenEncoder:
  """The frozen encoder of that name with weights from a file.

  Args:
    name: 'mobilefacenet', 'inception_resnet_v1' (facenet-pytorch's) or 'iresnet' (insightface's, of
      any depth), which give embedding and maps of the aligned face, or 'vgg19' (torchvision's),
      which gives maps of the image.
    weights: `.npz`, `.safetensors`, `.pth` or `.pt` of the network's tensors in PyTorch naming and
      layout, see `weights.read_arrays`; or, for 'mobilefacenet', a name of `shipped.ENCODERS`.
    dtype: of the computation; embeddings are float32 whatever it is.

  Raises:
    InputError: the name is unknown, no file is given or it is not there, or it does not hold the
      weights.
  """
  if name not in ENCODERS:
    raise InputError(f'Unknown encoder {name!r}; the encoders are {", ".join(ENCODERS)}.')
  if not os.fspath(weights):
    raise InputError(
      f'This loss or metric needs the weights of encoder {name}: give its file in the '
      'configuration or set the weight of that term to 0.'
    )
  arrays = weight_files.read_arrays(weights)
  try:
    return ENCODERS[name](arrays, dtype)
  except ValueError as error:
    raise InputError(f'{os.fspath(weights)} does not fit encoder {name}. {error}') from error
