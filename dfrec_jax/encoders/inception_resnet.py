"""InceptionResnetV1 (FaceNet on Inception-ResNet, arXiv 1503.03832 and 1602.07261), frozen.

The structure is that of facenet-pytorch. Batch norms act with their running statistics, so each is
folded into the convolution before it when the weights are loaded.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.encoders import alignment, weights
from dfrec_jax.models import layers

EMBEDDING = 512
SIZE = 160  # of the images that it was trained on, in pixels
BATCH_NORM_EPSILON = 1e-3


class Conv(NamedTuple):
  """A convolution, batch norm and ReLU; `padded` keeps the size."""

  features: int
  kernel: tuple[int, int] = (1, 1)
  strides: int = 1
  padded: bool = True


class Residual(NamedTuple):
  """Residual blocks in a row: `scale` of the concatenated branches, projected, is added."""

  name: str
  repeats: int
  scale: float
  branches: tuple[tuple[Conv, ...], ...]
  relu: bool = True


class Reduction(NamedTuple):
  """Branches beside a 3x3 maximum of stride 2, concatenated."""

  name: str
  branches: tuple[tuple[Conv, ...], ...]


# facenet-pytorch's names; a 3x3 maximum of stride 2 comes before `conv2d_3b`.
STEM = {
  'conv2d_1a': Conv(32, (3, 3), 2, padded=False),
  'conv2d_2a': Conv(32, (3, 3), padded=False),
  'conv2d_2b': Conv(64, (3, 3)),
  'conv2d_3b': Conv(80),
  'conv2d_4a': Conv(192, (3, 3), padded=False),
  'conv2d_4b': Conv(256, (3, 3), 2, padded=False),
}
_halving = lambda features: Conv(features, (3, 3), 2, padded=False)
_BLOCK_35 = (
  (Conv(32),),
  (Conv(32), Conv(32, (3, 3))),
  (Conv(32), Conv(32, (3, 3)), Conv(32, (3, 3))),
)
_BLOCK_17 = ((Conv(128),), (Conv(128), Conv(128, (1, 7)), Conv(128, (7, 1))))
_BLOCK_8 = ((Conv(192),), (Conv(192), Conv(192, (1, 3)), Conv(192, (3, 1))))
_MIXED_6A = ((_halving(384),), (Conv(192), Conv(192, (3, 3)), _halving(256)))
_MIXED_7A = (
  (Conv(256), _halving(384)),
  (Conv(256), _halving(256)),
  (Conv(256), Conv(256, (3, 3)), _halving(256)),
)
TRUNK = (
  Residual('repeat_1', 5, 0.17, _BLOCK_35),
  Reduction('mixed_6a', _MIXED_6A),
  Residual('repeat_2', 10, 0.10, _BLOCK_17),
  Reduction('mixed_7a', _MIXED_7A),
  Residual('repeat_3', 5, 0.20, _BLOCK_8),
  Residual('block8', 1, 1.0, _BLOCK_8, relu=False),
)


class Features(NamedTuple):
  """What InceptionResnetV1 says of B faces.

  Attributes:
    embedding: (B, 512) float32, not normalised.
    taps: the last map of each resolution; of 160 px images (B, 77, 77, 64), (B, 36, 36, 192),
      (B, 17, 17, 256), (B, 8, 8, 896) and (B, 3, 3, 1792).
  """

  embedding: jax.Array
  taps: tuple[jax.Array, ...]


class ConvRelu(nn.Module):
  """A convolution with bias, and a ReLU."""

  conv: Conv
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features, kernel, strides, padded = self.conv
    if kernel == (1, 1):  # As a product it is twice as fast on a CPU.
      return nn.relu(nn.Dense(features, dtype=self.dtype, name='conv')(x))
    padding = [(side // 2 * padded,) * 2 for side in kernel]
    conv = nn.Conv(features, kernel, strides, padding, dtype=self.dtype, name='conv')
    return nn.relu(conv(x))


class Branches(nn.Module):
  """Parallel rows of convolutions, concatenated."""

  branches: tuple[tuple[Conv, ...], ...]
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    outputs = []
    for i, row in enumerate(self.branches):
      y = x
      for j, conv in enumerate(row):
        y = ConvRelu(conv, self.dtype, name=f'branch{i}_{j}')(y)
      outputs.append(y)
    return jnp.concatenate(outputs, -1)


class ResidualBlock(nn.Module):
  """One block of a `Residual`."""

  settings: Residual
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = Branches(self.settings.branches, self.dtype, name='branches')(x)
    y = nn.Dense(x.shape[-1], dtype=self.dtype, name='project')(y)
    x = x + self.settings.scale * y
    return nn.relu(x) if self.settings.relu else x


class InceptionResnetV1(nn.Module):
  """Embeds faces. The parameters of blocks in a row are stacked along a leading axis.

  Attributes:
    dtype: of the computation; pooling and embedding are float32 whatever it is.
  """

  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, faces: jax.Array) -> Features:
    """`faces`: (B, H, W, 3), sides of 75 px or more; see `normalise` for what it was trained on."""
    x, taps = faces.astype(self.dtype), []
    for name, conv in STEM.items():
      if name == 'conv2d_3b':
        taps.append(x)
        x = _halved_maximum(x)
      elif name == 'conv2d_4b':
        taps.append(x)
      x = ConvRelu(conv, self.dtype, name=name)(x)
    for stage in TRUNK:
      if isinstance(stage, Reduction):
        taps.append(x)
        branches = Branches(stage.branches, self.dtype, name=stage.name)
        x = jnp.concatenate([branches(x), _halved_maximum(x)], -1)
      else:
        x = self._repeat(stage, x)
    taps.append(x)
    pooled = x.astype(jnp.float32).mean((1, 2))
    return Features(nn.Dense(EMBEDDING, name='last_linear')(pooled), tuple(taps))

  def _repeat(self, stage, x):
    # A loop compiles in a fraction of the time of its blocks one by one.
    scan = nn.scan(
      lambda block, x, _: (block(x), None),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=stage.repeats,
    )
    return scan(ResidualBlock(stage, self.dtype, name=stage.name), x, None)[0]


def _halved_maximum(x):
  return nn.max_pool(x, (3, 3), (2, 2))


def normalise(images: jax.Array) -> jax.Array:
  """RGB in [0, 1] as the published networks were trained on it: (255 x - 127.5) / 128."""
  return (images * 255 - 127.5) / 128


def face_points() -> np.ndarray:
  """Points with which `alignment.align_to_template` frames a face as MTCNN's box does.

  The published networks were trained on upright boxes, found by MTCNN, with a margin. Of frontal
  faces such a box is 2.3 eye distances wide and 1.34 times as high, and stretched to a square. Here
  it is the square of the same area around the same centre, with facenet-pytorch's margin of 14 in
  160 px: of `alignment.TEMPLATE_112` the square of 103 px around (56, 65), a closer frame than
  the 112 px around (56, 56) of that template.

  Returns:
    (5, 2) x, y as fractions of a square crop's side.
  """
  matrix = alignment.similarity_transform(alignment.MEAN_POINTS, alignment.TEMPLATE_112)
  in_template = alignment.MEAN_POINTS @ matrix[:, :2].T + matrix[:, 2]
  # What belongs at the points' place in a frame of 112 px around (56, 56), if that is to be ours.
  wanted = (in_template - 56) * (103 / 112) + (56, 65)
  return np.linalg.solve(matrix[:, :2], (wanted - matrix[:, 2]).T).T


class _Unit(NamedTuple):
  """A convolution's place in both libraries; `norm` is None where it has a bias instead."""

  path: tuple[str, ...]
  name: str
  norm: str | None
  shape: tuple[int, int, int, int]


