"""Units of work: in parallel, resumed, failed, done again."""

import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import cv2
import pytest

from dfrec_jax.errors import InputError
from input_pipeline.prepare import ffhq_e4s, records, reports, summary, work
from input_pipeline.prepare.units import Settings, Unit, UnitLog
from tests import raw_trees
from tests.preparing import prepare, read_all, unusable

SETTINGS = Settings(dataset='ffpp', raw='raw')
UNITS = [Unit(f'unit-{i}', 'train', i) for i in range(4)]


def count_up(unit, folder):
  """A task that ends its process at one unit, as a decoder may."""
  if unit.content == 2:
    os._exit(1)
  return reports.write_report(folder, unit, UnitLog('raw'))


def test_a_unit_that_ends_its_process_is_passed_over(tmp_path):
  task = functools.partial(count_up, folder=tmp_path)
  done = work.run(UNITS, task, tmp_path, workers=2)
  reasons = [report['unusable'] for report in done]
  assert reasons[0] == reasons[1] == reasons[3] == []
  assert reasons[2] == [['unit-2', 'ended the process that read it; one of its files is broken']]
  total = summary.gather(SETTINGS, UNITS, done, UnitLog('raw'))
  assert sum(total['unusable'].values()) == 1
  assert not list(tmp_path.glob('*.tmp'))


def wait_for_ever(unit, folder):
  (folder / f'{unit.key}.pid').write_text(str(os.getpid()))
  time.sleep(600)


def test_the_processes_of_a_killed_command_end_with_it(tmp_path):
  code = (
    'import functools, pathlib\n'
    'from tests.prepare_work_test import UNITS, wait_for_ever, work\n'
    f'folder = pathlib.Path({str(tmp_path)!r})\n'
    'work.run(UNITS[:1], functools.partial(wait_for_ever, folder=folder), folder, workers=1)\n'
  )
  with subprocess.Popen([sys.executable, '-c', code], cwd=pathlib.Path(__file__).parents[1]) as run:
    pid = None
    while pid is None and run.poll() is None:
      time.sleep(0.1)
      found = tmp_path / 'unit-0.pid'
      pid = int(found.read_text() or 0) or None if found.exists() else None
    assert pid is not None
    run.kill()
  # Without an end of its own, the process would sleep for minutes.
  for _ in range(600):
    if not is_running(pid):
      return
    time.sleep(0.1)
  os.kill(pid, signal.SIGKILL)
  pytest.fail('The process works on.')


def is_running(pid):
  try:
    # Behind the name, which may hold anything but a line's end.
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
  except (FileNotFoundError, ProcessLookupError):
    return False


def test_sigterm_is_taken_as_ctrl_c(tmp_path, monkeypatch, capsys):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  before = signal.getsignal(signal.SIGTERM)
  with monkeypatch.context() as patch:
    patch.setattr(
      'input_pipeline.tfds.builders.summary.write',
      lambda *unused: os.kill(os.getpid(), signal.SIGTERM),
    )
    assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 130
  assert 'the same command goes on from here' in capsys.readouterr().err
  assert signal.getsignal(signal.SIGTERM) == before
  assert not list(tmp_path.glob('ffhq_e4s/incomplete*'))


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, capsys):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  with pytest.raises(OSError, match=r'/dev/full cannot be written: .*No space left on device'):
    records.write_records('/dev/full', [b'record'])
  with pytest.raises(OSError, match='cannot be written'):
    records.write_records(tmp_path / 'none/a', [b'record'])
  with monkeypatch.context() as patch:
    patch.setattr(work, 'temporary', lambda path: '/dev/full')
    assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 1
  said = capsys.readouterr().err.strip().splitlines()[-1]
  assert 'No space left on device; once that is mended, the same command goes on' in said


def test_files_that_killed_processes_were_writing_are_removed(tmp_path):
  assert reports.temporary(tmp_path / 'a').name == f'a.{os.getpid()}.tmp'
  (tmp_path / 'unit-0.train.array_record.77.tmp').write_bytes(b'half')
  work.open_folder(tmp_path, SETTINGS)
  assert [path.name for path in tmp_path.iterdir()] == ['settings.json']


def test_what_killed_runs_left_of_shards_is_removed(tmp_path, capsys):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  left = tmp_path / 'ffhq_e4s/incomplete.ABC123_1.0.0'
  other = tmp_path / 'ffhq_e4s/incomplete.ABC123_2.0.0'
  for _ in ('at the start', 'where all is done'):
    for folder in (left, other):
      folder.mkdir(parents=True, exist_ok=True)
      (folder / 'shard').write_bytes(b'half')
    assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 0
    assert not left.exists() and other.exists()
  assert len(read_all(tmp_path / 'ffhq_e4s', 'train')) > 0


