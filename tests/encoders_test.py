"""Frozen encoders: parity with the original networks, the alignment's warp, and refused weights."""

import cv2
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfrec_jax import encoders
from dfrec_jax.encoders import alignment, mobilefacenet, vgg, weights


@pytest.fixture(scope='module')
def cases(shared):
  with np.load(shared / 'encoders' / 'mobilefacenet_cases.npz') as archive:
    return dict(archive)


@pytest.fixture(scope='module')
def encoder(shared):
  return encoders.load_encoder('mobilefacenet', shared / 'encoders' / 'mobilefacenet.npz')


@pytest.fixture(scope='module')
def torch_arrays():
  """Tensors of a MobileFaceNet with random values, in PyTorch naming."""
  rng = np.random.default_rng(0)
  arrays = {}
  for name, shape in mobilefacenet.tensor_shapes().items():
    if name.endswith('running_var'):
      arrays[name] = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
      arrays[name] = rng.standard_normal(shape) * np.sqrt(1.6 / np.prod(shape[1:]))
    else:
      arrays[name] = 0.1 * rng.standard_normal(shape) + name.endswith('.weight')
  return {name: array.astype(np.float32) for name, array in arrays.items()}


def unit(embeddings):
  return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


class TestAlignment:
  def test_similarity_transform_recovers_a_known_one(self):
    angle, scale = 0.3, 1.7
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.random.default_rng(0).uniform(0, 100, (5, 2))
    matrix = alignment.similarity_transform(points, points @ rotation.T + [3, -4])
    np.testing.assert_allclose(matrix, np.column_stack([rotation, [3, -4]]), atol=1e-10)

  def test_similarity_transform_is_the_least_squares_one(self):
    rng = np.random.default_rng(1)
    source, target = rng.uniform(0, 100, (2, 5, 2))
    matrix = alignment.similarity_transform(source, target)
    # The same problem as four linear unknowns: x' = a x - b y + c, y' = b x + a y + d.
    x, y = source.T
    one, zero = np.ones(5), np.zeros(5)
    system = np.vstack([np.column_stack([x, -y, one, zero]), np.column_stack([y, x, zero, one])])
    a, b, c, d = np.linalg.lstsq(system, target.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(matrix, [[a, -b, c], [b, a, d]], atol=1e-9)

  @pytest.mark.parametrize('points', [np.ones((5, 2)), np.ones((5, 3)), np.ones((4, 2))])
  def test_similarity_transform_refuses(self, points):
    with pytest.raises(ValueError, match='similarity transform'):
      alignment.similarity_transform(points, np.ones((5, 2)))

  @pytest.mark.parametrize('shape', [(112, 112), (90, 130)])
  def test_warp_is_opencvs(self, shape):
    # 40 px of the template's frame lie outside of the image when the face fills it.
    points = (alignment.MEAN_POINTS - 0.5) * 1.8 + 0.5
    rng = np.random.default_rng(2)
    image = cv2.GaussianBlur(rng.uniform(0, 1, (*shape, 3)).astype(np.float32), (0, 0), 3)
    matrix = alignment.similarity_transform(points * [shape[1], shape[0]], alignment.TEMPLATE_112)
    expected = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR)
    warped = alignment.align_to_template(jnp.asarray(image)[None], points=points)
    assert (expected[0] == 0).all() and expected[56, 56].min() > 0.3
    # OpenCV rounds coordinates to 1/32 pixel, which shows most where the image ends.
    np.testing.assert_allclose(warped[0], expected, atol=0.02)
    assert np.abs(warped[0] - expected).mean() < 1e-3

  @pytest.mark.parametrize('shape', [(24, 24), (9, 40)])
  def test_gradient_is_the_transpose(self, shape):
    rng = np.random.default_rng(3)
    warp = lambda x: alignment.align_to_template(x, size=16)
    x = jnp.asarray(rng.standard_normal((2, *shape, 3)), jnp.float32)
    y = jnp.asarray(rng.standard_normal((2, 16, 16, 3)), jnp.float32)
    warped, vjp = jax.vjp(warp, x)
    np.testing.assert_allclose((warped * y).sum(), (x * vjp(y)[0]).sum(), rtol=1e-4, atol=1e-3)

  def test_gradient_is_the_finite_difference(self):
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.uniform(size=(1, 20, 20, 1)), jnp.float32)
    loss = lambda x: jnp.square(alignment.align_to_template(x, size=12)).sum()
    gradient = jax.grad(loss)(x)
    for i, j in ((10, 10), (9, 12), (13, 8)):
      step = jnp.zeros_like(x).at[0, i, j, 0].set(0.05)
      slope = (loss(x + step) - loss(x - step)) / 0.1
      np.testing.assert_allclose(gradient[0, i, j, 0], slope, rtol=1e-3, atol=1e-3)


