"""Equality with the published PyTorch implementation, on weights that anybody can regenerate.

`DFREC_PARITY=FOLDER pytest tests/parity_test.py` reads other cases, of other seeds.
"""

import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax import masking
from dfrec_jax.checkpointing import build_model
from dfrec_jax.convert import ism, published, sirm, tirm, torch_files
from dfrec_jax.convert.pretrained import vit
from dfrec_jax.encoders import inception_resnet, vgg
from dfrec_jax.models.efficientnet import EfficientNet
from dfrec_jax.models.identity_segmentation import IdentitySegmentation
from dfrec_jax.models.source_reconstruction import SourceReconstruction
from dfrec_jax.models.target_reconstruction import TargetReconstruction
from tests import parity
from tests.parity import assert_close, to_nchw, to_nhwc

# A bias in front of a batch norm has no gradient but rounding.
BEFORE_NORM = re.compile(r'(conv\.[03]|up\.1|(W|W_g|W_x|psi)\.0)\.bias$')
COMMON = {'drop_connect': 0.0, 'dropout': 0.0, 'remat': 'none', 'dtype': 'float32'}
COMPOSITE = {'composite_dilation': 0, 'composite_softness': 0.0}


@pytest.fixture(scope='module')
def tiny():
  return parity.Case('tiny')


@pytest.mark.parametrize('name', ['tiny', pytest.param('large', marks=pytest.mark.slow)])
def test_conversion_returns_every_bit(name):
  case = parity.Case(name)
  for dictionary, convert in zip(parity.DICTIONARIES, (ism, sirm, tirm), strict=True):
    arrays = case.state_dict(dictionary)
    parity.assert_same_tensors(convert.to_torch(convert.from_torch(arrays)), arrays)


def test_segmentation_in_evaluation(tiny):
  variables = ism.from_torch(tiny.state_dict('state_dict'))
  apply = lambda model, v: jax.jit(lambda v, x: model.apply(v, x, train=False))(v, tiny.image())
  networks = {name: variables[name] for name in ('params', 'batch_stats')}
  mask, logits = apply(IdentitySegmentation(), networks)
  features = apply(EfficientNet(), {name: tree['encoder'] for name, tree in networks.items()})
  mask, expected = to_nchw(jax.nn.sigmoid(mask)), tiny.outputs('ism')
  assert_close(mask, expected['mask'], 1e-5)
  assert_close(to_nchw(features[-1]), expected['encoder_last'], 1e-5)
  assert_close([f.mean() for f in features], expected['encoder_feature_means'], 1e-5)
  expected = tiny.outputs('ism_train')
  assert_close(mask, expected['mask_eval'], 1e-5)
  assert_close(logits, expected['logits_eval'], 1e-5)


def _segmentation_step(variables, images, target_mask, labels):
  """Loss, (mask, class logits, new statistics) and gradients without any dropping."""
  model = IdentitySegmentation(drop_connect=0.0, dropout=0.0)

  def loss(params):
    (mask, logits), updated = model.apply(
      variables | {'params': params}, images, train=True, mutable=['batch_stats']
    )
    # Cross-entropy of sigmoid(mask) with the target.
    segmentation = (jax.nn.softplus(mask) - mask * target_mask).mean()
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    return segmentation - chosen.mean(), (jax.nn.sigmoid(mask), logits, updated['batch_stats'])

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])


