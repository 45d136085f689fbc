"""What lives where on a mesh, and that a mesh changes no result."""

import dataclasses
import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

from configs import ffpp, quickstart
from dfrec_jax import checkpointing, sharding
from dfrec_jax.encoders.registry import FrozenEncoder
from dfrec_jax.errors import InputError
from dfrec_jax.models import layers, partitioning, remat
from dfrec_jax.models.dfrec import Outputs
from dfrec_jax.models.sizes import SIZES
from dfrec_jax.objective import Encoders, objective
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.programs import compile_ahead, compiler_options
from dfrec_jax.train_state import plan_state
from dfrec_jax.train_step import make_train_step

# Of each network as little as there can be, but for kernels that are large enough to be divided.
SIZE = (
  'test+width=256+mlp=256+decoder_width=64+sirm_widths=8-8-8-8-96+ism_depth=0.1+detail_channels='
)
MESHES = {'8x1x1': (8, 1, 1), '4x2x1': (4, 2, 1), '2x2x2': (2, 2, 2), '1x8x1': (1, 8, 1)}
EXTENTS = {'data': 2, 'fsdp': 4, 'tensor': 2}


def _automatic(*shape):
  axis_types = (jax.sharding.AxisType.Auto,) * len(sharding.AXES)
  return jax.make_mesh(shape, sharding.AXES, axis_types=axis_types)


def _boxed(**settings):
  model = checkpointing.build_model({**quickstart.get_config().model, **settings})
  init = functools.partial(checkpointing.init_variables, model)
  return jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize(
  ('size', 'fusion'), [*((size, 'add') for size in SIZES), ('test', 'concat'), ('test', 'sequence')]
)
def test_every_logical_name_is_in_the_table(size, fusion):
  side = 2 * math.lcm(16, SIZES[size].patch)
  specs = nn.get_partition_spec(_boxed(size=size, fusion=fusion, image_size=side))
  names = {name for spec in jax.tree.leaves(specs) for name in spec}
  assert {'conv_out', 'embed', 'heads', 'mlp', 'layers'} <= names
  assert names - {None} <= set(dict(sharding.RULES))


@pytest.mark.parametrize('size', ['L/16', 'H/14'])
@pytest.mark.parametrize(('fsdp', 'tensor'), [(8, 1), (2, 4)])
def test_nothing_large_is_replicated_by_accident(size, fsdp, tensor):
  config = ffpp.get_config(f'encoder=none,size={size},fsdp={fsdp},tensor={tensor}')
  mesh = sharding.make_mesh(config.mesh)
  model = checkpointing.build_model(config.model)
  tx, _ = make_optimizer(config.optimizer, config.steps)
  _, state = plan_state(functools.partial(checkpointing.init_variables, model), tx, mesh)
  whole = held = 0
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    share = math.prod(x.sharding.shard_shape(x.shape))
    whole, held = whole + x.size, held + share
    # Of the stacks of biases, which are shorter, not all are divided.
    assert x.size < 4 * sharding.DIVIDED_FROM or share * fsdp <= x.size, path
  # What `tensor` does not divide are convolutions and embeddings.
  assert held < 1.05 * whole / 8 if tensor == 1 else held < 1.35 * whole / 8


