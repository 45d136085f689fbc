"""The PyTorch modules: the published network's outputs, and the same as the linen modules'."""

import dataclasses
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')
import torch.nn.functional as F  # noqa: E402

from configs.common import base  # noqa: E402
from dfrec_jax import compositing, masking  # noqa: E402
from dfrec_jax.convert import extensions, ism, layout, sirm, tirm, torch_modules  # noqa: E402
from dfrec_jax.models import dfrec, sizes, target_reconstruction  # noqa: E402
from tests import parity  # noqa: E402

SIZE = 32
EXTENSIONS = ('forged_embedding', 'target_projection', 'target_positions', 'refinement')
# A bias in front of a batch norm has no gradient but rounding.
BEFORE_NORM = re.compile(r'(conv\.[03]|up\.1|(W|W_g|W_x|psi)\.0)\.bias$')


def tensors(arrays):
  return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def images(case, seed=None):
  seed = case.settings['seed'] if seed is None else seed
  image = case.weights.image(seed, case.settings['batch'], case.settings['image_size'])
  return torch.from_numpy(image)


def close(actual, expected, tolerance):
  if isinstance(expected, parity.Sample):
    parity.assert_close(actual.detach().numpy(), expected, tolerance)
  else:
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=tolerance, rtol=tolerance)


def published(case):
  """The published network with the encoder of this case."""
  encoder = {
    {'layers': 'depth'}.get(key, key): value for key, value in case.settings['encoder'].items()
  }
  size = dataclasses.replace(sizes.get_size('L/16'), **encoder)
  settings = {key: value for key, value in dfrec.PUBLISHED.items() if key != 'size'}
  return torch_modules.DFREC(size, **settings)


def test_names_and_shapes_are_the_published_ones():
  case = parity.Case('large')
  with torch.device('meta'):
    model = published(case)
  for key, name in (
    ('state_dict', 'ism'),
    ('recover1_state_dict', 'sirm'),
    ('recover2_state_dict', 'tirm'),
  ):
    found = model.get_submodule(name).state_dict()
    assert {k: list(v.shape) for k, v in found.items()} == case.shapes[key]


@pytest.fixture(scope='module')
def tiny():
  case = parity.Case('tiny')
  model = published(case)
  model.load_checkpoint(
    {
      key: tensors(case.state_dict(key))
      for key in ('state_dict', 'recover1_state_dict', 'recover2_state_dict')
    }
  )
  return case, model.eval()


@torch.no_grad()
def test_segmentation_is_the_published_one(tiny):
  case, model = tiny
  mask, logits = model.ism(images(case))
  close(torch.sigmoid(mask), case.outputs('ism')['mask'], 1e-5)
  close(logits, case.outputs('ism_train')['logits_eval'], 1e-5)


def gradient_norms(model, names):
  parameters = dict(model.named_parameters())
  return np.array([parameters[name].grad.norm().item() for name in names])


def assert_statistics(model, expected):
  state = model.state_dict()
  for name in expected['stat_names']:
    close(state[name], expected[f'stat/{name}'], 1e-5)


def test_a_training_step_of_the_segmentation_is_the_published_one():
  case = parity.Case('tiny')
  expected = case.outputs('ism_train')
  model = torch_modules.IdentitySegmentation(drop_connect=0, dropout=0)
  model.load_state_dict(tensors(case.state_dict('state_dict')))
  mask, logits = model(images(case))
  loss = F.binary_cross_entropy(torch.sigmoid(mask), torch.from_numpy(expected['target_mask']))
  loss = loss + F.cross_entropy(logits, torch.from_numpy(expected['labels']))
  loss.backward()
  # The tolerances of tests/parity_test.py: batch norms amplify rounding.
  close(torch.sigmoid(mask), expected['mask_train'], 3e-4)
  close(logits, expected['logits_train'], 1e-5)
  np.testing.assert_allclose(loss.item(), expected['loss'], rtol=3e-5)
  norms, reached = gradient_norms(model, expected['grad_names']), expected['grad_norms'] > 1e-5
  assert norms[~reached].max() < 1e-5
  np.testing.assert_allclose(norms[reached], expected['grad_norms'][reached], rtol=5e-3)
  assert_statistics(model, expected)


