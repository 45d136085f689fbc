"""The benchmark: its formulas against XLA, what it writes, what it refuses, and its peer."""

import functools
import gzip
import json
import pathlib
import subprocess
import sys
import types

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ffpp
from dfrec_jax import checkpointing, sharding
from dfrec_jax.benchmark import (
  chips,
  commands,
  counts,
  encoder_flops,
  flops,
  generated,
  measure,
  modules,
  plots,
  profiling,
  suite,
  sweep,
  tables,
  timing,
  training,
)
from dfrec_jax.convert import torch_files
from dfrec_jax.errors import InputError
from dfrec_jax.models.dfrec import PUBLISHED, Outputs
from dfrec_jax.objective import Encoders, objective
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.train_state import plan_state

ROOT = pathlib.Path(__file__).resolve().parents[1]
ONE_DEVICE = jax.devices()[:1]
PEAK = timing.Peak(1e11, 1e10, 'given')
# Every part is there, and compiles in seconds.
TINY = 'test+ism_depth=0.1+aspp_channels=8+detail_channels=+sirm_widths=8-8-8-8-16'


@pytest.fixture(scope='module', autouse=True)
def quick_compiler():
  """What is measured here need not be fast."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


def config(size=TINY, side=16, batch=2, **model):
  result = ffpp.get_config('runlocal')
  result.model.update({'size': size, 'image_size': side, 'dtype': 'float32', 'remat': 'none'})
  result.model.update(model)
  result.data.image_size = side
  result.batch_size = batch
  return result


def xla_flops(function, *args):
  """XLA's count before it compiles; loops count as one turn."""
  return jax.jit(function).lower(*args).cost_analysis()['flops']


@pytest.mark.parametrize('refinement', [0, 32])
def test_formula_of_recovery_is_what_xla_counts(refinement):
  # One layer a loop, and wide enough that products lead.
  given = config('L/16+depth=1', 64)
  given.model.refinement = refinement
  model = checkpointing.build_model(given.model)
  init = functools.partial(checkpointing.init_variables, model)
  variables = nn.unbox(jax.eval_shape(init, jax.random.key(0)))
  key = jax.eval_shape(lambda: jax.random.key(0))
  formula = flops.recover_flops(given.model, 2, pointwise=True)
  calls = modules.calls(model, 2, train=False)
  assert set(calls) == {'ism', 'sirm', 'tirm'}
  for name, call in calls.items():
    own = {kind: tree[name] for kind, tree in variables.items() if name in tree}
    counted = xla_flops(call.forward(), own, key, *call.args)
    np.testing.assert_allclose(counted, formula[name], rtol=0.05, err_msg=name)


def test_formula_of_a_training_step_is_what_xla_counts(monkeypatch):
  # On small maps the padding, which sums of shifted products count, is too much of the ISM.
  given = config('S/16+depth=1+decoder_depth=1+ism_depth=0.25', 224)
  given.loss.weights.perceptual = 0.1

  def only_lower(function, *args):
    traced = function.trace(*args)
    return timing.Program(traced, traced.lower(), None, 0.0)

  def plan_without_values(*args):
    _, abstract = plan_state(*args)
    return lambda key: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract), abstract

  monkeypatch.setattr(training, 'compile_program', only_lower)
  monkeypatch.setattr(training, 'plan_state', plan_without_values)
  mesh = sharding.make_mesh(given.mesh, ONE_DEVICE)
  with jax.set_mesh(mesh):
    built = training.TrainingParts(given, mesh)
  formula = flops.train_flops(given.model, 2, twins=True, encoders=built.encoders, pointwise=True)
  counted = {
    name: part.program.lowered.cost_analysis()['flops'] for name, part in built.parts.items()
  }
  assert set(counted) == {'step', 'ism', 'sirm', 'tirm', 'encoders', 'optimizer'}
  np.testing.assert_allclose(counted['step'], sum(formula.values()), rtol=0.05)
  for name in ('ism', 'sirm', 'tirm', 'encoders'):
    np.testing.assert_allclose(counted[name], formula[name], rtol=0.05, err_msg=name)


