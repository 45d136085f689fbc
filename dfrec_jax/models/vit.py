"""Vision transformer (Dosovitskiy et al., arXiv 2010.11929): pre-norm blocks, as torchvision's."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.models import fused_attention, layers
from dfrec_jax.models.partitioning import constrain, division, on_one_device, parts, platform
from dfrec_jax.models.remat import rematerialise

# Names of the parameters of all blocks together, and of one by itself.
_STACK, _BLOCK = 'blocks', 'block_{}'


class Block(nn.Module):
  """Self-attention and MLP, each after a layer norm and added to its input.

  Attributes:
    heads: number of attention heads; the input's width is a multiple of it.
    mlp: width of the MLP's hidden layer.
    attention: a name of `ATTENTION`.
  """

  heads: int
  mlp: int
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    dense = lambda features, axes, name: layers.dense(features, axes, dtype=self.dtype, name=name)
    whole = lambda x: constrain(x, 'sequences')

    x = whole(x)
    y = layers.layer_norm(dtype=self.dtype, name='norm_1')(x)
    y = attention(HeadProjections(self.heads, self.dtype, name='qkv')(y), self.attention)
    y = y.reshape(x.shape)
    x = x + whole(dense(width, ('heads', 'embed'), 'out')(y))

    y = layers.layer_norm(dtype=self.dtype, name='norm_2')(x)
    y = constrain(dense(self.mlp, ('embed', 'mlp'), 'mlp_1')(y), 'sequences', None, 'mlp')
    return x + whole(dense(width, ('mlp', 'embed'), 'mlp_2')(nn.gelu(y, approximate=False)))


class HeadProjections(nn.Module):
  """Queries, keys and values of each head: (B, T, D) to (B, T, 3, heads, D / heads).

  The kernel is (D, 3 D), as torchvision's. Its columns are not divided over the mesh: a share of
  them would hold the queries of all heads before the keys of any, and each device needs those of
  its own heads.
  """

  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    init = layers.named(layers.dense_init, 'qkv_in', None)
    kernel = self.param('kernel', init, (width, 3 * width), jnp.float32)
    bias = self.param('bias', layers.named(nn.initializers.zeros, None), (3 * width,), jnp.float32)
    x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
    by_head = (width, 3, self.heads, width // self.heads)
    if parts(by_head, 'embed', None, 'heads')[2] == 1:
      # A plain product, whose result lies as the kernel of `fused_attention` takes it.
      y = x @ constrain(kernel, 'embed') + bias
      y = y.reshape(*x.shape[:-1], *by_head[1:])
    else:
      kernel = constrain(kernel.reshape(by_head), 'embed', None, 'heads')
      bias = constrain(bias.reshape(by_head[1:]), None, 'heads')
      y = jnp.einsum('btd,dphe->btphe', x, kernel) + bias
    return constrain(y, *_PROJECTED)


# Logical names of queries, keys and values together.
_PROJECTED = ('sequences', None, None, 'heads')
# `auto`: one kernel where a device has one; `xla`: none, as the compiler makes it.
ATTENTION = ('auto', 'xla')


def attention(qkv: jax.Array, implementation: str = 'auto') -> jax.Array:
  """Softmax attention: queries, keys, values (B, T, 3, heads, features) to (B, T, heads, features).

  Args:
    qkv: of `HeadProjections`.
    implementation: a name of `ATTENTION`.
  """
  *_, tokens, _, heads, features = qkv.shape
  auto = implementation == 'auto'
  if auto and platform() == 'tpu':
    divided = division(qkv.shape, *_PROJECTED)
    # No compiler divides a kernel: it is called by each device of a mesh, or by the only one.
    possible = divided is not None or on_one_device()
    own_heads = heads // parts(qkv.shape, *_PROJECTED)[3]
    if possible and fused_attention.fits(tokens, own_heads * features, qkv.dtype):
      return fused_attention.fused_attention(qkv, divided)
  # Products of a CPU want the heads in front: one transposition of all three makes them so, where
  # XLA would make one of each. Together they are no change of the arrays.
  q, k, v = qkv.transpose(2, 0, 3, 1, 4).swapaxes(2, 3)
  cudnn = auto and _cudnn_takes(features, qkv.dtype)
  return jax.nn.dot_product_attention(q, k, v, implementation='cudnn' if cudnn else None)


def _cudnn_takes(features: int, dtype: Any) -> bool:
  """Whether this process' GPU is an NVIDIA one, of Ampere or later, and its kernel takes these."""
  if (platform(), jax.default_backend()) != ('gpu', 'gpu'):
    return False  # A plan for a TPU, or for GPUs of another machine, of which nothing is known.
  if dtype != jnp.bfloat16 or features > 128 or features % 8:
    return False
  capability = str(jax.local_devices()[0].compute_capability)  # '9.0'; AMD's are 'gfx90a'.
  return capability.partition('.')[0].isdigit() and int(capability.partition('.')[0]) >= 8


class Transformer(nn.Module):
  """`depth` blocks and a final norm: (B, T, D) to (B, T, D).

  Attributes:
    remat: what of each block is recomputed in the backward pass, a name of `remat.POLICIES`.
    stacked: the blocks' parameters are stacked along a leading axis `layers`, so that depth does
      not lengthen compilation. Otherwise each block has its own, as `unstack` makes them: a CPU
      copies a layer out of the stack before it multiplies.
    attention: a name of `ATTENTION`.
  """

  depth: int
  heads: int
  mlp: int
  remat: str = 'none'
  stacked: bool = True
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.astype(self.dtype)
    x = self._loop(x) if self.stacked else self._one_by_one(x)
    return layers.layer_norm(dtype=self.dtype, name='norm')(x)

  def _one_by_one(self, x):
    block = rematerialise(Block, self.remat)
    for layer in range(self.depth):
      x = block(**self._block_fields, name=_BLOCK.format(layer))(x)
    return x

  def _loop(self, x):
    def body(block, x, _):
      return block(x), None

    scan = nn.scan(
      # Inside a loop nothing can be merged with the forward pass, so nothing need prevent it.
      rematerialise(body, self.remat, prevent_cse=False),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.depth,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return scan(Block(**self._block_fields, name=_STACK), x, None)[0]

  @property
  def _block_fields(self):
    return {name: getattr(self, name) for name in ('heads', 'mlp', 'attention', 'dtype')}


def unstack(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters of a model whose transformers are not `stacked`, from those of one whose are.

  Args:
    params: nested, with any number of `Transformer`s in it.
  """
  unstacked = {}
  for name, tree in params.items():
    if name == _STACK:
      depth = len(jax.tree.leaves(tree)[0])
      for layer in range(depth):
        unstacked[_BLOCK.format(layer)] = jax.tree.map(lambda x, i=layer: x[i], tree)
    else:
      unstacked[name] = unstack(tree) if isinstance(tree, Mapping) else tree
  return unstacked


def sincos_positions(height: int, width: int, features: int) -> np.ndarray:
  """(height * width, features) float32 two-dimensional sine-cosine table, in raster order.

  From which learned positions start, as in MAE (He et al., arXiv 2111.06377): half of the features
  code the row, half the column. `features` is a multiple of 4.
  """
  frequencies = 10000.0 ** -(np.arange(features // 4) / (features // 4))
  rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1) * frequencies
  table = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
  return np.concatenate(table, axis=1).astype(np.float32)