@pytest.mark.parametrize('rates', [{'drop_connect': 0.5}, {'dropout': 0.5}], ids=str)
def test_dropping_is_random_in_training_only(rates):
  rates = {'drop_connect': 0.0, 'dropout': 0.0} | rates
  model = torch_modules.IdentitySegmentation(
    0.25, 0.5, aspp_channels=16, low_level_channels=8, **rates
  )
  image = torch.rand(4, 3, SIZE, SIZE)
  first, again = model(image)[0], model(image)[0]
  assert (first - again).abs().max() > 1e-4
  model.eval()
  assert torch.equal(model(image)[0], model(image)[0])


@torch.no_grad()
def test_source_is_the_published_one(tiny):
  case, model = tiny
  expected = case.outputs('sirm')
  out = model.sirm(torch.from_numpy(expected['masked_image']))
  for name in out._fields:
    close(getattr(out, name), expected[name], 1e-5)


def test_a_training_step_of_the_source_is_the_published_one():
  case = parity.Case('tiny')
  expected = case.outputs('sirm_train')
  model = torch_modules.SourceReconstruction()
  model.load_state_dict(tensors(case.state_dict('recover1_state_dict')))
  out = model(torch.from_numpy(expected['input']))
  true = images(case, int(expected['target_seed']))
  loss = F.mse_loss(out.source, true) + out.target_tokens.square().mean()
  loss.backward()
  np.testing.assert_allclose(loss.item(), expected['loss'], rtol=1e-5)
  norms = gradient_norms(model, expected['grad_names'])
  for name, norm, wanted in zip(expected['grad_names'], norms, expected['grad_norms'], strict=True):
    if BEFORE_NORM.search(name):
      assert norm < 1e-4, name
    else:
      np.testing.assert_allclose(norm, wanted, rtol=1e-3, atol=1e-6, err_msg=name)
  assert_statistics(model, expected)


@torch.no_grad()
def test_target_is_the_published_one(tiny):
  case, model = tiny
  expected = case.outputs('tirm')
  mask, noise = torch.from_numpy(expected['mask']), torch.from_numpy(expected['noise'])
  partition = torch_modules.published_masking(mask, noise, patch=16, ratio=0.5)
  np.testing.assert_array_equal(partition.kept, expected['kept'])
  np.testing.assert_array_equal(partition.masked, expected['masked'])
  image = images(case)[expected['image_index']]
  out = model.tirm(image, image, *partition, torch.from_numpy(expected['target_tokens']))
  close(out.patches, expected['patches'], 2e-5)
  close(out.target, expected['target'], 2e-5)


@torch.no_grad()
def test_recovery_is_the_published_one(tiny):
  case, model = tiny
  expected = case.outputs('recover')
  out = model(images(case), noise=torch.from_numpy(expected['noise']))
  np.testing.assert_array_equal(out.kept, expected['kept'])
  for name in ('mask', 'source', 'target'):
    close(getattr(out, name), expected[name], 2e-5)