def test_the_optimizer_and_the_averages_lie_where_their_parameters_do():
  config = quickstart.get_config('runlocal')
  config.model.size = SIZE
  config.mesh.update(data=1, fsdp=4, tensor=2)
  model = checkpointing.build_model(config.model)
  tx, _ = make_optimizer(config.optimizer, config.steps)
  mesh = sharding.make_mesh(config.mesh)
  _, state = plan_state(functools.partial(checkpointing.init_variables, model), tx, mesh)
  where = lambda tree: {
    (path[-2:], x.shape): x.sharding.spec for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  params = where(state.params)
  divided = {key for key, spec in params.items() if any(spec)}
  assert len(divided) >= 5
  for tree in (state.opt_state, state.ema['params']):
    found = where(tree)
    assert divided <= set(found)
    assert all(found[key] == params[key] for key in set(params) & set(found))


@pytest.mark.parametrize(
  ('shape', 'names', 'expected'),
  [
    ((16, 6, 8), ('batch', None), (('data', 'fsdp', 'tensor'), None, None)),
    # Fewer axes where not all of them divide the size; an axis is used once.
    ((8, 6, 8), ('batch', 'heads'), (('data', 'fsdp'), 'tensor', None)),
    ((6, 8), ('embed', 'mlp'), (None, 'tensor')),
    ((8, 8), ('qkv_in', 'heads'), (('fsdp', 'tensor'), None)),
  ],
)
def test_a_dimension_is_divided_over_the_axes_that_divide_it(shape, names, expected):
  spec = partitioning.partition(shape, names, dict(sharding.RULES), EXTENTS)
  assert spec == PartitionSpec(*expected)


def test_constraints_divide_activations_and_refuse_unknown_names():
  mesh = _automatic(2, 2, 2)

  def compiled(*names):
    function = lambda x: partitioning.constrain(x + 1, *names)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
      return jax.jit(function)(jnp.ones((8, 4)))

  assert compiled('sequences', 'mlp').sharding.spec == PartitionSpec(('data', 'fsdp'), 'tensor')
  with pytest.raises(KeyError, match='secuences'):
    compiled('secuences')
  np.testing.assert_array_equal(partitioning.constrain(jnp.ones(3), 'secuences'), 1)  # No mesh.


# Of 32 examples; two faces of each go through the encoder. 6 are no multiple of the devices.
@pytest.mark.parametrize(('encoded', 'of_a_device'), [(0, 8), (16, 4), (6, 3)])
def test_each_device_encodes_its_share_of_the_chosen_examples(encoded, of_a_device):
  maps = []

  def both(params, images):
    maps.append(jnp.einsum('bhwc,cd->bhwd', images, params))
    return None, (maps[-1],)

  encoders = Encoders(perceptual=FrozenEncoder('fake', jnp.ones((3, 5)), None, both))
  weights = dict.fromkeys(quickstart.get_config().loss.weights, 0.0) | {'perceptual': 1.0}

  @nn.logical_axis_rules(sharding.RULES)
  def total(recovered, batch, params):
    fields = dict.fromkeys((field.name for field in dataclasses.fields(Outputs)), None)
    outputs = Outputs(**fields | {'source': recovered, 'target': recovered})
    loss, _ = objective(outputs, batch, encoders, params, weights, encoded_examples=encoded)
    return loss, maps

  mesh = _automatic(2, 2, 2)
  rows = sharding.batch_sharding(mesh)
  images = jax.ShapeDtypeStruct((32, 8, 8, 3), jnp.float32, sharding=rows)
  batch = {name: jax.ShapeDtypeStruct((32,), int, sharding=rows) for name in ('label', 'has_mask')}
  batch |= {'source': images, 'target': images}
  with jax.set_mesh(mesh):
    lowered = jax.jit(jax.grad(total, has_aux=True)).lower(images, batch, encoders.params)
  _, found = lowered.compile().output_shardings
  shape = 2 * (encoded or 32), 8, 8, 5
  # Recovered faces and true ones.
  assert [where.shard_shape(shape)[0] for where in found] == [of_a_device] * 2


def test_interleaved_arrays_come_apart():
  a, b = jnp.arange(6).reshape(3, 2), -jnp.arange(6).reshape(3, 2)
  both = partitioning.interleave(a, b)
  np.testing.assert_array_equal(both[::2], a)
  for found, given in zip(partitioning.separate(both), (a, b), strict=True):
    np.testing.assert_array_equal(found, given)


def test_remat_policies_go_by_name_and_old_configurations_still_say_yes_or_no():
  assert [remat.policy_name(old) for old in (True, False)] == ['full', 'none']
  config = quickstart.get_config('runlocal').model
  assert checkpointing.build_model({**config, 'remat': True}).remat == 'full'
  with pytest.raises(InputError, match=r"remat is 'some'; it is one of none, dots, full"):
    checkpointing.build_model({**config, 'remat': 'some'})


class _Layer(nn.Module):
  @nn.compact
  def __call__(self, x):
    return jnp.sin(nn.Dense(3)(x))


def test_dots_keep_products_and_full_keeps_nothing():
  def computed(name):
    module = remat.rematerialise(_Layer, name)()
    x = jnp.ones((2, 3))
    variables = module.init(jax.random.key(0), x)
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda x: module.apply(variables, x).sum()))(x))
    return jaxpr.count('dot_general'), jaxpr.count(' cos ')

  (products, cosines), (kept, again) = computed('full'), computed('dots')
  assert products == kept + 1
  assert (kept, cosines) == (computed('none')[0], again)


def test_a_compiled_program_never_compiles_again():
  program = compile_ahead(jax.jit(lambda x: x + 1), jnp.zeros(3))
  assert program(jnp.ones(3)).tolist() == [2, 2, 2]
  with pytest.raises(TypeError, match='compiled'):
    program(jnp.ones(4))


def test_options_of_the_compiler_go_by_name():
  # On a CPU there is nothing to overlap.
  assert compiler_options('overlap', 'cpu') == compiler_options('default', 'cpu')
  assert compiler_options('default', 'gpu') == {}
  assert compiler_options('default', 'tpu').items() < compiler_options('overlap', 'tpu').items()
  assert compiler_options('overlap', 'gpu') == {'xla_gpu_enable_latency_hiding_scheduler': 'true'}
  with pytest.raises(InputError, match="compiler_options is 'fast'; it is one of default, overlap"):
    compiler_options('fast')


