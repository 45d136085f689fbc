"""Layers that every network shares, numerically equal to PyTorch's.

Parameters are float32 and carry logical axis names, which
`dfrec_jax.sharding.RULES` maps to the mesh; `dtype` is the type of the
computation. Images are NHWC.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.errors import InputError
from dfrec_jax.models.partitioning import constrain

Dtype = Any
Padding = int | tuple[tuple[int, int], tuple[int, int]]

# Mean and standard deviation of RGB in [0, 1], which networks pretrained on ImageNet expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Logical axes of convolution kernels (height, width, in, out). A 1x1 kernel has the same rank.
CONV_AXES = (None, None, 'conv_in', 'conv_out')

conv_init = nn.initializers.variance_scaling(2.0, 'fan_in', 'truncated_normal')
dense_init = nn.initializers.xavier_uniform()
token_init = nn.initializers.normal(0.02)


def compute_dtype(setting: str, name: str) -> Dtype:
  """The type of a computation from its name. Raises an InputError that names `setting`."""
  if name not in ('float32', 'bfloat16'):
    raise InputError(f'{setting} is {name!r}; it is float32 or bfloat16.')
  return jnp.dtype(name)


def named(init, *axes: str | None):
  """`init` whose result carries logical axis names, one a dimension."""
  return nn.with_logical_partitioning(init, axes)


def conv(
  features: int,
  kernel: int,
  *,
  strides: int = 1,
  dilation: int = 1,
  padding: Padding | None = None,
  use_bias: bool = False,
  dtype: Dtype = jnp.float32,
  name: str | None = None,
) -> nn.Module:
  """A dense convolution, padded as PyTorch pads: `dilation * (kernel - 1) // 2` on each side."""
  if kernel == strides == 1 and not padding:
    return PointwiseConv(features, use_bias, dtype, name=name)
  return nn.Conv(
    features,
    (kernel, kernel),
    strides=strides,
    padding=dilation * (kernel - 1) // 2 if padding is None else padding,
    kernel_dilation=dilation,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=named(conv_init, *CONV_AXES),
    bias_init=named(nn.initializers.zeros, 'conv_out'),
    name=name,
  )


def dense(
  features: int,
  axes: tuple[str | None, str | None],
  *,
  use_bias: bool = True,
  dtype: Dtype = jnp.float32,
  name: str | None = None,
) -> nn.Dense:
  """A linear layer whose kernel has the logical axes `axes` (in, out)."""
  return nn.Dense(
    features,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=named(dense_init, *axes),
    bias_init=named(nn.initializers.zeros, axes[1]),
    name=name,
  )


class PointwiseConv(nn.Module):
  """A 1x1 convolution: (B, H, W, C) to (B, H, W, features), with the parameters of `nn.Conv`.

  Attributes:
    product: multiply instead of calling a convolution. XLA finds the product by itself, but not in
      the gradient of the kernel: for that a CPU transposes the whole image. A TPU's compiler lays
      out convolutions better (in a plan for a v5e, products took 16 % more memory). None takes the
      product on a CPU only.
  """

  features: int
  use_bias: bool = False
  dtype: Dtype = jnp.float32
  product: bool | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (1, 1, x.shape[-1], self.features)
    kernel = self.param('kernel', named(conv_init, *CONV_AXES), shape, jnp.float32)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if self.product is None:
      y = jax.lax.platform_dependent(x, kernel, cpu=_product, default=_convolve)
    else:
      y = (_product if self.product else _convolve)(x, kernel)
    if self.use_bias:
      init = named(nn.initializers.zeros, 'conv_out')
      y += self.param('bias', init, (self.features,), jnp.float32).astype(self.dtype)
    return y


def _product(x, kernel):
  return x @ kernel[0, 0]


def _convolve(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


class DepthwiseConv(nn.Module):
  """Depthwise convolution without bias; the kernel is (height, width, 1, channels).

  Attributes:
    kernel: side of the kernel.
    strides: the same in both directions.
    dilation: spacing of the kernel's taps.
    padding: pixels on each side, or ((top, bottom), (left, right)); None pads as PyTorch does for
      an output of the input's size.
    shifted: sum shifted products instead of calling a convolution. XLA's depthwise convolution on
      a CPU is 18 to 38 times slower than this sum; None takes the sum on a CPU only.
  """

  kernel: int
  strides: int = 1
  dilation: int = 1
  padding: Padding | None = None
  dtype: Dtype = jnp.float32
  shifted: bool | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels, k = x.shape[-1], self.kernel
    weight = self.param(
      'kernel', named(conv_init, None, None, None, 'conv_out'), (k, k, 1, channels), jnp.float32
    )
    x, weight = x.astype(self.dtype), weight.astype(self.dtype)
    padding = self.dilation * (k - 1) // 2 if self.padding is None else self.padding
    if isinstance(padding, int):
      padding = ((padding, padding), (padding, padding))
    windows = self.strides, self.dilation, padding
    shifted = lambda x, weight: _shifted_depthwise(x, weight, *windows)
    convolved = lambda x, weight: _depthwise(x, weight, *windows)
    if self.shifted is None:
      # The platform that it is compiled for, which need not be the one it is traced on.
      return jax.lax.platform_dependent(x, weight, cpu=shifted, default=convolved)
    return (shifted if self.shifted else convolved)(x, weight)


def _depthwise(x, weight, strides, dilation, padding):
  return jax.lax.conv_general_dilated(
    x,
    weight,
    window_strides=(strides, strides),
    padding=padding,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _shifted_depthwise(x, weight, strides, dilation, padding):
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  k = weight.shape[0]
  height, width = (
    (x.shape[axis] - dilation * (k - 1) - 1) // strides + 1 for axis in (1, 2)
  )  # of the output
  return sum(
    _window(x, i * dilation, j * dilation, height, width, strides) * weight[i, j, 0]
    for i, j in np.ndindex(k, k)
  )


def _shifted_depthwise_backward(strides, dilation, padding, saved, g):
  """Without the shifted images, which differentiation would keep, one for each tap."""
  x, weight = saved
  k = weight.shape[0]
  around = dilation * (k - 1)
  # Of the image: the same sum with the kernel turned round, zeros between what strides left out.
  edges = [(0, 0, 0)]
  for size, inputs, (before, _) in zip(g.shape[1:3], x.shape[1:3], padding, strict=True):
    extent = strides * (size - 1) + 1
    edges.append((around - before, inputs + before - extent, strides - 1))
  spread = jax.lax.pad(g, jnp.zeros((), g.dtype), [*edges, (0, 0, 0)])
  x_gradient = _shifted_depthwise(spread, weight[::-1, ::-1], 1, dilation, ((0, 0), (0, 0)))
  # Of the kernel: a CPU writes down what it is to sum. Examples and halves of the image are added
  # to each other while they are computed, so that of four examples an eighth is written.
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  batch, height, width, channels = g.shape
  parts = max(n for n in (1, 2, 3, 4) if batch % n == 0)
  taps = []
  for i, j in np.ndindex(k, k):
    window = _window(x, i * dilation, j * dilation, height, width, strides)
    pairs = zip(jnp.split(window, parts), jnp.split(g, parts), strict=True)
    products = sum(a * b for a, b in pairs)
    products = jnp.pad(products, ((0, 0), (0, height % 2), (0, 0), (0, 0)))
    halves = products.reshape(batch // parts, 2, -1, width, channels)
    taps.append((halves[:, 0] + halves[:, 1]).sum((0, 1, 2), dtype=jnp.float32))
  return x_gradient, jnp.stack(taps).reshape(weight.shape).astype(weight.dtype)


_shifted_depthwise.defvjp(
  lambda x, weight, *windows: (_shifted_depthwise(x, weight, *windows), (x, weight)),
  _shifted_depthwise_backward,
)


def _window(x, top, left, height, width, strides):
  """Every `strides`-th pixel from (top, left): (B, height, width, C)."""
  rows = slice(top, top + strides * (height - 1) + 1, strides)
  columns = slice(left, left + strides * (width - 1) + 1, strides)
  return x[:, rows, columns]


class BatchNorm(nn.Module):
  """Batch norm with PyTorch's conventions: its `momentum`, and an unbiased running variance.

  Under `jit` the statistics are those of the global batch. They are float32 whatever `dtype` is.

  Attributes:
    momentum: weight of the new statistics (linen's is 1 minus this).
    use_scale: whether there is a scale; without, it is 1.
  """

  momentum: float = 0.1
  epsilon: float = 1e-5
  use_scale: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    channels = x.shape[-1]
    # Every convolution ends in a norm: its output stays divided by examples, so that parameters and
    # not feature maps move between devices.
    x = constrain(x, 'batch')
    scale = 1.0
    if self.use_scale:
      scale = self.param('scale', named(nn.initializers.ones, 'conv_out'), (channels,), jnp.float32)
    bias = self.param('bias', named(nn.initializers.zeros, 'conv_out'), (channels,), jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,), jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, (channels,), jnp.float32)
    x = x.astype(jnp.float32)
    if train:
      axes = tuple(range(x.ndim - 1))
      mean = x.mean(axes)
      var = jnp.square(x - mean).mean(axes)
      if not self.is_initializing():
        n = x.size // channels
        blend = lambda old, new: (1 - self.momentum) * old + self.momentum * new
        running_mean.value = blend(running_mean.value, mean)
        running_var.value = blend(running_var.value, var * (n / max(n - 1, 1)))
    else:
      mean, var = running_mean.value, running_var.value
    y = (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
    return y.astype(self.dtype)


def layer_norm(*, epsilon: float = 1e-6, dtype: Dtype = jnp.float32, name: str | None = None):
  """Layer norm over the last axis, statistics in float32."""
  return nn.LayerNorm(
    epsilon=epsilon,
    dtype=dtype,
    scale_init=named(nn.initializers.ones, 'embed'),
    bias_init=named(nn.initializers.zeros, 'embed'),
    name=name,
  )


class DropConnect(nn.Module):
  """Drops whole residual branches, an example at a time (EfficientNet's drop-connect).

  Draws from the random stream `dropout`.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if not train or self.rate == 0:
      return x
    keep = 1 - self.rate
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    kept = jax.random.bernoulli(self.make_rng('dropout'), keep, shape)
    return jnp.where(kept, x / keep, jnp.zeros_like(x))


def spatial_max(x: jax.Array) -> jax.Array:
  """The maximum of each feature of (B, H, W, C): (B, C); its gradient goes to the first one.

  The gradient of `x.max` divides by the number of values that equal the maximum. Where the compiler
  computes `x` anew for it, rounded in another way, there is none, and 0 / 0 ends the training.
  """
  x = x.reshape(len(x), -1, x.shape[-1])
  highest = jnp.arange(x.shape[1])[:, None] == x.argmax(1, keepdims=True)
  return jnp.where(highest, x, 0).sum(1)


def resize_align_corners(x: jax.Array, size: Sequence[int]) -> jax.Array:
  """Bilinear resize of (B, H, W, C) to (B, *size, C) with PyTorch's `align_corners=True`."""
  rows, columns = (
    jnp.asarray(_interpolation(inputs, outputs), x.dtype)
    for inputs, outputs in zip(x.shape[1:3], size, strict=True)
  )
  # Products with constant matrices: their error is a tenth of `jax.image.scale_and_translate`'s.
  return jnp.einsum(
    'hi,wj,bijc->bhwc',
    rows,
    columns,
    x,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  ).astype(x.dtype)


def _interpolation(inputs: int, outputs: int) -> np.ndarray:
  """Weights (outputs, inputs) of linear interpolation whose first and last samples coincide."""
  position = np.linspace(0, inputs - 1, outputs)
  return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(inputs)))