@pytest.mark.slow
def test_segmentation_in_training(tiny):
  """Batch norms of two images amplify rounding: the published float32 run itself is 8e-5 (mask),
  1.2e-5 (loss) and 2e-3 (gradients' norms) from the same step in float64."""
  variables = ism.from_torch(tiny.state_dict('state_dict'))
  variables.pop('unused')
  expected = tiny.outputs('ism_train')
  (loss, (mask, logits, stats)), gradients = _segmentation_step(
    variables, tiny.image(), to_nhwc(expected['target_mask']), expected['labels']
  )
  assert_close(to_nchw(mask), expected['mask_train'], 3e-4)
  assert_close(logits, expected['logits_train'], 1e-5)
  np.testing.assert_allclose(loss, expected['loss'], rtol=3e-5)
  arrays = ism.to_torch({'params': gradients, 'batch_stats': stats})
  norms = np.array([np.linalg.norm(arrays[name]) for name in expected['grad_names']])
  reached = expected['grad_norms'] > 1e-5
  assert reached.sum() > 220
  assert norms[~reached].max() < 1e-5
  errors = np.abs(norms / expected['grad_norms'] - 1)[reached]
  worst = expected['grad_names'][reached][errors.argmax()]
  assert errors.max() < 5e-3, worst
  assert np.median(errors) < 5e-4
  for name in expected['stat_names']:
    assert_close(arrays[name], expected[f'stat/{name}'], 1e-5, name)


def test_source_in_evaluation(tiny):
  variables = sirm.from_torch(tiny.state_dict('recover1_state_dict'))
  variables.pop('unused')
  expected = tiny.outputs('sirm')
  x = to_nhwc(expected['masked_image'])
  out = jax.jit(lambda v, x: SourceReconstruction().apply(v, x, x, train=False))(variables, x)
  assert_close(to_nchw(out.source), expected['source'], 1e-5)
  for name in ('target_tokens', 'source_identity', 'target_identity'):
    assert_close(getattr(out, name), expected[name], 1e-5, name)


@pytest.mark.slow
def test_source_in_training(tiny):
  variables = sirm.from_torch(tiny.state_dict('recover1_state_dict'))
  unused = variables.pop('unused')
  expected = tiny.outputs('sirm_train')
  x, true = to_nhwc(expected['input']), tiny.image(int(expected['target_seed']))

  def loss(params):
    out, updated = SourceReconstruction().apply(
      {**variables, 'params': params}, x, x, train=True, mutable=['batch_stats']
    )
    total = jnp.square(out.source - true).mean() + jnp.square(out.target_tokens).mean()
    return total, (out, updated['batch_stats'])

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (total, (out, batch_stats)), gradients = step(variables['params'])
  np.testing.assert_allclose(total, expected['loss'], rtol=1e-5)
  assert_close(out.target_tokens, expected['target_tokens'], 1e-4)
  assert_close(to_nchw(out.source), expected['source'], 1e-4)
  # Gradients and statistics by PyTorch's names: a conversion moves, it does not compute.
  named = sirm.to_torch({'params': gradients, 'batch_stats': batch_stats, 'unused': unused})
  for name, norm in zip(expected['grad_names'], expected['grad_norms'], strict=True):
    found = np.linalg.norm(named[name])
    if BEFORE_NORM.search(name):
      assert found < 1e-4, name
    else:
      # The norms go from 1e-10 to 1.
      np.testing.assert_allclose(found, norm, rtol=1e-3, atol=1e-6, err_msg=name)
  for name in expected['stat_names']:
    assert_close(named[name], expected[f'stat/{name}'], 1e-5, name)


def test_target(tiny):
  encoder = tiny.settings['encoder']
  variables = {'params': tirm.from_torch(tiny.state_dict('recover2_state_dict'))['params']}
  expected = tiny.outputs('tirm')
  partition = jax.jit(
    lambda mask, noise: masking.published_masking(mask, noise, patch=16, ratio=0.5)
  )
  kept, masked = partition(to_nhwc(expected['mask']), jnp.asarray(expected['noise']))
  np.testing.assert_array_equal(kept, expected['kept'])
  np.testing.assert_array_equal(masked, expected['masked'])
  image = tiny.image()[expected['image_index']]
  model = TargetReconstruction(
    tiny.settings['image_size'],
    tiny.settings['patch_size'],
    encoder['width'],
    encoder['layers'],
    encoder['heads'],
    encoder['mlp'],
    indexing='published',
    fusion='concat',
  )
  tokens = jnp.asarray(expected['target_tokens'])
  out = jax.jit(lambda v: model.apply(v, image, image, kept, masked, tokens, train=False))(
    variables
  )
  assert_close(out.patches, expected['patches'], 2e-5)
  assert_close(to_nchw(out.target), expected['target'], 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'target_near'), [('tiny', 2e-5), ('large', 1e-4)])
