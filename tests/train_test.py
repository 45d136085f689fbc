"""Training runs: resuming bit for bit, stopping, meshes, and what is refused."""

import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from configs import quickstart
from dfrec_jax import checkpointing, sharding, train
from dfrec_jax.errors import InputError
from dfrec_jax.metric_logging import MetricLogger, NonFiniteError
from dfrec_jax.model_file import write_model_file
from dfrec_jax.objective import Encoders
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.train_state import plan_state
from dfrec_jax.train_step import make_train_step

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = quickstart.get_config('runlocal').steps
ONE_DEVICE = jax.devices()[:1]  # A program for eight takes long to compile.


def _config(**changes):
  config = quickstart.get_config('runlocal')
  config.update(changes)
  return config


def _start(workdir, *settings) -> subprocess.Popen:
  """A run of its own process on one device: 10 steps, a checkpoint every 2.

  Settings must not change the program, which takes a minute to compile and is cached.
  """
  command = [
    sys.executable, '-m', 'dfrec_jax.main', '--config=configs/quickstart.py:runlocal',
    f'--workdir={workdir}', f'--compilation_cache={jax.config.jax_compilation_cache_dir}', *settings
  ]  # fmt: skip
  return subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


def _finish(process: subprocess.Popen, code: int = 0) -> str:
  output, _ = process.communicate(timeout=600)
  assert process.returncode == code, output[-3000:]
  return output


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  _finish(_start(workdir))
  return workdir


def _losses(workdir) -> dict[int, float]:
  lines = (pathlib.Path(workdir) / MetricLogger.FILE).read_text().splitlines()
  return {row['step']: row['loss'] for row in map(json.loads, lines) if 'loss' in row}


def _wait_for_step(workdir, step: int, process: subprocess.Popen) -> None:
  path = pathlib.Path(workdir) / MetricLogger.FILE
  deadline = time.monotonic() + 500
  while time.monotonic() < deadline:
    if path.exists() and f'{{"step": {step},' in path.read_text():
      return
    assert process.poll() is None, process.communicate()[0][-3000:]
    time.sleep(0.02)
  raise TimeoutError(f'{workdir} did not reach step {step}.')


@pytest.mark.slow
def test_an_interrupted_run_repeats_an_uninterrupted_one_bit_for_bit(trained, tmp_path):
  broken = tmp_path / 'broken'
  process = _start(broken)
  _wait_for_step(broken, 3, process)
  process.send_signal(signal.SIGTERM)
  _finish(process)  # It saved where it was, whatever the interval, and exited cleanly.
  stopped_at = max(_losses(broken))
  assert stopped_at < STEPS
  assert (broken / 'checkpoints' / str(stopped_at)).is_dir()

  process = _start(broken)
  _wait_for_step(broken, stopped_at + 3, process)
  process.kill()
  process.wait()

  _finish(_start(broken))
  assert _losses(broken) == _losses(trained)
  assert list(_losses(broken)) == list(range(1, STEPS + 1))


def _batch(config, seed=0):
  rng = np.random.default_rng(seed)
  size, side = config.batch_size, config.model.image_size
  image = lambda: rng.integers(0, 256, (size, side, side, 3), np.uint8)
  mask = np.zeros((size, side, side, 1), np.float32)
  mask[:, 8:24, 8:24] = 1
  return {
    'forged': image(),
    'source': image(),
    'target': image(),
    'mask': mask,
    'has_mask': np.ones(size, bool),
    'label': (np.arange(size) % 2).astype(np.int32),
  }


def _setup(config):
  """The initial state and the step."""
  mesh = sharding.make_mesh(config.mesh, devices=ONE_DEVICE)
  model = checkpointing.build_model(config.model)
  tx, _ = make_optimizer(config.optimizer, config.steps)
  init = functools.partial(checkpointing.init_variables, model)
  with jax.set_mesh(mesh):
    initialise, abstract = plan_state(init, tx, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    step = jax.jit(
      make_train_step(model, tx, Encoders(), config),
      in_shardings=(shardings, sharding.batch_sharding(mesh), None, None),
      out_shardings=(shardings, None),
    )
    state = initialise(jax.random.key(0))

  def advance(state):
    with jax.set_mesh(mesh):
      return step(state, _batch(config), {}, jax.random.key(1))

  return state, advance


def test_the_loss_of_one_batch_falls():
  state, advance = _setup(_config())
  losses = []
  for _ in range(STEPS):
    state, metrics = advance(state)
    losses.append(float(metrics['loss']))
  assert np.isfinite(losses).all()
  assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])


def test_metrics_are_written(trained):
  rows = [json.loads(line) for line in (trained / MetricLogger.FILE).read_text().splitlines()]
  assert [row['step'] for row in rows if 'loss' in row] == list(range(1, STEPS + 1))
  assert {'learning_rate', 'gradient_norm', 'examples_per_second', 'dice'} <= set(rows[0])
  assert any('eval/recovered/all/target_psnr' in row for row in rows)


def test_a_finished_run_has_nothing_to_do(trained):
  before = (trained / MetricLogger.FILE).read_text()
  train.train(_config(), str(trained), ONE_DEVICE)
  assert (trained / MetricLogger.FILE).read_text() == before


