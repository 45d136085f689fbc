"""The suite end to end on drawn faces: methods, protocols, the page, tables."""

import json
import re
import subprocess
import types

from etils import epath
import numpy as np
import pytest

from configs import triplets
from dfrec_jax import checkpointing, metrics
from dfrec_jax.errors import InputError
from dfrec_jax.recovery import Recovery
from dfrec_jax.suite import (
  __main__ as command,
)
from dfrec_jax.suite import (
  ablations,
  baselines,
  latex,
  page,
  protocols,
  robustness,
  running,
  summary,
)
from dfrec_jax.suite.collecting import Collector, Instruments
from dfrec_jax.suite.measuring import LandmarkMeasure, Remembered
from input_pipeline.sources import Spread
from input_pipeline.synthetic import SyntheticFaces
from input_pipeline.triplets import WithPristine

SIDE = 112


def _perfect(example):
  mask = np.asarray(example['mask'], np.float32)[..., 0]
  return Recovery(example['source'], example['target'], mask, 0.1 + 0.8 * float(example['label']))


def _thumbnail(images):
  """Stands for an identity encoder."""
  return np.stack([image[::8, ::8].reshape(-1).astype(np.float32) - 128 for image in images])


def _mesh(image):
  """Stands for a landmark finder: every face is in the same place."""
  points = np.stack(np.meshgrid(np.linspace(20, 90, 26), np.linspace(20, 90, 18)), -1)
  return points.reshape(-1, 2)


@pytest.fixture(scope='module')
def faces():
  return SyntheticFaces('eval', examples=6, image_size=SIDE)


@pytest.fixture(scope='module')
def collected(faces):
  train = SyntheticFaces('train', examples=5, image_size=SIDE)
  methods = baselines.make_methods(('telea', 'biharmonic', 'nearest'), lambda: train, 5)
  rivals = {'perfect': lambda examples, number: [_perfect(e) for e in examples]}
  encoders = {'': Remembered(_thumbnail), 'other': Remembered(_thumbnail)}
  instruments = Instruments(encoders=encoders, landmarks=LandmarkMeasure(_mesh))
  collector = Collector(methods, rivals, instruments)
  everything = WithPristine(faces)
  examples = [everything[i] for i in range(len(everything))]
  for start in range(0, len(examples), 5):
    batch = examples[start : start + 5]
    collector.add(batch, [_perfect(e) for e in batch])
  return collector, *collector.finish()


@pytest.fixture(scope='module')
def result(collected):
  _, rows, sets = collected
  known = {'sex': {rows.examples[0]['target_person']: 'f', rows.examples[1]['target_person']: 'm'}}
  return {
    'schema': 1,
    'checkpoint': 'runs/<x>',
    'step': 3,
    'data': 'drawn faces',
    'settings': {
      'resamples': 50,
      'examples': len(rows.examples),
      'trained_with': {'name': 'thumbnail', 'weights': 'FOLDER/other.npz'},
      'measured_with': {'name': 'thumbnail', 'weights': 'none'},
      'flatters': False,
    },
    **running.tables(rows, sets, known, resamples=50),
    'robustness': None,
  }


def test_a_perfect_recovery_has_perfect_figures(result):
  own = result['methods']['recovered']['all']
  assert own == result['methods']['perfect']['all']
  value = {name: figure['value'] for name, figure in own.items()}
  assert value['target_psnr'] == value['target_psnr_masked'] == value['source_psnr'] == 100
  for name in ('target_ssim', 'target_ms_ssim_masked', 'target_identity@other', 'source_top1'):
    assert value[name] == pytest.approx(1), name
  for name in ('target_top1_people', 'mask_boundary_f1', 'auc', 'accuracy', 'target_detail'):
    assert value[name] == pytest.approx(1), name
  assert value['eer'] == value['target_landmarks'] == 0
  assert value['calibration_error'] == pytest.approx(0.1)
  assert value['examples'] == 6
  attacks = [g for g in result['methods']['recovered'] if g not in ('all', 'pristine')]
  assert sum(result['methods']['recovered'][g]['examples']['value'] for g in attacks) == 6


def test_pristine_photographs_show_damage(result):
  groups = {name: of_method['pristine'] for name, of_method in result['methods'].items()}
  assert groups['recovered']['changed_pixels']['value'] == 0
  assert groups['recovered']['accuracy']['value'] == 1
  for name in ('auc', 'source_identity', 'source_psnr', 'target_psnr_masked', 'target_landmarks'):
    assert name not in groups['recovered']
  # The masks are empty, so that nothing was filled.
  assert groups['telea']['target_psnr']['value'] == 100


