"""Pretrained parts: parity through our encoder, namings, resized positions, reports, refusals."""

import re

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dfrec_jax import checkpointing
from dfrec_jax.convert.pretrained import apply_pretrained, efficientnet, vit
from dfrec_jax.errors import InputError
from dfrec_jax.models.dfrec import DFREC
from dfrec_jax.models.target_reconstruction import TargetReconstruction

WIDTH, DEPTH, MLP, PATCH = 64, 2, 256, 16
INITIAL = np.float32(-7)  # what no file holds
# The published ViTs are too large for a test; the ISM must be EfficientNet-B0.
SIZE = f'test+patch={PATCH}+width={WIDTH}+depth={DEPTH}+heads=4+mlp={MLP}+ism_width=1+ism_depth=1'


def block_shapes(name, width, mlp):
  return {
    f'{name}.norm1.weight': (width,),
    f'{name}.norm1.bias': (width,),
    f'{name}.attn.qkv.weight': (3 * width, width),
    f'{name}.attn.qkv.bias': (3 * width,),
    f'{name}.attn.proj.weight': (width, width),
    f'{name}.attn.proj.bias': (width,),
    f'{name}.norm2.weight': (width,),
    f'{name}.norm2.bias': (width,),
    f'{name}.mlp.fc1.weight': (mlp, width),
    f'{name}.mlp.fc1.bias': (mlp,),
    f'{name}.mlp.fc2.weight': (width, mlp),
    f'{name}.mlp.fc2.bias': (width,),
  }


def random_arrays(shapes):
  rng = np.random.default_rng(0)
  return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def encoder_arrays():
  shapes = {
    'cls_token': (1, 1, WIDTH),
    'pos_embed': (1, 197, WIDTH),
    'patch_embed.proj.weight': (WIDTH, 3, PATCH, PATCH),
    'patch_embed.proj.bias': (WIDTH,),
    'norm.weight': (WIDTH,),
    'norm.bias': (WIDTH,),
  }
  for i in range(DEPTH):
    shapes |= block_shapes(f'blocks.{i}', WIDTH, MLP)
  return random_arrays(shapes)


def decoder_arrays(width, mlp=64, depth=3):
  """As `mae_visualize_vit_*` has them beside the encoder."""
  shapes = {
    'mask_token': (1, 1, width),
    'decoder_pos_embed': (1, 197, width),
    'decoder_embed.weight': (width, WIDTH),
    'decoder_embed.bias': (width,),
    'decoder_norm.weight': (width,),
    'decoder_norm.bias': (width,),
    'decoder_pred.weight': (PATCH * PATCH * 3, width),
    'decoder_pred.bias': (PATCH * PATCH * 3,),
  }
  for i in range(depth):
    shapes |= block_shapes(f'decoder_blocks.{i}', width, mlp)
  return random_arrays(shapes)


def build(image_size=224, **kwargs):
  decoder = dict(decoder_width=32, decoder_depth=1, decoder_heads=2, decoder_mlp=64)
  return TargetReconstruction(image_size, PATCH, WIDTH, DEPTH, 4, MLP, **decoder, **kwargs)


