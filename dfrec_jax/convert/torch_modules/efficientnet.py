"""EfficientNet (arXiv 1905.11946) as an encoder of output stride 16, in PyTorch."""

import torch
from torch import nn
import torch.nn.functional as F

from dfrec_jax.errors import InputError
from dfrec_jax.models import efficientnet


class SameConv2d(nn.Conv2d):
  """Convolution without bias, padded as TensorFlow's SAME for sides that are multiples of `stride`.

  Stride 2 pads one pixel more at the bottom and the right than at the top and the left.
  """

  def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
    padding, uneven = divmod(kernel - stride, 2)
    super().__init__(inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False)
    self._uneven = bool(uneven)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return super().forward(F.pad(x, (0, 1, 0, 1)) if self._uneven else x)


class Encoder(nn.Module):
  """EfficientNet; `width` and `depth` are its multipliers, 1 and 1 are B0.

  `drop_connect` is the chance of dropping a residual branch at the last block; it grows linearly.
  """

  def __init__(self, width: float = 1.0, depth: float = 1.0, drop_connect: float = 0.2):
    super().__init__()
    plan = efficientnet.blocks(width, depth)
    stem, last = efficientnet.round_features(efficientnet.STEM, width), plan[-1].features
    # Of the features at strides 4, 8, 16 and 16.
    self.channels = [block.features for block in plan if block.feature]
    self._conv_stem = SameConv2d(3, stem, 3, stride=2)
    self._bn0 = _norm(stem)
    self._blocks = nn.ModuleList(
      InvertedBottleneck(block, drop_connect * index / len(plan))
      for index, block in enumerate(plan)
    )
    # The published encoder's classifier: nothing calls it, but a strict loader wants its tensors.
    self._conv_head = nn.Conv2d(last, 4 * last, 1, bias=False)
    self._bn1 = _norm(4 * last)

  def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
    """The image (B, 3, H, W), and features at strides 2, 4, 8, 16 and 16.

    Raises:
      InputError: a side is not a multiple of 16.
    """
    if image.shape[2] % 16 or image.shape[3] % 16:
      raise InputError(
        f'Image sides must be multiples of 16, not {image.shape[2]} x {image.shape[3]}: resize '
        'them.'
      )
    x = F.silu(self._bn0(self._conv_stem(image)))
    features = [image, x]
    for block in self._blocks:
      x = block(x)
      if block.is_feature:
        features.append(x)
    return features


class InvertedBottleneck(nn.Module):
  """Expansion, depthwise convolution, squeeze-and-excitation, projection, residual."""

  def __init__(self, block: efficientnet.Block, drop_connect: float):
    super().__init__()
    width, squeezed = block.inputs * block.expansion, max(1, block.inputs // 4)
    self.is_feature = block.feature
    self._drop_connect = drop_connect
    # A block that had a stride before it was dilated has no residual either.
    self._residual = block.strides == 1 and block.inputs == block.features
    self._expands = block.expansion > 1
    if self._expands:
      self._expand_conv = nn.Conv2d(block.inputs, width, 1, bias=False)
      self._bn0 = _norm(width)
    if block.dilated:
      padding = block.kernel // 2 * 2
      self._depthwise_conv = nn.Conv2d(
        width, width, block.kernel, padding=padding, dilation=2, groups=width, bias=False
      )
    else:
      self._depthwise_conv = SameConv2d(width, width, block.kernel, block.strides, groups=width)
    self._bn1 = _norm(width)
    self._se_reduce = nn.Conv2d(width, squeezed, 1)
    self._se_expand = nn.Conv2d(squeezed, width, 1)
    self._project_conv = nn.Conv2d(width, block.features, 1, bias=False)
    self._bn2 = _norm(block.features)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    x = inputs
    if self._expands:
      x = F.silu(self._bn0(self._expand_conv(x)))
    x = F.silu(self._bn1(self._depthwise_conv(x)))
    gate = self._se_reduce(x.mean((2, 3), keepdim=True))
    x = x * torch.sigmoid(self._se_expand(F.silu(gate)))
    x = self._bn2(self._project_conv(x))
    return self._drop(x) + inputs if self._residual else x

  def _drop(self, x: torch.Tensor) -> torch.Tensor:
    """Drops the branch of whole examples."""
    if not self.training or not self._drop_connect:
      return x
    keep = 1 - self._drop_connect
    kept = torch.rand((len(x), 1, 1, 1), device=x.device) < keep
    return x * kept / keep


def _norm(features: int) -> nn.BatchNorm2d:
  return nn.BatchNorm2d(features, eps=efficientnet.EPSILON, momentum=efficientnet.MOMENTUM)
