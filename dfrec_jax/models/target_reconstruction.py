"""Target Identity Reconstruction Module (TIRM): who was covered.

A masked autoencoder (He et al., arXiv 2111.06377): a ViT encodes the patches that semantic-guided
masking kept, and a decoder, helped by the SIRM's target half, fills the masked ones (DFREC,
arXiv 2412.07260, section 3.3).
"""

from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from dfrec_jax import masking
from dfrec_jax.models import layers, source_reconstruction, vit
from dfrec_jax.models.refinement import Refinement


@struct.dataclass
class TargetOutputs:
  """What the TIRM says.

  Attributes:
    patches: (B, M, patch * patch * 3) float32, the masked patches in the order of `masked`.
    target: (B, H, W, 3) float32, the forged image with its masked patches replaced, and refined.
  """

  patches: jax.Array
  target: jax.Array


class TargetReconstruction(nn.Module):
  """TIRM.

  Attributes:
    image_size, patch: sides in pixels; the patch divides the image.
    width, depth, heads, mlp: the encoder.
    decoder_width, decoder_depth, decoder_heads, decoder_mlp: the decoder.
    indexing: `aligned`: the class token comes first, is always kept and never counted; token j is
      patch j. `published`: the indices 0..N-1 count from the class token, so that the encoder's
      token j is patch j - 1 and the last patch is never seen, while the decoder's token j is
      patch j.
    fusion: of the target tokens. `concat` (published): kept token i and target token i, channel by
      channel; a class token that is not counted gets zeros. `add`: the target map, resized to the
      patch grid, is added to the decoder's input at every patch, masked ones included. `sequence`:
      the map's vectors are tokens of their own in the decoder's sequence.
    forged_tokens: the decoder's input also holds each forged patch's own pixels, projected: without
      them a residual must guess, from the target tokens alone, what it corrects. Not published.
    residual: add a correction to the forged patches, at first none, instead of a sigmoid's pixels.
    refinement: features of the `Refinement` behind it, 0 for none.
    remat: what of each block is recomputed in the backward pass, a name of `remat.POLICIES`.
    stacked: whether a transformer's blocks share arrays of parameters, see `vit.Transformer`.
    attention: of the transformers, a name of `vit.ATTENTION`.
  """

  image_size: int
  patch: int
  width: int
  depth: int
  heads: int
  mlp: int
  decoder_width: int = 512
  decoder_depth: int = 1
  decoder_heads: int = 16
  decoder_mlp: int = 2048
  indexing: str = 'aligned'
  fusion: str = 'add'
  forged_tokens: bool = False
  residual: bool = False
  refinement: int = 0
  remat: str = 'none'
  stacked: bool = True
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    forged: jax.Array,
    kept: jax.Array,
    masked: jax.Array,
    target_tokens: jax.Array,
    where: jax.Array | None = None,
    *,
    train: bool,
  ) -> TargetOutputs:
    """Fills the masked patches.

    Args:
      image: (B, H, W, 3), the forged image normalised for the encoder.
      forged: (B, H, W, 3) in [0, 1].
      kept, masked: (B, K) and (B, M) indices that together are all N patches.
      target_tokens: of the SIRM: with `concat` (B, K, any), else a map (B, h, w, channels).
      where: (B, H, W, 1) in [0, 1], what the refinement may correct; needed if there is one.
      train: the result is not clipped.

    Raises:
      ValueError: for another image size, an unknown indexing or fusion.
    """
    self._check(image)
    patches = patchify(image, self.patch)
    tokens = self._encode(patches, kept)
    x = self._fuse(tokens, kept, masked, target_tokens)
    if self.forged_tokens:
      pixels = self._project('forged_embedding', patches.astype(self.dtype))
      after = x.shape[1] - self._leading - patches.shape[1]
      x = x + jnp.pad(pixels, ((0, 0), (self._leading, after), (0, 0)))
    x = self._transformer('decoder', x)
    # Patch j is the decoder's token j in published indexing, j + 1 behind a class token that is
    # not counted; tokens of the target come last.
    x = take(x, masked + self._leading)
    patches, filled = self._pixels(x, forged, masked)
    if self.refinement:
      refine = Refinement(self.refinement, dtype=self.dtype, name='refinement')
      filled = refine(filled, forged, where)
    # Clipped values have no gradient, so that training would never mend them.
    clip = lambda x: x if train else jnp.clip(x, 0, 1)
    return TargetOutputs(patches=clip(patches), target=clip(filled))

  @property
  def _side(self) -> int:
    return self.image_size // self.patch

  @property
  def _leading(self) -> int:
    """Tokens before that of patch 0 in the decoder."""
    return int(self.indexing == 'aligned')

  def _check(self, image):
    if image.shape[1:3] != (self.image_size, self.image_size):
      raise ValueError(
        f'The image is {image.shape[1]}x{image.shape[2]}, but this TIRM takes '
        f'{self.image_size}x{self.image_size}.'
      )
    if self.image_size % self.patch:
      raise ValueError(f'The image size {self.image_size} is no multiple of patch {self.patch}.')
    for what, given, known in (
      ('indexing', self.indexing, masking.INDEXINGS),
      ('fusion', self.fusion, source_reconstruction.FUSIONS),
    ):
      if given not in known:
        raise ValueError(f'Unknown {what} {given!r}; choose from {", ".join(known)}.')

  def _encode(self, patches, kept):
    """The encoder's tokens of the kept patches, behind the class token in aligned indexing."""
    embed = layers.dense(self.width, ('patch', 'embed'), dtype=self.dtype, name='patch_embedding')
    class_token = self._token('class_token', self.width)
    positions = self._positions('encoder_positions', self.width)
    class_token = class_token.astype(self.dtype)
    # Only kept patches are embedded: the masked ones cost nothing and cannot leak.
    if self.indexing == 'published':
      tokens = embed(take(patches, jnp.maximum(kept - 1, 0)))
      tokens = jnp.where(kept[..., None] == 0, class_token, tokens) + positions[0, kept]
    else:
      tokens = embed(take(patches, kept)) + positions[0, kept + 1]
      first = jnp.broadcast_to(class_token + positions[:, :1], (len(kept), 1, self.width))
      tokens = jnp.concatenate([first, tokens], axis=1)
    return self._transformer('encoder', tokens)

  def _fuse(self, tokens, kept, masked, target_tokens):
    """The decoder's input (B, N + 1 [+ h * w], decoder width)."""
    target_tokens = target_tokens.astype(self.dtype)
    if self.fusion == 'concat':
      uncounted = tokens.shape[1] - kept.shape[1]
      target_tokens = jnp.pad(target_tokens, ((0, 0), (uncounted, 0), (0, 0)))
      tokens = jnp.concatenate([tokens, target_tokens], axis=-1)
    tokens = self._project('decoder_embedding', tokens)
    mask_token = self._token('mask_token', self.decoder_width)
    x = self._in_place(tokens, kept, masked, mask_token.astype(self.dtype))
    x = x + self._positions('decoder_positions', self.decoder_width)
    if self.fusion == 'add':
      shape = (len(x), self._side, self._side, target_tokens.shape[-1])
      added = jax.image.resize(target_tokens, shape, 'linear', antialias=False)
      added = self._project('target_projection', added).reshape(len(x), -1, self.decoder_width)
      x = x + jnp.pad(added, ((0, 0), (self._leading, 1 - self._leading), (0, 0)))
    elif self.fusion == 'sequence':
      height, width = target_tokens.shape[1:3]
      added = self._project('target_projection', target_tokens)
      added = added.reshape(len(x), -1, self.decoder_width)
      table = vit.sincos_positions(height, width, self.decoder_width)
      x = jnp.concatenate([x, added + self._table('target_positions', table)], axis=1)
    return x.astype(self.dtype)

  def _in_place(self, tokens, kept, masked, mask_token):
    """Puts the tokens where they belong among N + 1 copies of the mask token."""
    batch, count = len(kept), self._side**2 + 1
    if self.indexing == 'published':
      last = jnp.full((batch, 1), count - 1, masked.dtype)  # No index ever points to it.
      order = jnp.concatenate([kept, masked, last], axis=1)
    else:
      first = jnp.zeros((batch, 1), kept.dtype)
      order = jnp.concatenate([first, kept + 1, masked + 1], axis=1)
    fill = jnp.broadcast_to(mask_token, (batch, count - tokens.shape[1], self.decoder_width))
    return take(jnp.concatenate([tokens, fill], axis=1), jnp.argsort(order, axis=1))

  def _pixels(self, x, forged, masked):
    """The masked patches from the decoder's tokens (B, M, decoder width); the image with them."""
    head = nn.Dense(
      self.patch**2 * 3,
      kernel_init=layers.named(
        nn.initializers.zeros if self.residual else layers.dense_init, 'embed', 'patch'
      ),
      bias_init=layers.named(nn.initializers.zeros, 'patch'),
      name='prediction',
    )
    x = head(x.astype(jnp.float32))
    forged = patchify(forged.astype(jnp.float32), self.patch)
    x = take(forged, masked) + x if self.residual else nn.sigmoid(x)
    filled = jax.vmap(lambda all_, i, some: all_.at[i].set(some, unique_indices=True))(
      forged, masked, x
    )
    return x, unpatchify(filled, self.patch, self.image_size)

  def _project(self, name, x):
    return layers.dense(self.decoder_width, (None, 'embed'), dtype=self.dtype, name=name)(x)

  def _transformer(self, name, x):
    of = 'decoder_' if name == 'decoder' else ''
    depth, heads, mlp = (getattr(self, of + size) for size in ('depth', 'heads', 'mlp'))
    transformer = vit.Transformer(
      depth,
      heads,
      mlp,
      remat=self.remat,
      stacked=self.stacked,
      attention=self.attention,
      dtype=self.dtype,
      name=name,
    )
    return transformer(x)

  def _token(self, name, width):
    init = layers.named(layers.token_init, None, None, 'embed')
    return self.param(name, init, (1, 1, width), jnp.float32)

  def _positions(self, name, width):
    """(1, N + 1, width): learned, from sines and cosines, zero for the token that is no patch."""
    table = vit.sincos_positions(self._side, self._side, width)
    return self._table(name, jnp.pad(table, ((self._leading, 1 - self._leading), (0, 0))))

  def _table(self, name, table):
    init = layers.named(lambda *_: jnp.asarray(table)[None], None, 'position', 'embed')
    return self.param(name, init).astype(self.dtype)


def take(x: jax.Array, indices: jax.Array) -> jax.Array:
  """Rows of each example: (B, N, D) at (B, K) to (B, K, D). The indices are in range."""
  return jax.vmap(lambda rows, i: rows.at[i].get(mode='promise_in_bounds'))(x, indices)


def patchify(image: jax.Array, patch: int) -> jax.Array:
  """(B, H, W, C) to (B, N, patch * patch * C): raster order; pixels by row, column, channel."""
  batch, height, width, channels = image.shape
  x = image.reshape(batch, height // patch, patch, width // patch, patch, channels)
  return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: jax.Array, patch: int, image_size: int) -> jax.Array:
  """The inverse of `patchify` for a square image."""
  side = image_size // patch
  x = patches.reshape(len(patches), side, side, patch, patch, -1)
  return x.swapaxes(2, 3).reshape(len(patches), image_size, image_size, -1)