class TestMobileFaceNet:
  def test_embeds_aligned_faces_as_the_original(self, encoder, cases):
    net = mobilefacenet.MobileFaceNet()
    features = jax.jit(net.apply)({'params': encoder.params}, cases['aligned'] / np.float32(255))
    np.testing.assert_allclose(features.embedding, cases['embedding'], atol=1e-4)
    assert [tap.shape[1:] for tap in features.taps] == [
      (56, 56, 64),
      (28, 28, 64),
      (14, 14, 128),
      (7, 7, 512),
    ]

  def test_embeds_crops_and_tells_people_apart(self, encoder, cases):
    embedding, maps = jax.jit(encoder.both)(encoder.params, cases['crops'] / np.float32(255))
    assert embedding.dtype == jnp.float32 and maps[-1].shape == (6, 7, 7, 512)
    embedding = np.asarray(embedding)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    assert (embedding * unit(cases['embedding'])).sum(1).min() >= 0.9995
    people = np.array([name.split('/')[0] for name in cases['names']])
    same = people[:, None] == people
    cosines = embedding @ embedding.T
    assert cosines[same].min() > 0.5 > 0.3 > cosines[~same].max()

  def test_bfloat16_embeds_alike_in_float32(self, shared, cases):
    path = shared / 'encoders' / 'mobilefacenet.npz'
    encoder = encoders.load_encoder('mobilefacenet', path, dtype=jnp.bfloat16)
    embedding, maps = jax.jit(encoder.both)(encoder.params, cases['crops'][:2] / np.float32(255))
    assert embedding.dtype == jnp.float32 and maps[-1].dtype == jnp.bfloat16
    assert (np.asarray(embedding) * unit(cases['embedding'][:2])).sum(1).min() > 0.99

  def test_folded_network_is_the_unfolded_one(self, torch_arrays):
    images = np.random.default_rng(5).uniform(size=(2, 112, 112, 3)).astype(np.float32)
    features = jax.jit(mobilefacenet.MobileFaceNet().apply)(
      {'params': mobilefacenet.from_torch_arrays(torch_arrays)}, images
    )
    embedding, spatial = jax.jit(unfolded)(torch_arrays, images)
    for result, expected in ((features.embedding, embedding), (features.taps[-1], spatial)):
      np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())

  def test_parameters_are_those_of_the_module(self, torch_arrays):
    params = mobilefacenet.from_torch_arrays(torch_arrays)
    image = jnp.zeros((1, 112, 112, 3))
    abstract = jax.eval_shape(mobilefacenet.MobileFaceNet().init, jax.random.key(0), image)
    expected = nn.meta.unbox(abstract['params'])
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(params) == shapes(expected)

  def test_gradient_reaches_the_face_and_nothing_outside_of_the_warp(self, encoder, cases):
    crop = jnp.asarray(cases['crops'][:1] / np.float32(255))
    other = unit(cases['embedding'][2])
    cosine = lambda x, params: (encoder.embed(params, x) * other).sum()
    gradient = np.abs(jax.jit(jax.grad(cosine))(crop, encoder.params))[0]
    assert np.isfinite(gradient).all() and gradient[80:160, 80:160].mean() > 0
    assert gradient[:10].max() == gradient[-20:].max() == 0

  def test_relu6_and_its_gradient(self):
    x = jnp.array([-1.0, 0.0, 3.0, 6.0, 7.0])
    y, vjp = jax.vjp(mobilefacenet.relu6, x)
    np.testing.assert_array_equal(y, [0, 0, 3, 6, 6])
    np.testing.assert_array_equal(vjp(2 * jnp.ones(5))[0], [0, 0, 2, 0, 0])

  def test_names_every_wrong_tensor_at_once(self, torch_arrays):
    wrong = dict(torch_arrays)
    del wrong['conv1.0.weight'], wrong['bn.bias']
    wrong['head.weight'] = np.ones(3)
    wrong['conv3.bias'] = np.ones(64)
    wrong['bn.num_batches_tracked'] = np.array(7)
    with pytest.raises(ValueError) as error:
      mobilefacenet.from_torch_arrays(wrong)
    for text in ('missing: conv1.0.weight, bn.bias', 'unexpected: head.weight', 'conv3.bias (64,)'):
      assert text in str(error.value)
    assert 'num_batches_tracked' not in str(error.value)


