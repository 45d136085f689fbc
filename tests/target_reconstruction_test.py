"""The TIRM, and its conversion from and to the published weights."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax import masking
from dfrec_jax.convert import tirm as convert
from dfrec_jax.models.target_reconstruction import TargetReconstruction, patchify, unpatchify

SIZE, PATCH = 32, 8  # 16 patches
FUSIONS = ('concat', 'add', 'sequence')
INDEXINGS = ('published', 'aligned')


def build(size=SIZE, **kwargs):
  sizes = dict(width=16, depth=2, heads=2, mlp=16)
  decoder = dict(decoder_width=8, decoder_depth=1, decoder_heads=2, decoder_mlp=16)
  return TargetReconstruction(size, PATCH, **sizes, **decoder, **kwargs)


def inputs(model, batch=2, seed=0):
  """image, forged, kept, masked, target tokens."""
  size, patches = model.image_size, (model.image_size // model.patch) ** 2
  keys = jax.random.split(jax.random.key(seed), 3)
  image = jax.random.uniform(keys[0], (batch, size, size, 3))
  count = masking.kept_count(patches, 0.5, model.indexing)
  order = jax.vmap(lambda key: jax.random.permutation(key, patches))(
    jax.random.split(keys[1], batch)
  )
  side = size // 16
  shape = (batch, count, side * side) if model.fusion == 'concat' else (batch, side, side, 6)
  tokens = jax.random.normal(keys[2], shape)
  return image, image, order[:, :count], order[:, count:], tokens


def init(model):
  args = inputs(model)
  init = jax.jit(lambda k: model.init(k, *args, train=False))
  # This generator compiles in less than half of the time of the usual one.
  return nn.unbox(init(jax.random.key(1, impl='rbg')))


def published(**kwargs):
  return TargetReconstruction(
    224, 16, 1024, 24, 16, 4096, indexing='published', fusion='concat', **kwargs
  )


def test_published_parameter_count():
  model = published()
  args = jax.eval_shape(lambda: inputs(model, batch=1))
  variables = jax.eval_shape(lambda k, *a: model.init(k, *a, train=False), jax.random.key(0), *args)
  params = nn.unbox(variables)['params']
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 307_575_552
  assert params['encoder']['blocks']['qkv']['kernel'].shape == (24, 1024, 3072)
  boxed = variables['params']['encoder']['blocks']['qkv']['kernel']
  assert boxed.names == ('layers', 'qkv_in', None)


@pytest.mark.parametrize('indexing', INDEXINGS)
@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('size', [32, 48, 96])
def test_shapes(size, fusion, indexing):
  model = build(size, fusion=fusion, indexing=indexing)
  args = jax.eval_shape(lambda: inputs(model))
  out, _ = jax.eval_shape(
    lambda k, *a: model.init_with_output(k, *a, train=True), jax.random.key(0), *args
  )
  assert out.target.shape == (2, size, size, 3)
  assert out.patches.shape == (*args[3].shape, PATCH * PATCH * 3)


@pytest.mark.parametrize('indexing', INDEXINGS)
@pytest.mark.parametrize('fusion', FUSIONS)
def test_gradients_are_finite_and_reach_everything(fusion, indexing):
  model = build(fusion=fusion, indexing=indexing, remat='full' if fusion == 'add' else 'none')
  # Published indexing keeps the class token by chance: with eight images, of some.
  args, variables = inputs(model, batch=8), init(model)

  def loss(params, tokens):
    out = model.apply({'params': params}, *args[:4], tokens, train=True)
    return jnp.square(out.target).mean()

  gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables['params'], args[4])
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all(), path
    assert np.any(leaf), path


def test_patchify_is_raster_and_row_column_channel():
  image = jnp.arange(2 * 16 * 16 * 3.0).reshape(2, 16, 16, 3)
  patches = patchify(image, 8)
  np.testing.assert_array_equal(patches[1, 1], image[1, :8, 8:].ravel())
  np.testing.assert_array_equal(unpatchify(patches, 8, 16), image)


def changed(image, patches):
  """The image with other pixels in these patches."""
  rows = patchify(image, PATCH).at[:, jnp.asarray(patches)].add(0.5)
  return unpatchify(rows, PATCH, SIZE)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_aligned_masked_patches_tell_the_encoder_nothing(fusion):
  model = build(fusion=fusion, indexing='aligned')
  image, forged, _, _, tokens = inputs(model)
  kept, masked = jnp.tile(jnp.arange(0, 16, 2), (2, 1)), jnp.tile(jnp.arange(1, 16, 2), (2, 1))
  variables = init(model)
  run = jax.jit(lambda x: model.apply(variables, x, forged, kept, masked, tokens, train=False))
  np.testing.assert_array_equal(run(image).patches, run(changed(image, masked[0])).patches)
  assert (run(image).patches != run(changed(image, [0])).patches).any()


def test_published_indexing_sees_the_patch_before_and_never_the_last():
  model = build(indexing='published', fusion='concat')
  image, forged, _, _, tokens = inputs(model)
  order = jnp.array([0, 1, 2, 9, 12, 13, 14, 15, 3, 4, 5, 6, 7, 8, 10, 11])
  kept, masked = jnp.tile(order[:8], (2, 1)), jnp.tile(order[8:], (2, 1))
  variables = init(model)
  run = jax.jit(lambda x: model.apply(variables, x, forged, kept, masked, tokens, train=False))
  seen = [bool((run(image).patches != run(changed(image, [i])).patches).any()) for i in range(16)]
  assert [i for i in range(16) if seen[i]] == [0, 1, 8, 11, 12, 13, 14]


@pytest.mark.parametrize('indexing', INDEXINGS)
def test_added_vectors_belong_to_their_patches(indexing):
  """A decoder without mixing passes vector j to patch j alone."""
  model = build(indexing=indexing, fusion='add')
  image, forged, kept, masked, _ = inputs(model)
  variables = init(model)
  for name in ('out', 'mlp_2'):
    block = variables['params']['decoder']['blocks'][name]
    block['kernel'] = jnp.zeros_like(block['kernel'])
  tokens = jnp.zeros((2, 4, 4, 6))  # As many vectors as patches: nothing is interpolated.
  run = jax.jit(lambda t: model.apply(variables, image, forged, kept, masked, t, train=False))
  moved = run(tokens.at[:, 2, 1].set(1.0)).patches != run(tokens).patches
  np.testing.assert_array_equal(moved.any(-1), masked == 2 * 4 + 1)


@pytest.mark.parametrize('indexing', INDEXINGS)
def test_only_masked_patches_are_replaced(indexing):
  model = build(indexing=indexing, fusion='sequence')
  image, forged, kept, masked, tokens = inputs(model)
  out = jax.jit(lambda v: model.apply(v, image, forged, kept, masked, tokens, train=False))(
    init(model)
  )
  patches = patchify(out.target, PATCH)
  for i in range(2):
    np.testing.assert_array_equal(patches[i, kept[i]], patchify(forged, PATCH)[i, kept[i]])
    np.testing.assert_array_equal(patches[i, masked[i]], out.patches[i])


def test_a_residual_model_starts_as_a_copy_and_clips_only_outside_training():
  model = build(residual=True)
  args, variables = inputs(model), init(model)
  run = jax.jit(lambda v, train: model.apply(v, *args, train=train), static_argnums=1)
  np.testing.assert_array_equal(run(variables, False).target, args[1])
  variables['params']['prediction']['bias'] += 2.0
  assert run(variables, False).patches.max() == 1
  assert run(variables, True).patches.min() >= 2


def test_bfloat16_keeps_parameters_and_pictures_float32():
  model = build(dtype=jnp.bfloat16)
  variables = init(model)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  out = jax.jit(lambda v: model.apply(v, *inputs(model), train=False))(variables)
  assert out.target.dtype == out.patches.dtype == jnp.float32


def test_bad_settings_are_refused():
  for model, match in (
    (build(indexing='none'), "Unknown indexing 'none'"),
    (build(fusion='none'), "Unknown fusion 'none'"),
    (build(size=48), 'takes 48x48'),
    (build(size=36), 'takes 36x36'),
  ):
    with pytest.raises(ValueError, match=match):
      model.init(jax.random.key(0), *inputs(build()), train=False)


def test_a_model_trained_here_exports_with_a_classifier_of_zeros():
  variables = init(build(indexing='published', fusion='concat'))
  arrays = convert.to_torch(variables)
  assert arrays['backbone.heads.head.weight'].shape == (1000, 16)
  back = convert.from_torch(arrays)
  jax.tree.map(np.testing.assert_array_equal, back['params'], variables['params'])


def test_one_error_names_all_that_is_wrong():
  arrays = convert.to_torch(init(build(indexing='published', fusion='concat')))
  del arrays['decoder.ln.bias']
  arrays['decoder.ln.offset'] = np.zeros(1)
  name = 'backbone.encoder.layers.encoder_layer_1.self_attention.in_proj_weight'
  arrays[name] = np.zeros((16, 16), np.float32)
  with pytest.raises(ValueError) as error:
    convert.from_torch(arrays)
  for part in (
    'missing decoder.ln.bias',
    'extra decoder.ln.offset',
    f'{name} has shape (16, 16) instead of (48, 16)',
  ):
    assert part in str(error.value)
