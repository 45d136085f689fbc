"""From recoveries to `metrics.json`: which examples count where, at which resolution."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from configs import quickstart
from dfrec_jax import evaluate, figures, measurements, sharding
from dfrec_jax.checkpointing import build_model, write_json
from dfrec_jax.encoders.registry import FrozenEncoder
from dfrec_jax.errors import InputError
from dfrec_jax.recovery import Recovery
from dfrec_jax.resolution import mask_to_photograph, to_photograph
from input_pipeline.loader import eval_batches
from input_pipeline.sources import Spread
from input_pipeline.synthetic import SyntheticFaces
from input_pipeline.triplets import Triplets

RNG = np.random.default_rng(0)


def _perfect(example):
  mask = np.asarray(example['mask'], np.float32)[..., 0]
  return Recovery(example['source'], example['target'], mask, float(example['label']))


def _copying(example):
  mask = np.zeros(example['mask'].shape[:2], np.float32)
  return Recovery(example['forged'], example['forged'], mask, 0.0)


def _mean_colour(images):
  """Stands for an identity encoder."""
  return np.stack([image.reshape(-1, 3).mean(0) - 128 for image in images])


def _evaluate(recover, source, embed=_mean_colour):
  return evaluate.evaluate(
    lambda batch, _: [recover(example) for example in batch[1]],
    eval_batches(source, batch_size=4, image_size=32),
    embed,
    figure_rows=3,
    should_stop=lambda: False,
  )


@pytest.fixture(scope='module')
def faces():
  return SyntheticFaces('eval', examples=6, image_size=32)


def test_perfect_recovery(faces):
  result = _evaluate(_perfect, faces).metrics
  everything = result['recovered']['all']
  assert everything['target_psnr'] == everything['target_psnr_masked'] == 100
  for name in ('target_ssim', 'mask_iou', 'mask_f1', 'auc', 'accuracy'):
    assert everything[name] == pytest.approx(1)
  assert everything['source_identity'] == pytest.approx(1)
  assert everything['examples'] == 6
  assert result['recovered']['pristine']['examples'] == 6
  attacks = [name for name in result['recovered'] if name not in ('all', 'pristine')]
  assert sum(result['recovered'][name]['examples'] for name in attacks) == 6


def test_copying_is_its_own_baseline(faces):
  result = _evaluate(_copying, faces).metrics
  recovered, copy = result['recovered']['all'], result['copy']['all']
  for name in ('source_identity', 'target_identity', 'target_psnr', 'target_ssim'):
    assert recovered[name] == pytest.approx(copy[name])
  assert recovered['mask_iou'] == 0
  assert recovered['auc'] == 0.5
  assert recovered['accuracy'] == 0.5
  assert copy['mask_iou'] is copy['auc'] is None
  assert set(recovered) == set(copy) == set(measurements.COLUMNS)


def test_pristine_photographs_have_no_masked_psnr_and_no_source(faces):
  pristine = _evaluate(_perfect, faces).metrics['recovered']['pristine']
  assert pristine['target_psnr_masked'] is pristine['source_identity'] is pristine['auc'] is None
  assert pristine['target_psnr'] == 100


def test_each_pristine_photograph_is_counted_once(faces):
  # Two swaps on each photograph, and two photographs of one person.
  examples = [dict(faces[i % 3]) for i in range(6)]
  for i, example in enumerate(examples):
    example['target_identity'] = ('one', 'one', 'other')[i % 3]
    if i > 2:
      example['forged'] = example['forged'] // 2
  pristine = [
    {**e, 'forged': e['target'], 'mask': 0 * e['mask'], 'label': 0, 'attack': 'pristine'}
    for e in examples
  ]
  batch = [(None, examples + pristine)]

  def score():
    return evaluate.evaluate(
      lambda batch, _: [_perfect(example) for example in batch[1]],
      batch,
      None,
      figure_rows=1,
      should_stop=lambda: False,
    )

  result = score()
  assert len(result.scores['pristine']) == 3
  assert len(result.scores['forged']) == 6
  assert result.people == 2
  assert result.metrics['recovered']['pristine']['examples'] == 6
  pristine[1]['target_identity'] = ''
  assert score().people is None


def test_without_an_encoder_identity_is_null(faces):
  result = _evaluate(_perfect, faces, embed=None)
  assert result.metrics['recovered']['all']['source_identity'] is None
  json.dumps(result.metrics, allow_nan=False)


def test_an_evaluation_can_be_given_up(faces):
  batches = eval_batches(faces, batch_size=4, image_size=32)
  assert evaluate.evaluate(None, batches, None, figure_rows=1, should_stop=lambda: True) is None


class _Turns:
  """A source whose examples are of four attacks in turn."""

  labels = np.ones(64, np.int32)

  def __len__(self):
    return 64

  def __getitem__(self, index):
    return index % 4


def test_part_of_a_source_holds_every_attack():
  part = Spread(_Turns(), 16)
  assert len(part) == len(part.labels) == 16
  assert {part[i] for i in range(16)} == {0, 1, 2, 3}
  assert [part[i] for i in range(16)] == [Spread(_Turns(), 16)[i] for i in range(16)]
  assert len(Spread(_Turns(), 100)) == 64


def test_embedder_keeps_the_order_of_images_of_many_sizes():
  # Embeds the mean colour, and the side that it was given.
  encoder = FrozenEncoder(
    name='mean',
    params=jnp.ones(3),
    embed=lambda p, x: jnp.concatenate([p * x.mean((1, 2)), 0 * x[:, 0, 0] + x.shape[1]], -1),
    both=None,
  )
  sides = [160, 100, 160, 300, 200, 130] * 7
  images = [np.full((side, side, 3), i, np.uint8) for i, side in enumerate(sides)]
  with jax.set_mesh(jax.make_mesh((8,), ('data',))):
    found = measurements.Embedder(encoder)(images)
  np.testing.assert_allclose(found[:, 0] * 255, np.arange(len(images)), rtol=1e-4, atol=1e-4)
  assert found[:6, 3].tolist() == [160, 112, 160, 256, 224, 112]


def test_a_metric_that_is_not_measured_cannot_choose_the_best(faces):
  config = quickstart.get_config('runlocal')
  model, mesh = build_model(config.model), sharding.make_mesh(config.mesh)
  for name, says in (('target_pnsr', 'the metrics are'), ('target_identity', 'metric_encoder')):
    config.checkpoint.best_metric = name
    with pytest.raises(InputError, match=f'best_metric is .*{name}.*{says}'):
      evaluate.Evaluator(model, config, faces, mesh)


def test_pristine_rows_are_evaluated_once(tmp_path):
  lines = ['forged,source,target,mask,attack']
  for i, attack in enumerate(('lab', 'pristine', 'lab', 'pristine')):
    names = [f'{i}.png'] * 3 if attack == 'pristine' else [f'{i}{kind}.png' for kind in 'fst']
    for name in {*names}:
      Image.fromarray(RNG.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name)
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(tmp_path / f'{i}m.png')
    lines.append(','.join([*names, f'{i}m.png', attack]))
  (tmp_path / 'val.csv').write_text('\n'.join(lines))
  source = Triplets(tmp_path, 'val.csv')
  for part, pristine in ((Spread(source, 4), 4), (Spread(source, 2), 2)):
    examples = [e for _, batch in eval_batches(part, batch_size=2, image_size=16) for e in batch]
    assert sum(e['label'] == 0 for e in examples) == pristine
    assert len(examples) == len(part) + sum(part.labels)


def test_what_is_written(faces, tmp_path, capsys):
  result = _evaluate(_perfect, faces)
  assert len(result.faces) == len(result.labels) == 3
  evaluate.write_evaluation(result, evaluate.epath.Path(tmp_path / 'eval'))
  written = json.loads((tmp_path / 'eval' / 'metrics.json').read_text())
  assert written == result.metrics
  for name in ('table.png', 'faces.png'):
    assert Image.open(tmp_path / 'eval' / name).width > 300
  assert not list((tmp_path / 'eval').glob('.*'))
  printed = capsys.readouterr().out
  assert 'all: recovered' in printed
  assert 'faces.png' in printed


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
  path = evaluate.epath.Path(tmp_path / 'x.json')
  write_json(path, {'a': 1})
  with pytest.raises(TypeError):
    write_json(path, {'a': object()})
  assert json.loads(path.read_text()) == {'a': 1}


def test_a_residual_model_that_changes_nothing_keeps_every_pixel():
  photograph = RNG.integers(0, 256, (40, 48, 3), np.uint8)
  seen = RNG.random((16, 16, 3), np.float32)
  np.testing.assert_array_equal(to_photograph(photograph, seen, seen, residual=True), photograph)


def test_a_weight_of_zero_keeps_the_photograph():
  photograph = RNG.integers(0, 256, (40, 48, 3), np.uint8)
  seen, recovered = RNG.random((2, 16, 16, 3), np.float32)
  weight = np.zeros((16, 16, 1), np.float32)
  weight[:, 8:] = 1
  for residual in (True, False):
    result = to_photograph(photograph, seen, recovered, residual=residual, weight=weight)
    np.testing.assert_array_equal(result[:, :21], photograph[:, :21])
    assert (result[:, 27:] != photograph[:, 27:]).any()


def test_an_absolute_picture_replaces_the_photograph():
  photograph = np.zeros((32, 32, 3), np.uint8)
  recovered = np.full((16, 16, 3), 0.5, np.float32)
  result = to_photograph(photograph, recovered * 0, recovered, residual=False)
  assert (result == 128).all()
  assert mask_to_photograph(np.ones((16, 16, 1), np.float32), photograph).shape == (32, 32)


def test_detail_survives_where_the_recovery_is_a_change():
  photograph = RNG.integers(0, 256, (40, 40, 3), np.uint8)
  seen, recovered = RNG.random((2, 16, 16, 3), np.float32)
  where = np.zeros((16, 16, 1), np.float32)
  where[:, :8] = 1
  whole, nothing, partly = (
    to_photograph(photograph, seen, recovered, residual=r) for r in (True, False, where)
  )
  np.testing.assert_array_equal(partly[:, :17], whole[:, :17])
  np.testing.assert_array_equal(partly[:, 23:], nothing[:, 23:])


def test_faces_figure_has_a_cell_for_each_image():
  image = np.full((20, 20, 3), 200, np.uint8)
  figure = figures.faces_figure(['a', 'b'], [[image, image]] * 3, side=32)
  assert figure.width == 2 * 36 + 4
  assert figure.getpixel((20, 40)) == (200, 200, 200)
