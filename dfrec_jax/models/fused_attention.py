"""Attention of short sequences in one TPU kernel, which keeps the attention's weights on the chip.

XLA writes the weights of every head to the memory of the chip and reads them again, in float32 and
padded: of a training step of the TIRM on a v6e, two fifths of all traffic (docs/tpu_plan.md). A
picture's tokens are few enough that one core holds those of a whole example, so that no part of a
softmax ever waits for another, as it would in FlashAttention (Dao et al., arXiv 2205.14135). The
backward pass computes the weights again instead of reading them.
"""

import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jax.sharding import PartitionSpec

# Bytes of a core's vector memory that a TPU's compiler gives a kernel by default, less what it
# keeps aside.
_VECTOR_MEMORY = 12 * 2**20


def fits(tokens: int, width: int, dtype: Any) -> bool:
  """Whether a core holds an example: `tokens` of `width` = heads x features, in this type."""
  # The backward pass takes queries, keys, values and the result's gradient, and makes three more,
  # each twice: the next example is loaded meanwhile. Of one head it has some six arrays of weights,
  # each in two pieces where products are exact.
  blocks = 2 * 7 * tokens * width * jnp.dtype(dtype).itemsize
  weights = 12 * pl.cdiv(tokens, 8) * 8 * pl.cdiv(tokens, 128) * 128 * 4
  return blocks + weights <= _VECTOR_MEMORY


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def fused_attention(
  qkv: jax.Array, divided: PartitionSpec | None = None, interpret: bool = False
) -> jax.Array:
  """Softmax attention of each head over all tokens; weights in float32.

  Args:
    qkv: (B, T, 3, heads, features), queries, keys and values, which `fits` a core.
    divided: how `qkv` is divided over the mesh (`jax.set_mesh`): examples and heads alone. None for
      a single device.
    interpret: compute what the kernel says on a device that is no TPU, slowly.

  Returns:
    (B, T, heads, features) of the same type.
  """
  return _forward(qkv, divided, interpret)[0]


def _forward(qkv, divided, interpret):
  def attend(qkv):
    *outer, _, heads, features = qkv.shape
    flat = qkv.reshape(*outer, -1)
    y = _each_example(_forward_kernel, [flat], heads, heads * features, 2, interpret)
    return y.reshape(*outer, heads, features)

  return _on_each_device(attend, divided, qkv, result=4), qkv


def _backward(divided, interpret, qkv, g):
  def differentiate(qkv, g):
    *outer, _, heads, features = qkv.shape
    flat = [array.reshape(*outer, -1) for array in (qkv, g)]
    y = _each_example(_backward_kernel, flat, heads, 3 * heads * features, 5, interpret)
    return y.reshape(qkv.shape)

  return (_on_each_device(differentiate, divided, qkv, g, result=5),)


fused_attention.defvjp(_forward, _backward)


def _on_each_device(function, divided, *arrays, result):
  """`function` of what each device has: the compiler cannot divide a kernel. `result`: its rank."""
  if divided is None:
    return function(*arrays)
  batch, _, _, heads, _ = divided
  specs = {5: divided, 4: PartitionSpec(batch, None, heads, None)}  # by rank
  given = tuple(specs[array.ndim] for array in arrays)
  return jax.shard_map(function, in_specs=given, out_specs=specs[result], check_vma=False)(*arrays)


def _each_example(kernel, arrays, heads, width, products, interpret):
  """The kernel on every example of arrays (B, T, any): (B, T, width)."""
  batch, tokens, _ = arrays[0].shape
  block = lambda width: pl.BlockSpec((1, tokens, width), lambda example: (example, 0, 0))
  widths = [array.shape[-1] for array in arrays]
  dtype = arrays[0].dtype
  weights = batch * heads * tokens**2
  features = widths[0] // (3 * heads)
  call = pl.pallas_call(
    functools.partial(kernel, heads=heads),
    grid=(batch,),
    in_specs=[block(width) for width in widths],
    out_specs=block(width),
    out_shape=jax.ShapeDtypeStruct((batch, tokens, width), dtype),
    cost_estimate=pl.CostEstimate(
      flops=2 * products * weights * features,
      transcendentals=weights,
      bytes_accessed=batch * tokens * (sum(widths) + width) * dtype.itemsize,
    ),
    interpret=interpret,
  )
  return call(*arrays)


def _forward_kernel(qkv, y, *, heads):
  for head in range(heads):
    q, k, v = (_read(qkv, part * heads + head, 3 * heads) for part in range(3))
    _write(y, head, heads, _product(_weights(q, k).astype(v.dtype), v))


def _backward_kernel(qkv, g, gradients, *, heads):
  for head in range(heads):
    q, k, v = (_read(qkv, part * heads + head, 3 * heads) for part in range(3))
    of_y = _read(g, head, heads)
    weights = _weights(q, k)
    of_weights = _product(of_y, v, (1, 1))
    of_logits = weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True))
    of_logits = (of_logits * q.shape[-1] ** -0.5).astype(q.dtype)
    of_q, of_k = _product(of_logits, k), _product(of_logits, q, (0, 0))
    of_v = _product(weights.astype(v.dtype), of_y, (0, 0))
    for part, gradient in enumerate((of_q, of_k, of_v)):
      _write(gradients, part * heads + head, 3 * heads, gradient)


def _read(block, index, count):
  return block[0, :, _columns(block, index, count)]


def _write(block, index, count, value):
  block[0, :, _columns(block, index, count)] = value.astype(block.dtype)


def _columns(block, index, count):
  """Of one of `count` heads in a block (1, T, any)."""
  features = block.shape[-1] // count
  return pl.ds(index * features, features)


def _weights(q, k):
  logits = _product(q, k, (1, 1)) * q.shape[-1] ** -0.5
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def _product(a, b, over=(1, 0)):
  """Sums over axis `over[0]` of `a` and `over[1]` of `b`, in float32."""
  dimensions = ((over[:1], over[1:]), ((), ()))
  return jax.lax.dot_general(
    a, b, dimensions, precision=_precision(a.dtype), preferred_element_type=jnp.float32
  )


def _precision(dtype):
  """A kernel's products have one pass or all; of bfloat16 one, which is exact, and no other."""
  one_pass = jax.config.jax_default_matmul_precision in (None, 'default', 'bfloat16')
  exact = dtype == jnp.float32 and not one_pass
  return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT
