"""Training of identity encoders: losses, data, what is measured, and the file that comes out."""

import functools
import json
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import identity
from dfrec_jax import encoders, sharding, shipped
from dfrec_jax.encoders import alignment, mobilefacenet, trainable
from dfrec_jax.errors import InputError
from dfrec_jax.identity import independence, recognition, swaps, training, verification
from dfrec_jax.identity.evaluate import evaluate_checkpoint
from dfrec_jax.identity.export import FILE, write_encoder
from dfrec_jax.identity.people import PhotoFolder, SyntheticPeople, check_disjoint, make_people
from dfrec_jax.identity.step import make_train_step
from dfrec_jax.identity.views import Variation, draw_view
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.train_state import plan_state

ONE_DEVICE = jax.devices()[:1]
STILL = Variation(
  flip=False, rotation=0, scale=0, crop=0, probability=0, colour=0, light=0, blur=0, noise=0,
  jpeg=(100, 100), cover=0,
)  # fmt: skip


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def drawn_embeddings(people: int, photographs: int, noise: float, seed: int = 0):
  rng = np.random.default_rng(seed)
  centres = np.repeat(rng.standard_normal((people, 16)), photographs, 0)
  person = np.repeat(np.arange(people), photographs)
  return unit(centres + noise * rng.standard_normal(centres.shape)), person


@pytest.fixture(scope='module')
def trained_network():
  """A narrow network's variables with the statistics of a network that was trained."""
  net = mobilefacenet.MobileFaceNet(0.125, 2, norms=True)
  variables = jax.jit(lambda key: net.init(key, jnp.zeros((1, 32, 32, 3))))(jax.random.key(0))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(np.asarray, jax.tree.map(lambda x: x, dict(_unboxed(variables))))
  variables['batch_stats'] = jax.tree_util.tree_map_with_path(
    lambda path, x: rng.uniform(0.5, 1.5, x.shape) - (path[-1].key == 'mean'),
    variables['batch_stats'],
  )
  return net, variables


def _unboxed(variables):
  from flax import linen as nn

  return nn.unbox(variables)


class TestNetwork:
  def test_frozen_is_the_trained_one(self, trained_network):
    net, variables = trained_network
    arrays = mobilefacenet.to_torch_arrays(variables)
    assert mobilefacenet.sizes(arrays) == (0.125, 2)
    frozen = mobilefacenet.MobileFaceNet(0.125, 2)
    images = np.random.default_rng(1).uniform(size=(3, 32, 32, 3)).astype(np.float32)
    expected = jax.jit(net.apply)(variables, images)
    result = jax.jit(frozen.apply)({'params': mobilefacenet.from_torch_arrays(arrays)}, images)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())

  def test_the_file_is_an_encoder_like_any_other(self, trained_network, tmp_path):
    path = str(tmp_path / 'e.safetensors')
    write_encoder(path, mobilefacenet.to_torch_arrays(trained_network[1]), {'licence': 'ours'})
    encoder = encoders.load_encoder('mobilefacenet', path)
    faces = np.random.default_rng(2).uniform(size=(2, 160, 160, 3)).astype(np.float32)
    embedding, maps = encoder.both(encoder.params, faces)
    assert embedding.shape == (2, mobilefacenet.EMBEDDING)
    assert [m.shape[1] for m in maps] == [16, 8, 4, 2]
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)

  def test_a_value_beyond_float16_is_named(self, trained_network, tmp_path):
    variables = jax.tree.map(np.copy, trained_network[1])
    variables['batch_stats']['conv1_norm']['var'][0] = 1e6
    with pytest.raises(InputError, match=r'conv1\.1\.running_var does not fit into float16'):
      write_encoder(str(tmp_path / 'e.safetensors'), mobilefacenet.to_torch_arrays(variables), {})

  def test_embedding_hardly_depends_on_the_size_of_the_crop(self):
    picture = SyntheticPeople('eval', people=2, photographs=1, side=224).picture(0)
    small = cv2.resize(picture, (112, 112), interpolation=cv2.INTER_AREA)
    a, b = (
      np.asarray(alignment.align_filtered(jnp.asarray(p[None] / np.float32(255)), size=48))
      for p in (picture, small)
    )
    unfiltered = alignment.align_to_template(jnp.asarray(picture[None] / np.float32(255)), size=48)
    assert np.abs(a - b).mean() < 0.5 * np.abs(unfiltered - b).mean()