def _batch(config):
  rng = np.random.default_rng(0)
  size, side = config.batch_size, config.model.image_size
  image = lambda: rng.integers(0, 256, (size, side, side, 3), np.uint8)
  mask = np.zeros((size, side, side, 1), np.float32)
  mask[:, 4:12, 4:12] = 1
  return {
    **{name: image() for name in ('forged', 'source', 'target', 'twin')},
    'mask': mask,
    'has_mask': np.ones(size, bool),
    'label': (np.arange(size) % 2).astype(np.int32),
  }


def _setup(shape):
  """The configuration, the abstract state, its initialisation and the step on such a mesh."""
  config = quickstart.get_config('runlocal')
  config.model.update(size=SIZE, image_size=16)
  config.mesh.update(dict(zip(sharding.AXES, shape, strict=True)))
  mesh = sharding.make_mesh(config.mesh, devices=jax.devices()[: math.prod(shape)])
  model = checkpointing.build_model(config.model)
  tx = optax.sgd(1e-2, momentum=0.9)  # A state like the parameters, and little to compile.
  with jax.set_mesh(mesh):
    init = functools.partial(checkpointing.init_variables, model)
    initialise, abstract = plan_state(init, tx, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    step = jax.jit(
      make_train_step(model, tx, Encoders(), config),
      in_shardings=(shardings, sharding.batch_sharding(mesh), None, None),
      out_shardings=(shardings, None),
    )

  def advance(state):
    with jax.set_mesh(mesh):
      return step(state, _batch(config), {}, jax.random.key(1))

  return config, abstract, initialise, advance


@pytest.fixture(scope='module')
def few_kernels():
  """A convolution in place of shifted sums: their gradient is a kernel for each tap."""
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(layers, '_shifted_depthwise', layers._depthwise)
    yield


@pytest.fixture(scope='module')
def on_one(few_kernels):
  """Initial state, losses of four steps on one batch, abstract state and step, on one device."""
  _, abstract, initialise, advance = _setup((1, 1, 1))
  state = initial = jax.device_get(initialise(jax.random.key(0)))
  losses = []
  for _ in range(4):
    state, metrics = advance(state)
    losses.append(float(metrics['loss']))
  return initial, losses, abstract, advance


class _Iterator:
  """A data iterator of which only the place is saved."""

  place = 0

  def get_state(self):
    return {'next_batch': self.place}

  def set_state(self, state):
    self.place = state['next_batch']


def _run(on_one, shape, steps=3):
  """The state after so many steps on the mesh, whose losses are those of one device."""
  initial, losses, _, _ = on_one
  config, abstract, _, advance = _setup(shape)
  state = jax.tree.map(lambda x, where: jax.device_put(x, where.sharding), initial, abstract)
  for expected in losses[:steps]:
    state, metrics = advance(state)
    assert metrics['loss'] == pytest.approx(expected, rel=1e-5)
  return config, state


@pytest.mark.exhaustive
@pytest.mark.parametrize('name', ['8x1x1', '4x2x1', '1x8x1'])
def test_eight_devices_equal_one(on_one, name):
  _run(on_one, MESHES[name])


@pytest.mark.slow
def test_a_checkpoint_moves_from_eight_devices_to_two(on_one, tmp_path):
  _, losses, _, advance = on_one
  config, state = _run(on_one, MESHES['2x2x2'])
  kernel = state.params['tirm']['encoder']['blocks']['mlp_1']['kernel']
  assert kernel.sharding.spec == PartitionSpec(None, 'fsdp', 'tensor')
  assert len({str(shard.index) for shard in kernel.addressable_shards}) == 4

  iterator = _Iterator()
  iterator.place = 5
  checkpointer = checkpointing.Checkpointer(str(tmp_path), config)
  checkpointer.save(state, iterator)
  checkpointer.close()
  checkpointer, iterator = checkpointing.Checkpointer(str(tmp_path), config), _Iterator()
  _, abstract, _, _ = _setup((1, 2, 1))
  restored = checkpointer.restore(abstract, iterator)
  checkpointer.close()
  assert iterator.place == 5
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  kernel = restored.params['tirm']['encoder']['blocks']['mlp_1']['kernel']
  assert len({str(shard.index) for shard in kernel.addressable_shards}) == 2
  _, metrics = advance(jax.device_get(restored))
  assert metrics['loss'] == pytest.approx(losses[3], rel=1e-5)
