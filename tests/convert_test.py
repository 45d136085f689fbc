"""Whole checkpoints to and from PyTorch: what is kept, what is refused, what they compute."""

import json
import os
import zipfile

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')

from configs import common, quickstart  # noqa: E402
from dfrec_jax import calibration, checkpointing, evaluate, sharding, starting_point  # noqa: E402
from dfrec_jax.convert import __main__ as convert  # noqa: E402
from dfrec_jax.convert import published, torch_files, torch_modules  # noqa: E402
from dfrec_jax.errors import InputError  # noqa: E402
from dfrec_jax.model_file import write_model_file  # noqa: E402
from dfrec_jax.models import sizes  # noqa: E402
from dfrec_jax.models.dfrec import PUBLISHED  # noqa: E402
from dfrec_jax.optimizer import make_optimizer  # noqa: E402
from dfrec_jax.train_state import plan_state  # noqa: E402
from tests import parity  # noqa: E402

# The size `test` without what the published networks lack.
SIZE = 'test+detail_channels='
HEADS = {'heads': 2, 'decoder_heads': 2}


def settings(**changes):
  return {**common.base().model.to_dict(), 'image_size': 32, **changes}


def random_variables(model_settings):
  """Variables such as `init` gives, without compiling it."""
  model = checkpointing.build_model(model_settings)
  init = lambda: checkpointing.init_variables(model, jax.random.key(0))
  rng = np.random.default_rng(0)
  value = lambda leaf: rng.uniform(0.1, 0.3, leaf.shape).astype(leaf.dtype)
  return jax.tree.map(value, nn.unbox(jax.eval_shape(init)))


def save(path, state):
  tensors = lambda v: {k: torch.from_numpy(np.asarray(a)) for k, a in v.items()}
  torch.save({k: tensors(v) if isinstance(v, dict) else v for k, v in state.items()}, path)
  return str(path)


@pytest.fixture(scope='module')
def state():
  """The three dictionaries of a small model of the published kind, no unused tensor zero."""
  model_settings = settings(**{**PUBLISHED, 'size': SIZE, 'image_size': 32})
  arrays = published.to_torch(random_variables(model_settings), SIZE)
  rng = np.random.default_rng(1)
  for network in arrays.values():
    for name, array in network.items():
      if name.endswith('.num_batches_tracked'):
        network[name] = np.array(1000, np.int64)
      elif not array.any():
        network[name] = rng.standard_normal(array.shape, np.float32)
  return arrays


@pytest.fixture(scope='module')
def converted(state, tmp_path_factory):
  folder = tmp_path_factory.mktemp('converted')
  source = save(folder / 'in.pth', {**state, 'epoch': 7, 'acc1': np.float64(0.5)})
  out = str(folder / 'out')
  words = convert.from_torch(source, out, **HEADS)
  assert 'published indexing, 32 pixels' in words
  return out


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_round_trip_is_bit_for_bit(state, converted, tmp_path, suffix):
  out = str(tmp_path / f'out{suffix}')
  # The authors' code is of one size.
  assert 'since the model has size=test' in convert.to_torch(converted, out)
  written = torch_files.load(out)
  for name, arrays in state.items():
    parity.assert_same_tensors(written[name], arrays)
  assert int(written['epoch']) == 7
  # What is written is itself a checkpoint.
  convert.from_torch(out, str(tmp_path / 'again'))
  again = checkpointing.load_model(str(tmp_path / 'again'))
  jax.tree.map(
    np.testing.assert_array_equal,
    (again.variables, again.unused),
    (lambda m: (m.variables, m.unused))(checkpointing.load_model(converted)),
  )


