"""Face encoders of other origins: parity with PyTorch, their frame, and the files they come in."""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dfrec_jax import encoders
from dfrec_jax.convert import torch_files
from dfrec_jax.encoders import (
  alignment,
  inception_resnet,
  iresnet,
  iresnet_arrays,
  registry,
  weights,
)
from dfrec_jax.errors import InputError
from tests import parity


def unit(embedding):
  return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)


def random_arrays(shapes, seed=0):
  """Tensors of a network whose activations neither vanish nor explode."""
  rng = np.random.default_rng(seed)
  arrays = {}
  for name, shape in shapes.items():
    if name.endswith('running_var'):
      arrays[name] = rng.uniform(0.5, 1.5, shape)
    elif len(shape) > 1:
      arrays[name] = rng.standard_normal(shape) * np.sqrt(1.6 / np.prod(shape[1:]))
    else:
      arrays[name] = 0.1 * rng.standard_normal(shape) + name.endswith('.weight')
  return {name: array.astype(np.float32) for name, array in arrays.items()}


class TestInceptionResnetV1:
  def test_taps(self):
    net, image = inception_resnet.InceptionResnetV1(), jnp.zeros((1, 160, 160, 3))
    init = lambda key: net.init_with_output(key, image)[0]
    assert [tap.shape[1:] for tap in jax.eval_shape(init, jax.random.key(0)).taps] == [
      (77, 77, 64),
      (36, 36, 192),
      (17, 17, 256),
      (8, 8, 896),
      (3, 3, 1792),
    ]

  def test_encoder_frames_and_normalises_crops(self):
    case = parity.Case('pretrained')
    arrays = case.state_dict('inception_resnet_v1')
    encoder = registry.ENCODERS['inception_resnet_v1'](arrays, jnp.float32)
    images = parity.to_nhwc(case.weights.image(3, 2, 100))
    embedding, maps = jax.jit(encoder.both)(encoder.params, images)
    points = inception_resnet.face_points()
    faces = alignment.align_to_template(images, size=160, points=points)
    net = jax.jit(inception_resnet.InceptionResnetV1().apply)
    expected = net({'params': encoder.params}, inception_resnet.normalise(faces))
    np.testing.assert_allclose(embedding, unit(np.asarray(expected.embedding)), atol=1e-5)
    assert maps[-1].shape == (2, 3, 3, 1792)

  def test_classifier_is_ignored_and_wrong_tensors_are_named(self):
    shapes = inception_resnet.tensor_shapes()
    arrays = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    arrays['logits.weight'] = np.ones((8631, 512), np.float32)
    params = inception_resnet.from_torch_arrays(arrays)
    assert params['repeat_2']['branches']['branch1_1']['conv']['kernel'].shape == (
      *(10, 1, 7),
      *(128, 128),
    )
    arrays['head.weight'] = arrays.pop('last_bn.bias')
    with pytest.raises(InputError, match=r'missing: last_bn\.bias; unexpected: head\.weight'):
      inception_resnet.from_torch_arrays(arrays)

  def test_frame_is_the_square_of_the_detectors_box(self):
    # Each pixel says where it lies, so that the warp shows what it takes from where.
    side = 200
    ramp = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1)[None] / side
    points = inception_resnet.face_points()
    frame = alignment.align_to_template(jnp.asarray(ramp), size=160, points=points)[0]
    template = alignment.align_to_template(jnp.asarray(ramp))[0]
    for x, y in ((80, 80), (20, 40), (140, 120)):
      column, row = (x - 80) * 103 / 160 + 56, (y - 80) * 103 / 160 + 65
      i, j = int(row), int(column)
      corners = template[i : i + 2, j : j + 2]
      rows = corners[0] * (1 - row + i) + corners[1] * (row - i)
      expected = rows[0] * (1 - column + j) + rows[1] * (column - j)
      np.testing.assert_allclose(frame[y, x], expected, atol=1e-4)

  def test_normalises_as_it_was_trained(self):
    np.testing.assert_allclose(
      inception_resnet.normalise(np.array([0.0, 1.0])), [-0.99609, 0.99609], atol=1e-5
    )


DEPTHS = (2, 1, 1, 3)


@pytest.fixture(scope='module')
def published():
  return random_arrays(iresnet_arrays.tensor_shapes(DEPTHS))


