"""The Target Identity Reconstruction Module in PyTorch; loads `recover2_state_dict`."""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from dfrec_jax import masking
from dfrec_jax.convert.torch_modules.refinement import Refinement
from dfrec_jax.errors import InputError
from dfrec_jax.models.source_reconstruction import FUSIONS, STRIDE
from dfrec_jax.models.vit import sincos_positions


class TargetOutputs(NamedTuple):
  """What the TIRM says.

  Attributes:
    patches: (B, M, patch * patch * 3), the masked patches in the order of `masked`; pixels by
      row, column, channel.
    target: (B, 3, H, W), the forged image with its masked patches replaced, and refined.
  """

  patches: torch.Tensor
  target: torch.Tensor


class TargetReconstruction(nn.Module):
  """A masked autoencoder (arXiv 2111.06377) with the SIRM's target tokens in its decoder.

  Args:
    image_size, patch: sides in pixels; the patch divides the image.
    width, depth, heads, mlp: the encoder.
    decoder_width, decoder_depth, decoder_heads, decoder_mlp: the decoder.
    token_features: channels of the target tokens; with `concat` the positions of the SIRM's
      bottleneck, else half of its last width.
    indexing: `published` or `aligned`, see `dfrec_jax.models.target_reconstruction`.
    fusion: of the target tokens, `concat` (published), `add` or `sequence`.
    forged_tokens: the decoder also sees the forged patches' pixels.
    residual: add a correction to the forged patches, at first none, instead of a sigmoid's pixels.
    refinement: features of the `Refinement` behind it, 0 for none.
    classes: of the published encoder's classifier, which nothing calls.

  Raises:
    InputError: an unknown indexing or fusion, or a patch that does not divide the image.
  """

  def __init__(
    self,
    image_size: int = 224,
    patch: int = 16,
    width: int = 1024,
    depth: int = 24,
    heads: int = 16,
    mlp: int = 4096,
    decoder_width: int = 512,
    decoder_depth: int = 1,
    decoder_heads: int = 16,
    decoder_mlp: int = 2048,
    token_features: int = 196,
    indexing: str = 'published',
    fusion: str = 'concat',
    forged_tokens: bool = False,
    residual: bool = False,
    refinement: int = 0,
    classes: int = 1000,
  ):
    super().__init__()
    _check(image_size, patch, indexing, fusion)
    self.image_size, self.patch = image_size, patch
    self._fusion, self._residual = fusion, residual
    # Tokens before that of patch 0 in the decoder.
    self._leading = int(indexing == 'aligned')
    side = image_size // patch
    self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, decoder_width))
    self.backbone = _Backbone(
      _positions(side, width, self._leading), patch, depth, heads, mlp, classes
    )
    self.decoder = _Decoder(
      _positions(side, decoder_width, self._leading),
      decoder_depth,
      decoder_heads,
      decoder_mlp,
      width=width,
      token_features=token_features,
      pixels=patch * patch * 3,
      fusion=fusion,
      forged_tokens=forged_tokens,
      bottleneck=image_size // STRIDE,
    )
    self.refinement = Refinement(refinement) if refinement else None
    if residual:
      nn.init.zeros_(self.decoder.prediction_head.weight)
      nn.init.zeros_(self.decoder.prediction_head.bias)

  def forward(
    self,
    image: torch.Tensor,
    forged: torch.Tensor,
    kept: torch.Tensor,
    masked: torch.Tensor,
    target_tokens: torch.Tensor,
    where: torch.Tensor | None = None,
  ) -> TargetOutputs:
    """Fills the masked patches.

    Args:
      image: (B, 3, H, W), the forged image normalised for the encoder.
      forged: (B, 3, H, W) in [0, 1].
      kept, masked: (B, K) and (B, M) int64, indices that together are all N patches.
      target_tokens: of the SIRM: with `concat` (B, K, any), else a map (B, channels, h, w).
      where: (B, 1, H, W) in [0, 1], what the refinement may correct; needed if there is one.
    """
    # Positions of the encoder's tokens in the sequence behind the class token.
    seen = F.pad(kept + 1, (1, 0)) if self._leading else kept
    x = self._fuse(self.backbone(image, seen), seen, target_tokens)
    if self.decoder.forged_embedding is not None:
      x = x + self._of_patches(self.decoder.forged_embedding(patchify(image, self.patch)), x)
    x = self.decoder(x)
    x = self.decoder.prediction_head(take(x, masked + self._leading))
    patches, filled = self._pixels(x, forged, masked)
    if self.refinement is not None:
      filled = self.refinement(filled, forged, where)
    # Clipped values have no gradient, so that training would never mend them.
    clip = lambda x: x if self.training else x.clamp(0, 1)
    return TargetOutputs(patches=clip(patches), target=clip(filled))

  def _fuse(self, tokens, seen, target_tokens):
    """The decoder's input (B, N + 1 [+ h * w], decoder width)."""
    decoder = self.decoder
    if self._fusion == 'concat':
      uncounted = tokens.shape[1] - target_tokens.shape[1]
      tokens = torch.cat([tokens, F.pad(target_tokens, (0, 0, uncounted, 0))], 2)
    tokens = decoder.decoder_embed(tokens)
    x = self.mask_token.expand(len(tokens), decoder.pos_embedding.shape[1], -1)
    x = x.scatter(1, seen[..., None].expand_as(tokens), tokens) + decoder.pos_embedding
    if self._fusion == 'add':
      side = self.image_size // self.patch
      added = F.interpolate(target_tokens, (side, side), mode='bilinear')
      added = decoder.target_projection(added.flatten(2).transpose(1, 2))
      x = x + self._of_patches(added, x)
    elif self._fusion == 'sequence':
      added = decoder.target_projection(target_tokens.flatten(2).transpose(1, 2))
      x = torch.cat([x, added + decoder.target_positions], 1)
    return x

  def _of_patches(self, vectors, x):
    """One vector a patch (B, N, D), with zeros where `x` has other tokens."""
    return F.pad(vectors, (0, 0, self._leading, x.shape[1] - vectors.shape[1] - self._leading))

  def _pixels(self, x, forged, masked):
    patches = patchify(forged, self.patch)
    x = take(patches, masked) + x if self._residual else torch.sigmoid(x)
    filled = patches.scatter(1, masked[..., None].expand_as(x), x)
    return x, unpatchify(filled, self.patch, self.image_size)


