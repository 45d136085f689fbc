"""DFREC in PyTorch: the networks joined."""

from collections.abc import Mapping
import json
import math
from typing import Any, NamedTuple, Self

import torch
from torch import nn

from dfrec_jax.convert import torch_files
from dfrec_jax.convert.torch_modules import masking
from dfrec_jax.convert.torch_modules.identity_segmentation import IdentitySegmentation
from dfrec_jax.convert.torch_modules.source_reconstruction import SourceReconstruction
from dfrec_jax.convert.torch_modules.target_reconstruction import TargetReconstruction
from dfrec_jax.errors import InputError
from dfrec_jax.masking import kept_count
from dfrec_jax.models import dfrec, sizes
from dfrec_jax.models.source_reconstruction import STRIDE


class Outputs(NamedTuple):
  """What DFREC says of images (B, 3, H, W); N patches, of which K are kept and M masked.

  Attributes:
    mask_logits: (B, 1, H, W), positive where the source's face was pasted.
    class_logits: (B, 2), pristine and forged.
    predicted_mask: (B, 1, H, W) in [0, 1].
    mask: (B, 1, H, W), the mask that guided; no gradient reaches the ISM through it.
    composite_mask: (B, 1, H, W) in [0, 1], where the target is taken from the TIRM.
    source_mask: (B, 1, H, W) in [0, 1], where the source shows a face, and not grey.
    source: (B, 3, H, W), who was pasted; in [0, 1] outside training, as all pictures.
    uncorrected: (B, 3, H, W), the forged image as `source` shows it before any correction.
    target: (B, 3, H, W), who was covered; composited if the model does.
    target_raw: (B, 3, H, W), the same before compositing: whole patches are replaced.
    target_patches: (B, M, patch * patch * 3), the TIRM's masked patches, before the refinement.
    target_tokens: what the SIRM tells the TIRM, see `SourceOutputs`.
    source_identity, target_identity: (B, C / 2), the SIRM's two halves.
    kept, masked: (B, K) and (B, M) int64, patches in raster numbering.
  """

  mask_logits: torch.Tensor
  class_logits: torch.Tensor
  predicted_mask: torch.Tensor
  mask: torch.Tensor
  composite_mask: torch.Tensor
  source_mask: torch.Tensor
  source: torch.Tensor
  uncorrected: torch.Tensor
  target: torch.Tensor
  target_raw: torch.Tensor
  target_patches: torch.Tensor
  target_tokens: torch.Tensor
  source_identity: torch.Tensor
  target_identity: torch.Tensor
  kept: torch.Tensor
  masked: torch.Tensor