def torch_iresnet(arrays):
  """arcface_torch's network of standard layers, with these tensors."""
  torch = pytest.importorskip('torch')
  nn = torch.nn

  class Block(nn.Module):
    def __init__(self, inputs, width, stride):
      super().__init__()
      self.bn1 = nn.BatchNorm2d(inputs)
      self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
      self.bn2, self.prelu = nn.BatchNorm2d(width), nn.PReLU(width)
      self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
      self.bn3 = nn.BatchNorm2d(width)
      self.downsample = None
      if stride > 1:
        shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x):
      y = self.bn2(self.conv1(self.bn1(x)))
      y = self.bn3(self.conv2(self.prelu(y)))
      return y + (x if self.downsample is None else self.downsample(x))

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
      self.bn1, self.prelu = nn.BatchNorm2d(64), nn.PReLU(64)
      inputs = 64
      for i, (width, depth) in enumerate(zip((64, 128, 256, 512), DEPTHS, strict=True)):
        blocks = [Block(inputs if j == 0 else width, width, 1 + (j == 0)) for j in range(depth)]
        setattr(self, f'layer{i + 1}', nn.Sequential(*blocks))
        inputs = width
      self.bn2 = nn.BatchNorm2d(512)
      self.fc, self.features = nn.Linear(512 * 49, 512), nn.BatchNorm1d(512)

    def forward(self, x):
      x = self.prelu(self.bn1(self.conv1(x)))
      x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
      return self.features(self.fc(self.bn2(x).flatten(1))), x

  net = Net().eval()
  tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
  counters = {name: x for name, x in net.state_dict().items() if name.endswith('_tracked')}
  net.load_state_dict({**tensors, **counters})
  return net


