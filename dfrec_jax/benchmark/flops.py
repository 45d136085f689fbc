"""How many FLOP a step takes, by a formula of the sizes: forward, backward, frozen encoders.

A multiply-add is two. Taps of a convolution that fall outside the image are not counted, as XLA
does not. A backward pass takes as much as the forward one for the weights, and as much again for
the inputs, which the first layer does not need. What is computed twice to save memory is no work of
the model: `recomputed_flops` has it apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dfrec_jax import masking
from dfrec_jax.benchmark import encoder_flops
from dfrec_jax.benchmark.counts import Count, Network, dense
from dfrec_jax.models import efficientnet, sizes
from dfrec_jax.models.remat import policy_name
from dfrec_jax.models.source_reconstruction import STRIDE

MODULES = ('ism', 'sirm', 'tirm')
# Of one parameter: the moments, their correction, decay, scale, update, clipping and the average.
_OPTIMIZER = 25


def forward_counts(model: Mapping[str, Any]) -> dict[str, Count]:
  """The work on one image in training by module, and `compositing`.

  Args:
    model: the `config.model` section.
  """
  size, side = sizes.get_size(model['size']), model['image_size']
  tokens = _Tokens(model, size)
  without_tirm = model.get('without') == 'tirm'  # A U-Net in its place.
  blur = 2 * 2.0 * side**3 if model['composite_softness'] > 0 else 0.0
  return {
    'ism': _ism(size, side),
    'sirm': _sirm(size, side, model['fusion'], tokens.kept),
    'tirm': _sirm(size, side, 'add', 0) if without_tirm else _tirm(model, size, tokens),
    # Nothing learns from it.
    'compositing': Count(products=blur),
  }


def recover_flops(
  model: Mapping[str, Any], batch: int, *, pointwise: bool = False
) -> dict[str, float]:
  """FLOP of one recovery of `batch` images, by part: `ism`, `sirm`, `tirm`, `compositing`.

  Args:
    model: the `config.model` section.
    batch: images.
    pointwise: also count what is done element by element, see `train_flops`.
  """
  whole = lambda count: count.forward + (count.pointwise if pointwise else 0)
  return {name: batch * whole(count) for name, count in forward_counts(model).items()}


def train_flops(
  model: Mapping[str, Any],
  batch: int,
  *,
  twins: bool = True,
  encoders: Sequence[str] = ('vgg19', 'mobilefacenet'),
  encoded_examples: int = 0,
  pointwise: bool = False,
) -> dict[str, float]:
  """FLOP of one training step on all devices together, by part.

  The parts are `ism`, `sirm`, `tirm`, `compositing`, `encoders` and `optimizer`. The encoders see
  the true faces forward, and the recovered ones forward and backward to the image; two faces of
  each example, source and target.

  Args:
    model: the `config.model` section.
    batch: examples.
    twins: whether the ISM sees as many images again.
    encoders: names of the frozen encoders that see the faces; each counts once.
    encoded_examples: how many of the batch they see; 0 for all.
    pointwise: also count what is done element by element (norms, activations, the optimizer), which
      XLA counts and a chip's peak does not mean.

  Raises:
    InputError: an encoder without a formula.
  """
  per_image = forward_counts(model)
  seen = {'ism': batch * (2 if twins else 1)}
  whole = lambda count: count.train + (count.pointwise_train if pointwise else 0)
  parts = {name: seen.get(name, batch) * whole(count) for name, count in per_image.items()}
  parts['encoders'] = 0.0
  for name in dict.fromkeys(encoders):
    count = encoder_flops.forward_count(name, model['image_size'])
    faces = 2 * (encoded_examples or batch)
    work = 2 * count.forward + count.to_inputs
    if pointwise:
      work += 2 * count.pointwise + count.pointwise
    parts['encoders'] += faces * work
  weights = sum(count.weights for count in per_image.values())
  parts['optimizer'] = float(_OPTIMIZER * weights) if pointwise else 0.0
  return parts


def recomputed_flops(model: Mapping[str, Any], batch: int) -> dict[str, float]:
  """FLOP that `config.model.remat` adds to a step, by part.

  With `full` it is the stages' and blocks' forward pass again, with `dots` what is done element by
  element.
  """
  policy = policy_name(model['remat'])
  if policy == 'none':
    return {}
  counts = {'sirm': forward_counts(model)['sirm'], 'tirm': _blocks(model)}
  if policy == 'full':
    return {name: batch * (count.forward + count.pointwise) for name, count in counts.items()}
  return {name: batch * count.pointwise for name, count in counts.items()}


def state_bytes(model: Mapping[str, Any], *, train: bool) -> float:
  """Bytes of the layers' parameters in float32; in training also of both moments and the average.

  A lower bound of what a step holds on a device that holds them whole: biases, norms and positions
  (about a hundredth), gradients and activations come to it.
  """
  weights = sum(count.weights for count in forward_counts(model).values())
  return 4.0 * weights * (4 if train else 1)


class _Tokens:
  """How many tokens the TIRM handles."""

  def __init__(self, model, size):
    self.side = model['image_size'] // size.patch
    self.patches = self.side**2
    self.kept = masking.kept_count(self.patches, model['mask_ratio'], model['indexing'])
    self.masked = self.patches - self.kept
    self.encoder = self.kept + (model['indexing'] == 'aligned')
    self.bottleneck = (model['image_size'] // STRIDE) ** 2
    self.decoder = self.patches + 1 + (self.bottleneck if model['fusion'] == 'sequence' else 0)


def _ism(size: sizes.Size, side: int) -> Count:
  net, features = Network(), efficientnet.round_features(efficientnet.STEM, size.ism_width)
  first = net.conv(side, 3, features, 3, stride=2, pad=(0, 1), first=True)
  low_side = low_width = 0
  net.norm(first, features, activation=4)
  here = first
  for block in efficientnet.blocks(size.ism_width, size.ism_depth):
    here = _bottleneck(net, here, block)
    if block.feature and not low_side:
      low_side, low_width = here, block.features
  last, aspp = block.features, size.aspp_channels
  separable = lambda where, inputs, outputs, rate=1: (
    net.depthwise(where, inputs, 3, dilation=rate),
    net.conv(where, inputs, outputs, 1),
    net.norm(where, outputs),
  )
  net.conv(here, last, aspp, 1)
  net.norm(here, aspp)
  for rate in size.aspp_rates:
    separable(here, last, aspp, rate)
  net.conv(1, last, aspp, 1)
  net.conv(here, 5 * aspp, aspp, 1)
  net.norm(here, aspp)
  separable(here, aspp, aspp)
  net.resize(here, low_side, aspp)
  net.conv(low_side, low_width, size.low_level_channels, 1)
  net.norm(low_side, size.low_level_channels)
  separable(low_side, aspp + size.low_level_channels, aspp)
  net.conv(low_side, aspp, 1, 1)
  net.resize(low_side, side, 1)
  if size.detail_channels:
    _detail(net, side, size.detail_channels)
  return net.count


def _bottleneck(net: Network, side: int, block: efficientnet.Block) -> int:
  width = block.inputs * block.expansion
  if block.expansion > 1:
    net.conv(side, block.inputs, width, 1)
    net.norm(side, width, activation=4)
  if block.dilated:
    after = net.depthwise(side, width, block.kernel, dilation=2)
  else:
    ((low, high), _) = efficientnet.same_padding(block.kernel, block.strides)
    after = net.depthwise(side, width, block.kernel, stride=block.strides, pad=(low, high))
  net.norm(after, width, activation=6)
  squeezed = max(1, block.inputs // 4)
  net.conv(1, width, squeezed, 1)
  net.conv(1, squeezed, width, 1)
  net.conv(after, width, block.features, 1)
  net.norm(after, block.features, activation=1)
  return after


def _detail(net: Network, side: int, channels: Sequence[int]) -> None:
  inputs, here, sides = 3, side, []
  for index, features in enumerate(channels):
    stride, pad = (2, (0, 1)) if index else (1, (1, 1))
    here = net.conv(here, inputs, features, 3, stride=stride, pad=pad, first=not index)
    net.norm(here, features)
    if index > 1:
      net.conv(here, features, features, 3)
      net.norm(here, features)
    inputs = features
    sides.append(here)
  net.conv(sides[2], sum(channels[2:]), channels[2], 1)
  net.norm(sides[2], channels[2])
  net.conv(sides[1], channels[1] + channels[2], channels[1], 1)
  net.norm(sides[1], channels[1])
  net.conv(sides[1], channels[1], 1, 1)
  net.resize(sides[1], side, 1)


def _sirm(size: sizes.Size, side: int, fusion: str, token_count: int) -> Count:
  net, widths = Network(), size.sirm_widths

  def double(where, inputs, outputs, first=False):
    net.conv(where, inputs, outputs, 3, first=first)
    net.norm(where, outputs)
    net.conv(where, outputs, outputs, 3)
    net.norm(where, outputs)

  inputs = 3
  for stage, width in enumerate(widths):
    double(side >> stage, inputs, width, first=not stage)
    inputs = width
  half = widths[-1] // 2
  double(side >> 4, half, token_count if fusion == 'concat' else half)
  inputs = half
  for stage in (3, 2, 1, 0):
    where, width = side >> stage, widths[stage]
    net.upsampled_conv(where // 2, inputs, width)
    net.norm(where, width)
    for _ in ('guide', 'skip', 'alone'):
      net.conv(where, width, width // 2, 1)
      net.norm(where, width // 2)
    for _ in ('guided', 'alone_weight'):
      net.conv(where, width // 2, 1, 1)
    double(where, 2 * width, width)
    inputs = width
  net.conv(side, widths[0], 3, 1)
  return net.count


def _blocks(model: Mapping[str, Any]) -> Count:
  """All blocks of the TIRM's two transformers."""
  size = sizes.get_size(model['size'])
  tokens = _Tokens(model, size)
  return size.depth * _block(tokens.encoder, size.width, size.mlp) + size.decoder_depth * _block(
    tokens.decoder, size.decoder_width, size.decoder_mlp
  )