def test_recovery(name, target_near):
  """From the image to both people, the model built from the tensors alone."""
  case = parity.Case(name)
  networks = {
    network: case.state_dict(dictionary) for network, dictionary in torch_files.DICTIONARIES.items()
  }
  variables = published.from_torch(networks)
  heads = case.settings['encoder']['heads']
  settings = published.read_model_settings(networks, heads) | COMMON | COMPOSITE
  published.check_fit(variables, settings)
  del variables['unused'], networks
  expected = case.outputs('recover')
  model = build_model(settings)
  noise = jnp.asarray(expected['noise'])
  out = jax.jit(lambda v, x: model.apply(v, x, noise=noise))(variables, case.image())
  np.testing.assert_array_equal(out.kept, expected['kept'])
  for key, tolerance in (('mask', 1e-5), ('source', 1e-5), ('target', target_near)):
    assert_close(to_nchw(getattr(out, key)), expected[key], tolerance, key)


@pytest.fixture(scope='module')
def pretrained():
  return parity.Case('pretrained')


@pytest.mark.parametrize('side', [160, 224])
def test_inception_resnet_embeds_as_facenet_pytorch(pretrained, side):
  params = inception_resnet.from_torch_arrays(pretrained.state_dict('inception_resnet_v1'))
  # This case has no whitening: the network sees images in [0, 1].
  seed = pretrained.settings['image_160_seed' if side == 160 else 'image_seed']
  images = pretrained.weights.image(seed, pretrained.settings['batch'], side)
  net = inception_resnet.InceptionResnetV1()
  features = jax.jit(net.apply)({'params': params}, to_nhwc(images))
  embedding = features.embedding / np.linalg.norm(features.embedding, axis=-1, keepdims=True)
  assert_close(
    embedding, pretrained.outputs('outputs')[f'inception_resnet_v1/embedding_{side}'], 1e-5
  )


def test_vgg_taps_are_torchvisions(pretrained):
  params = vgg.from_torch_arrays(pretrained.state_dict('vgg19_features'))
  images = pretrained.weights.image(pretrained.settings['image_seed'], pretrained.settings['batch'])
  taps = jax.jit(vgg.VGG19Features().apply)({'params': params}, to_nhwc(images))
  outputs = pretrained.outputs('outputs')
  for name, tap in taps.items():
    expected = outputs[f'vgg19/{name}']
    # Activations are not of one scale: the deviation is relative to the largest.
    tap = to_nchw(tap)[:, : expected.shape[1]]
    assert_close(tap, expected, 1e-5 * np.abs(expected).max(), name)


def test_vit_tokens_are_those_of_mae(pretrained):
  sizes = pretrained.settings['mae_vit_tiny']
  shape = (sizes['width'], sizes['layers'], sizes['heads'], sizes['mlp'])
  model = TargetReconstruction(224, 16, *shape, indexing='aligned', fusion='add')
  images = pretrained.weights.image(pretrained.settings['image_seed'], pretrained.settings['batch'])
  images = to_nhwc(images)
  every = jnp.tile(jnp.arange(196), (len(images), 1))
  whole = images, images, every, every[:, :0], jnp.zeros((len(images), 2, 2, 6))
  init = lambda key: nn.unbox(model.init(key, *whole, train=False))
  initial = {'params': {'tirm': jax.eval_shape(init, jax.random.key(0))['params']}}
  initial = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), initial)
  variables, _ = vit.load_vit(initial, pretrained.state_dict('mae_vit_tiny'), 'mae.pth')

  def encode(params):
    of_encoder = lambda module, _: module.name == 'encoder'
    _, state = model.apply(
      {'params': params}, *whole, train=False, capture_intermediates=of_encoder
    )
    return state['intermediates']['encoder']['__call__'][0]

  tokens = jax.jit(encode)(variables['params']['tirm'])
  assert_close(tokens, pretrained.outputs('outputs')['mae_vit_tiny/tokens'], 1e-5)
