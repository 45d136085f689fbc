"""DFREC: both people of a face swap, from the forged photograph alone (arXiv 2412.07260)."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax import masking
from dfrec_jax.compositing import composite_mask, fill_holes
from dfrec_jax.errors import InputError
from dfrec_jax.models import layers, sizes
from dfrec_jax.models.identity_segmentation import IdentitySegmentation
from dfrec_jax.models.partitioning import constrain, interleave, separate
from dfrec_jax.models.remat import policy_name
from dfrec_jax.models.source_reconstruction import FUSIONS, STRIDE, SourceReconstruction
from dfrec_jax.models.target_reconstruction import (
  TargetOutputs,
  TargetReconstruction,
  patchify,
  take,
)
from dfrec_jax.models.vit import ATTENTION

# Parts that a model can be trained without, to measure what each is worth.
PARTS = ('ism_mask', 'guided_masking', 'target_tokens', 'tirm')
# Settings that older checkpoints lack, with what the model was then.
LATER_SETTINGS = {
  'without': '',
  'grey_surroundings': False,
  'refinement': 0,
  'attention': 'auto',
}
# What surrounds the recovered source: a level of 8 bits, so that it is rounded everywhere alike.
GREY = 128 / 255
# Holes of the source's mask are filled up to twice this share of the image's side.
FILLED = 1 / 8
# Fields that are no settings: linen's own, and how parameters lie in memory (files have them
# stacked).
_NO_SETTINGS = {'parent', 'name', 'stacked'}
# Mean and standard deviation of RGB in [0, 1].
NORMALISATIONS = {
  'none': None,
  'imagenet': (layers.IMAGENET_MEAN, layers.IMAGENET_STD),
}


@struct.dataclass
class Outputs:
  """What DFREC says of images (B, H, W, 3); N patches, of which K are kept and M masked.

  Attributes:
    mask_logits: (B, H, W, 1), positive where the source's face was pasted.
    class_logits: (B, 2), pristine and forged.
    predicted_mask: (B, H, W, 1) in [0, 1].
    mask: (B, H, W, 1), the mask that guided; no gradient reaches the ISM through it.
    composite_mask: (B, H, W, 1) in [0, 1], where the target is taken from the TIRM.
    source_mask: (B, H, W, 1) in [0, 1], where the source shows a face, and not grey.
    source: (B, H, W, 3), who was pasted; in [0, 1] outside training, as all pictures.
    uncorrected: (B, H, W, 3), the forged image as `source` shows it before any correction.
    target: (B, H, W, 3), who was covered; composited if the model does.
    target_raw: (B, H, W, 3), the same before compositing: whole patches are replaced.
    target_patches: (B, M, patch * patch * 3), the TIRM's masked patches, before the refinement.
    target_tokens: what the SIRM tells the TIRM, see `SourceOutputs`.
    source_identity, target_identity: (B, C / 2), the SIRM's two halves.
    kept, masked: (B, K) and (B, M) int32, patches in raster numbering.
    twin_mask_logits, twin_class_logits: as `mask_logits` and `class_logits`, of the twins.
  """

  mask_logits: jax.Array
  class_logits: jax.Array
  predicted_mask: jax.Array
  mask: jax.Array
  composite_mask: jax.Array
  source_mask: jax.Array
  source: jax.Array
  uncorrected: jax.Array
  target: jax.Array
  target_raw: jax.Array
  target_patches: jax.Array
  target_tokens: jax.Array
  source_identity: jax.Array
  target_identity: jax.Array
  kept: jax.Array
  masked: jax.Array
  twin_mask_logits: jax.Array | None = None
  twin_class_logits: jax.Array | None = None


class DFREC(nn.Module):
  """ISM, SIRM, semantic-guided masking and TIRM. The published model is `PUBLISHED`.

  Attributes:
    size: name in `sizes.SIZES`.
    image_size: side in pixels, a multiple of 16 and of the size's patch.
    indexing: of the TIRM's tokens, `published` or `aligned`.
    fusion: of the target tokens, `concat` (published), `add` or `sequence`.
    forged_tokens: the TIRM's decoder also sees the forged patches' pixels.
    source_residual, target_residual: learn corrections of the forged image.
    grey_surroundings: outside the mask, a residual source is grey instead of the forged image,
      whose surroundings are the target's: hair, forehead, background.
    refinement: features of the convolutions that smooth what the TIRM filled; 0 for none.
    mask_ratio: share of patches that the TIRM fills.
    composite: keep the forged image outside the mask.
    composite_dilation, composite_softness: pixels, see `composite_mask`.
    input_normalisation: of what the ISM and the TIRM's encoder see, `none` or `imagenet`.
    drop_connect, dropout: rates of the ISM.
    remat: what of the SIRM's and TIRM's stages the backward pass recomputes to save memory, a name
      of `remat.POLICIES`.
    attention: of the TIRM: `auto`, one kernel where the device has one, or `xla`, none.
    without: the part that an ablation leaves out, or nothing. `ism_mask`: the SIRM sees the whole
      forged image. `guided_masking`: the masked patches are random, in evaluation too.
      `target_tokens`: the TIRM gets zeros instead of the SIRM's target half. `tirm`: a
      U-Net like the SIRM's paints the target from the forged image.
    stacked: whether the TIRM's blocks share arrays of parameters, see `vit.Transformer`.
    dtype: of the computation; parameters, pictures and logits are float32.
  """

  size: str = 'L/16'
  image_size: int = 224
  indexing: str = 'aligned'
  fusion: str = 'add'
  forged_tokens: bool = True
  source_residual: bool = True
  target_residual: bool = True
  grey_surroundings: bool = True
  refinement: int = 0
  mask_ratio: float = 0.5
  composite: bool = True
  composite_dilation: int = 4
  composite_softness: float = 4.0
  input_normalisation: str = 'none'
  drop_connect: float = 0.2
  dropout: float = 0.5
  remat: str = 'none'
  attention: str = 'auto'
  without: str = ''
  stacked: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    forged: jax.Array,
    *,
    twins: jax.Array | None = None,
    guide: jax.Array | None = None,
    use_guide: jax.Array | None = None,
    progress: jax.Array | float = 1.0,
    noise: jax.Array | None = None,
    train: bool = False,
  ) -> Outputs:
    """Recovers source and target.

    Draws from the random streams `masking`, and in training `dropout`. Outside training every image
    gets the same draws, so that its result does not depend on the batch it is in.

    Args:
      forged: (B, H, W, 3) in [0, 1].
      twins: (B, H, W, 3) in [0, 1], further images, which only the ISM sees.
      guide: (B, H, W, 1) true masks, which guide instead of the predicted ones.
      use_guide: (B,) bool, the examples whose `guide` is used; all if None.
      progress: of the masking's curriculum, see `masking.aligned_masking`.
      noise: (B, N) in [0, 1), instead of random draws; only for `published` indexing.
      train: drop, use the batch's statistics, and do not clip pictures.

    Raises:
      InputError: for settings or an image that do not fit, before anything is computed.
    """
    self.check_settings()
    self._check_inputs(forged, twins, noise)
    size = sizes.get_size(self.size)
    forged = constrain(forged, 'batch')
    normalised = _normalise(forged, self.input_normalisation)
    seen = normalised
    if twins is not None:
      # In one batch, so that the batch's statistics do not tell the two kinds apart.
      seen = interleave(seen, _normalise(twins, self.input_normalisation))
    mask_logits, class_logits = IdentitySegmentation(
      width=size.ism_width,
      depth=size.ism_depth,
      aspp_channels=size.aspp_channels,
      aspp_rates=size.aspp_rates,
      low_level_channels=size.low_level_channels,
      detail_channels=size.detail_channels,
      drop_connect=self.drop_connect,
      dropout=self.dropout,
      dtype=self.dtype,
      name='ism',
    )(seen, train=train)
    (mask_logits, twin_masks), (class_logits, twin_classes) = (
      (logits, None) if twins is None else separate(logits)
      for logits in (mask_logits, class_logits)
    )
    predicted = nn.sigmoid(mask_logits)
    mask = _guiding_mask(predicted, guide, use_guide)
    progress = 0.0 if self.without == 'guided_masking' else progress
    kept, masked = self._partition(mask, size.patch, progress, noise, train)
    pasted = forged if self.without == 'ism_mask' else mask * forged
    composited = composite_mask(mask, self.composite_dilation, self.composite_softness)
    source = self._sirm(size, kept.shape[1])(pasted, forged, train=train)
    shown_source = self._source_mask(composited)
    surround = lambda face: shown_source * face + (1 - shown_source) * GREY
    tokens = source.target_tokens
    if self.without == 'target_tokens':
      tokens = jnp.zeros_like(tokens)
    if self.without == 'tirm':
      target = self._target_unet(size, forged, masked, train)
    else:
      shown = composited if self.composite else jnp.ones_like(composited)
      target = self._tirm(size)(normalised, forged, kept, masked, tokens, shown, train=train)
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
      kept=kept,
      masked=masked,
      twin_mask_logits=twin_masks,
      twin_class_logits=twin_classes,
    )

  @property
  def surrounds_with_grey(self) -> bool:
    """Whether the source stands on grey, and only inside the mask is the forged image corrected."""
    return self.grey_surroundings and self.source_residual

  def check_settings(self) -> None:
    """Raises an InputError for settings that do not fit each other."""
    policy_name(self.remat)
    patch = sizes.get_size(self.size).patch
    for what, given, known in (
      ('indexing', self.indexing, masking.INDEXINGS),
      ('fusion', self.fusion, FUSIONS),
      ('input_normalisation', self.input_normalisation, NORMALISATIONS),
      ('attention', self.attention, ATTENTION),
      ('ablation `without`', self.without, ('', *PARTS)),
    ):
      if given not in known:
        raise InputError(f'Unknown {what} {given!r}; choose from {", ".join(known)}.')
    if self.without == 'guided_masking' and self.indexing == 'published':
      raise InputError('Published indexing has no masking but the guided one; use aligned.')
    if self.image_size % STRIDE or self.image_size % patch:
      step = int(np.lcm(STRIDE, patch))
      raise InputError(
        f'The image size is {self.image_size}, but for size {self.size} it must be a multiple of '
        f'{step}.'
      )
    masking.kept_count((self.image_size // patch) ** 2, self.mask_ratio, self.indexing)

  def _check_inputs(self, forged, twins, noise):
    if forged.shape[1:] != (self.image_size, self.image_size, 3):
      raise InputError(
        f'The images have shape {forged.shape[1:]}, but this model takes '
        f'{(self.image_size, self.image_size, 3)}.'
      )
    if twins is not None and twins.shape != forged.shape:
      raise InputError(f'The twins have shape {twins.shape}, and the images {forged.shape}.')
    if noise is not None and self.indexing != 'published':
      raise InputError('`noise` is only for published indexing; pass a key for `masking` instead.')

  def _partition(self, mask, patch, progress, noise, train):
    if self.indexing == 'published':
      if noise is None:
        batch, patches = len(mask), (self.image_size // patch) ** 2
        noise = jax.random.uniform(self.make_rng('masking'), (batch if train else 1, patches))
      return masking.published_masking(mask, noise, patch=patch, ratio=self.mask_ratio)
    return masking.aligned_masking(
      mask,
      self.make_rng('masking'),
      patch=patch,
      ratio=self.mask_ratio,
      progress=progress,
      same_draws=not train,
    )

  def _source_mask(self, composited):
    if not self.surrounds_with_grey:
      return jnp.ones_like(composited)
    # A face has no holes: where the mask hesitates inside of it, less is lost to grey.
    return fill_holes(composited, int(FILLED * self.image_size))

  def _sirm(self, size, token_count):
    return SourceReconstruction(
      widths=size.sirm_widths,
      fusion=self.fusion,
      token_count=token_count,
      residual=self.source_residual,
      remat=self.remat,
      dtype=self.dtype,
      name='sirm',
    )

  def _tirm(self, size):
    return TargetReconstruction(
      image_size=self.image_size,
      patch=size.patch,
      width=size.width,
      depth=size.depth,
      heads=size.heads,
      mlp=size.mlp,
      decoder_width=size.decoder_width,
      decoder_depth=size.decoder_depth,
      decoder_heads=size.decoder_heads,
      decoder_mlp=size.decoder_mlp,
      indexing=self.indexing,
      fusion=self.fusion,
      forged_tokens=self.forged_tokens,
      residual=self.target_residual,
      refinement=self.refinement,
      remat=self.remat,
      stacked=self.stacked,
      attention=self.attention,
      dtype=self.dtype,
      name='tirm',
    )

  def _target_unet(self, size, forged, masked, train):
    """The target by a U-Net in the TIRM's place; it never sees which patches were masked."""
    unet = SourceReconstruction(
      widths=size.sirm_widths,
      fusion='add',
      residual=self.target_residual,
      remat=self.remat,
      dtype=self.dtype,
      name='tirm',
    )
    target = unet(forged, forged, train=train).source
    return TargetOutputs(patches=take(patchify(target, size.patch), masked), target=target)