def unfolded(arrays, x):
  """The PyTorch network, batch norms and all: (embedding, map before pooling)."""
  dimensions = ('NHWC', 'OIHW', 'NHWC')

  def conv(x, name, strides=1, padding=None):
    weight = arrays[f'{name}.weight']
    pad = weight.shape[2] // 2 if padding is None else padding
    groups = x.shape[-1] // weight.shape[1]
    return jax.lax.conv_general_dilated(
      x,
      weight,
      (strides, strides),
      ((pad, pad), (pad, pad)),
      dimension_numbers=dimensions,
      feature_group_count=groups,
    )

  def norm(x, name):
    get = lambda leaf: arrays[f'{name}.{leaf}']
    return (x - get('running_mean')) / jnp.sqrt(get('running_var') + 1e-5) * get('weight') + get(
      'bias'
    )

  x = (x - jnp.array([0.485, 0.456, 0.406])) / jnp.array([0.229, 0.224, 0.225])
  x = nn.relu6(norm(conv(x, 'conv1.0', 2), 'conv1.1'))
  x = nn.relu(norm(conv(x, 'dw_conv.depthwise'), 'dw_conv.bn1'))
  x = nn.relu(norm(conv(x, 'dw_conv.pointwise'), 'dw_conv.bn2'))
  strides = [2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1]
  for i, s in enumerate(strides):
    prefix = f'features.{i}.conv'
    y = nn.relu6(norm(conv(x, f'{prefix}.0.0'), f'{prefix}.0.1'))
    y = nn.relu6(norm(conv(y, f'{prefix}.1.0', s), f'{prefix}.1.1'))
    y = norm(conv(y, f'{prefix}.2'), f'{prefix}.3')
    x = x + y if s == 1 and x.shape == y.shape else y
  spatial = nn.relu6(norm(conv(x, 'conv2.0'), 'conv2.1'))
  pooled = norm(conv(spatial, 'gdconv.depthwise', padding=0), 'gdconv.bn')
  embedding = conv(pooled, 'conv3') + arrays['conv3.bias']
  return norm(embedding, 'bn')[:, 0, 0], spatial


class TestVGG19:
  def test_encoder_gives_five_maps_and_no_embedding(self, tmp_path):
    rng = np.random.default_rng(6)
    arrays = {'classifier.0.weight': np.ones((2, 2), np.float32)}
    for index, inputs, outputs in vgg._convolutions():
      weight = rng.standard_normal((outputs, inputs, 3, 3), np.float32) / np.sqrt(9 * inputs)
      arrays[f'features.{index}.weight'] = weight
      arrays[f'features.{index}.bias'] = np.zeros(outputs, np.float32)
    np.savez(tmp_path / 'vgg.npz', **arrays)
    encoder = encoders.load_encoder('vgg19', tmp_path / 'vgg.npz')
    assert encoder.embed is None
    embedding, maps = encoder.both(encoder.params, jnp.full((1, 16, 32, 3), 0.7))
    assert embedding is None
    assert [m.shape for m in maps] == [
      (1, 16, 32, 64),
      (1, 8, 16, 128),
      (1, 4, 8, 256),
      (1, 2, 4, 512),
      (1, 1, 2, 512),
    ]
    del arrays['features.28.bias']
    with pytest.raises(ValueError, match=r'VGG19; missing: features\.28\.bias'):
      vgg.from_torch_arrays(arrays)


class TestRefusals:
  def test_unknown_name(self):
    with pytest.raises(ValueError, match=r"'arcface'.*mobilefacenet, vgg19"):
      encoders.load_encoder('arcface', 'x.npz')

  def test_no_weights(self):
    with pytest.raises(ValueError, match=r'weights of encoder vgg19.*configuration.*to 0'):
      encoders.load_encoder('vgg19', '')

  def test_missing_file(self, tmp_path):
    with pytest.raises(ValueError, match=r'none\.npz'):
      encoders.load_encoder('vgg19', tmp_path / 'none.npz')

  def test_text_truncated_and_single_array_files(self, tmp_path):
    np.savez(tmp_path / 'whole.npz', a=np.arange(10000.0))
    content = (tmp_path / 'whole.npz').read_bytes()
    np.save(tmp_path / 'single.npy', np.ones(3))
    for name, data in (
      ('empty.npz', b''),
      ('text.npz', b'not an archive'),
      ('cut.npz', content[:5000]),
      ('flipped.npz', content[:4000] + b'\xff' * 8 + content[4008:]),
      ('single.npz', (tmp_path / 'single.npy').read_bytes()),
    ):
      (tmp_path / name).write_bytes(data)
      with pytest.raises(ValueError, match=f'{name} cannot be read'):
        weights.read_arrays(tmp_path / name)

  def test_pickles_are_not_loaded(self, tmp_path):
    class Bomb:
      def __reduce__(self):
        return (pytest.fail, ('a pickle was loaded',))

    np.savez(tmp_path / 'pickle.npz', a=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match='cannot be read'):
      weights.read_arrays(tmp_path / 'pickle.npz')

  def test_values_that_are_no_weights(self, tmp_path):
    for array, reason in (
      (np.array([1.0, np.nan]), 'not finite in a'),
      (np.array(['x']), 'holds a of type'),
    ):
      np.savez(tmp_path / 'bad.npz', a=array)
      with pytest.raises(ValueError, match=reason):
        weights.read_arrays(tmp_path / 'bad.npz')

  def test_another_networks_tensors(self, tmp_path):
    np.savez(tmp_path / 'other.npz', **{'fc.weight': np.ones((2, 2), np.float32)})
    with pytest.raises(ValueError, match=r'other\.npz does not fit encoder mobilefacenet'):
      encoders.load_encoder('mobilefacenet', tmp_path / 'other.npz')
