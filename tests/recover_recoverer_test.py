"""Recovery of crops: the same as evaluation's, whatever the batch, and what scores mean."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import dfrec_jax
from dfrec_jax import calibration, checkpointing, sharding
from dfrec_jax.calibration import Calibration
from dfrec_jax.convert.__main__ import to_file
from dfrec_jax.errors import InputError
from dfrec_jax.recover import recoverer
from dfrec_jax.resolution import to_photograph
from tests.recovering import BATCH, DRAWS, FORGED, PRISTINE, faces, make_recoverer, write_model


def _same(a, b):
  for name in ('source', 'target', 'mask', 'spread'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
  for name in ('score', 'false_alarm_rate', 'swapped', 'instability'):
    assert getattr(a, name) == getattr(b, name)


def test_what_is_recovered():
  images = [faces()[0], faces()[1][:80], faces()[2][:, :50], np.zeros((7, 9, 3), np.uint8)]
  for image, r in zip(images, make_recoverer().recover(images), strict=True):
    assert r.source.shape == r.target.shape == image.shape
    assert r.source.dtype == r.target.dtype == np.uint8
    assert r.mask.shape == r.spread.shape == image.shape[:2]
    assert 0 <= r.mask.min() <= r.mask.max() <= 1
    assert 0 <= r.score <= 1
    assert r.instability >= 0
  assert np.unique([r.score for r in make_recoverer().recover(faces())]).size == len(faces())
  assert make_recoverer().recover([]) == []


def test_a_result_does_not_depend_on_its_batch():
  images = faces()[:7]
  alone = [make_recoverer().recover([image], seed=5)[0] for image in images]
  order = [3, 0, 6, 2, 5, 1, 4]
  together = make_recoverer().recover([images[i] for i in order], seed=5)
  for place, i in enumerate(order):
    _same(together[place], alone[i])
  stacked = make_recoverer().recover(np.stack(images), seed=5)
  for a, b in zip(stacked, alone, strict=True):
    _same(a, b)


class _TracedError(Exception):
  """Ends a compilation once it is known what for."""


@pytest.mark.parametrize('devices', [None, 2])
def test_a_program_is_for_the_devices_of_the_variables(monkeypatch, tmp_path, devices):
  # This machine has eight: what others it has must not choose how attention is computed.
  def trace(*_):
    raise _TracedError(jax.sharding.get_abstract_mesh().size)

  sizes = ml_collections.ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1})
  mesh = devices and sharding.make_mesh(sizes, jax.devices()[:devices])
  loaded = checkpointing.load_model(write_model(tmp_path / 'm.safetensors'), mesh=mesh)
  monkeypatch.setattr(recoverer, '_predict', trace)
  with pytest.raises(_TracedError, match=f'^{devices or 1}'):
    recoverer.Recoverer(loaded).compile()


@functools.cache
def _once():
  """The whole model with one masking key, compiled: (images, key) -> its outputs."""
  r = make_recoverer()
  apply = lambda images, key: r._model.apply(
    r._variables, images.astype(jnp.float32) / 255, train=False, rngs={'masking': key}
  )
  images = jnp.zeros((BATCH, 32, 32, 3), jnp.uint8)
  return jax.jit(apply).lower(images, jax.random.key(0)).compile()


def test_it_is_the_model_once_for_each_key():
  image = faces(32)[0]
  seen = image.astype(np.float32) / 255
  batch = jnp.asarray(np.stack([image] * BATCH))
  draws = [_once()(batch, key) for key in jax.random.split(jax.random.key(9), DRAWS)]
  first = jax.tree.map(lambda x: np.asarray(x[0]), draws[0])
  targets = np.stack([out.target_raw[0] for out in draws])
  found = make_recoverer().recover([image], seed=9)[0]
  weight = first.composite_mask
  expected = to_photograph(image, seen, targets.mean(0), residual=True, weight=weight)
  np.testing.assert_allclose(found.target.astype(int), expected, atol=1)
  np.testing.assert_allclose(found.source / 255, first.source, atol=0.003)
  assert found.score == pytest.approx(float(jax.nn.softmax(first.class_logits)[1]), abs=1e-5)
  np.testing.assert_allclose(found.mask, first.mask[..., 0], atol=1e-5)
  spread = 255 * (targets.std(0, ddof=1) * weight).mean(-1)
  np.testing.assert_allclose(found.spread, spread, atol=0.02)
  inside = (spread * found.mask).sum() / found.mask.sum()
  assert found.instability == pytest.approx(inside, rel=1e-3)
  assert inside > 0.1
  other = make_recoverer().recover([image], seed=10)[0]
  assert not np.array_equal(other.target, found.target)
  assert other.score == found.score


def test_only_the_target_network_is_computed_for_each_key():
  make_recoverer().compile()
  flops = lambda compiled: compiled.cost_analysis()['flops']
  assert flops(make_recoverer()._program) < 0.6 * DRAWS * flops(_once())


@pytest.mark.parametrize(
  'image',
  [
    np.zeros((8, 8, 3), np.float32),
    np.zeros((8, 8), np.uint8),
    np.zeros((8, 8, 4), np.uint8),
    np.zeros((0, 8, 3), np.uint8),
  ],
)
def test_other_images_are_refused(image):
  with pytest.raises(InputError, match=r'Image 1 is of type .* give uint8'):
    make_recoverer().recover([faces()[0], image])


def test_a_crop_that_is_not_square_is_continued_and_cut_back():
  image = faces()[0]
  part = image[:, 8:-8]
  found = make_recoverer().recover([part], seed=4)[0]
  whole = np.pad(part, ((0, 0), (8, 8), (0, 0)), 'edge')
  expected = make_recoverer().recover([whole], seed=4)[0]
  np.testing.assert_array_equal(found.target, expected.target[:, 8:-8])
  assert found.mask.shape == part.shape[:2]
  assert found.score == expected.score
  with pytest.raises(InputError, match='Image 0 is a list; give a NumPy array'):
    make_recoverer().recover([part.tolist()])


def test_settings_out_of_range(tmp_path):
  loaded = checkpointing.load_model(write_model(tmp_path / 'm.safetensors'))
  for setting, says in (
    ({'batch_size': 0}, 'batch_size is 0'),
    ({'draws': 0}, 'draws is 0'),
    ({'draws': 2.5}, 'draws is 2.5'),
    ({'batch_size': True}, 'batch_size is True'),
    ({'threshold': '0.5'}, 'threshold is 0.5'),
    ({'threshold': 1.5}, 'threshold is 1.5'),
    ({'false_alarms': -0.1}, 'false_alarms is -0.1'),
  ):
    with pytest.raises(InputError, match=says):
      recoverer.Recoverer(loaded, **setting)
  for seed in (1.5, 'a', None):
    with pytest.raises(InputError, match='a whole number'):
      recoverer.check_seed(seed)
  with pytest.raises(InputError, match='seed is -1'):
    make_recoverer().recover(faces()[:1], seed=-1)


def test_loading(tmp_path):
  path = write_model(tmp_path / 'm.safetensors')
  loaded = dfrec_jax.load(path, draws=2)
  assert isinstance(loaded, recoverer.Recoverer)
  assert (loaded.margin, loaded.image_size, loaded.draws, loaded.batch_size) == (1.6, 32, 2, 8)
  assert loaded.checkpoint['step'] == 3
  assert loaded.checkpoint['calibration'] == {
    'data': 'test faces',
    'pristine': 100,
    'forged': 50,
    'people': 80,
  }
  assert len(loaded.checkpoint['sha256']) == 64
  older = dfrec_jax.load(write_model(tmp_path / 'old.safetensors', margin=None, calibrated=False))
  assert (older.margin, older.threshold, older.false_alarms) == (1.45, 0.5, None)
  assert older.checkpoint['calibration'] is None
  assert older.checkpoint['sha256'] == loaded.checkpoint['sha256']
  assert dfrec_jax.load().checkpoint['path'] == 'pretrained'
  with pytest.raises(AttributeError, match='nothing'):
    dfrec_jax.nothing  # noqa: B018


def test_importing_the_package_does_not_import_jax():
  code = 'import sys, dfrec_jax; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True)


def test_the_threshold_is_what_few_pristine_photographs_reach():
  scores = Calibration.of({'data': '', 'pristine': list(PRISTINE), 'forged': list(FORGED)})
  for rate, threshold in ((0.05, 0.96), (0.01, 1.0), (0.059, 0.96), (1.0, 0.01)):
    assert scores.threshold(rate) == pytest.approx(threshold)
    assert scores.false_alarm_rate(scores.threshold(rate)) <= rate
  assert scores.threshold(0) > 1 == scores.pristine[-1]
  assert scores.false_alarm_rate(0.5) == pytest.approx(0.51)
  assert scores.false_alarm_rate(1.1) == 0
  tied = Calibration('', np.array([0.1, 0.9, 0.9, 0.9]), np.array([]))
  assert tied.threshold(0.5) > 0.9  # Three of four reach 0.9.
  assert tied.threshold(0.75) == 0.9
  assert Calibration.of({'data': '', 'pristine': [], 'forged': [1.0]}) is None
  assert make_recoverer().threshold == pytest.approx(0.96)
  assert make_recoverer().false_alarms == 0.05


def test_a_calibration_is_of_its_weights_only(tmp_path):
  path = write_model(tmp_path / 'm.safetensors')
  loaded = checkpointing.load_model(path)
  assert loaded.calibration['pristine'] == pytest.approx(list(PRISTINE))
  again = str(tmp_path / 'again.safetensors')
  to_file(path, again)
  assert checkpointing.load_model(again).calibration == loaded.calibration
  changed = jax.tree.map(lambda x: np.asarray(x) + 1, loaded.variables)
  assert calibration.of_same_weights(loaded.calibration, loaded.variables)
  assert not calibration.of_same_weights(loaded.calibration, changed)
  for text in ('', 'null', '[]', '{"schema": 2}', '{"schema": 1, "data": "", "pristine": [2]}'):
    assert calibration.parse_record(text) is None
  for change in ({'schema': 3}, {'people': 0}, {'people': '80'}, {'forged': [2.0]}):
    assert calibration.parse_record(json.dumps({**loaded.calibration, **change})) is None
  # The first schema counted no people.
  older = {key: value for key, value in loaded.calibration.items() if key != 'people'}
  assert Calibration.of(calibration.parse_record(json.dumps({**older, 'schema': 1}))).people is None


def test_a_workdir_carries_its_evaluation(tmp_path):
  source = checkpointing.load_model(write_model(tmp_path / 'm.safetensors'))
  host = jax.tree.map(np.asarray, source.variables)
  config = source.config.to_dict()
  checkpointing.save_converted(str(tmp_path / 'run'), config, host, step=3)
  assert checkpointing.load_model(str(tmp_path / 'run')).calibration is None
  folder = tmp_path / 'run' / checkpointing.EVALUATION
  checkpointing.write_json(checkpointing.epath.Path(folder / calibration.FILE), source.calibration)
  assert checkpointing.load_model(str(tmp_path / 'run')).calibration == source.calibration