def test_the_settings_are_read_off_the_tensors(converted):
  loaded = checkpointing.load_model(converted)
  model = loaded.config.model
  assert loaded.step == 7
  assert {name: model[name] for name in PUBLISHED if name not in ('size', 'image_size')} == {
    name: value for name, value in PUBLISHED.items() if name not in ('size', 'image_size')
  }
  found, true = sizes.get_size(model.size), sizes.get_size(SIZE)
  # No tensor shows dilations.
  assert found.aspp_rates == (12, 24, 36)
  for name in ('width', 'depth', 'mlp', 'patch', 'decoder_width', 'sirm_widths', 'ism_width'):
    assert getattr(found, name) == getattr(true, name)


def test_prefixes_of_parallel_training_and_a_missing_class_head(state, converted, tmp_path):
  bare = {
    key: {f'module.{k}': v for k, v in arrays.items() if not k.startswith('classification_head')}
    for key, arrays in state.items()
  }
  words = convert.from_torch(save(tmp_path / 'in.pth', bare), str(tmp_path / 'out'), **HEADS)
  assert 'no classification head' in words
  found = checkpointing.load_model(str(tmp_path / 'out')).variables['params']
  expected = checkpointing.load_model(converted).variables['params']
  assert not found['ism'].pop('class_head')['kernel'].any()
  expected['ism'].pop('class_head')
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_one_error_lists_every_tensor_at_fault_and_nothing_is_written(state, tmp_path):
  broken = {key: dict(arrays) for key, arrays in state.items()}
  del broken['state_dict']['decoder.block1.0.weight']
  broken['recover1_state_dict']['Conv9.bias'] = np.zeros(1, np.float32)
  broken['recover2_state_dict']['decoder.ln.bias'] = np.zeros(3, np.float32)
  broken['recover2_state_dict']['mask_token'] = np.full((1, 1, 32), np.nan, np.float32)
  source = save(tmp_path / 'in.pth', broken)
  with pytest.raises(InputError) as error:
    convert.from_torch(source, str(tmp_path / 'out'), **HEADS)
  for part in (
    source,
    'missing decoder.block1.0.weight',
    'extra Conv9.bias',
    'decoder.ln.bias has shape (3,) instead of (32,)',
    'mask_token is not finite',
  ):
    assert part in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['in.pth']


def test_a_misshapen_tensor_of_the_segmentation_is_named(state, tmp_path):
  broken = dict(state['state_dict'])
  broken['encoder._blocks.1._se_reduce.bias'] = np.zeros(99, np.float32)
  source = save(tmp_path / 'in.pth', {**state, 'state_dict': broken})
  with pytest.raises(InputError, match=r'_blocks.1._se_reduce.bias has shape \(99,\) instead of'):
    convert.from_torch(source, str(tmp_path / 'out'), **HEADS)


