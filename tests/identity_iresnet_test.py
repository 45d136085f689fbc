"""IResNet as the network that `configs/identity.py` trains."""

import json

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from configs import identity
from dfrec_jax import checkpointing, encoders
from dfrec_jax.encoders import alignment, iresnet, iresnet_arrays, trainable
from dfrec_jax.errors import InputError
from dfrec_jax.identity import __main__ as command
from dfrec_jax.identity import recognition, training
from dfrec_jax.identity.evaluate import evaluate_checkpoint
from dfrec_jax.identity.export import FILE, write_encoder

ONE_DEVICE = jax.devices()[:1]
SIZES = (2, 1, 1, 3), 0.0625, 2
TINY = 'runlocal,network=iresnet,width=0.0625,pool=1,steps=4'


@pytest.fixture(scope='module')
def trained_network():
  """A narrow network's variables with the statistics of a network that was trained."""
  net = iresnet.IResNet(*SIZES, norms=True)
  init = lambda key: net.init(key, jnp.zeros((1, net.size, net.size, 3)))
  shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0)))
  rng = np.random.default_rng(0)

  def draw(path, x):
    if path[-1].key == 'kernel':
      values = rng.standard_normal(x.shape) * np.sqrt(2 / np.prod(x.shape[-4:-1]))
    else:
      values = rng.uniform(0.5, 1.5, x.shape) - (path[-1].key in ('mean', 'bias'))
    return values.astype(np.float32)

  return net, jax.tree_util.tree_map_with_path(draw, shapes)


class TestNetwork:
  def test_frozen_is_the_trained_one(self, trained_network):
    net, variables = trained_network
    arrays = iresnet_arrays.to_torch_arrays(variables)
    assert {name: array.shape for name, array in arrays.items()} == (
      iresnet_arrays.tensor_shapes(*SIZES)
    )
    assert iresnet_arrays.sizes(arrays) == SIZES
    assert (arrays['features.weight'] == 1).all()
    frozen = iresnet.IResNet(*SIZES)
    params = iresnet_arrays.from_torch_arrays(arrays)
    images = np.random.default_rng(1).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    expected = jax.jit(net.apply)(variables, images)
    result = jax.jit(frozen.apply)({'params': params}, images)
    assert [tap.shape[1] for tap in result.taps] == [32, 16, 8, 4, 2]
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())

  def test_training_moves_the_statistics_of_every_norm(self, trained_network):
    net, variables = trained_network
    images = np.random.default_rng(1).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    apply = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=['batch_stats']))
    updated = apply(variables, images)[1]['batch_stats']
    assert updated['layer4_rest']['bn2']['mean'].shape == (2, 32)
    moved = jax.tree.map(lambda a, b: (a != b).all(), updated, variables['batch_stats'])
    assert all(jax.tree.leaves(moved))

  def test_sizes_of_the_published_file(self):
    shapes = iresnet_arrays.tensor_shapes(iresnet.DEPTHS['50'])
    arrays = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    assert iresnet_arrays.sizes(arrays) == ((3, 4, 14, 3), 1.0, 7)
    # The published tensors have a scale of the last norm, which need not be 1.
    arrays['features.weight'] = np.full(512, 2, np.float32)
    kernel = iresnet_arrays.from_torch_arrays(arrays)['fc']['kernel']
    np.testing.assert_allclose(kernel, 2 / (1 + 1e-5), rtol=1e-5)

  def test_residual_branches_begin_at_zero(self):
    model = recognition.Recognizer(3, iresnet.IResNet(*SIZES, norms=True))
    init = lambda key: nn.unbox(recognition.init_variables(model, key))
    variables = jax.jit(init)(jax.random.key(0))
    params = variables['params']['network']
    zero = lambda name: (
      not params[name]['bn3']['scale'].any() and params[name]['bn1']['scale'].all()
    )
    assert all(zero(name) for name in params if name.startswith('layer'))
    assert params['layer4_rest']['bn3']['scale'].shape == (2, 32)

  def test_the_file_is_an_encoder_like_any_other(self, trained_network, tmp_path):
    arrays = iresnet_arrays.to_torch_arrays(trained_network[1])
    path = str(tmp_path / 'e.safetensors')
    write_encoder(path, arrays, {}, dtype='float32')
    encoder = encoders.load_encoder('iresnet', path)
    crops = np.random.default_rng(2).uniform(size=(2, 60, 60, 3)).astype(np.float32)
    embedding, maps = jax.jit(encoder.both)(encoder.params, crops)
    aligned = 2 * alignment.align_filtered(jnp.asarray(crops), size=32) - 1
    expected = jax.jit(iresnet.IResNet(*SIZES).apply)({'params': encoder.params}, aligned).embedding
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    assert maps[-1].shape == (2, 2, 2, 32)
    with pytest.raises(InputError, match=r'e\.safetensors does not fit encoder mobilefacenet'):
      encoders.load_encoder('mobilefacenet', path)
    with pytest.raises(InputError, match='shipped_synthetic does not fit encoder iresnet'):
      encoders.load_encoder('iresnet', 'shipped_synthetic')