def _tirm(model: Mapping[str, Any], size: sizes.Size, tokens: _Tokens) -> Count:
  pixels, width, decoder = size.patch**2 * 3, size.width, size.decoder_width
  half = size.sirm_widths[-1] // 2
  fused = width + (tokens.bottleneck if model['fusion'] == 'concat' else 0)
  count = dense(tokens.kept, pixels, width, first=True)
  count += _blocks(model)
  count += dense(tokens.encoder, fused, decoder)
  if model['fusion'] == 'add':
    count += dense(tokens.patches, half, decoder)
  elif model['fusion'] == 'sequence':
    count += dense(tokens.bottleneck, half, decoder)
  if model['forged_tokens']:
    count += dense(tokens.patches, pixels, decoder, first=True)
  if features := model.get('refinement'):
    count += _refinement(model['image_size'], features)
  return count + dense(tokens.masked, decoder, pixels)


def _refinement(side: int, features: int) -> Count:
  net, fine, coarse = Network(), side // 2, side // 4
  for inputs in (28, features):
    net.conv(fine, inputs, features, 3)
  for inputs in (features, 2 * features):
    net.conv(coarse, inputs, 2 * features, 3)
  net.upsampled_conv(coarse, 2 * features, features)
  net.conv(fine, 2 * features, features, 3)
  net.conv(fine, features, 12, 3)
  return net.count


def _block(tokens: int, width: int, mlp: int) -> Count:
  """One transformer block on one sequence."""
  # Every token with every other, once for the weights and once for the sum; softmax.
  heads = 2 * Count.of(2.0 * tokens * tokens * width, weights=0)
  around = Count(pointwise=20.0 * tokens * width + 4.0 * tokens * mlp)
  attention = dense(tokens, width, 3 * width) + heads + dense(tokens, width, width)
  return attention + dense(tokens, width, mlp) + dense(tokens, mlp, width) + around