class TestIResNet:
  def test_embeds_as_torch(self, published):
    import torch

    images = np.random.default_rng(1).uniform(-1, 1, (1, 112, 112, 3)).astype(np.float32)
    with torch.no_grad():
      embedding, spatial = torch_iresnet(published)(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    assert iresnet_arrays.depths(published) == DEPTHS
    params = iresnet_arrays.from_torch_arrays(published)
    features = jax.jit(iresnet.IResNet(DEPTHS).apply)({'params': params}, images)
    for actual, expected in (
      (features.embedding, embedding.numpy()),
      (features.taps[-1], spatial.numpy().transpose(0, 2, 3, 1)),
    ):
      np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
    assert [tap.shape[1] for tap in features.taps] == [112, 56, 28, 14, 7]

  def test_depth_is_read_off_and_wrong_tensors_are_named(self):
    # Trainable values of IResNet-50 and IResNet-100.
    for depths, expected in (((3, 4, 14, 3), 43_590_848), ((3, 13, 30, 3), 65_156_160)):
      shapes = iresnet_arrays.tensor_shapes(depths)
      assert iresnet_arrays.depths(shapes) == depths
      trained = [shape for name, shape in shapes.items() if 'running' not in name]
      assert sum(int(np.prod(shape)) for shape in trained) == expected
    arrays = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    del arrays['layer3.29.prelu.weight']
    arrays['fc.weight'] = np.ones((512, 500), np.float32)
    with pytest.raises(InputError, match=r'missing: layer3\.29\.prelu\.weight; .*fc\.weight \(512'):
      iresnet_arrays.from_torch_arrays(arrays)


ARRAYS = {'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3), 'a.count': np.array(3)}


class TestFiles:
  def save(self, path, content, **kwargs):
    torch = pytest.importorskip('torch')
    as_tensors = lambda x: (
      {key: as_tensors(value) for key, value in x.items()}
      if isinstance(x, dict)
      else torch.from_numpy(x)
      if isinstance(x, np.ndarray)
      else x
    )
    torch.save(as_tensors(content), path, **kwargs)
    return path

  @pytest.mark.parametrize('new_format', [True, False])
  def test_wrappers_and_prefixes_are_taken_off(self, tmp_path, new_format):
    inner = {f'module.{name}': array for name, array in ARRAYS.items()}
    content = {'epoch': 3, 'model': inner}
    path = self.save(tmp_path / 'a.pth', content, _use_new_zipfile_serialization=new_format)
    assert torch_files.load(path)['epoch'] == 3
    parity.assert_same_tensors(weights.read_arrays(path), ARRAYS)

  def test_safetensors_of_three_networks_is_nested(self, tmp_path):
    path = tmp_path / 'a.safetensors'
    save_file(ARRAYS, path)
    parity.assert_same_tensors(weights.read_arrays(path), ARRAYS)
    flat = {
      f'{net}.a.weight': np.full(2, i) for i, net in enumerate(torch_files.DICTIONARIES.values())
    }
    save_file(flat, path)
    nested = torch_files.load(path)
    assert list(nested['recover2_state_dict']) == ['a.weight']
    np.testing.assert_array_equal(nested['recover2_state_dict']['a.weight'], [2, 2])

  def test_narrow_floats_become_float32(self, tmp_path):
    torch = pytest.importorskip('torch')
    from safetensors.torch import save_file as save_tensors

    tensors = {'a': torch.tensor([1.5, -2.0]).bfloat16(), 'b': torch.tensor([0.25]).half()}
    torch.save(tensors, tmp_path / 'a.pt')
    save_tensors(tensors, tmp_path / 'a.safetensors')
    for name in ('a.pt', 'a.safetensors'):
      arrays = weights.read_arrays(tmp_path / name)
      np.testing.assert_array_equal(arrays['a'], [1.5, -2])
      assert arrays['a'].dtype == arrays['b'].dtype == np.float32

  @pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
  def test_a_mapped_file_is_not_copied(self, tmp_path):
    path = self.save(tmp_path / 'a.pth', {'a': np.zeros(1 << 20, np.float32)})
    array = torch_files.read_state_dict(path)['a']
    assert not array.flags.owndata
    maps = pathlib.Path('/proc/self/maps').read_text().splitlines()
    [mapped] = [line.split()[0] for line in maps if line.endswith(str(path))]
    start, stop = (int(edge, 16) for edge in mapped.split('-'))
    assert start <= array.ctypes.data < stop

  def test_refuses_what_is_no_file_of_tensors(self, tmp_path):
    whole = self.save(tmp_path / 'whole.pth', {'a': np.zeros(1000, np.float32)}).read_bytes()
    (tmp_path / 'cut.pth').write_bytes(whole[:3000])
    (tmp_path / 'text.pt').write_text('not a checkpoint')
    (tmp_path / 'text.safetensors').write_text('not a checkpoint')
    (tmp_path / 'weights.h5').write_text('')
    self.save(tmp_path / 'one.pth', np.zeros(3))
    self.save(tmp_path / 'none.pth', {'epoch': 3})
    for name, reason in (
      ('cut.pth', 'cannot be read as a PyTorch file'),
      ('text.pt', 'cannot be read as a PyTorch file'),
      ('text.safetensors', r'cannot be read as \.safetensors'),
      ('weights.h5', 'no known kind'),
      ('one.pth', 'instead of tensors by name'),
      ('none.pth', 'holds no tensors by name'),
      ('absent.pth', 'no weights file'),
    ):
      with pytest.raises(InputError, match=f'{name}.*{reason}|{reason}.*{name}'):
        weights.read_arrays(tmp_path / name)

  @pytest.mark.parametrize('new_format', [True, False])
  def test_objects_are_not_unpickled(self, tmp_path, new_format):
    class Bomb:
      def __reduce__(self):
        return (pytest.fail, ('a pickle was loaded',))

    for thing, name in ((argparse.Namespace(a=1), 'argparse.Namespace'), (Bomb(), 'Fail')):
      path = self.save(
        tmp_path / 'a.pth',
        {'model': ARRAYS, 'args': thing},
        _use_new_zipfile_serialization=new_format,
      )
      with pytest.raises(InputError, match=f'a.pth holds Python objects .*{name}.*state_dict'):
        weights.read_arrays(path)

  def test_names_every_tensor_that_is_not_finite(self, tmp_path):
    bad = {'a': np.array([1, np.nan]), 'b': np.zeros(2), 'c': np.array([np.inf])}
    with pytest.raises(InputError, match='not finite in a, c;'):
      weights.read_arrays(self.save(tmp_path / 'a.pth', bad))

  def test_an_encoder_takes_a_checkpoint(self, tmp_path, published):
    path = self.save(tmp_path / 'backbone.pth', {'state_dict': published})
    encoder = encoders.load_encoder('iresnet', path)
    images = jnp.asarray(np.random.default_rng(2).uniform(size=(1, 96, 96, 3)), jnp.float32)

    def distance(images):
      embedding = encoder.embed(encoder.params, images)
      return jnp.square(embedding - 0.1).sum(), embedding

    gradient, embedding = jax.jit(jax.grad(distance, has_aux=True))(images)
    net = jax.jit(iresnet.IResNet(DEPTHS).apply)
    expected = net({'params': encoder.params}, 2 * alignment.align_to_template(images) - 1)
    np.testing.assert_allclose(embedding, unit(np.asarray(expected.embedding)), atol=1e-5)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
