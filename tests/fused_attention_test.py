"""The TPU kernel of attention, interpreted, against JAX's attention; and where it is chosen."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from dfrec_jax import sharding
from dfrec_jax.models import fused_attention, vit


def _draw(*shape, dtype=np.float32, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def _with_gradient(attend, qkv, weights):
  loss = lambda qkv: (attend(qkv).astype(jnp.float32) * weights).sum()
  return jax.jit(attend)(qkv), jax.jit(jax.grad(loss))(qkv)


# Tokens of L/16 at 224 px, which no tile divides; features that are no half of a lane's 128.
@pytest.mark.parametrize('shape', [(2, 99, 3, 2, 64), (3, 10, 3, 3, 20), (1, 1, 3, 1, 8)], ids=str)
def test_the_kernel_equals_the_attention_and_its_gradient(shape):
  qkv, weights = 2 * _draw(*shape), _draw(*shape[:2], *shape[3:], seed=1)
  fused = functools.partial(fused_attention.fused_attention, interpret=True)
  plain = functools.partial(vit.attention, implementation='xla')
  for ours, theirs in zip(
    _with_gradient(fused, qkv, weights), _with_gradient(plain, qkv, weights), strict=True
  ):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_the_kernel_is_as_near_to_the_truth_as_the_attention():
  shape = (2, 50, 3, 2, 32)
  qkv, weights = _draw(*shape, dtype=jnp.bfloat16), _draw(2, 50, 2, 32, seed=1)
  fused = functools.partial(fused_attention.fused_attention, interpret=True)
  plain = functools.partial(vit.attention, implementation='xla')
  truth = _with_gradient(plain, qkv.astype(jnp.float32), weights)
  for ours, theirs, true in zip(
    _with_gradient(fused, qkv, weights), _with_gradient(plain, qkv, weights), truth, strict=True
  ):
    assert ours.dtype == jnp.bfloat16
    error = lambda x, true=true: np.abs(np.asarray(x, np.float32) - true).max()
    assert error(ours) < 1.5 * error(theirs)


@pytest.fixture(scope='module')
def undivided():
  """Queries, keys and values of two heads, weights of a sum, and the kernel's answers."""
  qkv, weights = _draw(8, 5, 3, 2, 8), _draw(8, 5, 2, 8, seed=1)
  fused = lambda qkv: fused_attention.fused_attention(qkv, None, True)
  return qkv, weights, _with_gradient(fused, qkv, weights)


# The last one divides no heads: four devices compute the same ones.
@pytest.mark.parametrize('axes', [(8, 1, 1), (2, 2, 2), (1, 2, 4)], ids=str)
def test_divided_over_devices_the_kernel_is_the_same(axes, undivided):
  mesh = sharding.make_mesh(
    ml_collections.ConfigDict(dict(zip(sharding.AXES, axes, strict=True))), jax.devices()
  )
  qkv, weights, expected = undivided
  fused = fused_attention.fused_attention
  rules = dict(sharding.RULES)
  divided = sharding.partition(qkv.shape, ('sequences', None, None, 'heads'), rules, mesh.shape)
  with jax.set_mesh(mesh):
    placed = jax.device_put(qkv, jax.NamedSharding(mesh, divided))
    found = _with_gradient(lambda qkv: fused(qkv, divided, True), placed, weights)
  assert found[1].sharding.is_equivalent_to(placed.sharding, 5)
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('precision', [None, 'high', 'highest'])
def test_the_kernel_and_its_gradient_become_a_tpu_program(dtype, precision):
  gradient = jax.jit(jax.grad(lambda qkv: fused_attention.fused_attention(qkv).sum()))
  shape = jax.ShapeDtypeStruct((2, 99, 3, 16, 64), dtype)
  with jax.default_matmul_precision(precision):
    program = jax.export.export(gradient, platforms=['tpu'])(shape)
    jaxpr = str(jax.make_jaxpr(gradient)(shape))
  assert program.mlir_module().count('tpu_custom_call') == 1  # The sum needs no forward pass.
  # A TPU's compiler takes one pass for bfloat16 alone, and knows one or all for float32.
  exact = precision is not None and dtype == jnp.float32
  assert ('Precision.HIGHEST' in jaxpr) == exact
  assert 'Precision.HIGH,' not in jaxpr


def _kernels(block, tokens, width, mesh=None):
  """How many kernels a block calls when it is traced for a mesh of TPUs, or this machine."""
  x = jax.ShapeDtypeStruct((8, tokens, width), jnp.bfloat16)
  apply = nn.logical_axis_rules(sharding.RULES)(block.apply)

  def traced():
    variables = nn.unbox(jax.eval_shape(block.init, jax.random.key(0), x))
    return str(jax.make_jaxpr(apply)(variables, x)).count('pallas_call')

  if mesh is None:
    return traced()
  with jax.sharding.use_abstract_mesh(mesh):
    return traced()


def test_a_tpu_gets_the_kernel_where_it_fits_and_is_wanted():
  device = jax.sharding.AbstractDevice('TPU v5 lite', 1, 'tpu')
  mesh_of = lambda *shape: jax.sharding.AbstractMesh(
    shape, sharding.AXES, (jax.sharding.AxisType.Auto,) * 3, abstract_device=device
  )
  mesh = mesh_of(2, 2, 1)
  block = functools.partial(vit.Block, heads=4, mlp=16, dtype=jnp.bfloat16)
  assert _kernels(block(), 9, 64, mesh) == 1
  assert _kernels(block(attention='xla'), 9, 64, mesh) == 0
  assert _kernels(block(), 1000, 64, mesh) == 0
  assert _kernels(block(), 9, 64) == 0
  assert _kernels(block(), 9, 64, mesh_of(1, 1, 1)) == 1
  # All heads are too much for a core, half of them are not.
  assert _kernels(block(), 289, 1024, mesh) == 0
  assert _kernels(block(), 289, 1024, mesh_of(2, 1, 2)) == 1


@pytest.mark.parametrize(('devices', 'kernels'), [(1, 1), (4, 0)])
def test_without_a_mesh_only_a_tpu_by_itself_gets_the_kernel(monkeypatch, devices, kernels):
  # Whatever is divided by its arguments alone, the compiler could not divide.
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  assert _kernels(vit.Block(heads=4, mlp=16, dtype=jnp.bfloat16), 9, 64) == kernels


@pytest.mark.parametrize(('tensor', 'products'), [(1, 1), (2, 0)])
def test_projections_are_one_plain_product_where_each_device_has_all_heads(tensor, products):
  mesh = sharding.make_mesh(
    ml_collections.ConfigDict({'data': -1, 'fsdp': 2, 'tensor': tensor}), jax.devices()
  )
  projections = vit.HeadProjections(heads=4)
  x = jax.ShapeDtypeStruct((8, 9, 64), jnp.float32)
  with jax.set_mesh(mesh):
    variables = nn.unbox(jax.eval_shape(projections.init, jax.random.key(0), x))
    apply = nn.logical_axis_rules(sharding.RULES)(projections.apply)
    jaxpr = jax.make_jaxpr(apply)(variables, x)
  results = [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == 'dot_general']
  assert results.count((8, 9, 3 * 64)) == products