@pytest.mark.parametrize(
  ('content', 'says'),
  [
    (b'no checkpoint', 'cannot be read as a PyTorch file'),
    ({'epoch': 3}, 'missing state_dict; missing recover1_state_dict; missing recover2_state_dict'),
    ({'state_dict': None, 'x': torch.ones(2)}, 'missing state_dict; .*extra x'),
    ({'state_dict': zipfile.ZipInfo('x')}, 'Python objects besides tensors'),
    (None, 'There is no file'),
  ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, says):
  path = tmp_path / 'in.pth'
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif content is not None:
    torch.save(content, path)
  with pytest.raises(InputError, match=says):
    convert.from_torch(str(path), str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def test_a_truncated_checkpoint_is_refused(state, tmp_path):
  path = tmp_path / 'in.pth'
  save(path, state)
  path.write_bytes(path.read_bytes()[:-1000])
  with pytest.raises(InputError, match='cannot be read'):
    convert.from_torch(str(path), str(tmp_path / 'out'))


def test_unknown_heads_are_asked_for(tmp_path):
  size = f'{SIZE}+width=48'
  model_settings = settings(**{**PUBLISHED, 'size': size, 'image_size': 32})
  arrays = published.to_torch(random_variables(model_settings), size)
  source = save(tmp_path / 'in.pth', arrays)
  with pytest.raises(InputError, match='give it as --heads'):
    convert.from_torch(source, str(tmp_path / 'out'))
  with pytest.raises(InputError, match='cannot be divided among 5 heads: correct --heads'):
    convert.from_torch(source, str(tmp_path / 'out'), heads=5)
  convert.from_torch(source, str(tmp_path / 'out'), heads=3)
  assert checkpointing.load_model(str(tmp_path / 'out')).config.model.size.count('heads=3') == 1


def test_nothing_is_overwritten(converted):
  with pytest.raises(InputError, match='exists already'):
    convert.from_torch('in.pth', converted)
  with pytest.raises(InputError, match=r'must end in \.pth'):
    convert.to_torch(converted, 'out.bin')


@pytest.fixture(scope='module')
def aligned(tmp_path_factory):
  """A model as they are trained here, as a single file."""
  config = quickstart.get_config('runlocal')
  path = str(tmp_path_factory.mktemp('aligned') / 'model.safetensors')
  variables = random_variables(config.model)
  write_model_file(path, variables, json.loads(config.to_json()), 3)
  return path, variables


def test_a_single_file_holds_the_whole_model(aligned, tmp_path):
  path, variables = aligned
  loaded = checkpointing.load_model(path)
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
  assert (loaded.step, loaded.config.name) == (3, 'quickstart')
  other = str(tmp_path / 'other.safetensors')
  assert 'step 3' in convert.to_file(path, other)
  jax.tree.map(np.testing.assert_array_equal, checkpointing.load_model(other).variables, variables)
  with open(other, 'r+b') as file:
    file.truncate(5000)
  with pytest.raises(InputError, match='damaged'):
    checkpointing.load_model(other)


def test_half_a_file_is_calibrated_by_itself(aligned, tmp_path):
  path, variables = aligned
  half, again = str(tmp_path / 'half.safetensors'), str(tmp_path / 'again.safetensors')
  assert convert.to_file(path, half, half=True).endswith('not calibrated.')
  loaded = checkpointing.load_model(half)
  rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), variables['params'])
  jax.tree.map(np.testing.assert_array_equal, loaded.variables['params'], rounded)
  statistics = (loaded.variables['batch_stats'], variables['batch_stats'])
  jax.tree.map(np.testing.assert_array_equal, *statistics)
  assert os.path.getsize(half) < 0.6 * os.path.getsize(path)

  record = calibration.make_record(
    {'pristine': [0.1], 'forged': [0.9]},
    checkpoint=half,
    step=3,
    sha256=calibration.weights_sha256(loaded.variables),
    data='drawn',
  )
  (tmp_path / 'calibration.json').write_text(json.dumps(record))
  given = str(tmp_path / 'calibration.json')
  assert 'and calibration' in convert.to_file(half, again, half=True, calibration=given)
  assert checkpointing.load_model(again).calibration == record
  # Of the rounded model it is, whichever file the parameters come from; of another it is none.
  for source, more in ((path, {'calibration': given}), (again, {'licence': 'research'})):
    out = str(tmp_path / 'out.safetensors')
    assert 'and calibration' in convert.to_file(source, out, half=True, **more)
    assert checkpointing.load_model(out).calibration == record
  assert checkpointing.load_model(out).licence == 'research'
  with pytest.raises(InputError, match='is no calibration of'):
    convert.to_file(path, str(tmp_path / 'other.safetensors'), calibration=given)


def test_a_parameter_that_is_too_large_is_not_halved(tmp_path):
  path = tmp_path / 'large.safetensors'
  with pytest.raises(InputError, match=r'params/a does not fit into float16'):
    write_model_file(path, {'params': {'a': np.float32([1e6])}}, {}, 0, half=True)
  assert not path.exists()


