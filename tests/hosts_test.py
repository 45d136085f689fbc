"""Several processes as one program: the same results as one, also after one of them was killed."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from dfrec_jax import distributed
from dfrec_jax.errors import InputError
from dfrec_jax.metric_logging import MetricLogger

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS, SAVED_EVERY = 24, 4
# As little of each network as there can be. Seven examples: no number of processes shares them.
SETTINGS = {
  'steps': STEPS,
  'model.size': 'test+sirm_widths=8-8-8-8-16+ism_depth=0.1+detail_channels=',
  'model.image_size': 16,
  'data.image_size': 16,
  'data.eval_examples': 7,
  'eval_examples': 7,
  'eval_every': STEPS,
  'checkpoint_every': SAVED_EVERY,
  # Small steps: differences of rounding would grow with large ones.
  'optimizer.learning_rate': 1e-5,
}


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


ON_CPU = {'JAX_PLATFORMS': 'cpu'}
# Trains, and writes how many programs were compiled until the end of each step.
COUNTING = """
import json, pathlib, sys
from absl import app, flags
import jax
from dfrec_jax import main, metric_logging
count, after_step = [0], {}
def listen(event, *_, **unused):
  count[0] += event.endswith('backend_compile_duration')
jax.monitoring.register_event_duration_secs_listener(listen)
add = metric_logging.MetricLogger.add
def counting(self, step, metrics):
  after_step[step] = count[0]
  add(self, step, metrics)
metric_logging.MetricLogger.add = counting
def run(argv):
  main.main(argv)
  pathlib.Path(flags.FLAGS.workdir, 'compiled.json').write_text(json.dumps(after_step))
app.run(run)
"""
# Trains with a pause at each step: a signal is heard within a second or so, before the last one.
SLOWLY = """
import time
from absl import app
from dfrec_jax import main, metric_logging
add = metric_logging.MetricLogger.add
def slowly(self, step, metrics):
  time.sleep(0.5)
  add(self, step, metrics)
