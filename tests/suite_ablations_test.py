"""Each ablation leaves out the part that it says."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import triplets
from dfrec_jax import checkpointing
from dfrec_jax.convert import published
from dfrec_jax.errors import InputError
from dfrec_jax.models.dfrec import DFREC, LATER_SETTINGS
from dfrec_jax.models.target_reconstruction import patchify, take
from dfrec_jax.suite import ablations

SIDE = 32
# One photograph twice: with a mask in a corner, and with one in the opposite corner.
FORGED = np.repeat(np.random.default_rng(0).random((1, SIDE, SIDE, 3), np.float32), 2, axis=0)
GUIDES = np.zeros((2, SIDE, SIDE, 1), np.float32)
GUIDES[0, :16, :16] = GUIDES[1, 16:, 16:] = 1


def _generated(model, seed=0):
  """Variables that no initialisation had to be compiled for."""
  rng = np.random.default_rng(seed)
  boxed = jax.eval_shape(lambda key: checkpointing.init_variables(model, key), jax.random.key(0))

  def fill(path, leaf):
    values = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
    return np.abs(values) + 0.5 if path[-1].key in ('var', 'scale') else values

  return jax.tree_util.tree_map_with_path(fill, nn.unbox(boxed))


def _run(without, outputs):
  """What `outputs` takes of the model, as a function of its variables.

  Given the masks, nothing of it needs the ISM, which then is not compiled.
  """
  model = DFREC(size='test', image_size=SIDE, without=without)
  apply = lambda variables: model.apply(
    variables, FORGED, guide=GUIDES, rngs={'masking': jax.random.key(1)}
  )
  return model, jax.jit(lambda variables: outputs(apply(variables)))


def test_without_the_ism_mask_the_sirm_sees_the_whole_image():
  model, run = _run('ism_mask', lambda o: (o.source_identity, o.source, o.uncorrected))
  (first, second), source, uncorrected = run(_generated(model))
  np.testing.assert_allclose(first, second, atol=1e-5)
  assert np.ptp(first) > 0.1
  # All else is as in the full model: the source is still cut out.
  assert model.surrounds_with_grey
  change = np.abs(source - uncorrected)[0]
  assert change[:8, :8].mean() > 10 * change[24:, 24:].mean()


@pytest.mark.parametrize('without', ['', 'guided_masking'])
def test_without_guided_masking_the_mask_does_not_choose_patches(without):
  model, kept = _run(without, lambda outputs: outputs.kept)
  first, second = kept(_generated(model))
  assert (first == second).all() == bool(without)


def test_without_target_tokens_the_target_does_not_depend_on_the_sirm():
  model, target = _run('target_tokens', lambda outputs: outputs.target_raw)
  variables, other = _generated(model, 0), _generated(model, 1)

  def mixed(part):
    replaced = {name: {part: tree[part]} for name, tree in other.items() if part in tree}
    return {name: {**tree, **replaced.get(name, {})} for name, tree in variables.items()}

  np.testing.assert_array_equal(target(variables), target(mixed('sirm')))
  assert not np.allclose(target(variables), target(mixed('tirm')), atol=1e-3)


def test_without_the_tirm_a_unet_paints_the_target():
  model, run = _run('tirm', lambda o: (o.target_raw, o.target_patches, o.masked))
  variables = _generated(model)
  assert 'encoder_1' in variables['params']['tirm']
  target, patches, masked = run(variables)
  assert target.shape == FORGED.shape
  patch = int(np.sqrt(patches.shape[-1] / 3))
  np.testing.assert_allclose(patches, take(patchify(target, patch), masked), atol=1e-6)
  # It sees the forged photograph alone.
  np.testing.assert_allclose(target[0], target[1], atol=1e-5)


def test_unknown_parts_and_older_checkpoints():
  with pytest.raises(InputError, match=r'ablation .without.'):
    DFREC(without='sirm').check_settings()
  with pytest.raises(InputError, match='guided'):
    DFREC(without='guided_masking', indexing='published').check_settings()
  settings = triplets.get_config('runlocal').model.to_dict()
  settings |= LATER_SETTINGS
  older = {name: value for name, value in settings.items() if name not in LATER_SETTINGS}
  assert checkpointing.build_model(older) == checkpointing.build_model(settings)
  assert published.differences(older) == published.differences(settings)
  given = {**settings, 'without': 'tirm'}
  assert checkpointing.differing_settings(older, settings) == []
  assert checkpointing.differing_settings(older, given) == ['without']
  softer = {**settings, 'composite_softness': 9.0}
  assert checkpointing.differing_settings(settings, softer) == []
  for learned in ({'refinement': 8}, {'grey_surroundings': True}):
    pair = [given | learned for given in (settings, softer)]
    assert checkpointing.differing_settings(*pair) == ['composite_softness']
  assert jnp.float32 == checkpointing.build_model(given).dtype


def test_only_what_a_model_has_is_left_out():
  config = triplets.get_config()
  assert {'forged_surroundings', 'no_refinement'} < set(ablations.ablations_of(config))
  config.model.update(refinement=0, source_residual=False)
  assert not {'forged_surroundings', 'no_refinement'} & set(ablations.ablations_of(config))