def whole(images, model):
  """Arguments with which the encoder sees every patch."""
  patches = (model.image_size // PATCH) ** 2
  kept = jnp.tile(jnp.arange(patches), (len(images), 1))
  return images, images, kept, kept[:, :0], jnp.zeros((len(images), 2, 2, 6))


def fresh(model):
  """Variables of which only shapes and types are the model's."""
  args = whole(jnp.zeros((1, model.image_size, model.image_size, 3)), model)
  init = lambda key: model.init(key, *args, train=False)
  return filled({'params': {'tirm': jax.eval_shape(init, jax.random.key(0))['params']}})


def filled(abstract):
  return jax.tree.map(lambda x: np.full(x.shape, INITIAL, x.dtype), nn.unbox(abstract))


def flat(variables, collection='params'):
  return traverse_util.flatten_dict(variables[collection], sep='/')


class TestViT:
  @pytest.mark.parametrize('mlp', ['linear_1 linear_2', '0 3'])
  def test_torchvision_names_give_the_same(self, encoder_arrays, mlp):
    names = {
      'cls_token': 'class_token',
      'pos_embed': 'encoder.pos_embedding',
      'patch_embed.proj': 'conv_proj',
      'norm': 'encoder.ln',
    }
    modules = {
      'norm1': 'ln_1',
      'norm2': 'ln_2',
      'attn.proj': 'self_attention.out_proj',
      'mlp.fc1': f'mlp.{mlp.split()[0]}',
      'mlp.fc2': f'mlp.{mlp.split()[1]}',
    }
    renamed = {'heads.head.weight': np.ones((1000, WIDTH), np.float32)}
    for name, array in encoder_arrays.items():
      if match := re.match(r'blocks\.(\d)\.(.*)\.(weight|bias)', name):
        i, module, leaf = match.groups()
        tail = (
          f'self_attention.in_proj_{leaf}' if module == 'attn.qkv' else f'{modules[module]}.{leaf}'
        )
        renamed[f'encoder.layers.encoder_layer_{i}.{tail}'] = array
      else:
        module, dot, leaf = name.rpartition('.')
        renamed[names[module] + dot + leaf if dot else names[name]] = array
    initial = fresh(build())
    expected, _ = vit.load_vit(initial, encoder_arrays, 'a')
    actual, report = vit.load_vit(initial, renamed, 'b')
    assert report.naming == 'torchvision' and report.ignored == ['heads.head.weight']
    jax.tree.map(np.testing.assert_array_equal, actual, expected)

  def test_report_accounts_for_every_array(self, encoder_arrays):
    model, extra = build(image_size=112), {'head.weight': np.ones((5, WIDTH), np.float32)}
    initial = fresh(model)
    variables, report = vit.load_vit(initial, encoder_arrays | extra, 'vit.pth')
    assert report.resized == ['tirm/encoder_positions'] and report.ignored == ['head.weight']
    every = flat(variables)
    assert sorted(report.loaded + report.resized + report.left) == sorted(every)
    for name in report.left:
      assert every[name] is flat(initial)[name]
    for name in report.loaded + report.resized:
      assert not (every[name] == INITIAL).any() and every[name].dtype == np.float32, name
      assert every[name].shape == flat(initial)[name].shape
    encoder = {name for name in every if name.startswith('tirm/encoder/')}
    others = ('tirm/class_token', 'tirm/patch_embedding/kernel', 'tirm/patch_embedding/bias')
    assert set(report.loaded) == encoder | set(others)
    text = str(report)
    for part in ('vit.pth', '1 resized: tirm/encoder_positions', 'tirm/decoder (', '14x14', '7x7'):
      assert part in text

  def test_refuses_wrong_tensors_and_lists_them_all(self, encoder_arrays):
    del encoder_arrays['blocks.1.norm2.bias']
    encoder_arrays['blocks.0.attn.proj.bias'] = np.ones(3, np.float32)
    encoder_arrays['pos_embed'] = np.ones((1, 196, WIDTH), np.float32)  # no class token
    encoder_arrays['blocks.0.ls1.gamma'] = np.ones(WIDTH, np.float32)  # another kind of block
    with pytest.raises(InputError) as error:
      vit.load_vit(fresh(build()), encoder_arrays, 'vit.pth')
    for part in (
      'vit.pth is no ViT',
      'missing blocks.1.norm2.bias',
      'unexpected blocks.0.ls1.gamma',
      f'blocks.0.attn.proj.bias has shape (3,) instead of ({WIDTH},)',
      'pos_embed has shape (1, 196, 64) instead of (1, 197, 64)',
    ):
      assert part in str(error.value)

  def test_refuses_another_size_in_one_line(self, encoder_arrays):
    initial = fresh(build())
    other = encoder_arrays | {'patch_embed.proj.weight': np.ones((WIDTH, 3, 14, 14), np.float32)}
    with pytest.raises(InputError, match=r'patch 14, but the model\'s has .*patch 16'):
      vit.load_vit(initial, other, 'vit.pth')
    shapes = {
      'cls_token': (1, 1, 768),
      'patch_embed.proj.weight': (768, 3, 16, 16),
      **block_shapes('blocks.11', 768, 3072),
      **block_shapes('blocks.0', 768, 3072),
    }
    base = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    with pytest.raises(InputError, match=r'width 768, depth 12, mlp 3072.*choose size B/16\.'):
      vit.load_vit(initial, base, 'vit.pth')
    with pytest.raises(InputError, match='holds no ViT'):
      vit.load_vit(initial, {'fc.weight': np.ones(3)}, 'vit.pth')


class TestDecoder:
  def test_first_blocks_are_taken_and_all_but_the_head(self, encoder_arrays):
    arrays = encoder_arrays | decoder_arrays(32)
    variables, report = vit.load_vit(fresh(build()), arrays, 'mae.pth')
    params = variables['params']['tirm']
    block = params['decoder']['blocks']
    qkv = arrays['decoder_blocks.0.attn.qkv.weight']
    np.testing.assert_array_equal(block['qkv']['kernel'], qkv.T[None])
    np.testing.assert_array_equal(params['mask_token'], arrays['mask_token'])
    np.testing.assert_array_equal(params['decoder_positions'], arrays['decoder_pos_embed'])
    np.testing.assert_array_equal(
      params['decoder_embedding']['kernel'], arrays['decoder_embed.weight'].T
    )
    left = {name.split('/')[1] for name in report.left}
    assert left == {'prediction', 'target_projection'}
    assert {'decoder_blocks.1.norm1.bias', 'decoder_pred.bias'} <= set(report.ignored)
    assert 'first 1 ' in str(report) and 'decoder_pred' in str(report)

  def test_head_is_taken_where_pixels_are_predicted(self, encoder_arrays):
    arrays = encoder_arrays | decoder_arrays(32)
    variables, _ = vit.load_vit(fresh(build()), arrays, 'mae.pth', residual=False)
    head = variables['params']['tirm']['prediction']
    np.testing.assert_array_equal(head['kernel'], arrays['decoder_pred.weight'].T)

  def test_published_indexing_puts_the_row_of_no_patch_last(self, encoder_arrays):
    arrays = encoder_arrays | decoder_arrays(32)
    variables, _ = vit.load_vit(fresh(build()), arrays, 'mae.pth', indexing='published')
    positions = variables['params']['tirm']['decoder_positions']
    np.testing.assert_array_equal(positions[:, :-1], arrays['decoder_pos_embed'][:, 1:])
    np.testing.assert_array_equal(positions[:, -1], arrays['decoder_pos_embed'][:, 0])

  def test_another_width_is_left_as_initialised(self, encoder_arrays):
    initial = fresh(build())
    _, without = vit.load_vit(initial, encoder_arrays, 'vit.pth')
    variables, report = vit.load_vit(initial, encoder_arrays | decoder_arrays(48), 'mae.pth')
    # Some biases would fit; they are of no use alone.
    assert report.left == without.left and 'width 48' in str(report)
    assert (variables['params']['tirm']['mask_token'] == INITIAL).all()

  def test_blocks_are_taken_together_or_not_at_all(self, encoder_arrays):
    arrays = encoder_arrays | decoder_arrays(32, mlp=48)
    variables, report = vit.load_vit(fresh(build()), arrays, 'mae.pth')
    decoder = variables['params']['tirm']['decoder']
    assert all((leaf == INITIAL).all() for leaf in jax.tree.leaves(decoder['blocks']))
    np.testing.assert_array_equal(decoder['norm']['bias'], arrays['decoder_norm.bias'])
    assert 'does not fit' in str(report) and 'tirm/decoder/blocks' in str(report)

  def test_part_of_a_decoder_is_refused(self, encoder_arrays):
    arrays = encoder_arrays | decoder_arrays(32)
    del arrays['mask_token'], arrays['decoder_blocks.2.mlp.fc1.bias']
    with pytest.raises(InputError, match=r'decoder_blocks\.2\.mlp\.fc1\.bias.*mask_token'):
      vit.load_vit(fresh(build()), arrays, 'mae.pth')


class TestPositions:
  @pytest.mark.parametrize('side', [7, 20])
  def test_resize_is_bicubic_and_keeps_the_class_token(self, side):
    torch = pytest.importorskip('torch')
    table = np.random.default_rng(0).standard_normal((1, 197, 5)).astype(np.float32)
    resized = vit.resize_positions(table, side)
    np.testing.assert_array_equal(resized[:, 0], table[:, 0])
    grid = torch.from_numpy(table[:, 1:].reshape(1, 14, 14, 5).transpose(0, 3, 1, 2))
    expected = torch.nn.functional.interpolate(grid, (side, side), mode='bicubic', antialias=True)
    expected = expected.numpy().transpose(0, 2, 3, 1).reshape(1, -1, 5)
    np.testing.assert_allclose(resized[:, 1:], expected, atol=1e-5)

  def test_rows_and_columns_are_not_confused(self):
    grid = np.stack(np.meshgrid(np.arange(14.0), np.arange(14.0), indexing='ij'), -1)
    table = np.concatenate([np.zeros((1, 2)), grid.reshape(-1, 2)])[None]
    resized = vit.resize_positions(table, 7)[0, 1:].reshape(7, 7, 2)
    np.testing.assert_allclose(resized[3, 2], [6.5, 4.5], atol=1e-4)


@pytest.fixture(scope='module')
def dfrec():
  return DFREC(size=SIZE, image_size=64, input_normalisation='imagenet')


@pytest.fixture(scope='module')
def variables(dfrec):
  init = lambda key: checkpointing.init_variables(dfrec, key)
  return filled(jax.eval_shape(init, jax.random.key(0)))


@pytest.fixture(scope='module')
def efficientnet_arrays(variables):
  """B0 in efficientnet-pytorch's naming, shapes written down from the paper's table."""
  shapes = {}

  def conv_norm(conv, norm, outputs, inputs, kernel):
    shapes[f'{conv}.weight'] = (outputs, inputs, kernel, kernel)
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{norm}.{leaf}'] = (outputs,)
    shapes[f'{norm}.num_batches_tracked'] = ()

  conv_norm('_conv_stem', '_bn0', 32, 3, 3)
  inputs, index = 32, 0
  stages = ((1, 3, 1, 16), (2, 3, 6, 24), (2, 5, 6, 40), (3, 3, 6, 80), (3, 5, 6, 112))
  for repeats, kernel, expansion, outputs in (*stages, (4, 5, 6, 192), (1, 3, 6, 320)):
    for _ in range(repeats):
      name, wide, narrow = f'_blocks.{index}', inputs * expansion, inputs // 4
      if expansion > 1:
        conv_norm(f'{name}._expand_conv', f'{name}._bn0', wide, inputs, 1)
      conv_norm(f'{name}._depthwise_conv', f'{name}._bn1', wide, 1, kernel)
      for layer, (out, into) in (('_se_reduce', (narrow, wide)), ('_se_expand', (wide, narrow))):
        shapes[f'{name}.{layer}.weight'] = (out, into, 1, 1)
        shapes[f'{name}.{layer}.bias'] = (out,)
      conv_norm(f'{name}._project_conv', f'{name}._bn2', outputs, wide, 1)
      inputs, index = outputs, index + 1
  conv_norm('_conv_head', '_bn1', 1280, 320, 1)
  shapes |= {'_fc.weight': (1000, 1280), '_fc.bias': (1000,)}
  return random_arrays(shapes)


def in_torchvision_names(arrays):
  first_of_stage = (0, 1, 3, 5, 8, 11, 15)
  renamed = {}
  for name, array in arrays.items():
    module, _, leaf = name.rpartition('.')
    if match := re.fullmatch(r'_blocks\.(\d+)\.(\w+)', module):
      index, layer = int(match[1]), match[2]
      stage = max(i for i, first in enumerate(first_of_stage) if first <= index)
      block = f'features.{stage + 1}.{index - first_of_stage[stage]}.block'
      order = {
        '_expand_conv': '0.0',
        '_bn0': '0.1',
        '_depthwise_conv': '1.0',
        '_bn1': '1.1',
        '_se_reduce': '2.fc1',
        '_se_expand': '2.fc2',
        '_project_conv': '3.0',
        '_bn2': '3.1',
      }[layer]
      if stage == 0:  # no expansion
        order = f'{int(order[0]) - 1}{order[1:]}'
      renamed[f'{block}.{order}.{leaf}'] = array
    else:
      outside = {
        '_conv_stem': 'features.0.0',
        '_bn0': 'features.0.1',
        '_conv_head': 'features.8.0',
        '_bn1': 'features.8.1',
        '_fc': 'classifier.1',
      }
      renamed[f'{outside[module]}.{leaf}'] = array
  return renamed


class TestEfficientNet:
  def test_fills_the_encoder_with_its_statistics(self, dfrec, variables, efficientnet_arrays):
    result, report = efficientnet.load(variables, efficientnet_arrays, dfrec, 'b0.pth')
    params, statistics = flat(result), flat(result, 'batch_stats')
    encoder = [name for name in [*params, *statistics] if name.startswith('ism/encoder/')]
    assert sorted(report.loaded) == sorted(encoder) and not report.resized
    assert all(not name.startswith(('ism/encoder/', 'sirm', 'tirm')) for name in report.left)
    assert {'ism/mask_head/bias', 'ism/detail/norm_fuse/mean'} <= set(report.left)
    np.testing.assert_array_equal(
      params['ism/encoder/block_3/depthwise/kernel'],
      efficientnet_arrays['_blocks.3._depthwise_conv.weight'].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
      statistics['ism/encoder/block_15/project_norm/var'],
      efficientnet_arrays['_blocks.15._bn2.running_var'],
    )
    heads = ('_conv_head.weight', '_fc.bias', '_bn1.running_mean')
    assert set(heads) <= set(report.ignored)
    used = set(efficientnet_arrays) - set(report.ignored)
    assert len(used) == len(report.loaded)

  def test_torchvision_names_give_the_same(self, dfrec, variables, efficientnet_arrays):
    expected, _ = efficientnet.load(variables, efficientnet_arrays, dfrec, 'a')
    renamed = in_torchvision_names(efficientnet_arrays)
    actual, report = efficientnet.load(variables, renamed, dfrec, 'b')
    assert report.naming == 'torchvision'
    jax.tree.map(np.testing.assert_array_equal, actual, expected)

  def test_refusals(self, dfrec, variables, efficientnet_arrays):
    wrong = dict(efficientnet_arrays)
    del wrong['_bn0.running_mean']
    wrong['_blocks.16._bn0.bias'] = np.ones(3, np.float32)
    wrong['_conv_stem.weight'] = np.ones((48, 3, 3, 3), np.float32)
    with pytest.raises(InputError) as error:
      efficientnet.load(variables, wrong, dfrec, 'b4.pth')
    for part in (
      'b4.pth is no EfficientNet-B0',
      'missing _bn0.running_mean',
      'unexpected _blocks.16._bn0.bias',
      '_conv_stem.weight has shape (48, 3, 3, 3) instead of (32, 3, 3, 3)',
    ):
      assert part in str(error.value)
    with pytest.raises(InputError, match='holds no EfficientNet'):
      efficientnet.load(variables, {'conv1.weight': np.ones(3)}, dfrec, 'resnet.pth')
    encoder = variables['params']['ism']['encoder']
    narrow = {'stem': {'kernel': np.ones((3, 3, 3, 16))}, 'block_0': encoder['block_0']}
    with pytest.raises(InputError, match=r'32 channels .* 16 blocks, .* has 16 and 1;'):
      small = {'params': {'ism': {'encoder': {**narrow, 'stem_norm': encoder['stem_norm']}}}}
      efficientnet.load(small, efficientnet_arrays, dfrec, 'b0.pth')


class TestApply:
  def test_both_parts_from_files(
    self, tmp_path, dfrec, variables, encoder_arrays, efficientnet_arrays
  ):
    paths = {'efficientnet': tmp_path / 'b0.npz', 'vit': tmp_path / 'vit.safetensors'}
    np.savez(paths['efficientnet'], **efficientnet_arrays)
    save_file(encoder_arrays, paths['vit'])
    paths = {part: str(path) for part, path in paths.items()}
    result, reports = apply_pretrained(variables, paths, dfrec)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(result) == shapes(variables)
    assert [report.part for report in reports] == ['efficientnet', 'vit']
    assert 'input_normalisation' not in str(reports)
    loaded = {name for report in reports for name in report.loaded + report.resized}
    for collection in ('params', 'batch_stats'):
      for name, array in flat(result, collection).items():
        assert (name in loaded) == (not (array == INITIAL).all()), name

    plain = dfrec.clone(input_normalisation='none')
    _, [report] = apply_pretrained(variables, {**paths, 'vit': ''}, plain)
    assert "input_normalisation='imagenet'" in str(report)

  def test_nothing_and_nonsense(self, dfrec, variables):
    result, reports = apply_pretrained(variables, {'efficientnet': '', 'vit': ''}, dfrec)
    assert reports == [] and result == variables
    with pytest.raises(InputError, match=r'names resnet; the parts are efficientnet, vit\.'):
      apply_pretrained(variables, {'resnet': 'a.pth'}, dfrec)
    with pytest.raises(InputError, match=r'absent\.pth'):
      apply_pretrained(variables, {'vit': 'absent.pth'}, dfrec)