@pytest.mark.parametrize('content', [None, '[]', '{"settings": {}}', 'no JSON'])
def test_a_prepared_folder_without_its_summary_is_named(tmp_path, capsys, content):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  folder = tmp_path / 'ffhq_e4s/1.0.0'
  folder.mkdir(parents=True)
  if content is not None:
    (folder / 'summary.json').write_text(content)
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 1
  said = capsys.readouterr().err
  assert f'delete {folder} to prepare it anew' in said and said.count('\n') == 1


def test_a_unit_of_other_content_is_done_again(tmp_path):
  log = UnitLog('raw')
  reports.write_report(tmp_path, UNITS[0], log)
  assert reports.read_report(tmp_path, UNITS[0])
  assert reports.read_report(tmp_path, Unit('unit-0', 'train', 'more')) is None
  assert reports.read_report(tmp_path, Unit('unit-0', 'val', 0)) is None
  (tmp_path / 'unit-0.json').write_text('{')
  assert reports.read_report(tmp_path, UNITS[0]) is None
  with pytest.raises(InputError, match='run the command again'):
    reports.read_reports(tmp_path, UNITS)


def test_a_unit_that_fails_is_reported_and_done_again_in_the_next_run(tmp_path, monkeypatch):
  calls = []

  def make_examples(unit, settings, log):
    log.skip('raw/a.mp4', 'missing')
    calls.append(unit.content)
    if calls.count(1) == 1 and unit.content == 1:
      raise MemoryError('too large')
    return iter(())

  module = types.SimpleNamespace(make_examples=make_examples)
  monkeypatch.setattr(work.registry, 'load', lambda name: module)
  task = work.make_task(SETTINGS, tmp_path)
  work.open_folder(tmp_path, SETTINGS)
  done = work.run(UNITS, task, tmp_path, workers=0)
  assert ['unit-1', 'failed: MemoryError: too large'] in done[1]['unusable']
  assert all(['a.mp4', 'missing'] in report['unusable'] for report in done)
  total = summary.gather(SETTINGS, UNITS, done, UnitLog('raw'))
  assert total['unusable'] == {'failed': 1, 'missing': 1}, 'details are not counted apart'
  work.open_folder(tmp_path, SETTINGS)
  done = work.run(UNITS, task, tmp_path, workers=0)
  assert calls == [0, 1, 2, 3, 1]
  assert all(report['unusable'] == [['a.mp4', 'missing']] for report in done)


def begun(folder, raw):
  """A folder of work in which one unit has read a file and missed another."""
  (raw / 'videos').mkdir(parents=True)
  (raw / 'videos/a.mp4').write_bytes(b'frames')
  settings = Settings(dataset='ffpp', raw=str(raw))
  work.open_folder(folder, settings)
  log = UnitLog(settings.raw)
  log.record(raw / 'videos/a.mp4')
  log.look_at(raw / 'videos/b.mp4')
  (folder / 'part').touch()
  reports.write_report(folder, UNITS[0], log, parts={'part': 1})


def touched(folder, raw):
  os.utime(raw / 'videos/a.mp4', ns=(1, 1))


def downloaded_again(folder, raw):
  (raw / 'videos/a.mp4').write_bytes(b'FRAMES')
  os.utime(raw / 'videos/a.mp4', ns=(1, 1))


def completed(folder, raw):
  (raw / 'videos/b.mp4').write_bytes(b'it came')


def moved(folder, raw):
  shutil.copytree(raw, raw.with_name('other'))
  return raw.with_name('other')


def another(folder, raw):
  status = (raw / 'videos/a.mp4').stat()
  path = raw.with_name('other') / 'videos/a.mp4'
  path.parent.mkdir(parents=True)
  path.write_bytes(b'FRAMES')
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  return raw.with_name('other')


@pytest.mark.parametrize(
  ('change', 'kept'),
  [
    (lambda folder, raw: None, True),
    (touched, True),
    (moved, True),
    (downloaded_again, False),
    (completed, False),
    (another, False),
    (lambda folder, raw: (raw / 'videos/a.mp4').unlink(), False),
    (lambda folder, raw: (folder / 'part').unlink(), False),
  ],
)
def test_parts_are_taken_over_from_the_same_files_alone(tmp_path, change, kept):
  folder = tmp_path / 'unfinished'
  begun(folder, tmp_path / 'raw')
  raw = change(folder, tmp_path / 'raw') or tmp_path / 'raw'
  work.open_folder(folder, Settings(dataset='ffpp', raw=str(raw)))
  assert (reports.read_report(folder, UNITS[0]) is not None) is kept