# Settings with which `DFREC` computes what the published network does.
PUBLISHED = {
  'size': 'L/16',
  'image_size': 224,
  'indexing': 'published',
  'fusion': 'concat',
  'forged_tokens': False,
  'source_residual': False,
  'target_residual': False,
  'grey_surroundings': False,
  'refinement': 0,
  'mask_ratio': 0.5,
  'composite': False,
  'input_normalisation': 'none',
}


def _guiding_mask(predicted, guide, use_guide):
  predicted = jax.lax.stop_gradient(predicted)
  if guide is None:
    return predicted
  guide = guide.astype(predicted.dtype)
  if use_guide is None:
    return guide
  return jnp.where(use_guide[:, None, None, None], guide, predicted)


def _normalise(image, normalisation):
  if NORMALISATIONS[normalisation] is None:
    return image
  mean, deviation = np.array(NORMALISATIONS[normalisation], np.float32)
  return (image - mean) / deviation


def check_fields(settings: Mapping[str, Any]) -> None:
  """Raises an InputError unless a `config.model` section has the fields of `DFREC` and no other."""
  fields = {field.name for field in dataclasses.fields(DFREC)} - _NO_SETTINGS
  if wrong := fields.symmetric_difference(settings):
    raise InputError(
      f'config.model has missing or unknown fields: {", ".join(sorted(wrong))}; it was written by '
      'another version, or by hand.'
    )