def _units() -> Iterator[_Unit]:
  """All convolutions; of blocks in a row, one by one, the path begins with `stage/index`."""
  inputs = 3
  for name, conv in STEM.items():
    yield _unit((name,), name, inputs, conv)
    inputs = conv.features
  for stage in TRUNK:
    if isinstance(stage, Reduction):
      yield from _branch_units((stage.name,), stage.name, inputs, stage.branches)
    else:
      for i in range(stage.repeats):
        prefix = stage.name if stage.repeats == 1 else f'{stage.name}.{i}'
        yield from _branch_units((stage.name, str(i), 'branches'), prefix, inputs, stage.branches)
        joined = sum(row[-1].features for row in stage.branches)
        path, shape = (stage.name, str(i), 'project'), (inputs, joined, 1, 1)
        yield _Unit(path, f'{prefix}.conv2d', None, shape)
    if isinstance(stage, Reduction):
      inputs += sum(row[-1].features for row in stage.branches)


def _branch_units(path, prefix, inputs, branches):
  for i, row in enumerate(branches):
    features = inputs
    for j, conv in enumerate(row):
      name = f'{prefix}.branch{i}' if len(row) == 1 else f'{prefix}.branch{i}.{j}'
      yield _unit((*path, f'branch{i}_{j}'), name, features, conv)
      features = conv.features