class TestLosses:
  def test_arcface_adds_to_the_true_angle(self):
    rng = np.random.default_rng(0)
    cosines, person = rng.uniform(-0.9, 0.9, (5, 7)).astype(np.float32), np.arange(5)
    angles = np.arccos(cosines.astype(np.float64))
    angles[np.arange(5), person] += 0.3
    logits = 10 * np.cos(angles)
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), person]
    loss = recognition.arcface_loss(cosines, person, margin=0.3, scale=10)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-4)

  def test_arcface_falls_with_the_true_cosine_everywhere(self):
    person = jnp.zeros(1, int)
    at = lambda c: recognition.arcface_loss(jnp.array([[c, 0.0]]), person, margin=0.5, scale=8)
    slopes = jax.vmap(jax.grad(at))(jnp.linspace(-1, 1, 41))
    assert np.isfinite(slopes).all() and slopes[:-1].max() < 0

  def test_contrastive_loss_is_its_definition(self):
    embedding = unit(np.random.default_rng(0).standard_normal((6, 4)))
    person = np.array([0, 0, 1, 1, 0, 0])
    expected = []
    for i in range(6):
      weights = {j: np.exp(embedding[i] @ embedding[j] / 0.2) for j in range(6) if j != i}
      same = [j for j in weights if person[j] == person[i]]
      expected.append(-np.mean([np.log(weights[j] / sum(weights.values())) for j in same]))
    loss = recognition.contrastive_loss(jnp.asarray(embedding), person, temperature=0.2)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    slope = jax.grad(recognition.contrastive_loss)(jnp.asarray(embedding), person, temperature=0.2)
    assert np.isfinite(slope).all()

  def test_memory_holds_the_mean_direction_of_who_was_seen(self):
    model = recognition.Recognizer(4, mobilefacenet.MobileFaceNet(0.125, 2, norms=True), memory=0.5)
    embedding = unit(np.random.default_rng(0).standard_normal((3, 128)).astype(np.float32))
    old = np.zeros((4, 128), np.float32)
    old[[1, 3]] = np.eye(128)[:2]
    new = np.asarray(model._remember(old, embedding, np.array([1, 2, 1])))
    np.testing.assert_allclose(new[1], unit(old[1] + embedding[[0, 2]].mean(0)), atol=1e-6)
    np.testing.assert_allclose(new[2], embedding[1], atol=1e-6)
    np.testing.assert_array_equal(new[[0, 3]], old[[0, 3]])


