"""The Source Identity Reconstruction Module in PyTorch; loads `recover1_state_dict`."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
import torch.nn.functional as F


class SourceOutputs(NamedTuple):
  """What the SIRM says.

  Attributes:
    source: (B, 3, H, W), the source's photograph; in [0, 1] outside training.
    target_tokens: of the target, for the TIRM's decoder. Fusion `concat`: (B, tokens, h * w);
      else a map (B, C / 2, h, w), h = H / 16.
    source_identity, target_identity: (B, C / 2), spatial means of the halves.
  """

  source: torch.Tensor
  target_tokens: torch.Tensor
  source_identity: torch.Tensor
  target_identity: torch.Tensor


class SourceReconstruction(nn.Module):
  """An Attention U-Net (arXiv 1804.03999) whose bottleneck splits into source and target halves.

  Args:
    widths: channels of the five stages; the last splits.
    fusion: how the TIRM takes the target half: `concat` (published), `add` or `sequence`.
    token_count: with `concat`, the number of target tokens: the patches that the TIRM keeps.
    residual: add a correction to a given image, at first none, instead of a sigmoid's picture.
  """

  def __init__(
    self,
    widths: Sequence[int] = (32, 64, 128, 256, 1024),
    fusion: str = 'concat',
    token_count: int = 98,
    residual: bool = False,
  ):
    super().__init__()
    self._concat, self._residual = fusion == 'concat', residual
    half = widths[-1] // 2
    for stage, (inputs, features) in enumerate(zip((3, *widths[:-1]), widths, strict=True), 1):
      self.add_module(f'Conv{stage}', DoubleConv(inputs, features))
    # A decoder stage has the number of the encoder stage that it comes from.
    for stage, (inputs, features) in enumerate(
      zip((*widths[1:4], half), widths[:4], strict=True), 2
    ):
      self.add_module(f'Up{stage}', _Up(inputs, features))
      self.add_module(f'Att{stage}', _Gate(features, features // 2))
      self.add_module(f'Up_conv{stage}', DoubleConv(2 * features, features))
    self.Conv_1x1 = nn.Conv2d(widths[0], 3, 1)
    self.tConv4 = DoubleConv(half, token_count if self._concat else half)
    if residual:
      nn.init.zeros_(self.Conv_1x1.weight)
      nn.init.zeros_(self.Conv_1x1.bias)

  def forward(self, masked_image: torch.Tensor, start: torch.Tensor | None = None) -> SourceOutputs:
    """Maps the pasted face to the source.

    Args:
      masked_image: (B, 3, H, W) mask x forged image; H and W are multiples of 16.
      start: (B, 3, H, W) in [0, 1], what is corrected; read only if `residual`.
    """
    skips = [self.Conv1(masked_image)]
    for stage in range(2, 6):
      skips.append(getattr(self, f'Conv{stage}')(F.max_pool2d(skips[-1], 2)))
    source, target = skips.pop().chunk(2, 1)  # (B, C / 2, h, w) each
    tokens = self.tConv4(target)
    x = source
    for stage in (5, 4, 3, 2):
      x = getattr(self, f'Up{stage}')(x)
      skip = getattr(self, f'Att{stage}')(skips.pop(), x)
      x = getattr(self, f'Up_conv{stage}')(torch.cat([skip, x], 1))
    return SourceOutputs(
      source=self._picture(self.Conv_1x1(x), start),
      target_tokens=tokens.flatten(2) if self._concat else tokens,
      source_identity=source.mean((2, 3)),
      target_identity=target.mean((2, 3)),
    )

  def _picture(self, x, start):
    if not self._residual:
      return torch.sigmoid(x)
    # Clipped values have no gradient, so that training would never mend them.
    return start + x if self.training else (start + x).clamp(0, 1)


class DoubleConv(nn.Module):
  """Twice: 3x3 convolution with bias, batch norm, ReLU."""

  def __init__(self, inputs: int, outputs: int):
    super().__init__()
    self.conv = nn.Sequential(
      *_conv_norm(inputs, outputs, 3), nn.ReLU(), *_conv_norm(outputs, outputs, 3), nn.ReLU()
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.conv(x)


class _Up(nn.Module):
  def __init__(self, inputs, outputs):
    super().__init__()
    self.up = nn.Sequential(nn.Upsample(scale_factor=2), *_conv_norm(inputs, outputs, 3), nn.ReLU())

  def forward(self, x):
    return self.up(x)


class _Gate(nn.Module):
  """Attends to the skip `x` twice: guided by the decoder's `g`, and by itself."""

  def __init__(self, inputs, features):
    super().__init__()
    self.W = nn.Sequential(*_conv_norm(inputs, features, 1))
    self.W_g = nn.Sequential(*_conv_norm(inputs, features, 1))
    self.W_x = nn.Sequential(*_conv_norm(inputs, features, 1))
    self.psi = nn.Sequential(*_conv_norm(features, 1, 1), nn.Sigmoid())
    self.Conv1x1 = nn.Conv2d(features, 1, 1, bias=False)

  def forward(self, x, g):
    guided = self.psi(F.relu(self.W_g(g) + self.W_x(x)))
    return x * (guided + torch.sigmoid(self.Conv1x1(self.W(x))))


def _conv_norm(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
  return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs)]