def test_baselines_are_measured_alike(result, faces):
  methods = {name: of_method['all'] for name, of_method in result['methods'].items()}
  copied = methods['copy']
  assert copied['changed_pixels']['value'] == 0
  assert 'auc' not in copied and 'mask_iou' not in copied and 'source_identity' in copied
  psnr = [metrics.psnr(faces[i]['forged'], faces[i]['target']) for i in range(len(faces))]
  assert copied['target_psnr']['value'] == pytest.approx(np.mean(psnr))
  assert copied['target_psnr']['low'] <= np.mean(psnr) <= copied['target_psnr']['high']
  for name in ('telea', 'biharmonic', 'nearest'):
    assert 0.02 < methods[name]['changed_pixels']['value'] < 0.6
    assert methods[name]['target_psnr']['value'] < 60
  assert 'source_identity' in methods['nearest'] and 'source_identity' not in methods['telea']


def test_groups_hold_the_people_that_were_covered(result):
  groups = result['groups']['recovered']
  assert set(groups) == {'sex: f', 'sex: f, pristine', 'sex: m', 'sex: m, pristine'}
  assert all(group['examples']['value'] >= 1 for group in groups.values())
  assert 'auc' in groups['sex: f'] and 'auc' not in groups['sex: f, pristine']
  assert 'source_identity' not in groups['sex: m, pristine']


def test_a_group_is_judged_by_its_own_people():
  people = ('ann', 'bob')
  example = lambda label, person: {
    'attack': 'x', 'label': label, 'source_person': 'eve', 'target_person': person
  }  # fmt: skip
  examples = [example(label, person) for label in (1, 0) for person in people]
  # Of bob alone an honest photograph is taken for forged.
  scores = [0.9, 0.9, 0.1, 0.95]
  rows = summary.Rows(examples, {'recovered': [{'score': s} for s in scores]})
  groups = protocols.group_indices(rows, {'who': {person: person for person in people}})
  assert groups['who: bob'].tolist() == [1] and groups['who: bob, pristine'].tolist() == [3]
  found = summary.summarise(rows, groups, resamples=5, own_pristine=True)['recovered']
  assert found['who: ann']['auc']['value'] == found['who: ann']['accuracy']['value'] == 1
  assert found['who: bob']['auc']['value'] == 0
  assert found['who: bob, pristine']['accuracy']['value'] == 0
  everybody = summary.summarise(rows, groups, resamples=5)['recovered']
  assert everybody['who: ann']['auc']['value'] == 0.5


def test_a_pooled_psnr_is_not_lifted_by_what_is_untouched():
  weights = np.float32([[1, 1], [2, 0], [0, 2]])
  pooled = summary.pooled_psnr(np.array([100.0, 20.0]), weights)
  assert pooled['value'] == pytest.approx(10 * np.log10(2 / 0.01), abs=1e-3)
  assert pooled['low'] < pooled['value'] < pooled['high']


def test_a_set_without_forged_photographs_has_figures():
  row = {'attack': 'pristine', 'label': 0, 'source_person': 'a', 'target_person': 'a'}
  rows = summary.Rows([row], {'recovered': [{'score': 0.2, 'target_psnr': 30.0}]})
  found = summary.summarise(rows, rows.groups(), resamples=5)['recovered']
  assert found['all'] == {'examples': {'value': 0, 'low': None, 'high': None}}
  assert found['pristine']['target_psnr']['value'] == 30


def test_landmarks_are_compared_where_all_are_found(faces):
  calls = iter([_mesh(None), _mesh(None), None, _mesh(None), _mesh(None) + 3, _mesh(None)])
  measure = LandmarkMeasure(lambda image: next(calls))
  answers = {name: baselines.Answer(faces[0]['target']) for name in ('one', 'other')}
  assert measure(faces[0], answers) == {
    'one': {'target_landmarks_found': 1.0},
    'other': {'target_landmarks_found': 0.0},
  }
  found = measure(faces[0], answers)
  assert found['one']['target_landmarks'] > 0 == found['other']['target_landmarks']


@pytest.mark.parametrize('measure', ['shipped_lfw', 'shipped_synthetic'])
def test_the_encoder_that_trained_measures_too_unless_it_is_the_one(measure):
  config = triplets.get_config('runlocal')
  config.metric_encoder.weights = measure
  trained = {'name': 'mobilefacenet', 'weights': 'shipped_lfw'}
  found = running._encoders(config, types.SimpleNamespace(embed=_thumbnail), trained)
  assert set(found) == ({''} if measure == 'shipped_lfw' else {'', 'training'})
  absent = {**trained, 'weights': 'missing.npz'}
  assert set(running._encoders(config, types.SimpleNamespace(embed=_thumbnail), absent)) == {''}


