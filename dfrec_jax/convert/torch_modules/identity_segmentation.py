"""The Identity Segmentation Module (ISM) in PyTorch; loads `state_dict` of a checkpoint."""

from collections.abc import Sequence

import torch
from torch import nn
import torch.nn.functional as F

from dfrec_jax.convert.torch_modules.efficientnet import Encoder, SameConv2d


class IdentitySegmentation(nn.Module):
  """DeepLabV3+ (arXiv 1802.02611) on EfficientNet.

  Args:
    width, depth: EfficientNet's multipliers.
    aspp_channels: channels of the decoder.
    aspp_rates: dilations of the atrous branches.
    low_level_channels: channels that the stride-4 feature is projected to.
    detail_channels: of the `DetailBranch`; empty for none, as published.
    drop_connect: of the encoder's last block.
    dropout: rate after the atrous pyramid and before the classifier.
  """

  def __init__(
    self,
    width: float = 1.0,
    depth: float = 1.0,
    aspp_channels: int = 256,
    aspp_rates: Sequence[int] = (12, 24, 36),
    low_level_channels: int = 48,
    detail_channels: Sequence[int] = (),
    drop_connect: float = 0.2,
    dropout: float = 0.5,
  ):
    super().__init__()
    self.encoder = Encoder(width, depth, drop_connect)
    low_level, last = self.encoder.channels[0], self.encoder.channels[-1]
    self.decoder = _Decoder(low_level, last, low_level_channels, aspp_channels, aspp_rates, dropout)
    self.segmentation_head = nn.Sequential(nn.Conv2d(aspp_channels, 1, 1))
    self.classification_head = nn.Sequential(
      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), _class_head(last)
    )
    self.detail = DetailBranch(detail_channels) if detail_channels else None

  def forward(self, forged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Segments and classifies images (B, 3, H, W) in [0, 1], H and W multiples of 16.

    Returns:
      Mask logits (B, 1, H, W), positive where the source's face was pasted, and class logits
      (B, 2), pristine and forged.

    Raises:
      InputError: a side is not a multiple of 16.
    """
    features = self.encoder(forged)
    x = self.segmentation_head(self.decoder(features[2], features[-1]))
    mask_logits = F.interpolate(x, forged.shape[2:], mode='bilinear', align_corners=True)
    class_logits = self.classification_head(features[-1])
    if self.detail is not None:
      detail_mask, detail_class = self.detail(forged)
      mask_logits = mask_logits + F.interpolate(detail_mask, forged.shape[2:], mode='bilinear')
      class_logits = class_logits + detail_class
    return mask_logits, class_logits


class _Decoder(nn.Module):
  def __init__(self, low_level, last, low_level_channels, channels, rates, dropout):
    super().__init__()
    self.aspp = nn.Sequential(
      AtrousPyramid(last, channels, rates, dropout), *_separable(channels, channels)
    )
    self.block1 = nn.Sequential(*_pointwise(low_level, low_level_channels))
    self.block2 = nn.Sequential(*_separable(channels + low_level_channels, channels))

  def forward(self, low_level: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    x = F.interpolate(self.aspp(last), low_level.shape[2:], mode='bilinear', align_corners=True)
    return self.block2(torch.cat([x, self.block1(low_level)], 1))


class AtrousPyramid(nn.Module):
  """Atrous spatial pyramid pooling: (B, inputs, h, w) to (B, outputs, h, w)."""

  def __init__(self, inputs: int, outputs: int, rates: Sequence[int], dropout: float):
    super().__init__()
    self.convs = nn.ModuleList(
      [
        nn.Sequential(*_pointwise(inputs, outputs)),
        *(nn.Sequential(*_separable(inputs, outputs, rate)) for rate in rates),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), *_pointwise(inputs, outputs)),
      ]
    )
    self.project = nn.Sequential(
      *_pointwise(len(self.convs) * outputs, outputs), nn.Dropout(dropout)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    branches = [conv(x) for conv in self.convs]
    branches[-1] = branches[-1].expand_as(branches[0])
    return self.project(torch.cat(branches, 1))


class DetailBranch(nn.Module):
  """A plain convolutional pyramid beside the encoder, which adds to both kinds of logits.

  `channels` are those of its five stages, at strides 1, 2, 4, 8 and 16. Not in the published
  network.
  """

  def __init__(self, channels: Sequence[int]):
    super().__init__()
    self._stages, inputs = len(channels), 3
    for index, features in enumerate(channels):
      self._add(f'{index}_0', inputs, features, stride=2 if index else 1)
      if index > 1:
        self._add(f'{index}_1', features, features)
      inputs = features
    self._add('fuse', sum(channels[2:]), channels[2], kernel=1)
    self._add('fine', channels[1] + channels[2], channels[1], kernel=1)
    self.mask_head = nn.Conv2d(channels[1], 1, 1)
    self.class_head = _class_head(2 * channels[2] + channels[4])

  def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (B, 3, H, W) to mask logits (B, 1, H/2, W/2) and class logits (B, 2)."""
    stages = []
    for index in range(self._stages):
      x = self._block(f'{index}_0', x)
      x = self._block(f'{index}_1', x) if index > 1 else x
      stages.append(x)
    repeat = lambda y, times: F.interpolate(y, scale_factor=times, mode='nearest')
    fused = torch.cat([stages[2], repeat(stages[3], 2), repeat(stages[4], 4)], 1)
    fused = self._block('fuse', fused)
    fine = self._block('fine', torch.cat([stages[1], repeat(fused, 2)], 1))
    summary = [fused.mean((2, 3)), fused.amax((2, 3)), stages[4].mean((2, 3))]
    return self.mask_head(fine), self.class_head(torch.cat(summary, 1))

  def _add(self, name, inputs, outputs, kernel=3, stride=1):
    self.add_module(f'conv_{name}', SameConv2d(inputs, outputs, kernel, stride))
    self.add_module(f'norm_{name}', nn.BatchNorm2d(outputs))

  def _block(self, name, x):
    x = getattr(self, f'conv_{name}')(x)
    return F.relu(getattr(self, f'norm_{name}')(x))


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
  conv = nn.Conv2d(inputs, outputs, 1, bias=False)
  return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def _separable(inputs: int, outputs: int, dilation: int = 1) -> list[nn.Module]:
  """A depthwise 3x3 and a 1x1 convolution with nothing between, batch norm, ReLU."""
  depthwise = nn.Conv2d(
    inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False
  )
  pointwise, *rest = _pointwise(inputs, outputs)
  return [nn.Sequential(depthwise, pointwise), *rest]


def _class_head(features: int) -> nn.Linear:
  """Class logits, equal at first: those of random features would have to be unlearned."""
  head = nn.Linear(features, 2)
  nn.init.zeros_(head.weight)
  nn.init.zeros_(head.bias)
  return head