class TestVerification:
  def test_separable_people_are_told_apart(self):
    result = verification.verify(*drawn_embeddings(30, 3, 0.01))
    assert result['accuracy'] == result['auc'] == result['true_match_rate'] == 1
    assert (result['same_pairs'], result['people'], result['photographs']) == (90, 30, 90)

  def test_noise_is_chance(self):
    result = verification.verify(*drawn_embeddings(60, 3, 1e6))
    assert 0.35 < result['accuracy'] < 0.65 and 0.4 < result['auc'] < 0.6
    assert result['true_match_rate'] < 0.08

  def test_rates_are_those_of_their_definition(self):
    embeddings, person = drawn_embeddings(40, 3, 1.2)
    result = verification.verify(embeddings, person)
    first, second = np.triu_indices(len(person), 1)
    scores = (embeddings @ embeddings.T)[first, second]
    same = person[first] == person[second]
    higher = (scores[same][:, None] > scores[~same]).mean()
    assert result['auc'] == pytest.approx(higher, abs=1e-6)
    limit = np.sort(scores[~same])[-int(0.01 * (~same).sum()) - 1]
    assert result['true_match_rate'] == pytest.approx((scores[same] > limit).mean(), abs=0.02)

  def test_nobody_is_in_two_folds(self):
    _, person = drawn_embeddings(33, 2, 1)
    first, second = np.triu_indices(len(person), 1)
    folds = verification._folds(
      person[first], person[second], person[first] == person[second], np.random.default_rng(0)
    )
    assert sorted(np.bincount(folds)) == [3] * 7 + [4] * 3

  def test_too_few_people_are_refused(self):
    with pytest.raises(InputError, match='needs 10 people'):
      verification.verify(*drawn_embeddings(9, 2, 0.1))

  def test_some_people_of_many_are_chosen_whole(self):
    person = np.repeat(np.arange(50), 4)
    chosen = verification.choose_photographs(person, limit=40)
    assert len(chosen) == 40
    assert (np.bincount(person[chosen])[np.unique(person[chosen])] == 4).all()

  def test_agreement_of_like_and_unlike_encoders(self):
    a, person = drawn_embeddings(40, 3, 1.0)
    b, _ = drawn_embeddings(40, 3, 1.0, seed=1)
    assert independence.agreement((a, a @ np.eye(16)[::-1]), person)['different'] > 0.999
    assert abs(independence.agreement((a, b), person)['different']) < 0.2


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Twenty-four people without landmarks, the first of one photograph."""
  root = tmp_path_factory.mktemp('people')
  synthetic = SyntheticPeople('train', people=24, photographs=2, side=48)
  for number in range(1, len(synthetic)):
    place = root / f'person{synthetic.person[number]:02d}'
    place.mkdir(exist_ok=True)
    cv2.imwrite(str(place / f'{number}.png'), synthetic.picture(number)[..., ::-1])
  return root


def test_swaps_of_an_encoder_that_sees_the_source(tmp_path):
  (tmp_path / 'swaps.csv').write_text(
    'forged,source,target,mask,source_identity,target_identity\n'
    + ''.join(
      f'{i}.png,{i}.png,{(i + 1) % 4}.png,,person{i},person{(i + 1) % 4}\n' for i in range(4)
    )
  )
  for i in range(4):
    cv2.imwrite(str(tmp_path / f'{i}.png'), np.full((32, 32, 3), 60 * i, np.uint8))
  embed = lambda images: np.eye(4)[[int(image.mean()) // 60 for image in images]]
  result = swaps.measure(embed, str(tmp_path / 'swaps.csv'))
  assert result == {
    'forged_source': 1, 'forged_target': 0, 'source_target': 0, 'found_source': 1, 'found_target': 0
  }  # fmt: skip


class TestPeople:
  def test_pairs_are_two_photographs_of_one_person(self, folder):
    people = PhotoFolder(folder, side=32)
    assert len(people.people) == 24 and len(people) == 47
    rng = np.random.default_rng(0)
    for number in range(len(people)):
      first, second, person = people.pair(number, rng)
      assert person == people.person[number]
      same = (first == second).all()
      assert same == (number == 0)
      others = np.flatnonzero(people.person == person)
      assert any((second == people.picture(int(i))).all() for i in others)

  def test_splits_share_nobody(self, folder):
    config = identity.get_config(f'root={folder},swap_rate=0').data
    config.held_out = 0.4
    train, held_out = (make_people(config, split, side=32) for split in ('train', 'eval'))
    assert set(train.people).isdisjoint(held_out.people)
    assert len(train.people) + len(held_out.people) == 24
    check_disjoint(train.people, held_out.people)
    with pytest.raises(InputError, match=r'24 people are in training and evaluation.*person00'):
      config.eval = str(folder)
      check_disjoint(*(make_people(config, s, side=32).people for s in ('train', 'eval')))

  def test_synthetic_splits_share_nobody(self):
    config = identity.get_config('kind=synthetic').data
    train, held_out = (make_people(config, split, side=32) for split in ('train', 'eval'))
    assert set(train.people).isdisjoint(held_out.people)

  def test_the_real_people_that_are_evaluated_are_not_trained_on(self, shared):
    root = shared / 'faces' / 'lfw160'
    config = identity.get_config(f'root={root}/train,eval={root}/val').data
    train, held_out = (make_people(config, split, side=64) for split in ('train', 'eval'))
    assert (len(train), len(held_out)) == (6237, 355)
    check_disjoint(train.people, held_out.people)

  def test_a_swapped_view_shows_the_face_on_another_photograph(self, shared):
    people = PhotoFolder(shared / 'faces' / 'lfw160' / 'val', side=96, swap_rate=1.0)
    counts = np.bincount(people.person)
    number = int(np.flatnonzero(counts[people.person] == 1)[0])
    first, second, _ = people.pair(number, np.random.default_rng(0))
    changed = np.abs(first.astype(int) - second).mean(2)
    assert changed[:10].mean() > 20  # other hair and background
    # The swap takes the colours of the other photograph: what is alike are the features.
    middle = slice(35, 75), slice(30, 66)
    grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[middle].ravel() for p in (first, second)]
    assert np.corrcoef(*grey)[0, 1] > 0.5

  @pytest.mark.parametrize(
    ('change', 'message'),
    [
      ({'swap_rate': 0.5}, 'landmarks.npz, which data.swap_rate'),
      ({'split': 'eval', 'held_out': 0.0}, r'photographs of 0 person\(s\)'),
    ],
  )
  def test_a_folder_that_does_not_do_is_refused(self, folder, change, message):
    with pytest.raises(InputError, match=message):
      PhotoFolder(folder, side=32, **change)

  def test_an_absent_folder_is_named(self, tmp_path):
    with pytest.raises(InputError, match=r'There is no folder .*nobody'):
      PhotoFolder(tmp_path / 'nobody', side=32)


class TestViews:
  def test_without_variation_it_is_the_fixed_alignment(self):
    side = alignment.matching_side(64)
    picture = SyntheticPeople('eval', people=2, photographs=1, side=side).picture(0)
    view = draw_view(picture, 64, STILL, np.random.default_rng(0))
    expected = alignment.align_to_template(jnp.asarray(picture[None], jnp.float32), size=64)[0]
    inside = slice(4, -4)
    assert np.abs(view - np.asarray(expected))[inside, inside].mean() < 1

  def test_a_crop_of_the_matching_side_keeps_its_scale(self):
    side = alignment.matching_side(112)
    matrix = alignment.similarity_transform(alignment.MEAN_POINTS * side, alignment.TEMPLATE_112)
    assert np.linalg.norm(matrix[:, 0]) == pytest.approx(1, abs=0.005)

  def test_every_variation_changes_the_view_and_one_seed_gives_one_view(self):
    variation = Variation.create(identity.get_config().data.augmentation)
    picture = SyntheticPeople('eval', people=2, photographs=1, side=81).picture(0)
    draw = lambda seed: draw_view(picture, 64, variation, np.random.default_rng(seed))
    assert (draw(0) == draw(0)).all()
    assert len({draw(seed).tobytes() for seed in range(8)}) == 8

  @pytest.mark.parametrize(
    ('change', 'message'),
    [({'crop': 2.0}, 'crop is 2.0'), ({'jpeg': (0, 9)}, 'jpeg'), ({'blurr': 1}, 'blurr')],
  )
  def test_wrong_settings_are_named(self, change, message):
    fields = {**identity.get_config().data.augmentation, **change}
    with pytest.raises(InputError, match=message):
      Variation.create(fields)

  def test_batches_are_a_function_of_their_number(self):
    config = identity.get_config('runlocal')
    people = make_people(config.data, 'train', side=40)
    take = lambda iterator, n: [next(iterator) for _ in range(n)]
    whole = training.view_batches(config, people, None)
    batches = take(whole, 3)
    assert batches[0]['views'].shape == (8, 2, 32, 32, 3)
    resumed = training.view_batches(config, people, None)
    resumed.set_state({'next_batch': 2})
    again = next(resumed)
    for key in ('views', 'person'):
      np.testing.assert_array_equal(again[key], batches[2][key])
    whole.close()
    resumed.close()


def _one_step(config, devices):
  mesh = sharding.make_mesh(config.mesh, devices)
  people = make_people(config.data, 'train', side=40)
  model = recognition.Recognizer(len(people.people), trainable.build(config.model))
  tx, _ = make_optimizer(config.optimizer, config.steps)
  with jax.set_mesh(mesh):
    initialise, _ = plan_state(functools.partial(recognition.init_variables, model), tx, mesh)
    state = initialise(jax.random.key(0))
    iterator = training.view_batches(config, people, sharding.batch_sharding(mesh))
    step = jax.jit(make_train_step(model, tx, config))
    losses = []
    for _ in range(2):
      state, metrics = step(state, next(iterator))
      losses.append(jax.device_get(metrics))
    iterator.close()
  return losses


@pytest.mark.slow
@pytest.mark.parametrize(
  'network',
  ['mobilefacenet', pytest.param('iresnet,depth=1-2-1-1', marks=pytest.mark.exhaustive)],
)
def test_eight_devices_train_as_one_does(network):
  config = identity.get_config(f'runlocal,network={network}')
  one, eight = _one_step(config, ONE_DEVICE), _one_step(config, None)
  for a, b in zip(one, eight, strict=True):
    for name in ('loss', 'arcface', 'contrast', 'gradient_norm'):
      np.testing.assert_allclose(a[name], b[name], rtol=2e-3)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_and_its_encoder_is_what_was_evaluated(tmp_path, capsys):
  config = identity.get_config('runlocal')
  config.log_every = 1
  workdir = tmp_path / 'run'
  training.train(config, str(workdir), ONE_DEVICE)
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row['step'] for row in rows if 'loss' in row] == list(range(1, 11))
  reported = next(row for row in rows if 'eval/auc' in row)

  result = evaluate_checkpoint(config, str(workdir), str(workdir))
  assert result['auc'] == pytest.approx(reported['eval/auc'], abs=0.02)
  assert '| accuracy |' in capsys.readouterr().out
  assert json.loads((workdir / 'eval/verification.json').read_text())['people'] == 12

  shutil.rmtree(workdir / 'checkpoints' / '10')
  training.train(config, str(workdir), ONE_DEVICE)
  resumed = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  losses = lambda rows: {row['step']: row['loss'] for row in rows if 'loss' in row}
  assert losses(resumed) == losses(rows)
  assert (workdir / FILE).exists()


def test_shipped_encoders_are_small_and_tell_strangers_apart():
  sizes = [path.stat().st_size for path in shipped.ENCODERS.values()]
  assert sum(sizes) <= 2 * 2**20
  encoder = encoders.load_encoder('mobilefacenet', 'shipped_synthetic')
  strangers = SyntheticPeople('test', people=24, photographs=3, side=112)
  result = verification.verify_encoder(encoder, strangers)
  assert result['auc'] > 0.9


def test_the_shipped_encoder_of_real_people(shared):
  encoder = encoders.load_encoder('mobilefacenet', 'shipped_lfw')
  people = PhotoFolder(shared / 'faces' / 'lfw160' / 'val', side=160)
  assert verification.verify_encoder(encoder, people)['auc'] > 0.8