class Transformer(nn.Module):
  """Pre-norm blocks and a final norm: (B, T, D) to (B, T, D).

  It holds the table of positions (1, N, D), and leaves adding it to the caller.
  """

  def __init__(self, positions: nn.Parameter, depth: int, heads: int, mlp: int):
    super().__init__()
    width = positions.shape[-1]
    self.pos_embedding = positions
    self.layers = nn.Sequential(
      OrderedDict((f'encoder_layer_{i}', _Block(width, heads, mlp)) for i in range(depth))
    )
    self.ln = nn.LayerNorm(width, eps=1e-6)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.ln(self.layers(x))


class _Decoder(Transformer):
  """With the linear layers around it, which the published checkpoint names as its own."""

  def __init__(
    self,
    positions,
    depth,
    heads,
    mlp,
    *,
    width,
    token_features,
    pixels,
    fusion,
    forged_tokens,
    bottleneck,
  ):
    super().__init__(positions, depth, heads, mlp)
    outputs = positions.shape[-1]
    concat = fusion == 'concat'
    self.decoder_embed = nn.Linear(width + (token_features if concat else 0), outputs)
    self.target_projection = None if concat else nn.Linear(token_features, outputs)
    if fusion == 'sequence':
      self.target_positions = _table(sincos_positions(bottleneck, bottleneck, outputs))
    self.forged_embedding = nn.Linear(pixels, outputs) if forged_tokens else None
    self.prediction_head = nn.Linear(outputs, pixels)


class _Block(nn.Module):
  def __init__(self, width, heads, mlp):
    super().__init__()
    self.ln_1 = nn.LayerNorm(width, eps=1e-6)
    self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
    self.ln_2 = nn.LayerNorm(width, eps=1e-6)
    # The published tensors' numbers count a dropout, whose rate is 0.
    self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Identity(), nn.Linear(mlp, width))

  def forward(self, x):
    y = self.ln_1(x)
    x = x + self.self_attention(y, y, y, need_weights=False)[0]
    return x + self.mlp(self.ln_2(x))


class _Backbone(nn.Module):
  """A ViT that encodes the tokens at chosen positions of its sequence."""

  def __init__(self, positions, patch, depth, heads, mlp, classes):
    super().__init__()
    width = positions.shape[-1]
    self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
    self.conv_proj = nn.Conv2d(3, width, patch, patch)
    self.encoder = Transformer(positions, depth, heads, mlp)
    # Nothing calls it, but a strict loader wants its tensors.
    self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, classes)))

  def forward(self, image: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) and positions (B, K), of which 0 is the class token, to (B, K, D)."""
    patches = self.conv_proj(image).flatten(2).transpose(1, 2)
    tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1)
    return self.encoder(take(tokens + self.encoder.pos_embedding, seen))


def take(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
  """Rows of each example: (B, N, D) at (B, K) to (B, K, D)."""
  return x.gather(1, indices[..., None].expand(-1, -1, x.shape[2]))


def patchify(image: torch.Tensor, patch: int) -> torch.Tensor:
  """(B, C, H, W) to (B, N, patch * patch * C): raster order; pixels by row, column, channel."""
  batch, channels, height, width = image.shape
  x = image.reshape(batch, channels, height // patch, patch, width // patch, patch)
  return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: torch.Tensor, patch: int, image_size: int) -> torch.Tensor:
  """The inverse of `patchify` for a square image."""
  side = image_size // patch
  x = patches.reshape(len(patches), side, side, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
  return x.reshape(len(patches), -1, image_size, image_size)


def _positions(side: int, width: int, leading: int) -> nn.Parameter:
  """(1, N + 1, width): learned, from sines and cosines, zero for the token that is no patch."""
  return _table(np.pad(sincos_positions(side, side, width), ((leading, 1 - leading), (0, 0))))


def _table(positions: np.ndarray) -> nn.Parameter:
  return nn.Parameter(torch.from_numpy(positions)[None])


def _check(image_size, patch, indexing, fusion):
  if image_size % patch:
    raise InputError(f'The image size {image_size} is no multiple of patch {patch}.')
  for what, given, known in (
    ('indexing', indexing, masking.INDEXINGS),
    ('fusion', fusion, FUSIONS),
  ):
    if given not in known:
      raise InputError(f'Unknown {what} {given!r}; choose from {", ".join(known)}.')