def test_a_model_trained_here_computes_the_same_in_pytorch(aligned, tmp_path):
  path, _ = aligned
  out = str(tmp_path / 'model.pth')
  words = convert.to_torch(path, out)
  assert "authors' code cannot load it" in words and 'indexing=aligned' in words
  model = torch_modules.load_exported(out)
  images = np.random.default_rng(3).random((2, 32, 32, 3), np.float32)
  loaded = checkpointing.load_model(path)
  ours = jax.jit(lambda v, x: loaded.model.apply(v, x, rngs={'masking': jax.random.key(0)}))(
    loaded.variables, images
  )
  partition = torch_modules.Partition(
    *(torch.from_numpy(np.array(x, np.int64)) for x in (ours.kept, ours.masked))
  )
  with torch.no_grad():
    theirs = model(torch.from_numpy(images.transpose(0, 3, 1, 2)), partition=partition)
  for name in ('mask', 'source', 'target'):
    parity.assert_close(
      parity.to_nchw(getattr(ours, name)), getattr(theirs, name).numpy(), 2e-5, name
    )
  np.testing.assert_allclose(ours.class_logits, theirs.class_logits, rtol=1e-4, atol=1e-4)


def _zeros(config, mesh):
  model = checkpointing.build_model(config.model)
  tx, _ = make_optimizer(config.optimizer, config.steps)
  init = lambda key: checkpointing.init_variables(model, key)
  _, abstract = plan_state(init, tx, mesh)
  return model, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), abstract)


def test_training_starts_from_a_checkpoint(aligned):
  path, variables = aligned
  config = quickstart.get_config('runlocal')
  config.init_from = path
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with jax.set_mesh(mesh):
    model, state = _zeros(config, mesh)
    started = starting_point.start(state, starting_point.read(config, model, state, mesh))
    jax.tree.map(np.testing.assert_array_equal, started.params, variables['params'])
    jax.tree.map(np.testing.assert_array_equal, started.ema, variables)
    assert int(started.step) == 0
    # Of equal shapes, and of another meaning.
    config.model.target_residual = False
    with pytest.raises(InputError, match='target_residual=True there and False'):
      starting_point.read(config, model, state, mesh)
    config.pretrained.vit = 'vit.pth'
    with pytest.raises(InputError, match='give one of them'):
      starting_point.read(config, model, state, mesh)


def test_training_takes_the_segmentation_of_a_checkpoint(aligned):
  path, variables = aligned
  config = quickstart.get_config('runlocal')
  config.pretrained.ism = path
  config.model.target_residual = False  # The other networks may be others.
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with jax.set_mesh(mesh):
    model, state = _zeros(config, mesh)
    started = starting_point.start(state, starting_point.read(config, model, state, mesh))
    for name in starting_point.COLLECTIONS:
      collection = getattr(started, name)
      jax.tree.map(np.testing.assert_array_equal, collection['ism'], variables[name]['ism'])
      jax.tree.map(np.testing.assert_array_equal, started.ema[name]['ism'], collection['ism'])
      assert not any(np.any(x) for x in jax.tree.leaves(collection['sirm']))
    wider = model.clone(size='test+aspp_channels=24')
    for other, message in (
      (model.clone(input_normalisation='imagenet'), 'input_normalisation=none there and imagenet'),
      (wider, r'another segmentation \(batch_stats/ism/\S+ has shape'),
    ):
      abstract = state
      if other is wider:
        config.model.size = wider.size
        abstract = _zeros(config, mesh)[1]
      with pytest.raises(InputError, match=message):
        starting_point.read(config, other, abstract, mesh)
    config.pretrained.efficientnet = 'b0.pth'
    with pytest.raises(InputError, match=r'pretrained\.ism replaces all that'):
      starting_point.read(config, model, state, mesh)


@pytest.mark.slow
def test_a_converted_checkpoint_can_be_evaluated(converted, tmp_path):
  config = quickstart.get_config('runlocal')
  evaluate.evaluate_checkpoint(config, str(tmp_path), converted)
  metrics = json.loads((tmp_path / 'eval' / 'metrics.json').read_text())
  assert metrics['recovered']['all']['examples'] == config.data.eval_examples
