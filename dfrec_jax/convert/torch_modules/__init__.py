"""DFREC's networks in PyTorch, under the published checkpoint's tensor names.

For PyTorch users of exported checkpoints, for tests, and as the peer in benchmarks. Every option of
the linen modules is here, those that the published networks lack included: their tensors' names are
in `dfrec_jax.convert.extensions`. Images are (B, 3, H, W).
"""

from dfrec_jax.errors import InputError

try:
  import torch  # noqa: F401
except ImportError as error:
  raise InputError(
    "DFREC's PyTorch modules need PyTorch, which is not installed: pip install -e '.[torch]'."
  ) from error

from dfrec_jax.convert.torch_modules.dfrec import DFREC, Outputs, load_exported
from dfrec_jax.convert.torch_modules.identity_segmentation import IdentitySegmentation
from dfrec_jax.convert.torch_modules.masking import (
  Partition,
  aligned_masking,
  composite_mask,
  published_masking,
)
from dfrec_jax.convert.torch_modules.source_reconstruction import (
  SourceOutputs,
  SourceReconstruction,
)
from dfrec_jax.convert.torch_modules.target_reconstruction import (
  TargetOutputs,
  TargetReconstruction,
)

__all__ = [
  'DFREC',
  'IdentitySegmentation',
  'Outputs',
  'Partition',
  'SourceOutputs',
  'SourceReconstruction',
  'TargetOutputs',
  'TargetReconstruction',
  'aligned_masking',
  'composite_mask',
  'load_exported',
  'published_masking',
]