metric_logging.MetricLogger.add = slowly
app.run(main.main)
"""


def _command(workdir, *start: str) -> list[str]:
  return [
    sys.executable, *start, '--config=configs/quickstart.py:runlocal',
    f'--workdir={workdir}', f'--compilation_cache={jax.config.jax_compilation_cache_dir}',
    *(f'--config.{name}={value}' for name, value in SETTINGS.items()),
  ]  # fmt: skip


def _start(workdir, count: int, *start: str) -> list[subprocess.Popen]:
  """So many processes of one device each, on loopback."""
  address = f'localhost:{_free_port()}'
  start = start or ('-m', 'dfrec_jax.main')
  command = [*_command(workdir, *start), f'--coordinator_address={address}']
  who = lambda i: {'JAX_NUM_PROCESSES': str(count), 'JAX_PROCESS_ID': str(i)}
  return [
    subprocess.Popen(
      command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      env={**os.environ, **ON_CPU, **who(i)},
    )
    for i in range(count)
  ]  # fmt: skip


def _finish(processes: list[subprocess.Popen]) -> list[str]:
  """What they wrote, once all of them have ended well."""
  outputs = []
  try:
    for process in processes:
      output, _ = process.communicate(timeout=600)
      assert process.returncode == 0, output[-3000:]
      outputs.append(output)
  finally:
    _end(processes)
  return outputs


def _end(processes: list[subprocess.Popen]) -> None:
  for process in processes:
    process.kill()
    process.wait()


def _rows(workdir) -> list[dict]:
  path = pathlib.Path(workdir) / MetricLogger.FILE
  return [json.loads(line) for line in path.read_text().splitlines()]


def _losses(workdir) -> dict[int, float]:
  return {row['step']: row['loss'] for row in _rows(workdir) if 'loss' in row}


def _evaluation(workdir) -> dict[str, float]:
  (row,) = (row for row in _rows(workdir) if 'eval/recovered/all/examples' in row)
  return row


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The workdir of a run of one process."""
  workdir = tmp_path_factory.mktemp('alone')
  result = subprocess.run(
    _command(workdir, '-c', COUNTING),
    cwd=ROOT, env={**os.environ, **ON_CPU}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr[-3000:]
  return workdir


@pytest.mark.exhaustive
def test_nothing_is_compiled_after_the_first_steps(alone):
  compiled = json.loads((alone / 'compiled.json').read_text())
  assert compiled['1'] > 0
  # The second step's is after the first numbers were written, the fifth's after a checkpoint.
  assert len({compiled[str(step)] for step in range(SAVED_EVERY + 1, STEPS + 1)}) == 1


def _assert_same(workdir, alone) -> None:
  expected = _losses(alone)
  assert _losses(workdir) == pytest.approx(expected, rel=1e-5)
  assert list(_losses(workdir)) == list(range(1, STEPS + 1))
  # Photographs are rounded to 256 values before they are measured.
  assert _evaluation(workdir) == pytest.approx(_evaluation(alone), rel=1e-3)
  assert _evaluation(workdir)['eval/recovered/all/examples'] == 7
  assert _evaluation(workdir)['eval/recovered/pristine/examples'] == 7


@pytest.mark.exhaustive
def test_two_processes_equal_one(alone, tmp_path):
  _finish(_start(tmp_path, 2))
  _assert_same(tmp_path, alone)
  # One of them wrote: what another writes as well would be there twice.
  assert len(_losses(tmp_path)) == len([row for row in _rows(tmp_path) if 'loss' in row])


@pytest.mark.exhaustive
def test_the_benchmark_measures_two_processes_as_one(tmp_path):
  settings = 'steps', 'model.size', 'model.image_size', 'data.image_size'
  start = [
    sys.executable, '-m', 'dfrec_jax.benchmark', '--config=configs/quickstart.py:runlocal',
    '--batch=4', '--what=train', '--parts=false', f'--output={tmp_path}', '--num_processes=2',
    *(f'--config.{name}={SETTINGS[name]}' for name in settings),
  ]  # fmt: skip

  def run(*flags):
    address = f'--coordinator_address=localhost:{_free_port()}'
    return [
      subprocess.Popen(
        # By its own clock the second process would train on after the first has ended.
        [*start, address, f'--process_id={i}', f'--seconds={1000 * i}', *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **ON_CPU},
      )
      for i in (0, 1)
    ]  # fmt: skip

  first, second = _finish(run('--repeats=50'))
  assert 'examples/s' in first
  assert 'examples/s' not in second
  report = json.loads((tmp_path / 'train.json').read_text())
  assert report['devices']['count'] == 2
  assert report['step']['rounds'] == 3
  processes = run('--sweep')
  try:
    for process in processes:
      output, _ = process.communicate(timeout=300)
      assert process.returncode == 1
      assert '--sweep is of one process' in output
  finally:
    _end(processes)


@pytest.mark.exhaustive
def test_four_processes_of_which_one_is_killed_resume_as_two(alone, tmp_path):
  processes = _start(tmp_path, 4)
  try:
    _wait_for_step(tmp_path, 2 * SAVED_EVERY + 1, processes)
    processes[2].send_signal(signal.SIGKILL)
    time.sleep(5)  # The others cannot go on without it.
    reached = max(_losses(tmp_path))
    assert reached < STEPS
  finally:
    _end(processes)
  _finish(_start(tmp_path, 2))
  _assert_same(tmp_path, alone)


@pytest.mark.exhaustive
def test_sigterm_to_one_of_two_stops_both_after_the_same_step(alone, tmp_path):
  processes = _start(tmp_path, 2, '-c', SLOWLY)
  try:
    _wait_for_step(tmp_path, 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    outputs = _finish(processes)
  finally:
    _end(processes)
  said = [re.search(r'Stopped by SIGTERM at step (\d+)', output) for output in outputs]
  assert all(said), outputs
  step = max(_losses(tmp_path))
  assert [int(match[1]) for match in said] == [step, step]
  assert step < STEPS
  assert (tmp_path / 'checkpoints' / str(step)).is_dir()
  _finish(_start(tmp_path, 2))
  _assert_same(tmp_path, alone)


def _wait_for_step(workdir, step: int, processes) -> None:
  deadline = time.monotonic() + 1_800  # Four of them compile on the cores that there are.
  while time.monotonic() < deadline:
    if (workdir / MetricLogger.FILE).exists() and max(_losses(workdir), default=0) >= step:
      return
    ended = [process for process in processes if process.poll() is not None]
    assert not ended, ended[0].communicate()[0][-3000:]
    time.sleep(0.02)
  raise TimeoutError(f'{workdir} did not reach step {step}.')


@pytest.mark.parametrize(
  ('given', 'environment', 'message'),
  [
    ({'num_processes': 2}, {}, r'coordinator_address, process_id is missing'),
    ({}, {'JAX_COORDINATOR_ADDRESS': 'a:1'}, r'num_processes, process_id is missing'),
    ({'process_id': 0}, {'JAX_NUM_PROCESSES': 'two'}, r"JAX_NUM_PROCESSES is 'two'"),
    (
      {'coordinator_address': 'host', 'num_processes': 2, 'process_id': 0},
      {},
      r"address is 'host'; it is HOST:PORT",
    ),
    (
      {'coordinator_address': 'a:1', 'num_processes': 2, 'process_id': 2},
      {},
      r'process_id is 2 of --num_processes 2',
    ),
  ],
)
def test_one_sentence_says_what_is_missing(given, environment, message):
  with pytest.raises(InputError, match=message) as error:
    distributed.start(**given, environment=environment)
  assert '\n' not in str(error.value)


def test_where_there_is_no_cluster_detection_says_so():
  result = subprocess.run(
    [sys.executable, '-m', 'dfrec_jax.main', '--config=configs/quickstart.py', '--distributed'],
    cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  assert result.returncode == 1
  assert re.search(r'Error: --distributed found no cluster here', result.stderr.splitlines()[-1])


def test_alone_nothing_is_started():
  distributed.start(environment={})
  assert jax.process_count() == 1
