"""The objective joins its terms: which count, on which examples, from which encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from dfrec_jax.encoders.registry import FrozenEncoder
from dfrec_jax.errors import InputError
from dfrec_jax.models.dfrec import Outputs
from dfrec_jax.models.target_reconstruction import patchify, take
from dfrec_jax.objective import Encoders, load_encoders, objective

B, SIDE, PATCH = 4, 16, 8
ZERO = {name: 0.0 for name in common.base().loss.weights}
COUNTS = []


def _both(params, images):
  COUNTS.append(len(images))
  maps = images[:, ::4, ::4] * params
  return maps.reshape(len(images), -1), (images, maps)


ENCODER = FrozenEncoder(
  name='fake',
  params=jnp.ones(()),
  embed=lambda p, x: _both(p, x)[0],
  both=_both,
)


def _batch(labels=(1, 1, 0, 1)):
  keys = jax.random.split(jax.random.key(0), 3)
  images = [jax.random.uniform(key, (B, SIDE, SIDE, 3)) for key in keys]
  return {
    'forged': images[0],
    'source': images[1],
    'target': images[2],
    'mask': jnp.zeros((B, SIDE, SIDE, 1)).at[:, :8].set(1.0),
    'has_mask': jnp.array([True, True, True, False]),
    'label': jnp.array(labels, jnp.int32),
  }


def _outputs(batch, source=None, target=None):
  masked = jnp.tile(jnp.array([1, 3]), (B, 1))
  target = batch['target'] if target is None else target
  return Outputs(
    mask_logits=jnp.where(batch['mask'] > 0, 30.0, -30.0),
    class_logits=jax.nn.one_hot(batch['label'], 2) * 60 - 30,
    predicted_mask=batch['mask'],
    mask=batch['mask'],
    composite_mask=batch['mask'],
    source_mask=batch['mask'],
    source=batch['source'] if source is None else source,
    uncorrected=batch['forged'],
    target=target,
    target_raw=target,
    target_patches=take(patchify(target, PATCH), masked),
    target_tokens=jnp.zeros(()),
    source_identity=jnp.zeros(()),
    target_identity=jnp.zeros(()),
    kept=1 - masked // 2,
    masked=masked,
  )


def _compute(outputs, batch, encoders=None, **changes):
  encoders = Encoders() if encoders is None else encoders
  weights = {name: changes.pop(name, 0.0) for name in ZERO}
  return objective(outputs, batch, encoders, encoders.params, weights, **changes)


BOTH = Encoders(identity=ENCODER, perceptual=ENCODER)
EVERY = dict.fromkeys(common.base().loss.weights, 1.0)


def test_perfect_recovery_costs_nothing():
  batch = _batch()
  total, terms = _compute(_outputs(batch), batch, BOTH, **EVERY | {'anchor': 0.0})
  assert set(terms) == {
    'patch', 'refinement', 'structure', 'source', 'mask_cross_entropy', 'dice', 'detection',
    'attribute', 'identity_source', 'identity_target', 'perceptual_source', 'perceptual_target',
  }  # fmt: skip
  np.testing.assert_allclose(total, 0, atol=1e-4)


def test_total_is_the_weighted_sum():
  batch = _batch()
  outputs = _outputs(batch, source=batch['forged'], target=batch['forged'])
  weights = dict(zip(EVERY, (0.2, 0.3, 0.5, 7.0, 23.0, 29.0, 11.0, 13.0, 17.0, 19.0), strict=True))
  total, terms = _compute(outputs, batch, BOTH, **weights)
  family = lambda name: {'mask_cross_entropy': 'segmentation', 'dice': 'segmentation'}.get(
    name, name.split('_')[0]
  )
  expected = sum(weights[family(name)] * value for name, value in terms.items())
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_pristine_examples_do_not_count_for_the_source():
  batch = _batch()
  source = batch['source'].at[2].add(5.0)  # the pristine one
  _, terms = _compute(_outputs(batch, source=source), batch, BOTH, identity=1.0, source=1.0)
  np.testing.assert_allclose(terms['source'], 0, atol=1e-6)
  np.testing.assert_allclose(terms['identity_source'], 0, atol=1e-5)
  source = batch['source'].at[1].add(0.5)
  _, terms = _compute(_outputs(batch, source=source), batch, source=1.0)
  np.testing.assert_allclose(terms['source'], 0.5 / 3, rtol=1e-5)


def test_an_example_without_a_mask_does_not_count_for_segmentation():
  batch = _batch()
  outputs = _outputs(batch)
  wrong = outputs.replace(mask_logits=outputs.mask_logits.at[3].multiply(-1))
  total, _ = _compute(wrong, batch, segmentation=1.0)
  np.testing.assert_allclose(total, 0, atol=1e-4)


def test_twins_are_pristine_examples_of_segmentation_and_detection():
  batch = _batch()
  outputs = _outputs(batch)
  shape = outputs.mask_logits.shape
  right = outputs.replace(
    twin_mask_logits=jnp.full(shape, -30.0),
    twin_class_logits=jnp.tile(jnp.array([30.0, -30.0]), (B, 1)),
  )
  total, terms = _compute(right, batch, segmentation=1.0, detection=1.0)
  np.testing.assert_allclose(total, 0, atol=1e-4)
  wrong = right.replace(
    twin_mask_logits=-right.twin_mask_logits, twin_class_logits=-right.twin_class_logits
  )
  _, terms = _compute(wrong, batch, segmentation=1.0, detection=1.0)
  # Three examples have a mask; the four twins beside them are all wrong by 30 and by 60.
  np.testing.assert_allclose(terms['mask_cross_entropy'], 30 * 4 / 7, rtol=1e-4)
  np.testing.assert_allclose(terms['detection'], 60 / 2, rtol=1e-4)
  np.testing.assert_allclose(terms['dice'], 0, atol=1e-4)


def test_a_source_that_departs_from_the_forged_image_costs():
  batch = _batch()
  outputs = _outputs(batch, source=batch['forged'].at[1].add(0.3).at[2].add(5.0))
  _, terms = _compute(outputs, batch, anchor=1.0)
  np.testing.assert_allclose(terms['anchor'], 0.3**2 / 3, rtol=1e-4)  # 2 is pristine.


def test_patch_loss_looks_at_the_masked_patches():
  batch = _batch()
  target = batch['target'].at[:, :8, :8].add(1.0)  # patch 0, which is kept
  assert _compute(_outputs(batch, target=target), batch, patch=1.0)[0] == 0
  target = batch['target'].at[:, 8:, 8:].add(1.0)  # patch 3, one of two masked ones
  np.testing.assert_allclose(
    _compute(_outputs(batch, target=target), batch, patch=1.0)[0], 0.5, rtol=1e-5
  )


def test_one_encoder_in_two_roles_runs_once_on_each_side():
  batch = _batch()
  COUNTS.clear()
  _compute(_outputs(batch), batch, BOTH, identity=1.0, perceptual=1.0)
  assert COUNTS == [2 * B, 2 * B]


def test_encoded_examples_prefers_forged_ones():
  batch = _batch(labels=(0, 1, 0, 1))
  COUNTS.clear()
  outputs = _outputs(batch, source=batch['source'].at[jnp.array([1, 3])].add(0.5))
  _, terms = _compute(outputs, batch, BOTH, perceptual=1.0, encoded_examples=2)
  assert COUNTS == [4, 4]
  assert terms['perceptual_source'] > 0.4  # Both forged ones were looked at.


def test_a_term_of_weight_zero_is_not_computed():
  batch = _batch()
  COUNTS.clear()
  _, terms = _compute(_outputs(batch), batch, BOTH, patch=1.0)
  assert set(terms) == {'patch'}
  assert not COUNTS


def test_a_term_without_encoder_weights_is_refused():
  config = common.base().loss
  with pytest.raises(InputError, match=r'config\.loss\.weights\.identity and .*to 0'):
    load_encoders(config)
  config.weights.update(identity=0.0, attribute=0.0, perceptual=0.1)
  with pytest.raises(InputError, match='perceptual_encoder'):
    load_encoders(config)
  config.weights.perceptual = 0.0
  assert load_encoders(config) == Encoders()


def test_the_same_file_in_two_roles_is_loaded_once(shared):
  config = common.base().loss
  file = str(shared / 'encoders' / 'mobilefacenet.npz')
  config.identity_encoder.weights = file
  config.perceptual_encoder.update(name='mobilefacenet', weights=file)
  encoders = load_encoders(config)
  assert encoders.identity is encoders.perceptual