def test_loops_are_counted_by_their_turns():
  product = lambda x, w: (x @ w, None)

  def loop(weights, x):
    x, _ = jax.lax.scan(product, x, weights)
    return jax.lax.scan(lambda x, _: (jax.lax.scan(product, x, weights)[0], None), x, length=3)[0]

  weights, x = jnp.zeros((5, 16, 16)), jnp.zeros((8, 16))
  program = timing.compile_program(jax.jit(loop), weights, x)
  of_one = 2 * 8 * 16 * 16
  assert program.compiled.cost_analysis()['flops'] < 3 * of_one  # Each loop's body once.
  np.testing.assert_allclose(program.counts[0], (5 + 3 * 5) * of_one, rtol=0.02)
  assert program.counts[1] > program.compiled.cost_analysis()['bytes accessed']
  assert program.memory['arguments'] == weights.nbytes + x.nbytes


def test_formula_grows_with_depth_width_and_patches():
  of = lambda size, side=224: flops.forward_counts(config(size, side).model)['tirm'].products
  tokens, width = 1 + 98, 1024
  block = 2 * tokens * (4 + 8) * width**2 + 4 * tokens**2 * width
  np.testing.assert_allclose(of('L/16') - of('L/16+depth=23'), block)
  assert 4 < of('L/16', 448) / of('L/16') < 5  # Four times the tokens; attention grows faster.


def test_recomputation_is_counted_apart():
  model = config('L/16', 224).model
  forward = flops.recover_flops(model, 3, pointwise=True)
  model.remat = 'full'
  again = flops.recomputed_flops(model, 3)
  assert again['sirm'] == forward['sirm']
  assert 0.9 < again['tirm'] / forward['tirm'] < 1
  model.remat = 'none'
  assert not flops.recomputed_flops(model, 3)


@pytest.mark.parametrize(
  ('side', 'kernel', 'stride', 'dilation', 'pad'),
  [(7, 3, 1, 1, (1, 1)), (8, 5, 2, 1, (1, 2)), (5, 3, 1, 4, (4, 4))],
)
def test_taps_outside_the_image_are_not_counted(side, kernel, stride, dilation, pad):
  inside = np.pad(np.ones(side, int), pad)
  last = len(inside) - dilation * (kernel - 1)
  wanted = sum(
    inside[start + dilation * k] for start in range(0, last, stride) for k in range(kernel)
  )
  assert counts.taps(side, kernel, stride, dilation, pad) == wanted


@pytest.mark.parametrize('name', ['vgg19', 'mobilefacenet'])
def test_formula_of_a_frozen_encoder(name):
  encoder = generated.random_encoder(name)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  counted = xla_flops(lambda params, x: encoder.both(params, x)[1], encoder.params, image)
  formula = encoder_flops.forward_count(name, 64)
  np.testing.assert_allclose(counted, formula.forward + formula.pointwise, rtol=0.05)


def test_encoders_without_weights_are_random_and_known_by_name():
  loss = config().loss
  loss.weights.update(identity=1.0, perceptual=1.0)
  encoders, names = generated.load_encoders(loss)
  assert names == ['mobilefacenet', 'vgg19']
  assert set(encoders.params) == {'identity', 'perceptual'}
  loss.identity_encoder.name = 'other'
  with pytest.raises(InputError, match=r'Unknown encoder .*; the encoders are mobilefacenet'):
    generated.load_encoders(loss)
  with pytest.raises(InputError, match='no FLOP formula for encoder'):
    encoder_flops.forward_count('inception_resnet_v1', 64)


def test_chips():
  assert set(chips.CHIPS) == {'v4', 'v5e', 'v5p', 'v6e', 'A100', 'H100', 'H200'}
  for chip in chips.CHIPS.values():
    assert chip.source.startswith('https://')
    # From what on a program is bound by products, FLOP a byte: no chip of these is far from it.
    assert 100 < chip.flops['bfloat16'] / chip.hbm_bandwidth < 700
    assert bool(chip.ici_bandwidth) != bool(chip.nvlink_bandwidth)
  of_tpus = {c.name: c.hbm_bytes / 2**30 for c in chips.CHIPS.values() if c.ici_bandwidth}
  assert of_tpus == {'v4': 32, 'v5e': 16, 'v5p': 95, 'v6e': 32}
  of = lambda kind: chips.chip_of(types.SimpleNamespace(device_kind=kind))
  assert of('TPU v5 lite').name == 'v5e'
  assert of('TPU v5').name == 'v5p'
  assert of('NVIDIA H100 80GB HBM3').name == 'H100'
  assert of('NVIDIA H100 PCIe') is None