def test_batches_are_numbered_from_the_first_that_is_given():
  numbers = []
  run = protocols.batched(
    lambda batch, number: numbers.append(number) or batch[1], batch_size=2, image_size=8
  )
  examples = [{'forged': np.zeros((8, 8, 3), np.uint8), 'i': i} for i in range(3)]
  assert run(examples) == run(examples, 5) == examples
  assert numbers == [0, 1, 5, 6]


def test_encoders_are_one_by_what_is_in_their_files(tmp_path):
  for name, content in (('a.npz', b'1'), ('b.npz', b'1'), ('c.npz', b'2')):
    (tmp_path / name).write_bytes(content)
  of = lambda name, kind='mobilefacenet': {'name': kind, 'weights': str(tmp_path / name)}
  assert running.same_weights(of('a.npz'), of('b.npz'))
  assert not running.same_weights(of('a.npz'), of('c.npz'))
  assert not running.same_weights(of('a.npz'), of('b.npz', 'iresnet'))
  assert not running.same_weights(of('missing.npz'), of('gone.npz'))
  assert not running.same_weights(None, of('a.npz'))


def test_groups_are_read_from_a_file(tmp_path):
  path = tmp_path / 'people.csv'
  path.write_text('person,sex,skin_tone\nann,f,3\nbob,m,\n')
  assert protocols.read_groups(path) == {'sex': {'ann': 'f', 'bob': 'm'}, 'skin_tone': {'ann': '3'}}
  path.write_text('name,sex\nann,f\n')
  with pytest.raises(InputError, match='needs a column person'):
    protocols.read_groups(path)


def test_examples_survive_their_file(collected, tmp_path):
  _, rows, _ = collected
  path = epath.Path(tmp_path / 'examples.csv')
  protocols.write_examples(rows, path)
  read = protocols.read_examples(path)
  assert read.examples == rows.examples
  for method in rows.methods:
    for name in rows.names(method):
      found, expected = (r.values(method, name) for r in (read, rows))
      np.testing.assert_allclose(found, expected, rtol=1e-5, equal_nan=True)


def test_the_page_holds_everything_and_calls_nothing(collected, result, faces):
  collector, rows, _ = collected
  robust = protocols.robustness_curves(
    lambda examples: [_perfect(e) for e in examples],
    Spread(faces, 1),
    Remembered(_thumbnail),
    resamples=10,
    report=lambda title: None,
  )
  curve = robust['curves']['jpeg']['points']
  assert [point['level'] for point in curve] == list(robustness.CORRUPTIONS['jpeg'].levels)
  assert all(point['recovered']['target_psnr']['value'] == 100 for point in curve)
  copied = [point['copy']['target_psnr']['value'] for point in robust['curves']['noise']['points']]
  assert copied == sorted(copied, reverse=True)
  values = rows.values('copy', 'target_psnr')
  choices = collector.showcase.choose(values, [f'{v:.1f}' for v in values], each=1)
  assert [c.kind for c in choices] == ['best', 'median', 'worst']
  assert values[choices[0].number] == np.nanmax(values[:6])
  assert values[choices[2].number] == np.nanmin(values[:6])
  html = page.render({**result, 'robustness': robust}, rows, choices)
  assert 'runs/&lt;x&gt;' in html
  assert 'runs/<x>' not in html
  assert 'thumbnail (none)' in html and 'thumbnail (other.npz)' in html
  for title in ('All methods', 'Pristine photographs', 'Robustness', 'Groups of people', 'Worst'):
    assert f'{title}' in html
  assert html.count('<svg') == 2 + 4 * len(robustness.CORRUPTIONS)
  assert 'nan' not in re.sub(r'base64,[^"]*', '', html).lower()
  assert "default-src 'none'" in html
  assert not re.search(r'(src|href)="(?!data:)', html)
  assert '<script' not in html
  json.dumps({**result, 'robustness': robust}, allow_nan=False)


@pytest.mark.parametrize('name', robustness.CORRUPTIONS)
def test_damage_grows_with_the_level_and_repeats(name, faces):
  corruption = robustness.CORRUPTIONS[name]
  example = {'forged': faces[0]['forged'][:111, :109], 'label': 1}
  damaged = [robustness.corrupt(example, corruption, level, 7) for level in corruption.levels]
  errors = [np.abs(d['forged'].astype(int) - example['forged']).mean() for d in damaged]
  assert all(d['forged'].shape == (111, 109, 3) for d in damaged)
  assert errors[0] > 0
  if name != 'screenshot':
    assert errors == sorted(errors)
  again = robustness.corrupt(example, corruption, corruption.levels[0], 7)
  np.testing.assert_array_equal(again['forged'], damaged[0]['forged'])


