"""What smooths the TIRM's patches."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax.convert import tirm as convert
from dfrec_jax.models import refinement
from dfrec_jax.models.dfrec import DFREC

SIZE = 32
RNG = np.random.default_rng(0)


@pytest.fixture(scope='module')
def started():
  module = refinement.Refinement(4)
  filled, forged = RNG.random((2, 2, SIZE, SIZE, 3), np.float32)
  where = np.zeros((2, SIZE, SIZE, 1), np.float32)
  where[:, 4:20, 8:30] = 1
  where[:, 20:24, 8:30] = 0.5
  args = filled, forged, where
  return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), *args)), args


def test_blocks_become_channels_and_back():
  x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  blocks = refinement.blocks_to_channels(x)
  assert blocks.shape == (2, 2, 3, 12)
  # PyTorch's order: channel, then row, then column.
  np.testing.assert_array_equal(blocks[1, 1, 2].reshape(3, 2, 2), x[1, 2:, 4:].transpose(2, 0, 1))
  np.testing.assert_array_equal(refinement.channels_to_blocks(blocks), x)


def test_it_starts_by_changing_nothing(started):
  module, variables, args = started
  np.testing.assert_array_equal(module.apply(variables, *args), args[0])


def test_it_corrects_only_where_it_may(started):
  module, variables, (filled, forged, where) = started
  changed = jax.tree.map(lambda x: x, variables)
  changed['params']['output']['bias'] += 0.2
  out = module.apply(changed, filled, forged, where)
  np.testing.assert_allclose(out - filled, 0.2 * where * np.ones(3), atol=1e-6)


def test_it_looks_across_the_borders_of_patches(started):
  module, variables, (filled, forged, where) = started
  changed = jax.tree.map(lambda x: x, variables)
  changed['params']['output']['kernel'] += 0.1
  run = jax.jit(lambda filled: module.apply(changed, filled, forged, where) - filled)
  difference = np.abs(run(filled) - run(filled.copy() + 0.1 * (np.arange(SIZE) == 8)[:, None]))
  rows = difference.max((0, 2, 3))
  assert rows[7] > 0 and rows[9] > 0 and not rows[24:].any()


def test_a_model_that_has_one():
  model = DFREC(size='test', image_size=SIZE, refinement=4, composite_softness=1.0)
  image = RNG.random((1, SIZE, SIZE, 3), np.float32)
  key = jax.random.key(0, impl='rbg')
  init = jax.jit(lambda x: model.init({'params': key, 'masking': key}, x))
  variables = nn.unbox(init(image))
  variables['params']['tirm']['refinement']['output']['bias'] += 2.0
  guide = jnp.zeros((1, SIZE, SIZE, 1)).at[:, :8, :8].set(1.0)
  out = jax.jit(lambda v, x: model.apply(v, x, guide=guide, rngs={'masking': jax.random.key(0)}))(
    variables, image
  )
  assert (out.target_raw[:, :8, :8] == 1).all(), 'clipped'
  np.testing.assert_array_equal(out.target[:, 20:], image[:, 20:])
  assert out.target_patches.max() < 1, 'the TIRM answers for its patches before the refinement'

  params = variables['params']['tirm']
  again = convert.from_torch(convert.to_torch({'params': params}))['params']
  jax.tree.map(np.testing.assert_array_equal, again, params)