class TestSettings:
  def test_depths(self):
    build = lambda arguments: trainable.build(identity.get_config(arguments).model)
    assert build('network=iresnet').depths == (2, 2, 2, 2)
    assert build('network=iresnet,runlocal').depths == (1, 1, 1, 1)
    assert build('network=iresnet,depth=100').depths == (3, 13, 30, 3)
    net = build('network=iresnet,depth=1-2-10-1,width=1,pool=7')
    assert (net.depths, net.width, net.size) == ((1, 2, 10, 1), 1, 112)

  @pytest.mark.parametrize('depth', ['51', '2-2-2', '2-2-2-0', '2-2-2-2-2', '-2-2-2-2', 'deep'])
  def test_a_wrong_depth_is_named(self, depth, tmp_path):
    config = identity.get_config(f'runlocal,network=iresnet,depth={depth}')
    with pytest.raises(InputError, match=f"depth is '{depth}'; it is 18, 34, .* 2-2-2-2"):
      training.train(config, str(tmp_path / 'run'), ONE_DEVICE)
    assert not list(tmp_path.iterdir())

  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      ('network=resnet', "network is 'resnet'; it is mobilefacenet or iresnet"),
      ('depth=18', "depth is '18', and mobilefacenet has one depth"),
      ('network=iresnet,width=0.03', 'width is 0.03; 64 times'),
      ('network=iresnet,pool=0', 'pool is 0'),
    ],
  )
  def test_other_wrong_settings_are_named(self, arguments, message):
    with pytest.raises(InputError, match=message):
      trainable.build(identity.get_config(arguments).model)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A short run of a tiny network: its configuration and workdir."""
  config, workdir = identity.get_config(TINY), str(tmp_path_factory.mktemp('iresnet'))
  config.eval_every = 4
  training.train(config, workdir, ONE_DEVICE)
  return config, workdir


class TestTraining:
  def test_it_learns_and_is_evaluated(self, run, capsys):
    config, workdir = run
    with open(f'{workdir}/metrics.jsonl') as file:
      rows = [json.loads(line) for line in file]
    losses = [row['loss'] for row in rows if 'loss' in row]
    assert len(losses) == 4 and np.isfinite(losses).all()
    reported = next(row['eval/auc'] for row in rows if 'eval/auc' in row)
    result = evaluate_checkpoint(config, workdir, workdir)
    assert result['auc'] == pytest.approx(reported, abs=0.02)  # the file is float16
    assert '| accuracy |' in capsys.readouterr().out

  def test_its_file_says_what_it_is_and_embeds(self, run):
    path = f'{run[1]}/{FILE}'
    with safe_open(path, 'np') as file:
      card = json.loads(file.metadata()['card'])
    assert (card['network'], card['config']['model']['depth']) == ('iresnet', '1-1-1-1')
    encoder = command._load(f'iresnet:{path}')
    crops = np.random.default_rng(0).uniform(size=(3, 40, 40, 3)).astype(np.float32)
    embedding = encoder.embed(encoder.params, crops)
    assert embedding.shape == (3, 512)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)

  def test_its_workdir_is_no_other_networks(self, run, tmp_path):
    config, workdir = run
    other = identity.get_config('runlocal,width=0.0625,pool=1,steps=4')
    message = (
      r'network=iresnet, depth=1-1-1-1, and the configuration asks for network=mobilefacenet'
    )
    with pytest.raises(InputError, match=message):
      training.train(other, workdir, ONE_DEVICE)
    with pytest.raises(InputError, match=r'does not fit encoder mobilefacenet'):
      evaluate_checkpoint(other, workdir, workdir)
    # A run from before there was a choice is a MobileFaceNet.
    fields = json.loads(other.to_json_best_effort())
    del fields['model']['network'], fields['model']['depth']
    (tmp_path / checkpointing.CONFIG).write_text(json.dumps(fields))
    resume = lambda config: checkpointing.Checkpointer(
      str(tmp_path), config, training.LATER_SETTINGS
    )
    resume(other).close()
    with pytest.raises(InputError, match='holds a model with network=mobilefacenet'):
      resume(config)