def test_names_and_values():
  assert baselines.named_pairs('a=x, b=y:z', 'it') == {'a': 'x', 'b': 'y:z'}
  for wrong in ('a', 'a=', 'a=1,a=2'):
    with pytest.raises(InputError, match=r'it is .*write name=value'):
      baselines.named_pairs(wrong, 'it')
  with pytest.raises(InputError, match='Unknown baseline'):
    baselines.make_methods(('telia',), None, 0)


def test_latex(result, tmp_path):
  path = tmp_path / 'protocols.json'
  path.write_text(json.dumps(result))
  table = command.main(['latex', str(path), '--columns=target_psnr,eer,auc', '--intervals'])
  assert table.startswith('\\begin{tabular}{lrrr}\n\\toprule\n & PSNR $\\uparrow$ & EER')
  assert 'recovered & \\textbf{100.00} & \\textbf{0.0\\%} & \\textbf{1.000} \\\\' in table
  assert re.search(r'copy & \d+\.\d\d & -- & -- \\\\', table)
  assert '[' in table
  with pytest.raises(InputError, match="no figure 'psnr'"):
    command.main(['latex', str(path), '--columns=psnr'])
  # metrics.json has bare numbers.
  path.write_text(json.dumps({'recovered': {'all': {'auc': 0.5, 'eer': None}}}))
  assert 'recovered & 0.500' in latex.latex_table(latex.read_methods(path), ['auc', 'eer'], ['all'])


def test_the_sweep_changes_what_it_says_and_nothing_else(tmp_path):
  config = triplets.get_config('runlocal')
  config.loss.weights.identity = 0.1
  known = ablations.ablations_of(config)
  assert {'full', 'no_ism_mask', 'no_target_tokens', 'random_masking', 'unet'} <= set(known)
  assert 'no_identity_loss' in known and 'no_perceptual_loss' not in known
  for name, ablation in known.items():
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(ablation.settings)
    checkpointing.build_model(changed.model).check_settings()
    further = ['--config.masking.end_step=9', '--config.loss.weights.identity=0.2']
    training, evaluation = ablations.commands('C', tmp_path, name, ablation, further)
    # What the ablation sets comes after what the user gives.
    settings = [f'--config.{field}={value}' for field, value in ablation.settings.items()]
    assert training == [*training[:5], *further, *settings]
    assert evaluation[: len(training)] == training and '--mode=eval' in evaluation


def test_a_sweep_is_not_done_twice_nor_mixed(tmp_path, monkeypatch):
  ran = []

  def run(line, check):
    ran.append(line)
    folder = epath.Path(next(a for a in line if a.startswith('--workdir=')).partition('=')[2])
    failed = 'no_curriculum' in str(folder)
    if '--mode=eval' in line:
      (folder / 'eval').mkdir(parents=True)
      (folder / 'eval' / protocols.FILE).write_text('{}')
    return subprocess.CompletedProcess(line, int(failed))

  monkeypatch.setattr(ablations.subprocess, 'run', run)
  chosen = {name: ablations.PARTS[name] for name in ('full', 'no_curriculum', 'unet')}
  sweep = lambda *further: ablations.run_sweep('C', tmp_path, chosen, further)
  assert sweep('--config.seed=1') == ['no_curriculum']
  assert len(ran) == 5  # The one that fails in training is not evaluated.
  assert sweep('--config.seed=1') == ['no_curriculum']
  assert len(ran) == 6
  with pytest.raises(InputError, match='begun with other arguments'):
    sweep('--config.seed=2')
  assert len(ran) == 6


def test_a_sweep_is_collected_in_pairs(collected, result, tmp_path):
  _, rows, _ = collected
  worse = summary.Rows(rows.examples, {'recovered': rows.methods['copy']})
  for name, of in (('full', rows), ('no_ism_mask', worse)):
    folder = epath.Path(tmp_path / name / 'eval')
    protocols.write_examples(of, folder / protocols.EXAMPLES)
    methods = running.tables(of, {'recovered': {}}, {}, resamples=20) if name != 'full' else result
    (folder / protocols.FILE).write_text(json.dumps({'methods': methods['methods']}))
  chosen = {name: ablations.PARTS[name] for name in ('full', 'no_ism_mask', 'unet')}
  found = ablations.collect(tmp_path, chosen, resamples=50)
  assert set(found['methods']) == {'full', 'no_ism_mask'}
  lost = found['differences']['no_ism_mask']['target_psnr']
  copied = result['methods']['copy']['all']['target_psnr']['value']
  assert lost['value'] == pytest.approx(copied - 100, abs=1e-3)
  assert lost['high'] < 0
  with pytest.raises(InputError, match='full'):
    ablations.collect(tmp_path / 'none', chosen)