def test_the_latest_and_a_named_step_can_be_loaded(trained):
  latest = checkpointing.load_model(str(trained))
  assert latest.step == STEPS
  earlier = checkpointing.load_model(str(trained / 'checkpoints' / str(STEPS - 2)))
  assert earlier.step == STEPS - 2
  best = checkpointing.load_model(f'{trained}@best')
  assert best.step == STEPS  # The only one that was evaluated.
  different = [
    bool((a != b).any())
    for a, b in zip(
      jax.tree.leaves(latest.variables), jax.tree.leaves(earlier.variables), strict=True
    )
  ]
  assert any(different)
  outputs = latest.model.apply(
    latest.variables, jnp.zeros((1, 32, 32, 3)), rngs={'masking': jax.random.key(0)}
  )
  assert outputs.target.shape == (1, 32, 32, 3)


def test_a_workdir_of_another_model_is_refused(trained):
  config = _config()
  config.model.size = 'nano'
  with pytest.raises(InputError, match=r'holds a model with size=test.*asks for size=nano'):
    train.train(config, str(trained), ONE_DEVICE)


_IMAGES = {
  'grey': (np.zeros((32, 32), np.uint8), 'target.png'),
  '16-bit': (np.zeros((32, 32), np.uint16), 'target.png'),
  'alpha': (np.zeros((32, 32, 4), np.uint8), 'target.png'),
  'another size': (np.zeros((24, 32), np.uint8), 'mask.png'),
  'ones instead of 255': (np.ones((32, 32), np.uint8), 'mask.png'),
}


@pytest.mark.parametrize('fault', [*_IMAGES, 'missing', 'truncated'])
def test_an_image_that_cannot_be_used_is_named_before_training(tmp_path, fault):
  rng = np.random.default_rng(0)
  for name in ('forged', 'source', 'target'):
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f'{name}.png')
  Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / 'mask.png')
  array, name = _IMAGES.get(fault, (None, 'source.png'))
  path = tmp_path / name
  if array is not None:
    Image.fromarray(array).save(path)
  elif fault == 'missing':
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:-40])
  manifest = 'forged,source,target,mask\nforged.png,source.png,target.png,mask.png\n'
  (tmp_path / 'train.csv').write_text(manifest)
  config = _config()
  config.data.update(kind='triplets', root=str(tmp_path), train='train.csv', eval='train.csv')
  with pytest.raises(InputError, match=f'line 2: .*{name}') as error:
    train.train(config, str(tmp_path / 'run'), ONE_DEVICE)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('path', ['nothing', 'checkpoints/77'])
def test_a_missing_checkpoint_is_refused(trained, path):
  with pytest.raises(InputError, match=r'holds no'):
    checkpointing.load_model(str(trained / path))


def test_a_loss_that_is_not_finite_names_step_and_term(tmp_path):
  logger = MetricLogger(str(tmp_path), first_step=0, last_step=9, batch_size=1)
  logger.add(1, {'loss': jnp.ones(()), 'dice': jnp.ones(())})
  logger.add(2, {'loss': jnp.ones(()), 'dice': jnp.full((), jnp.nan)})
  logger.add(3, {'loss': jnp.full((), jnp.nan), 'dice': jnp.full((), jnp.nan)})
  with pytest.raises(NonFiniteError, match=r'Step 2: dice'):
    logger.flush()
  assert not (tmp_path / MetricLogger.FILE).exists()
  logger.close()


def test_a_broken_run_stops_before_it_saves(trained, tmp_path):
  loaded = checkpointing.load_model(str(trained))
  broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), loaded.variables)
  path = tmp_path / 'broken.safetensors'
  write_model_file(str(path), broken, json.loads(loaded.config.to_json()), 1)
  output = _finish(_start(tmp_path / 'run', f'--config.init_from={path}'), code=1)
  assert re.search(r'Error: Step 1: .*loss', output)
  assert not any((tmp_path / 'run' / 'checkpoints').iterdir())


def test_lines_after_the_restored_step_are_forgotten(tmp_path):
  path = tmp_path / MetricLogger.FILE
  path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}\n{"step": 3, "lo')
  MetricLogger(str(tmp_path), first_step=1, last_step=9, batch_size=1).close()
  assert path.read_text() == '{"step": 1, "loss": 1}\n'


def test_a_mesh_that_does_not_fit_is_refused():
  config = _config().mesh
  config.update(data=3, fsdp=2)
  with pytest.raises(InputError, match=r'does not fit 8 device\(s\)'):
    sharding.make_mesh(config)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config=configs/nothing.py'], 'there is no configuration configs/nothing.py'),
    (['--config=configs/quickstart.py:runlocal,big'], "no argument 'big'"),
    (['--config=configs/quickstart.py', '--config.stepz=1'], 'stepz'),
    (['--config=configs/quickstart.py', '--mode=tain'], '--mode=tain'),
    (['--config=configs/quickstart.py', '--checkpoint=x'], '--checkpoint goes with --mode=eval'),
    (['--config=configs/quickstart.py', 'more'], "unknown argument 'more'"),
    (['--config=configs/quickstart.py', '--mode=eval', '--workdir=/none'], 'holds no checkpoint'),
    (['--config=configs/triplets.py:root=/none,encoder=none'], 'There is no manifest'),
  ],
)
def test_one_sentence_says_what_is_wrong(arguments, message):
  result = subprocess.run(
    [sys.executable, '-m', 'dfrec_jax.main', *arguments],
    cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  assert result.returncode == 1
  assert message in result.stderr
  assert 'Traceback' not in result.stderr
  assert result.stderr.splitlines()[-1].startswith('Error: ')