def test_a_download_that_was_incomplete_is_prepared_once_it_is_complete(tmp_path, capsys):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  (tmp_path / 'raw/ffhq').rename(tmp_path / 'late')
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 1
  assert 'mend that and run the command again' in capsys.readouterr().err
  (tmp_path / 'late').rename(tmp_path / 'raw/ffhq')
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 0
  captured = capsys.readouterr()
  assert 'parts are done again' in captured.out + captured.err
  assert len(read_all(tmp_path / 'ffhq_e4s', 'train')) > 0
  assert not unusable(tmp_path / 'ffhq_e4s/1.0.0')


def test_another_download_with_equal_names_is_not_the_first_one(tmp_path):
  for name, turned in (('first', False), ('second', True)):
    raw_trees.make_ffhq_e4s(tmp_path / name)
    for path in (tmp_path / name).glob('*/*.png'):
      if turned:
        cv2.imwrite(str(path), cv2.imread(str(path))[:, ::-1])
  settings = Settings(dataset='ffhq_e4s', raw=str(tmp_path / 'first'), trust_masks=True)
  folder = tmp_path / 'ffhq_e4s/unfinished'
  work.open_folder(folder, settings)
  units = ffhq_e4s.list_units(settings, UnitLog(settings.raw))
  work.run(units, work.make_task(settings, folder), folder, workers=0)
  for out in (tmp_path, tmp_path / 'fresh'):
    assert prepare('ffhq_e4s', tmp_path / 'second', out) == 0
  version = tmp_path / 'ffhq_e4s/1.0.0'
  shards = list(version.glob('*.array_record*'))
  assert shards
  for path in shards:
    assert path.read_bytes() == (tmp_path / 'fresh/ffhq_e4s/1.0.0' / path.name).read_bytes()


class Killed(BaseException):
  """As sudden as the end of a process."""


@pytest.mark.parametrize('when', ['summary.write', 'FfhqE4s.remove_work'])
def test_no_moment_of_the_end_loses_anything(tmp_path, monkeypatch, capsys, when):
  raw_trees.make_ffhq_e4s(tmp_path / 'raw')
  (tmp_path / 'raw/list.csv').write_text('swaps/1_0.png,ffhq/00000.png,ffhq/00001.png')

  def kill(*unused):
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(f'input_pipeline.tfds.builders.{when}', kill)
    with pytest.raises(Killed):
      prepare('ffhq_e4s', tmp_path / 'raw', tmp_path)
  folder = tmp_path / 'ffhq_e4s'
  assert list((folder / 'unfinished').glob('*.array_record'))
  assert (folder / '1.0.0').exists() == (when != 'summary.write')
  capsys.readouterr()
  assert prepare('ffhq_e4s', tmp_path / 'raw', tmp_path) == 0
  said = ''.join(capsys.readouterr())
  assert ('is prepared already' if (when != 'summary.write') else '1 of 1 parts are there') in said
  assert len(read_all(folder, 'train')) == 1 and not (folder / 'unfinished').exists()


def test_beam_does_the_units_that_are_left(tmp_path, monkeypatch):
  """With a stand-in for Apache Beam, which applies each step at once."""
  with pytest.raises(InputError, match=r'pip install .*beam'):
    monkeypatch.setitem(sys.modules, 'apache_beam', None)
    work.run_on_beam(UNITS, None, tmp_path, runner='DirectRunner')
  seen = []

  class Values(list):
    def __or__(self, step):
      return Values(step(self))

  class Pipeline:
    def __init__(self, **options):
      seen.append(options)

    def __enter__(self):
      return Values()

    def __exit__(self, *unused):
      pass

  stand_in = types.SimpleNamespace(
    Pipeline=Pipeline,
    Create=lambda units: lambda values: units,
    Reshuffle=lambda: lambda values: values[::-1],
    Map=lambda task: lambda values: [task(unit) for unit in values],
  )
  monkeypatch.setitem(sys.modules, 'apache_beam', stand_in)
  reports.write_report(tmp_path, UNITS[2], UnitLog('raw'))
  task = functools.partial(count_up, folder=tmp_path)
  done = work.run_on_beam(UNITS, task, tmp_path, runner='DirectRunner', options=None)
  assert len(done) == 4 and seen == [{'runner': 'DirectRunner', 'options': None}]
