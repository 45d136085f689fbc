"""DFREC: the networks joined."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax.models.dfrec import DFREC, GREY, PUBLISHED
from dfrec_jax.models.target_reconstruction import patchify
from dfrec_jax.recovery import for_recovery

SIZE = 32


def build(**kwargs):
  return DFREC(**{'size': 'test', 'image_size': SIZE, **kwargs})


def init(model, image):
  run = jax.jit(lambda key: model.init({'params': key, 'masking': key}, image))
  # This generator compiles in less than half of the time of the usual one.
  return nn.unbox(run(jax.random.key(0, impl='rbg')))


def images(batch=2, size=SIZE):
  return jax.random.uniform(jax.random.key(1), (batch, size, size, 3))


def square(batch=2):
  """A mask of 8x8 pixels in the first corner."""
  return jnp.zeros((batch, SIZE, SIZE, 1)).at[:, :8, :8].set(1.0)


@pytest.fixture(scope='module')
def default():
  model = build(composite_dilation=1, composite_softness=1.0)
  return model, init(model, images())


def run(model, variables, image, seed=0, **kwargs):
  # Keywords that are no arrays choose the program.
  return jax.jit(lambda v, x, kw: model.apply(v, x, rngs={'masking': jax.random.key(seed)}, **kw))(
    variables, image, kwargs
  )


def test_parameter_counts():
  def count(**kwargs):
    model = DFREC(**kwargs)
    image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
    init = lambda key, x: model.init({'params': key, 'masking': key}, x)['params']
    params = jax.eval_shape(init, jax.random.key(0), image)
    return {k: sum(x.size for x in jax.tree.leaves(nn.unbox(v))) for k, v in params.items()}

  published = count(**PUBLISHED)
  assert published == {'ism': 4_495_951, 'sirm': 17_569_839, 'tirm': 307_575_552}
  for fusion in ('concat', 'add', 'sequence'):
    assert sum(count(size='nano', image_size=112, fusion=fusion).values()) <= 8_000_000


@pytest.mark.parametrize('size', ['nano', 'Ti/16', 'S/16', 'B/16', 'H/14'])
def test_every_size_has_its_shapes(size):
  model = DFREC(size=size, image_size=112, remat='full', dtype=jnp.bfloat16)
  image = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)
  rngs = {name: jax.random.key(0) for name in ('params', 'masking', 'dropout')}
  out, _ = jax.eval_shape(lambda x: model.init_with_output(rngs, x, train=True), image)
  assert out.source.shape == out.target.shape == (2, 112, 112, 3)
  assert out.mask.shape == out.composite_mask.shape == (2, 112, 112, 1)
  assert {x.dtype for x in (out.source, out.target, out.mask_logits)} == {jnp.dtype('float32')}


def test_a_residual_model_starts_from_the_forged_image(default):
  out = run(*default, images(), guide=square())
  where = out.source_mask
  assert (where[:, :6, :6] > 0.999).all() and not where[:, 16:].any()
  assert (where >= out.composite_mask).all()
  np.testing.assert_allclose(out.source, where * images() + (1 - where) * GREY, atol=1e-6)
  np.testing.assert_array_equal(out.source, out.uncorrected)
  np.testing.assert_allclose(out.target, images(), atol=1e-6)
  model, variables = default
  whole = run(model.clone(grey_surroundings=False), variables, images(), guide=square())
  np.testing.assert_array_equal(whole.source, images())
  np.testing.assert_array_equal(whole.source_mask, 1)


def test_the_source_stands_on_grey_and_is_corrected_inside_the_mask_alone(default):
  model, variables = default
  variables = jax.tree.map(lambda x: x, variables)
  variables['params']['sirm']['output']['bias'] += 0.1
  out = run(model, variables, 0.5 * images(), guide=square())
  where = out.source_mask
  np.testing.assert_allclose(out.source - out.uncorrected, 0.1 * where * jnp.ones(3), atol=1e-6)
  np.testing.assert_allclose(out.source[:, 16:], GREY, atol=1e-6)
  assert (where[:, 0, 0] > 0.999).all()


def test_the_guide_is_used_where_asked(default):
  use = jnp.array([True, False])
  out = run(*default, images(), guide=square(), use_guide=use)
  np.testing.assert_array_equal(out.mask[0], square()[0])
  np.testing.assert_array_equal(out.mask[1], out.predicted_mask[1])
  # Of the 4x4 patches of 8 pixels the guide covers the first.
  assert out.masked[0, 0] == 0
  assert out.kept.shape == out.masked.shape == (2, 8)


def test_compositing_leaves_what_is_far_from_the_mask_untouched(default):
  model, variables = default
  variables = jax.tree.map(lambda x: x, variables)
  variables['params']['tirm']['prediction']['bias'] += 0.3
  out = run(model, variables, 0.5 * images(), guide=square())
  image = 0.5 * images()
  np.testing.assert_array_equal(out.target[:, 14:], image[:, 14:])
  assert (out.target_raw[:, 14:] != image[:, 14:]).any()
  # Patches are masked, and thus replaced, where the guide is.
  np.testing.assert_allclose(out.target[:, :5, :5], image[:, :5, :5] + 0.3, atol=1e-3)


def test_a_result_does_not_depend_on_the_batch_it_is_in(default):
  together, alone = run(*default, images()), run(*default, images()[1:])
  np.testing.assert_array_equal(together.masked[1:], alone.masked)
  np.testing.assert_allclose(together.predicted_mask[1:], alone.predicted_mask, atol=1e-6)


def test_only_the_ism_sees_twins(default):
  alone, twins = run(*default, images()), run(*default, images(), twins=1 - images())
  assert alone.twin_mask_logits is None and alone.twin_class_logits is None
  of_twins = run(*default, 1 - images())
  close = functools.partial(np.testing.assert_allclose, atol=1e-5)
  close(twins.twin_mask_logits, of_twins.mask_logits)
  close(twins.twin_class_logits, of_twins.class_logits)
  for name in ('mask_logits', 'class_logits', 'source', 'target'):
    close(getattr(twins, name), getattr(alone, name))


def test_target_patches_are_those_of_the_target(default):
  out = run(*default, images())
  patches = patchify(out.target_raw, 8)
  for i in range(2):
    np.testing.assert_array_equal(patches[i, out.masked[i]], out.target_patches[i])


@pytest.mark.slow
def test_gradients_are_finite_and_guidance_has_none():
  model = build(source_residual=False, target_residual=False)
  variables = init(model, images())

  def loss(params):
    out, _ = model.apply(
      {**variables, 'params': params},
      images(),
      progress=0.5,
      train=True,
      rngs={'masking': jax.random.key(0), 'dropout': jax.random.key(1)},
      mutable=['batch_stats'],
    )
    return jnp.square(out.source).mean() + jnp.square(out.target).mean()

  gradients = jax.jit(jax.grad(loss))(variables['params'])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients['ism']))
  assert all(
    np.any(gradients[name]['output' if name == 'sirm' else 'prediction']['bias'])
    for name in ('sirm', 'tirm')
  )


def test_imagenet_normalisation_reaches_the_ism_and_not_the_pictures(default):
  _, variables = default
  model = build(input_normalisation='imagenet')
  grey = jnp.broadcast_to(jnp.array([0.485, 0.456, 0.406]), (1, SIZE, SIZE, 3))
  plain = run(build(), variables, jnp.zeros_like(grey))
  normalised = run(model, variables, grey)
  np.testing.assert_allclose(normalised.mask_logits, plain.mask_logits, atol=1e-5)
  mask = normalised.composite_mask
  np.testing.assert_allclose(normalised.source, mask * grey + (1 - mask) * GREY, atol=1e-6)


@pytest.mark.parametrize(
  ('settings', 'match'),
  [
    ({'image_size': 40}, 'image size is 40.* multiple of 16'),
    ({'size': 'H/14', 'image_size': 224 + 16}, 'multiple of 112'),
    ({'size': 'X/16'}, "Unknown size 'X/16'"),
    ({'indexing': 'other'}, "Unknown indexing 'other'"),
    ({'fusion': 'other'}, "Unknown fusion 'other'"),
    ({'input_normalisation': 'other'}, "Unknown input_normalisation 'other'"),
    ({'image_size': 48}, 'images have shape'),
  ],
)
def test_bad_settings_are_refused(settings, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(lambda x: build(**settings).init(jax.random.key(0), x), images())


def test_noise_is_for_published_indexing():
  with pytest.raises(ValueError, match='only for published'):
    build().init(jax.random.key(0), images(), noise=jnp.zeros((2, 16)))


def test_recovery_on_a_cpu_takes_no_layer_out_of_a_stack(default):
  model, variables = default
  unstacked, own = for_recovery(model, variables)
  encoder = own['params']['tirm']['encoder']
  assert 'blocks' not in encoder
  stacked = variables['params']['tirm']['encoder']['blocks']['mlp_1']['kernel']
  np.testing.assert_array_equal(encoder['block_0']['mlp_1']['kernel'], stacked[0])
  expected, got = run(model, variables, images()), run(unstacked, own, images())
  np.testing.assert_allclose(got.target, expected.target, atol=1e-6)
  assert for_recovery(unstacked, own) == (unstacked, own)
