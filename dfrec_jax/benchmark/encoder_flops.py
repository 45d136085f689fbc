"""FLOP of the frozen encoders, on one image forward."""

from dfrec_jax.benchmark.counts import Count, Network, dense
from dfrec_jax.encoders import iresnet, mobilefacenet, vgg
from dfrec_jax.errors import InputError

IRESNET_50 = iresnet.DEPTHS['50']


def forward_count(name: str, image_size: int) -> Count:
  """The work of the encoder on one image of that side; iResNet is the one of 50 layers.

  Raises:
    InputError: for an encoder without a formula.
  """
  if name not in _FORMULAS:
    raise InputError(
      f'The benchmark has no FLOP formula for encoder {name!r}; choose from {", ".join(_FORMULAS)}.'
    )
  return _FORMULAS[name](image_size)


def _vgg19(side: int) -> Count:
  net, inputs = Network(), 3
  for width in vgg.LAYERS:
    if width == 'pool':
      side //= 2
      continue
    net.conv(side, inputs, width, 3)
    net.count += Count(pointwise=2.0 * side * side * width)
    inputs = width
  return net.count


def _mobilefacenet(unused_side: int) -> Count:
  net, inputs = Network(), mobilefacenet.STEM
  side = net.conv(112, 3, inputs, 3, stride=2)
  net.depthwise(side, inputs, 3)
  net.conv(side, inputs, inputs, 1)
  for expanded, channels, strides, _ in mobilefacenet.BLOCKS:
    net.conv(side, inputs, expanded, 1)
    after = net.depthwise(side, expanded, 3, stride=strides)
    net.conv(after, expanded, channels, 1)
    net.count += Count(pointwise=3.0 * expanded * (side**2 + after**2))
    side, inputs = after, channels
  net.conv(side, inputs, mobilefacenet.LAST, 1)
  return net.count + dense(1, mobilefacenet.LAST, mobilefacenet.EMBEDDING)


def _iresnet(unused_side: int) -> Count:
  net, side, inputs = Network(), iresnet.POOL * iresnet.STRIDE, iresnet.STEM
  net.conv(side, 3, inputs, 3)
  for width, depth in zip(iresnet.WIDTHS, IRESNET_50, strict=True):
    for i in range(depth):
      net.conv(side, inputs, width, 3)
      after = net.conv(side, width, width, 3, stride=1 if i else 2)
      if not i:
        net.conv(side, inputs, width, 1, stride=2)
      net.count += Count(pointwise=6.0 * width * side * side)
      side, inputs = after, width
  return net.count + dense(1, inputs * side * side, iresnet.EMBEDDING)


_FORMULAS = {'vgg19': _vgg19, 'mobilefacenet': _mobilefacenet, 'iresnet': _iresnet}
