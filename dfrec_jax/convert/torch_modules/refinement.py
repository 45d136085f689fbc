"""The TIRM's refinement in PyTorch."""

import torch
from torch import nn
import torch.nn.functional as F


class Refinement(nn.Module):
  """A U-Net of two scales, as `dfrec_jax.models.refinement.Refinement`.

  Args:
    features: of the finer scale; the coarser has twice as many.
  """

  def __init__(self, features: int):
    super().__init__()
    conv = lambda inputs, outputs: nn.Conv2d(inputs, outputs, 3, padding=1)
    self.fine_1, self.fine_2 = conv(4 * 7, features), conv(features, features)
    self.coarse_1, self.coarse_2 = conv(features, 2 * features), conv(2 * features, 2 * features)
    self.conv_up, self.join = conv(2 * features, features), conv(2 * features, features)
    self.output = conv(features, 4 * 3)
    nn.init.zeros_(self.output.weight)
    nn.init.zeros_(self.output.bias)

  def forward(
    self, filled: torch.Tensor, forged: torch.Tensor, where: torch.Tensor
  ) -> torch.Tensor:
    """The corrected image (B, 3, H, W), of `filled` and `forged` alike and `where` (B, 1, H, W)."""
    x = F.pixel_unshuffle(torch.cat([forged - 0.5, filled - forged, where - 0.5], 1), 2)
    fine = self.fine_2(self.fine_1(x).relu()).relu()
    coarse = self.coarse_2(self.coarse_1(F.avg_pool2d(fine, 2)).relu()).relu()
    up = self.conv_up(F.interpolate(coarse, scale_factor=2)).relu()
    x = self.join(torch.cat([fine, up], 1)).relu()
    return filled + where * F.pixel_shuffle(self.output(x), 2)