def values(shapes):
  """Variables that leave nothing at zero; `init` of a residual model would."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = path[-1].key
    noise = rng.standard_normal(leaf.shape, np.float32)
    if name == 'kernel':
      return noise * np.float32(1 / np.sqrt(np.prod(leaf.shape[-4:-1])))
    return 0.1 * noise + np.float32(name in ('scale', 'var'))

  return jax.tree_util.tree_map_with_path(draw, nn.unbox(shapes))


def to_nchw(array):
  return np.moveaxis(np.asarray(array), -1, 1)


def export_tirm(params, fusion, forged_tokens):
  published = {name: tree for name, tree in params.items() if name not in EXTENSIONS}
  own = {name: tree for name, tree in params.items() if name in EXTENSIONS}
  rows = extensions.target_decoder(fusion, forged_tokens)
  rows |= extensions.refinement() if 'refinement' in params else {}
  return tensors(
    tirm.to_torch({'params': published}) | layout.to_torch({'params': own}, rows, 'decoder')
  )


def export_ism(variables, depth):
  split = lambda keep: {
    collection: {name: x for name, x in tree.items() if (name == 'detail') == keep}
    for collection, tree in variables.items()
  }
  detail = layout.to_torch(split(True), extensions.detail_branch(), 'detail branch')
  return tensors(ism.to_torch(split(False), depth) | detail)


def test_a_model_trained_here_computes_the_same():
  settings = {
    **base().model,
    'size': 'test',
    'image_size': SIZE,
    'input_normalisation': 'imagenet',
    'refinement': 4,
  }
  model = dfrec.DFREC(**{**settings, 'dtype': jnp.float32})
  image = np.random.default_rng(1).random((2, SIZE, SIZE, 3), np.float32)
  key = jax.random.key(0)
  shapes = jax.eval_shape(lambda x: model.init({'params': key, 'masking': key}, x), image)
  variables = values(shapes)
  of = lambda name: {c: tree[name] for c, tree in variables.items() if name in tree}

  ours = torch_modules.DFREC.from_config(settings).eval()
  ours.load_checkpoint(
    {
      'state_dict': export_ism(of('ism'), sizes.SIZES['test'].ism_depth),
      'recover1_state_dict': tensors(sirm.to_torch(of('sirm'))),
      'recover2_state_dict': export_tirm(of('tirm')['params'], 'add', True),
    }
  )
  expected = jax.jit(lambda v, x: model.apply(v, x, rngs={'masking': key}))(variables, image)
  partition = torch_modules.Partition(
    *(torch.from_numpy(np.asarray(x, np.int64)) for x in (expected.kept, expected.masked))
  )
  with torch.no_grad():
    out = ours(torch.from_numpy(to_nchw(image)), partition=partition)
  assert 0.05 < expected.composite_mask.mean() < 0.95
  for name in out._fields:
    wanted = getattr(expected, name)
    close(getattr(out, name), to_nchw(wanted) if wanted.ndim == 4 else wanted, 1e-5)


@pytest.mark.parametrize(
  ('indexing', 'fusion'),
  [('aligned', 'concat'), ('aligned', 'sequence'), ('published', 'add')],
)
def test_every_fusion_computes_the_same(indexing, fusion):
  encoder = dict(width=16, depth=2, heads=2, mlp=16)
  decoder = dict(decoder_width=8, decoder_depth=1, decoder_heads=2, decoder_mlp=16)
  settings = dict(encoder, **decoder, indexing=indexing, fusion=fusion, forged_tokens=True)
  model = target_reconstruction.TargetReconstruction(SIZE, 8, **settings)
  rng = np.random.default_rng(1)
  image, forged = rng.random((2, 2, SIZE, SIZE, 3), np.float32)
  order = rng.permuted(np.tile(np.arange(16), (2, 1)), axis=1)
  kept, masked = order[:, :8], order[:, 8:]
  tokens = rng.standard_normal((2, 8, 4) if fusion == 'concat' else (2, 2, 2, 6), np.float32)
  args = (image, forged, kept, masked, tokens)
  variables = values(
    jax.eval_shape(lambda *a: model.init(jax.random.key(0), *a, train=False), *args)
  )
  expected = jax.jit(lambda v, *a: model.apply(v, *a, train=False))(variables, *args)

  ours = torch_modules.TargetReconstruction(
    SIZE, 8, **settings, token_features=tokens.shape[-1]
  ).eval()
  ours.load_state_dict(export_tirm(variables['params'], fusion, True))
  nchw = lambda x: torch.from_numpy(to_nchw(x) if x.ndim == 4 else x)
  out = ours(*(nchw(x) for x in args))
  close(out.patches, expected.patches, 1e-5)
  close(out.target, to_nchw(expected.target), 1e-5)


def soft_mask():
  """(2, 16, 16, 1): a face over a quarter, with an edge, and almost nothing."""
  mask = np.zeros((2, 16, 16, 1), np.float32)
  mask[0, 4:12, 2:10] = 1
  mask[0, 12:14, 2:10] = 0.5
  mask[1, 0, 0] = 0.3
  return mask


@pytest.mark.parametrize('progress', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('same_draws', [False, True])
def test_aligned_masking_follows_the_same_rule(progress, same_draws):
  key = jax.random.key(0)
  expected = masking.aligned_masking(
    jnp.asarray(soft_mask()), key, patch=2, ratio=0.5, progress=progress, same_draws=same_draws
  )
  shape = (1 if same_draws else 2, 64)
  noise = np.stack([jax.random.uniform(k, shape) for k in jax.random.split(key)])
  found = torch_modules.aligned_masking(
    torch.from_numpy(to_nchw(soft_mask())),
    torch.from_numpy(noise),
    patch=2,
    ratio=0.5,
    progress=progress,
  )
  np.testing.assert_array_equal(found.kept, expected.kept)
  np.testing.assert_array_equal(found.masked, expected.masked)


@pytest.mark.parametrize(('dilation', 'softness'), [(0, 0.0), (2, 0.0), (1, 1.5), (3, 8.0)])
def test_compositing_is_the_same(dilation, softness):
  expected = compositing.composite_mask(jnp.asarray(soft_mask()), dilation, softness)
  mask = torch.from_numpy(to_nchw(soft_mask()))
  found = torch_modules.composite_mask(mask, dilation, softness)
  close(found, to_nchw(expected), 1e-6)
  filled = torch_modules.masking.fill_holes(found, 3)
  close(filled, to_nchw(compositing.fill_holes(expected, 3)), 1e-6)


def test_what_trains_and_what_guides():
  """Gradients reach every tensor that is used, and none reaches the ISM through the mask."""
  settings = dict(source_residual=False, target_residual=False, composite=False)
  model = torch_modules.DFREC(sizes.SIZES['test'], image_size=SIZE, **settings)
  out = model(torch.rand(2, 3, SIZE, SIZE), progress=0.5)
  (out.source.mean() + out.target_patches.square().mean()).backward()
  unreached = {name for name, x in model.named_parameters() if x.grad is None}
  assert {name for name in unreached if not name.startswith('ism.')} == {
    'tirm.backbone.heads.head.weight',
    'tirm.backbone.heads.head.bias',
  }
  assert unreached >= {f'ism.{name}' for name, _ in model.ism.named_parameters()}


def test_a_residual_model_starts_as_a_copy():
  model = torch_modules.DFREC(sizes.SIZES['test'], image_size=SIZE)
  image, guide = torch.rand(2, 3, SIZE, SIZE), torch.ones(2, 1, SIZE, SIZE)
  guide[..., 20:] = 0
  out = model(image, guide=guide)
  where = out.source_mask
  assert where.max() > 0.999 and where.min() < 0.1
  close(out.source, (where * image + (1 - where) * dfrec.GREY).numpy(), 1e-6)
  close(out.target, image.numpy(), 1e-6)


@torch.no_grad()
@pytest.mark.parametrize('indexing', masking.INDEXINGS)
def test_only_in_training_are_patches_drawn_for_each_image(indexing):
  model = torch_modules.DFREC(sizes.SIZES['test'], image_size=SIZE, indexing=indexing)
  image, guide = torch.rand(2, 3, SIZE, SIZE), torch.zeros(2, 1, SIZE, SIZE)
  first, second = model(image, guide=guide).masked.sort(1).values
  assert not torch.equal(first, second)
  first, second = model.eval()(image, guide=guide).masked
  assert torch.equal(first, second)


def test_bad_settings_are_refused():
  settings = {**base().model, 'size': 'test', 'image_size': SIZE}
  build = torch_modules.DFREC.from_config
  for change, match in (
    ({'other': 1}, 'unknown fields: other'),
    ({'size': 'X/16'}, "Unknown size 'X/16'"),
    ({'image_size': 40}, 'image size is 40.* multiple of 16'),
    ({'indexing': 'other'}, "Unknown indexing 'other'"),
    ({'fusion': 'other'}, "Unknown fusion 'other'"),
    ({'input_normalisation': 'other'}, "Unknown input_normalisation 'other'"),
  ):
    with pytest.raises(ValueError, match=match):
      build({**settings, **change})
  model = build(settings)
  with pytest.raises(ValueError, match='images have shape'):
    model(torch.rand(1, 3, SIZE, 48))
  with pytest.raises(ValueError, match='lacks recover1_state_dict, recover2_state_dict'):
    model.load_checkpoint({'state_dict': model.ism.state_dict()})
  wrong = {key: {} for key in ('state_dict', 'recover1_state_dict', 'recover2_state_dict')}
  with pytest.raises(ValueError, match=r'state_dict is not of this model.*_conv_stem'):
    model.load_checkpoint(wrong)