class DFREC(nn.Module):
  """ISM `ism`, SIRM `sirm`, semantic-guided masking and TIRM `tirm`.

  Args:
    size: widths and depths of the networks.
    image_size, indexing, ...: as in `dfrec_jax.models.dfrec.DFREC`, whose `PUBLISHED` are the
      settings of the published network.

  Raises:
    InputError: the settings do not fit each other.
  """

  def __init__(
    self,
    size: sizes.Size,
    *,
    image_size: int = 224,
    indexing: str = 'aligned',
    fusion: str = 'add',
    forged_tokens: bool = True,
    source_residual: bool = True,
    target_residual: bool = True,
    grey_surroundings: bool = True,
    refinement: int = 0,
    mask_ratio: float = 0.5,
    composite: bool = True,
    composite_dilation: int = 4,
    composite_softness: float = 4.0,
    input_normalisation: str = 'none',
    drop_connect: float = 0.2,
    dropout: float = 0.5,
  ):
    super().__init__()
    _check(size, image_size, input_normalisation)
    self.image_size, self.indexing, self.mask_ratio = image_size, indexing, mask_ratio
    self.composite = composite
    self.surrounds_with_grey = grey_surroundings and source_residual
    self.composite_dilation, self.composite_softness = composite_dilation, composite_softness
    self.patch, self.patches = size.patch, (image_size // size.patch) ** 2
    mean, deviation = dfrec.NORMALISATIONS[input_normalisation] or (3 * (0.0,), 3 * (1.0,))
    # Not in the state dictionary: they are settings.
    self.register_buffer('mean', torch.tensor(mean).reshape(3, 1, 1), persistent=False)
    self.register_buffer('deviation', torch.tensor(deviation).reshape(3, 1, 1), persistent=False)
    self.ism = IdentitySegmentation(
      width=size.ism_width,
      depth=size.ism_depth,
      aspp_channels=size.aspp_channels,
      aspp_rates=size.aspp_rates,
      low_level_channels=size.low_level_channels,
      detail_channels=size.detail_channels,
      drop_connect=drop_connect,
      dropout=dropout,
    )
    self.sirm = SourceReconstruction(
      widths=size.sirm_widths,
      fusion=fusion,
      token_count=kept_count(self.patches, mask_ratio, indexing),
      residual=source_residual,
    )
    concat = fusion == 'concat'
    self.tirm = TargetReconstruction(
      image_size=image_size,
      patch=size.patch,
      width=size.width,
      depth=size.depth,
      heads=size.heads,
      mlp=size.mlp,
      decoder_width=size.decoder_width,
      decoder_depth=size.decoder_depth,
      decoder_heads=size.decoder_heads,
      decoder_mlp=size.decoder_mlp,
      token_features=(image_size // STRIDE) ** 2 if concat else size.sirm_widths[-1] // 2,
      indexing=indexing,
      fusion=fusion,
      forged_tokens=forged_tokens,
      residual=target_residual,
      refinement=refinement,
    )

  @classmethod
  def from_config(cls, model_config: Mapping[str, Any]) -> Self:
    """The model of a `config.model` section, for instance that of a checkpoint's `config.json`.

    `remat`, `attention` and `dtype` are JAX's: nothing is recomputed, and everything is float32.

    Raises:
      InputError: fields are missing or unknown, or settings do not fit each other.
    """
    settings = {**dfrec.LATER_SETTINGS, **model_config}
    dfrec.check_fields(settings)
    if part := settings.pop('without'):
      raise InputError(f'The model was trained without {part}; PyTorch has no such ablation.')
    size = sizes.get_size(settings.pop('size'))
    of_jax = ('remat', 'attention', 'dtype')
    return cls(size, **{k: v for k, v in settings.items() if k not in of_jax})

  def load_checkpoint(self, checkpoint: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Loads `state_dict`, `recover1_state_dict` and `recover2_state_dict`; ignores other keys.

    Raises:
      InputError: a dictionary is missing, or its tensors are not this model's, which are named.
    """
    if missing := [key for key in torch_files.DICTIONARIES.values() if key not in checkpoint]:
      raise InputError(
        f'The checkpoint lacks {", ".join(missing)}; give one in the published layout.'
      )
    for name, key in torch_files.DICTIONARIES.items():
      try:
        getattr(self, name).load_state_dict(checkpoint[key])
      except RuntimeError as error:
        problems = ' '.join(str(error).split())
        raise InputError(f'{key} is not of this model: {problems}') from error

  def forward(
    self,
    forged: torch.Tensor,
    *,
    guide: torch.Tensor | None = None,
    progress: float = 1.0,
    noise: torch.Tensor | None = None,
    partition: masking.Partition | None = None,
  ) -> Outputs:
    """Recovers source and target.

    Args:
      forged: (B, 3, H, W) in [0, 1].
      guide: (B, 1, H, W) true masks, which guide instead of the predicted ones.
      progress: of the masking's curriculum, see `masking.aligned_masking`.
      noise: in [0, 1), instead of draws of PyTorch's generator, which outside training are the same
        for every image; (B or 1, N), in aligned indexing (2, B or 1, N).
      partition: the kept and masked patches, instead of those that the mask and `noise` choose.

    Raises:
      InputError: the images are of another size.
    """
    if forged.shape[1:] != (3, self.image_size, self.image_size):
      raise InputError(
        f'The images have shape {tuple(forged.shape[1:])}, but this model takes '
        f'{(3, self.image_size, self.image_size)}.'
      )
    normalised = (forged - self.mean) / self.deviation
    mask_logits, class_logits = self.ism(normalised)
    predicted = torch.sigmoid(mask_logits)
    mask = predicted.detach() if guide is None else guide.to(predicted.dtype)
    if partition is None:
      partition = self._partition(mask, noise, progress)
    composited = masking.composite_mask(mask, self.composite_dilation, self.composite_softness)
    source = self.sirm(mask * forged, forged)
    shown_source = torch.ones_like(composited)
    if self.surrounds_with_grey:
      shown_source = masking.fill_holes(composited, int(dfrec.FILLED * self.image_size))
    surround = lambda face: shown_source * face + (1 - shown_source) * dfrec.GREY
    shown = composited if self.composite else torch.ones_like(composited)
    target = self.tirm(normalised, forged, *partition, source.target_tokens, shown)
    blend = composited * target.target + (1 - composited) * forged
    return Outputs(
      mask_logits=mask_logits,
      class_logits=class_logits,
      predicted_mask=predicted,
      mask=mask,
      composite_mask=composited,
      source_mask=shown_source,
      source=surround(source.source),
      uncorrected=surround(forged),
      target=blend if self.composite else target.target,
      target_raw=target.target,
      target_patches=target.patches,
      target_tokens=source.target_tokens,
      source_identity=source.source_identity,
      target_identity=source.target_identity,
      kept=partition.kept,
      masked=partition.masked,
    )

  def _partition(self, mask, noise, progress):
    published = self.indexing == 'published'
    if noise is None:
      shape = (len(mask) if self.training else 1, self.patches)
      noise = torch.rand(shape if published else (2, *shape), device=mask.device)
    if published:
      return masking.published_masking(mask, noise, patch=self.patch, ratio=self.mask_ratio)
    return masking.aligned_masking(
      mask, noise, patch=self.patch, ratio=self.mask_ratio, progress=progress
    )


def load_exported(path: str) -> DFREC:
  """The model that `python -m dfrec_jax.convert to_torch` wrote to a file, ready to evaluate.

  Raises:
    InputError: the file cannot be read, or it is not such a file: the authors' own checkpoints hold
      no configuration, so that their model is built by hand, `DFREC(size, **PUBLISHED)`.
  """
  state = torch_files.load(path)
  if 'config' not in state:
    raise InputError(
      f'{path} holds no configuration: convert it with `python -m dfrec_jax.convert from_torch` '
      'and back, or build the model by hand.'
    )
  model = DFREC.from_config(json.loads(state['config'])['model'])
  # A file that is mapped into memory is read-only, and PyTorch's parameters are not.
  model.load_checkpoint(
    {
      key: {name: torch.tensor(array) for name, array in state[key].items()}
      for key in torch_files.DICTIONARIES.values()
      if key in state
    }
  )
  return model.eval()


def _check(size, image_size, input_normalisation):
  """What the networks do not check themselves."""
  step = math.lcm(STRIDE, size.patch)
  if image_size % step:
    raise InputError(
      f'The image size is {image_size}, but for patches of {size.patch} it must be a multiple of '
      f'{step}.'
    )
  if input_normalisation not in dfrec.NORMALISATIONS:
    raise InputError(
      f'Unknown input_normalisation {input_normalisation!r}; choose from '
      f'{", ".join(dfrec.NORMALISATIONS)}.'
    )
