"""The optimizer: schedule, decay mask, scales of the networks, accumulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from dfrec_jax.optimizer import decay_mask, make_optimizer
from dfrec_jax.train_step import unless_frozen

PARAMS = {
  name: {'layer': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
  for name in ('ism', 'sirm', 'tirm')
}
GRADIENTS = jax.tree.map(lambda x: 0.1 * x, PARAMS)


def _config(**changes):
  config = common.base().optimizer
  config.update(learning_rate=0.1, warmup_steps=0, weight_decay=0.0)
  config.update(changes)
  return config


def _run(config, updates, steps=100):
  tx, _ = make_optimizer(config, steps)
  params, state = PARAMS, tx.init(PARAMS)
  for gradients in updates:
    changes, state = tx.update(gradients, state, params)
    params = optax.apply_updates(params, changes)
  return params


def test_schedule_warms_up_and_falls():
  _, schedule = make_optimizer(_config(warmup_steps=10, final_fraction=0.01), 100)
  rates = [float(schedule(step)) for step in range(101)]
  assert rates[0] == 0
  assert rates[10] == pytest.approx(0.1)
  assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
  assert rates[100] == pytest.approx(0.001)


def test_only_kernels_decay():
  mask = decay_mask(PARAMS)
  assert mask['ism']['layer'] == {'kernel': True, 'bias': False}
  nothing = jax.tree.map(jnp.zeros_like, PARAMS)
  params = _run(_config(weight_decay=0.5), [nothing])
  np.testing.assert_allclose(params['ism']['layer']['kernel'], 1 - 0.1 * 0.5, rtol=1e-6)
  np.testing.assert_allclose(params['ism']['layer']['bias'], 1)


def test_a_frozen_network_keeps_its_statistics():
  old, new = ({name: {'mean': x} for name in ('ism', 'sirm')} for x in (1.0, 2.0))
  scales = common.base().optimizer.module_scale
  assert unless_frozen(old, new, scales) == new
  scales.ism = 0.0
  assert unless_frozen(old, new, scales) == {'ism': {'mean': 1.0}, 'sirm': {'mean': 2.0}}


def test_module_scale():
  config = _config()
  config.module_scale.ism = 0.0
  config.module_scale.tirm = 0.5
  params = _run(config, [GRADIENTS])
  change = {name: 1 - params[name]['layer']['bias'][0] for name in params}
  assert change['ism'] == 0
  np.testing.assert_allclose(change['tirm'], 0.5 * change['sirm'], rtol=1e-5)


def test_accumulation_equals_the_mean_gradient():
  double = jax.tree.map(lambda g: 3 * g, GRADIENTS)
  mean = jax.tree.map(lambda g: 2 * g, GRADIENTS)
  once = _run(_config(), [mean], steps=50)
  twice = _run(_config(accumulate_steps=2), [GRADIENTS, double], steps=100)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), once, twice)


def test_a_misspelled_module_raises():
  config = _config()
  config.module_scale = dict(sirn=0.5)
  with pytest.raises(ValueError, match='sirn'):
    _run(config, [GRADIENTS])