def test_rounds_take_turns_and_end():
  order = []
  runs = {name: functools.partial(order.append, name) for name in 'ab'}
  times = timing.rounds(runs, repeats=4, seconds=60)
  assert order == list('ab' * 5)  # One is unmeasured.
  assert len(times['a']) == len(times['b']) == 4
  assert len(timing.rounds(runs, repeats=1000, seconds=0)['a']) == 3
  assert timing.ratio([1.0, 2.0, 2.0], [2.0, 4.0, 8.0]) == 2.0


def test_training_is_reported_by_part(monkeypatch):
  product, x = jax.jit(lambda x: x @ x), jnp.ones((64, 64))
  program = timing.compile_program(product, x)
  part = training.Part(program, lambda: product(x))
  built = types.SimpleNamespace(parts=dict.fromkeys(('step', 'ism'), part), encoders=['vgg19'])
  monkeypatch.setattr(measure, 'TrainingParts', lambda *args, **kwargs: built)
  given = config()
  report, _ = measure.measure(given, 'train', devices=ONE_DEVICE, repeats=3, seconds=1, peak=PEAK)
  assert list(report['parts']) == ['ism', 'input', 'rest']
  assert report['parts']['input']['source'] == 'synthetic'
  whole = report['step']
  assert whole['flops'] == sum(flops.train_flops(given.model, 2, encoders=['vgg19']).values())
  assert whole['xla_flops'] == program.counts[0]
  np.testing.assert_allclose(report['examples_per_second'], 2e3 / whole['milliseconds'])
  np.testing.assert_allclose(whole['mfu'], whole['flops'] / whole['milliseconds'] / 1e8)
  assert report['memory']['device_peak_bytes'] is None
  assert report['memory']['resident_peak_bytes'] > report['memory']['planned_peak_bytes'] > 0
  table = tables.report_table(report)
  assert all(f'| {name} ' in table for name in ('ism', 'input', 'rest', 'whole'))


def published():
  given = config()
  given.model.update({k: v for k, v in PUBLISHED.items() if k not in ('size', 'image_size')})
  return given


def test_recovery_is_measured_by_part_traced_and_written(tmp_path, capsys):
  output, trace = commands.Output(str(tmp_path)), tmp_path / 'trace'
  settings = {'devices': ONE_DEVICE, 'repeats': 3, 'seconds': 1, 'peak': PEAK}
  commands.measure(published(), 'recover', output, str(trace), **settings)
  report = json.loads((tmp_path / 'recover.json').read_text())
  assert list(report['parts']) == ['ism', 'sirm', 'tirm', 'rest']
  known = sum(row['milliseconds'] for row in report['parts'].values())
  np.testing.assert_allclose(known, report['step']['milliseconds'])
  np.testing.assert_allclose(report['parts']['sirm']['xla_to_formula'], 1, rtol=0.1)
  printed = capsys.readouterr().out
  assert '| sirm ' in printed and 'most time' in printed
  costs = json.loads((tmp_path / 'costs.json').read_text())
  assert {cost['place'].split('/')[0] for cost in costs} & {'ism', 'sirm', 'tirm'}
  assert list(trace.glob('plugins/profile/*/*.xplane.pb'))
  assert not list(tmp_path.glob('.*'))


def test_pytorch_recovers_the_same():
  pytest.importorskip('torch')
  from dfrec_jax.benchmark import peer

  report = peer.compare(
    published(), 'recover', devices=ONE_DEVICE, kinds=('eager',), repeats=3, seconds=1
  )
  assert report['equal'], report['difference']
  assert set(report['ratios']) == {'eager'}
  assert 'JAX is faster by' in tables.peer_table(report)


