"""FLOP of layers: the vocabulary of the formulas."""

import dataclasses

# Element by element, of one value: a batch norm in training with the bias before it, and a ReLU.
_NORM, _RELU = 9, 1


@dataclasses.dataclass(frozen=True)
class Count:
  """FLOP of a part on one image.

  Attributes:
    products: dense products and convolutions, forward.
    depthwise: depthwise convolutions, forward; on a CPU they are sums of shifted products.
    to_inputs, to_weights: backward, of both kinds.
    pointwise: forward, element by element: norms, activations, sums.
    weights: parameters of the layers.
  """

  products: float = 0.0
  depthwise: float = 0.0
  to_inputs: float = 0.0
  to_weights: float = 0.0
  pointwise: float = 0.0
  weights: int = 0

  @classmethod
  def of(cls, products: float, weights: int, first: bool = False) -> 'Count':
    """A layer; the `first` one's input needs no gradient."""
    return cls(products, 0.0, 0.0 if first else products, products, weights=weights)

  @property
  def forward(self) -> float:
    return self.products + self.depthwise

  @property
  def train(self) -> float:
    return self.forward + self.to_inputs + self.to_weights

  @property
  def pointwise_train(self) -> float:
    """Forward and backward: a gradient takes about twice its function."""
    return 3 * self.pointwise

  def __add__(self, other: 'Count') -> 'Count':
    pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
    return Count(*(a + b for a, b in pairs))

  def __mul__(self, times: float) -> 'Count':
    return Count(*(times * value for value in dataclasses.astuple(self)))

  __rmul__ = __mul__


def taps(side: int, kernel: int, stride: int, dilation: int, pad: tuple[int, int]) -> int:
  """Taps inside a row of `side` pixels, over all positions of a kernel along it."""
  return sum(
    0 <= start + tap * dilation < side
    for start in _starts(side, kernel, stride, dilation, pad)
    for tap in range(kernel)
  )


def _starts(side, kernel, stride, dilation, pad):
  last = side + pad[1] - dilation * (kernel - 1) - 1
  return range(-pad[0], last + 1, stride)


def dense(rows: int, inputs: int, outputs: int, first: bool = False) -> Count:
  """A linear layer on `rows` vectors."""
  return Count.of(2.0 * rows * inputs * outputs, weights=inputs * outputs, first=first)


class Network:
  """Adds up the layers of a network on one square image; each method answers the side after it."""

  def __init__(self):
    self.count = Count()

  def conv(
    self,
    side: int,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    pad: tuple[int, int] | None = None,
    first: bool = False,
  ) -> int:
    pad = pad or (kernel // 2, kernel // 2)
    work = 2.0 * taps(side, kernel, stride, 1, pad) ** 2 * inputs * outputs
    self.count += Count.of(work, weights=kernel**2 * inputs * outputs, first=first)
    return len(_starts(side, kernel, stride, 1, pad))

  def upsampled_conv(self, side: int, inputs: int, outputs: int) -> int:
    """`upsampling.UpsampledConv` from `side` to twice that."""
    # Two of a row's four taps meet a pixel, at both ends one.
    work = 2.0 * (2 * 2 * side - 2) ** 2 * inputs * outputs
    self.count += Count.of(work, weights=3**2 * inputs * outputs)
    return 2 * side

  def depthwise(
    self,
    side: int,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    pad: tuple[int, int] | None = None,
  ) -> int:
    if pad is None:
      pad = (dilation * (kernel // 2),) * 2
    work = 2.0 * taps(side, kernel, stride, dilation, pad) ** 2 * channels
    self.count += Count(
      depthwise=work, to_inputs=work, to_weights=work, weights=kernel**2 * channels
    )
    return len(_starts(side, kernel, stride, dilation, pad))

  def norm(self, side: int, channels: int, *, activation: int = _RELU) -> None:
    """A batch norm and what follows it, of so many FLOP an element."""
    self.count += Count(pointwise=float(side * side * channels * (_NORM + activation)))

  def resize(self, before: int, after: int, channels: int) -> None:
    """A bilinear one, as two products with constant matrices."""
    work = 2.0 * channels * (after * before * before + after * after * before)
    self.count += Count(products=work, to_inputs=work)
