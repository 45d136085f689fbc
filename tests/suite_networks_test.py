"""LPIPS and Inception on generated weights against PyTorch, in the layouts of their files."""

import numpy as np
import pytest

from dfrec_jax.errors import InputError
from dfrec_jax.suite import frechet, inception, perceptual

torch = pytest.importorskip('torch')
F = torch.nn.functional

# torchvision's index of each convolution -> its stride, padding; taps; poolings before an index.
ALEX = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
VGG_INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_TAPS = (2, 7, 14, 21, 28)


def _conv_arrays(rng, name, outputs, inputs, kernel):
  scale = np.sqrt(2 / (inputs * kernel * kernel))
  return {
    f'{name}.weight': rng.normal(0, scale, (outputs, inputs, kernel, kernel)).astype(np.float32),
    f'{name}.bias': rng.normal(0, 0.1, outputs).astype(np.float32),
  }


def _lpips_arrays(network):
  rng = np.random.default_rng(0)
  if network == 'alex':
    kernels = (11, 5, 3, 3, 3)
    widths = (64, 192, 384, 256, 256)
    layers = list(zip(ALEX, widths, kernels, strict=True))
    heads = widths
  else:
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    layers = [(i, w, 3) for i, w in zip(VGG_INDICES, widths, strict=True)]
    heads = (64, 128, 256, 512, 512)
  features, inputs = {'classifier.1.weight': np.zeros((2, 2), np.float32)}, 3
  for index, width, kernel in layers:
    features |= _conv_arrays(rng, f'features.{index}', width, inputs, kernel)
    inputs = width
  named = {
    f'lin{i}.model.1.weight': rng.random((1, width, 1, 1), np.float32)
    for i, width in enumerate(heads)
  }
  return features, named


def _torch_taps(network, arrays, x):
  weights = {name: torch.tensor(array) for name, array in arrays.items()}
  conv = lambda x, i, **k: F.conv2d(
    x, weights[f'features.{i}.weight'], weights[f'features.{i}.bias'], **k
  )
  if network == 'alex':
    for index, (stride, padding) in ALEX.items():
      if index in (3, 6):
        x = F.max_pool2d(x, 3, 2)
      x = F.relu(conv(x, index, stride=stride, padding=padding))
      yield x
    return
  for index in VGG_INDICES:
    if index in (5, 10, 17, 24):
      x = F.max_pool2d(x, 2)
    x = F.relu(conv(x, index, padding=1))
    if index in VGG_TAPS:
      yield x