def test_pytorch_trains_on_the_same_objective():
  torch = pytest.importorskip('torch')
  from dfrec_jax.benchmark import torch_side
  from dfrec_jax.convert import torch_modules

  given = config(dropout=0.0, drop_connect=0.0)
  given.loss.weights.anchor = 0.0
  model = torch_modules.DFREC.from_config(given.model)
  dictionaries = {
    key: {name: x.numpy() for name, x in getattr(model, part).state_dict().items()}
    for part, key in torch_files.DICTIONARIES.items()
  }
  batch = jax.device_get(training.random_batch(given, sharding.make_mesh(given.mesh, ONE_DEVICE)))
  side = torch_side.Training(given, dictionaries, batch)
  partition = np.tile([0, 3], (2, 1)), np.tile([1, 2], (2, 1))
  found = side.first_step(partition)
  images = {k: jnp.asarray(batch[k], jnp.float32) / 255 for k in ('forged', 'source', 'target')}
  nchw = lambda x: torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)
  given_partition = torch_modules.Partition(*map(torch.from_numpy, partition))
  out = model.train()(nchw(images['forged']), guide=nchw(batch['mask']), partition=given_partition)
  last = lambda x: jnp.asarray((x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().numpy())
  outputs = Outputs(**{name: last(x) for name, x in out._asdict().items()})
  truth = {**batch, **images, 'has_mask': np.ones(2, bool), 'label': np.ones(2, np.int32)}
  loss, _ = objective(outputs, truth, Encoders(), {}, given.loss.weights)
  np.testing.assert_allclose(found['loss'], loss, rtol=1e-4)
  assert found['gradient_norm'] > 0


def test_peer_refuses_what_pytorch_cannot_do():
  with pytest.raises(InputError, match='--peer=torch measures train or recover, not input'):
    commands.peer(config(), 'input', commands.Output(''), kinds=('eager',))
  with pytest.raises(InputError, match='--peer_kinds is other'):
    commands.peer(config(), 'train', commands.Output(''), kinds=('other',))


def point(**changes):
  base = dict(axis='size', size='S/16', image_size=224, batch=4, devices=1, fits=True)
  base |= dict(milliseconds=10.0, examples_per_second=400.0, mfu=0.5, flops=1e9)
  return base | dict(compile_seconds=1.0, planned_peak_bytes=2**30, state_bytes=2**28) | changes


def test_sweeps_are_tabled_and_drawn(tmp_path):
  points = [point(), point(size='L/16', flops=4e9, milliseconds=40.0), point(fits=False)]
  assert 'does not fit' in tables.points_table(points)
  figures = sweep.cost_plots([*points, point(axis='image_size', image_size=112)], 'train')
  assert set(figures) == {'time_size', 'memory_size', 'time_image_size', 'memory_image_size'}
  commands.Output(str(tmp_path)).figure('plot', sweep.sweep_plot(points, 'train'))
  assert (tmp_path / 'plot.png').stat().st_size > 1000
  with pytest.raises(ValueError, match='no point'):
    plots.plot([plots.Curve('none', [1], [None])], title='', x_label='', y_label='')
  with pytest.raises(InputError, match='--devices asks for 99'):
    sweep.sweep(config(), 'train', batches=[2], devices=[99])


def test_a_killed_sweep_leaves_its_points(tmp_path, monkeypatch):
  def measure(config, what, **settings):
    if config.batch_size == 4 or config.model.size == 'L/16':
      raise KeyboardInterrupt
    row = {'milliseconds': 1.0, 'mfu': 0.5, 'flops': 1e9, 'compile_seconds': 1.0}
    report = {'examples_per_second': 1.0, 'memory': {'planned_peak_bytes': 2**30}}
    return report | {sweep.WHOLE: row}, {}

  monkeypatch.setattr(sweep, 'measure', measure)
  monkeypatch.setattr(timing, 'peak_of', lambda *unused: PEAK)
  output = commands.Output(str(tmp_path))
  with pytest.raises(KeyboardInterrupt):
    commands.sweep(config(), 'recover', output, [1, 2, 4], [1])
  points = json.loads((tmp_path / 'sweep_recover.json').read_text())
  assert [p['batch'] for p in points] == [1, 2]
  with pytest.raises(KeyboardInterrupt):
    commands.cost_with_size(config(), 'train', output, [TINY, 'L/16'], [32])
  points = json.loads((tmp_path / 'cost_train.json').read_text())
  assert [(p['axis'], p['size'], p['image_size']) for p in points] == [
    ('image_size', TINY, 32),
    ('size', TINY, 16),
  ]


def test_the_state_is_a_close_lower_bound_of_parameters_and_optimizer():
  given = config('S/16', 224)
  model = checkpointing.build_model(given.model)
  mesh = sharding.make_mesh(given.mesh, ONE_DEVICE)
  init = functools.partial(checkpointing.init_variables, model)
  _, state = plan_state(init, make_optimizer(given.optimizer, 10)[0], mesh)
  size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
  assert 0.98 < flops.state_bytes(given.model, train=False) / size(state.params) < 1
  whole = size([state.params, state.opt_state, state.ema['params']])
  assert 0.98 < flops.state_bytes(given.model, train=True) / whole < 1


def test_a_trace_is_summed_by_module(tmp_path):
  text = """
    %fusion.1 = f32[8] fusion(), metadata={op_name="jit(step)/jvp(DFREC)/sirm/encoder_1/conv_1/c"}
    ROOT %dot.2 = f32[8] dot(), metadata={op_name="jit(step)/transpose(jvp(DFREC))/tirm/dot"}
  """
  event = lambda op, start, duration: dict(
    ph='X', pid=1, tid=1, ts=start, dur=duration, args={'hlo_op': op}
  )
  # The first contains the second, whose time is not counted twice.
  events = [event('fusion.1', 0, 10), event('dot.2', 2, 4), event('unknown', 20, 5)]
  folder = tmp_path / 'plugins' / 'profile' / 'now'
  folder.mkdir(parents=True)
  with gzip.open(folder / 'host.trace.json.gz', 'wt') as file:
    json.dump({'traceEvents': events}, file)
  found = profiling.largest_costs(str(tmp_path), text)
  assert found == [
    {'place': 'sirm/encoder_1/conv_1', 'pass': 'forward', 'share': 0.6},
    {'place': 'tirm', 'pass': 'backward', 'share': 0.4},
  ]


def test_a_suite_keeps_within_its_time_and_goes_on_after_a_failure(tmp_path):
  calls = []

  def start(command, *, timeout, **unused):
    calls.append((command, timeout))
    if '--peer=torch' in command:
      raise subprocess.TimeoutExpired(command, timeout)
    return types.SimpleNamespace(returncode=len(calls) % 2)

  found = suite.run('c.py', tmp_path, budget=500, flags=['--config.seed=1'], start=start)
  assert [entry['status'] for entry in found] == [
    'failed',
    'done',
    'failed',
    'done',
    'stopped',
    'stopped',
  ]
  assert sum(timeout for _, timeout in calls[:1]) < 500
  assert all('--config.seed=1' in command and '--batch=64' in command for command, _ in calls)
  assert json.loads((tmp_path / 'suite.json').read_text())[-1]['name'] == 'peer_recover'
  left_out = suite.run('c.py', tmp_path, budget=1, start=start)
  assert {entry['status'] for entry in left_out} == {'left out'}


def test_a_suite_keeps_activations_and_passes_flags_on(tmp_path):
  command = [sys.executable, '-m', 'dfrec_jax.benchmark', '--suite=gpu', '--budget=1']
  command += ['--config=configs/ffpp.py:runlocal', f'--output={tmp_path}']

  def commands_with(*given):  # So little time that all are left out.
    subprocess.run([*command, *given], cwd=ROOT, check=True, capture_output=True)
    return [entry['command'] for entry in json.loads((tmp_path / 'suite.json').read_text())]

  given = ['--repeats=3', '--seconds=2.5', '--published', '--config.seed=1']
  for found in commands_with(*given, '--peer_kinds=eager'):
    assert {*given, '--config.model.remat=none'} <= set(found)
    assert ('--peer_kinds=eager' in found) == ('--peer=torch' in found)
  for found in commands_with('--config.model.remat=dots'):
    assert [x for x in found if 'remat' in x] == ['--config.model.remat=dots']
    assert not [x for x in found if x.startswith(('--repeats', '--peer_kinds'))]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--batch=x'], '--batch is x; give numbers of at least 1.'),
    (['--batch=1,2'], '--batch takes several numbers only with --sweep or --plan.'),
    (['--sweep', '--peer=torch'], '--peer and --sweep exclude each other; give one.'),
    (['--suite=gpu'], '--suite needs --output=FOLDER.'),
    (
      ['--suite=gpu', '--output=x', '--what=train', '--noparts'],
      '--suite says --what and --parts of each item itself; leave it out.',
    ),
    (['--trace'], '--trace needs --output=FOLDER, or name a folder with --profile.'),
    (['--what=other'], 'flag --what=other: value should be one of <train|recover|input>'),
  ],
)
def test_bad_flags_are_one_sentence(arguments, message):
  command = [sys.executable, '-m', 'dfrec_jax.benchmark', '--config=configs/ffpp.py:runlocal']
  done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1].rstrip('.') == f'Error: {message}'.rstrip('.')


def test_only_a_plan_has_a_configuration_of_its_own():
  command = [sys.executable, '-m', 'dfrec_jax.benchmark', '--what=input']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.strip().startswith('Error: --config is missing; name one')