def _unit(path, name, inputs, conv):
  shape = (conv.features, inputs, *conv.kernel)
  return _Unit((*path, 'conv'), f'{name}.conv', f'{name}.bn', shape)


def tensor_shapes() -> dict[str, tuple[int, ...]]:
  """Name and shape of each tensor of the PyTorch network, classifier and step counters excepted."""
  shapes = {'last_linear.weight': (EMBEDDING, 1792)}
  norms = [('last_bn', EMBEDDING)]
  for _, name, norm, shape in _units():
    shapes[f'{name}.weight'] = shape
    if norm is None:
      shapes[f'{name}.bias'] = shape[:1]
    else:
      norms.append((norm, shape[0]))
  for norm, features in norms:
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{norm}.{leaf}'] = (features,)
  return shapes


def from_torch_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of `InceptionResnetV1` from facenet-pytorch's tensors, batch norms folded.

  Args:
    arrays: tensors by name; `num_batches_tracked` and the classifier `logits` are ignored.

  Returns:
    Nested dictionary of float32 numpy arrays.

  Raises:
    ValueError: names every missing, unexpected and misshapen tensor.
  """
  ignored = lambda name: name.startswith('logits.') or name.endswith('.num_batches_tracked')
  arrays = {name: array for name, array in arrays.items() if not ignored(name)}
  weights.check_tensors('InceptionResnetV1', arrays, tensor_shapes())
  params: dict[str, Any] = {}
  for path, name, norm, shape in _units():
    kernel = arrays[f'{name}.weight'].astype(np.float64)
    if norm is None:
      bias = arrays[f'{name}.bias']
    else:
      scale, bias = weights.scale_and_shift(arrays, norm, BATCH_NORM_EPSILON)
      kernel = kernel * scale[:, None, None, None]
    kernel = kernel[:, :, 0, 0].T if shape[2:] == (1, 1) else kernel.transpose(2, 3, 1, 0)
    node = params
    for key in path:
      node = node.setdefault(key, {})
    node.update(kernel=kernel, bias=bias)
  for stage in TRUNK:
    if isinstance(stage, Residual):
      blocks = [params[stage.name][str(i)] for i in range(stage.repeats)]
      params[stage.name] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
  scale, shift = weights.scale_and_shift(arrays, 'last_bn', BATCH_NORM_EPSILON)
  kernel = (arrays['last_linear.weight'] * scale[:, None]).T
  params['last_linear'] = {'kernel': kernel, 'bias': shift}
  return jax.tree.map(lambda array: np.ascontiguousarray(array, np.float32), params)
