"""Vision transformer (Dosovitskiy et al., arXiv 2010.11929): pre-norm blocks, as torchvision's."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.models import layers


class Block(nn.Module):
  """Self-attention and MLP, each after a layer norm and added to its input.

  Attributes:
    heads: number of attention heads; the input's width is a multiple of it.
    mlp: width of the MLP's hidden layer.
  """

  heads: int
  mlp: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    dense = lambda features, axes, name: layers.dense(features, axes, dtype=self.dtype, name=name)

    y = layers.layer_norm(dtype=self.dtype, name='norm_1')(x)
    qkv = dense(3 * width, ('embed', 'heads'), 'qkv')(y)
    # (B, T, 3 D) to three times (B, T, heads, D / heads)
    q, k, v = jnp.split(qkv.reshape(*qkv.shape[:2], 3 * self.heads, -1), 3, axis=2)
    y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
    x = x + dense(width, ('heads', 'embed'), 'out')(y)

    y = layers.layer_norm(dtype=self.dtype, name='norm_2')(x)
    y = nn.gelu(dense(self.mlp, ('embed', 'mlp'), 'mlp_1')(y), approximate=False)
    return x + dense(width, ('mlp', 'embed'), 'mlp_2')(y)


class Transformer(nn.Module):
  """`depth` blocks and a final norm: (B, T, D) to (B, T, D).

  The blocks' parameters are stacked along a leading axis `layers`, so that depth does not lengthen
  compilation.

  Attributes:
    remat: recompute each block in the backward pass to save memory.
  """

  depth: int
  heads: int
  mlp: int
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def body(block, x, _):
      return block(x), None

    if self.remat:
      # Inside a loop nothing can be merged with the forward pass, so nothing need prevent it.
      body = nn.remat(body, prevent_cse=False)
    scan = nn.scan(
      body,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.depth,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    block = Block(self.heads, self.mlp, self.dtype, name='blocks')
    x, _ = scan(block, x.astype(self.dtype), None)
    return layers.layer_norm(dtype=self.dtype, name='norm')(x)


def sincos_positions(height: int, width: int, features: int) -> np.ndarray:
  """(height * width, features) float32 two-dimensional sine-cosine table, in raster order.

  From which learned positions start, as in MAE (He et al., arXiv 2111.06377): half of the features
  code the row, half the column. `features` is a multiple of 4.
  """
  frequencies = 10000.0 ** -(np.arange(features // 4) / (features // 4))
  rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1) * frequencies
  table = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
  return np.concatenate(table, axis=1).astype(np.float32)