def _torch_lpips(network, arrays, heads, a, b, mask):
  to_torch = lambda x: torch.tensor(x).permute(2, 0, 1)[None].float() / 127.5 - 1
  shift, scale = (
    torch.tensor(x).reshape(1, 3, 1, 1) for x in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
  )
  taps = [_torch_taps(network, arrays, (to_torch(x) - shift) / scale) for x in (a, b)]
  whole, spatial = 0, 0
  for i, (x, y) in enumerate(zip(*taps, strict=True)):
    x, y = (t / (t.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for t in (x, y))
    distance = F.conv2d((x - y).pow(2), torch.tensor(heads[f'lin{i}.model.1.weight']))
    whole += distance.mean().item()
    enlarged = F.interpolate(distance, a.shape[:2], mode='bilinear', align_corners=False)[0, 0]
    spatial += enlarged.numpy()[mask > 0.5].mean()
  return whole, spatial


@pytest.mark.parametrize('network', ['alex', 'vgg'])
def test_lpips_equals_pytorch(network, tmp_path):
  features, heads = _lpips_arrays(network)
  np.savez(tmp_path / 'features.npz', **features)
  np.savez(tmp_path / 'heads.npz', **heads)
  distance = perceptual.Distance(network, tmp_path / 'features.npz', tmp_path / 'heads.npz')
  a, b = np.random.default_rng(1).integers(0, 256, (2, 72, 80, 3), np.uint8)
  mask = np.zeros((72, 80))
  mask[20:60, 8:40] = 1
  whole, inside = distance([a, a], [b, a], [mask, mask * 0])
  expected = _torch_lpips(network, features, heads, a, b, mask)
  np.testing.assert_allclose((whole[0], inside[0]), expected, rtol=1e-4)
  assert whole[1] == pytest.approx(0, abs=1e-9)
  assert np.isnan(inside[1])
  small = np.zeros((32, 32, 3), np.uint8)
  assert np.isnan(distance([small], [small], [np.ones((32, 32))])[0])


def test_lpips_files_that_do_not_fit_are_named(tmp_path):
  features, heads = _lpips_arrays('alex')
  del features['features.3.bias']
  np.savez(tmp_path / 'features.npz', **features)
  np.savez(tmp_path / 'heads.npz', **heads)
  with pytest.raises(InputError, match=r'do not fit LPIPS.*missing: features\.3\.bias'):
    perceptual.Distance('alex', tmp_path / 'features.npz', tmp_path / 'heads.npz')
  with pytest.raises(InputError, match="Unknown LPIPS network 'squeeze'"):
    perceptual.Distance('squeeze', '', '')


def _inception_arrays():
  rng = np.random.default_rng(2)
  arrays = {'fc.weight': np.zeros((1008, 2048), np.float32)}
  for name, shape in inception.convolutions().items():
    scale = np.sqrt(2 / np.prod(shape[1:]))
    arrays[f'{name}.conv.weight'] = rng.normal(0, scale, shape).astype(np.float32)
    arrays[f'{name}.bn.weight'] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
    arrays[f'{name}.bn.bias'] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    arrays[f'{name}.bn.running_mean'] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    arrays[f'{name}.bn.running_var'] = rng.uniform(0.5, 2, shape[0]).astype(np.float32)
    arrays[f'{name}.bn.num_batches_tracked'] = np.array(1)
  return arrays


class _TorchInception:
  """The published forward pass, written out."""

  def __init__(self, arrays):
    self._arrays = {name: torch.tensor(array) for name, array in arrays.items()}

  def conv(self, name, x, stride=1, padding=0):
    of = lambda leaf: self._arrays[f'{name}.{leaf}']
    x = F.conv2d(x, of('conv.weight'), stride=stride, padding=padding)
    statistics = of('bn.running_mean'), of('bn.running_var')
    return F.relu(F.batch_norm(x, *statistics, of('bn.weight'), of('bn.bias'), eps=1e-3))

  def chain(self, x, block, *steps):
    for name, padding in steps:
      x = self.conv(f'{block}.{name}', x, padding=padding)
    return x

  def pooled(self, block, x, maximum=False):
    average = lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = F.max_pool2d(x, 3, 1, 1) if maximum else average(x)
    return self.conv(f'{block}.branch_pool', x)

  def a(self, x, block):
    branches = [
      self.chain(x, block, ('branch1x1', 0)),
      self.chain(x, block, ('branch5x5_1', 0), ('branch5x5_2', 2)),
      self.chain(x, block, ('branch3x3dbl_1', 0), ('branch3x3dbl_2', 1), ('branch3x3dbl_3', 1)),
      self.pooled(block, x),
    ]
    return torch.cat(branches, 1)

  def c(self, x, block):
    wide, high = (0, 3), (3, 0)
    names = [f'branch7x7dbl_{i}' for i in range(1, 6)]
    branches = [
      self.chain(x, block, ('branch1x1', 0)),
      self.chain(x, block, ('branch7x7_1', 0), ('branch7x7_2', wide), ('branch7x7_3', high)),
      self.chain(x, block, *zip(names, (0, high, wide, high, wide), strict=True)),
      self.pooled(block, x),
    ]
    return torch.cat(branches, 1)

  def e(self, x, block, maximum):
    split = lambda x, a, b: [
      self.conv(f'{block}.{a}', x, padding=(0, 1)),
      self.conv(f'{block}.{b}', x, padding=(1, 0)),
    ]
    single = self.chain(x, block, ('branch3x3_1', 0))
    double = self.chain(x, block, ('branch3x3dbl_1', 0), ('branch3x3dbl_2', 1))
    branches = [
      self.chain(x, block, ('branch1x1', 0)),
      *split(single, 'branch3x3_2a', 'branch3x3_2b'),
      *split(double, 'branch3x3dbl_3a', 'branch3x3dbl_3b'),
      self.pooled(block, x, maximum),
    ]
    return torch.cat(branches, 1)

  def __call__(self, x):
    x = self.conv('Conv2d_1a_3x3', 2 * x - 1, stride=2)
    x = self.conv('Conv2d_2b_3x3', self.conv('Conv2d_2a_3x3', x), padding=1)
    x = self.conv('Conv2d_3b_1x1', F.max_pool2d(x, 3, 2))
    x = F.max_pool2d(self.conv('Conv2d_4a_3x3', x), 3, 2)
    for block in ('Mixed_5b', 'Mixed_5c', 'Mixed_5d'):
      x = self.a(x, block)
    double = self.chain(x, 'Mixed_6a', ('branch3x3dbl_1', 0), ('branch3x3dbl_2', 1))
    branches = [
      self.conv('Mixed_6a.branch3x3', x, stride=2),
      self.conv('Mixed_6a.branch3x3dbl_3', double, stride=2),
      F.max_pool2d(x, 3, 2),
    ]
    x = torch.cat(branches, 1)
    for block in ('Mixed_6b', 'Mixed_6c', 'Mixed_6d', 'Mixed_6e'):
      x = self.c(x, block)
    single = self.chain(x, 'Mixed_7a', ('branch3x3_1', 0))
    names = [f'branch7x7x3_{i}' for i in (1, 2, 3)]
    double = self.chain(x, 'Mixed_7a', *zip(names, (0, (0, 3), (3, 0)), strict=True))
    branches = [
      self.conv('Mixed_7a.branch3x3_2', single, stride=2),
      self.conv('Mixed_7a.branch7x7x3_4', double, stride=2),
      F.max_pool2d(x, 3, 2),
    ]
    x = self.e(torch.cat(branches, 1), 'Mixed_7b', maximum=False)
    return self.e(x, 'Mixed_7c', maximum=True).mean((2, 3))


def test_inception_equals_pytorch():
  arrays = _inception_arrays()
  image = np.random.default_rng(3).random((1, 79, 91, 3), np.float32)
  params = inception.from_torch_arrays(arrays)
  found = inception.InceptionV3().apply({'params': params}, image)
  expected = _TorchInception(arrays)(torch.tensor(image).permute(0, 3, 1, 2)).numpy()
  assert found.shape == (1, 2048)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
  del arrays['Mixed_6b.branch7x7_2.bn.bias']
  with pytest.raises(ValueError, match=r'missing: Mixed_6b\.branch7x7_2\.bn\.bias'):
    inception.from_torch_arrays(arrays)


@pytest.mark.parametrize('side', [120, 400])
def test_images_are_resized_as_pytorch_does(side):
  image = np.random.default_rng(4).integers(0, 256, (side, side + 9, 3), np.uint8)
  pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
  expected = F.interpolate(pixels, (299, 299), mode='bilinear', align_corners=False)
  found = frechet.resize(image)
  np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=1e-4)
