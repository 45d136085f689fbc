"""The command as a whole: good and bad inputs, the same bytes again, and going on after an end."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
from PIL import Image
import pytest

from dfrec_jax.recover import __main__ as command
from dfrec_jax.recover import crops, examine, outputs, pipeline, recoverer, report
from dfrec_jax.recover.recoverer import Recoverer
from tests.recovering import faces, framed, make_recoverer, save, scene, write_model

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def everything_is_swapped(monkeypatch):
  monkeypatch.setattr(make_recoverer(), 'threshold', 0.0)


@pytest.fixture
def nothing_is_swapped(monkeypatch):
  monkeypatch.setattr(make_recoverer(), 'threshold', 1.1)


@pytest.fixture
def no_report(monkeypatch):
  monkeypatch.setattr(report, 'write_report', lambda *unused: None)


def _tree(out):
  """The content of every file below a folder but the report, by its path."""
  files = (path for path in out.rglob('*') if path.is_file() and path.name != outputs.REPORT)
  return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def _photographs(folder, count=6):
  return [save(folder / f'{k}.png', framed(faces()[k % 8])) for k in range(count)]


def test_a_swapped_face(tmp_path, everything_is_swapped):
  path = save(tmp_path / 'a.png', framed(faces()[0]))
  results = examine.examine([path], tmp_path / 'out', make_recoverer(), seed=3)
  assert json.loads((tmp_path / 'out' / 'results.json').read_text()) == results
  (entry,) = results['inputs']
  assert (entry['input'], entry['status'], entry['kind']) == (path, 'done', 'image')
  assert (entry['width'], entry['height'], entry['error']) == (192, 192, None)
  assert results['settings']['seed'] == 3
  assert results['settings']['margin'] == 1.6
  assert results['unfinished'] == []
  (face,) = entry['faces']
  assert face['swapped']
  assert face['false_alarm_rate'] == make_recoverer().calibration.false_alarm_rate(face['score'])
  assert face['instability'] > 0
  assert face['draws'] == results['settings']['draws'] == 3
  left, top, side = face['crop']
  assert side == pytest.approx(1.6 * max(face['box'][2:]), abs=2)
  read = lambda file: cv2.imread(str(tmp_path / 'out' / file), cv2.IMREAD_UNCHANGED)
  names = {'crop', 'mask', 'overlay', 'source', 'target', 'spread'}
  assert set(face['files']) == names
  for file in face['files'].values():
    assert read(file).shape[:2] == (side, side)
    assert file.startswith(f'{entry["folder"]}/face-1/')
  crop = read(face['files']['crop'])[..., ::-1]
  expected = make_recoverer().recover([np.ascontiguousarray(crop)], seed=3)[0]
  np.testing.assert_array_equal(read(face['files']['target'])[..., ::-1], expected.target)
  np.testing.assert_array_equal(read(face['files']['source'])[..., ::-1], expected.source)
  assert face['score'] == expected.score
  square = crops.Square(left, top, side)
  restored = crops.put_back(framed(faces()[0]), crop, expected.target, square)
  np.testing.assert_array_equal(read(entry['files']['restored'])[..., ::-1], restored)
  assert read(entry['files']['boxes']).shape == (192, 192, 3)
  assert path in (tmp_path / 'out' / 'report.html').read_text()


def test_where_no_swap_is_found_no_faces_are_invented(tmp_path, nothing_is_swapped):
  path = save(tmp_path / 'a.png', framed(faces()[0]))
  (entry,) = examine.examine([path], tmp_path / 'out', make_recoverer())['inputs']
  (face,) = entry['faces']
  assert not face['swapped']
  assert face['instability'] is None
  assert face['candidates'] == {}
  assert set(face['files']) == {'crop'}
  assert set(entry['files']) == {'boxes'}
  written = {path.name for path in (tmp_path / 'out' / entry['folder']).rglob('*.*')}
  assert written == {'boxes.jpg', 'crop.jpg', 'result.json'}


def test_ten_faces_and_none(tmp_path, everything_is_swapped, no_report):
  paths = [save(tmp_path / 'ten.png', scene(10)), save(tmp_path / 'none.png', scene(1)[:60, :60])]
  ten, none = examine.examine(paths, tmp_path / 'out', make_recoverer())['inputs']
  assert [face['number'] for face in ten['faces']] == list(range(1, 11))
  assert len({tuple(face['crop']) for face in ten['faces']}) == 10
  assert (none['status'], none['faces'], list(none['files'])) == ('done', [], ['boxes'])
  assert 'No face was found in' in none['warnings'][-1]
  assert 'none.png' in none['warnings'][-1]


def _bad_files(folder):
  folder.mkdir(parents=True)
  whole = cv2.imencode('.jpg', framed(faces()[0]))[1].tobytes()
  (folder / 'truncated.jpg').write_bytes(whole[: len(whole) // 2])
  (folder / 'empty.jpg').write_bytes(b'')
  (folder / 'text.jpg').write_bytes(b'Not a picture.')
  (folder / 'gone.jpg').symlink_to(folder / 'nowhere.jpg')
  (folder / 'film.mp4').write_bytes(b'Not a film.')
  os.mkfifo(folder / 'pipe.jpg')
  # Its header alone says 20,000 x 20,000.
  header = bytearray(cv2.imencode('.png', np.zeros((4, 4, 3), np.uint8))[1].tobytes())
  header[16:24] = (20_000).to_bytes(4, 'big') * 2
  (folder / 'bomb.png').write_bytes(bytes(header))


def test_bad_files_are_listed_and_good_ones_done(tmp_path, everything_is_swapped):
  names = ['a b.png', "Grüße 'ñ' 東京.png", '<script>alert("x")<.png', '-rf.png', '$(id).webp']
  for k, name in enumerate(names):
    save(tmp_path / 'in' / 'deep' / name, framed(faces()[k]))
  _bad_files(tmp_path / 'in' / 'bad')
  given = [str(tmp_path / 'in'), str(tmp_path / 'missing.jpg'), str(tmp_path / '*.gif')]
  before = _tree(tmp_path / 'in' / 'deep')
  results = examine.examine(given, tmp_path / 'out', make_recoverer())
  by_name = {os.path.basename(entry['input']): entry for entry in results['inputs']}
  assert {name for name, e in by_name.items() if e['status'] == 'done'} == set(names)
  failed = {name: entry for name, entry in by_name.items() if entry['status'] == 'failed'}
  assert set(failed) == {
    *('truncated.jpg', 'empty.jpg', 'text.jpg', 'gone.jpg', 'film.mp4', 'pipe.jpg', 'bomb.png'),
    *('missing.jpg', '*.gif'),
  }
  for entry in failed.values():
    assert entry['input'] in entry['error']
    assert entry['error'].endswith('.')
    assert '\n' not in entry['error']
    assert (entry['faces'], entry['files'], entry['folder']) == ([], {}, None)
  folders = {entry['folder'] for entry in by_name.values()} - {None}
  found = set(os.listdir(tmp_path / 'out'))
  assert found == folders | {'results.json', 'report.html'}
  assert set(os.listdir(tmp_path)) == {'in', 'out'}
  assert _tree(tmp_path / 'in' / 'deep') == before
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert '<script>alert(' not in page


def test_the_same_bytes_whatever_the_order(tmp_path, everything_is_swapped, no_report):
  paths = _photographs(tmp_path / 'in', 6) + [save(tmp_path / 'in' / 'ten.png', scene(10))]
  first = examine.examine(paths, tmp_path / 'a', make_recoverer(), seed=4)
  again = examine.examine(paths[::-1], tmp_path / 'b', make_recoverer(), seed=4)
  assert again['inputs'] == first['inputs'][::-1]
  a, b = _tree(tmp_path / 'a'), _tree(tmp_path / 'b')
  del a['results.json'], b['results.json']
  assert a == b
  one = examine.examine(paths[2:3], tmp_path / 'c', make_recoverer(), seed=4)
  assert one['inputs'] == first['inputs'][2:3]
  other = examine.examine(paths, tmp_path / 'd', make_recoverer(), seed=5)
  assert other['inputs'] != first['inputs']


def test_already_cropped(tmp_path, everything_is_swapped, no_report):
  paths = [
    save(tmp_path / 'square.png', faces()[0]),
    save(tmp_path / 'wide.png', faces()[1][:70]),
    save(tmp_path / 'strip.png', faces()[1][:20]),
  ]
  results = examine.examine(paths, tmp_path / 'out', make_recoverer(), finder=None)
  square, wide, strip = results['inputs']
  assert results['settings']['already_cropped']
  assert square['faces'][0]['crop'] == [0, 0, 96]
  assert wide['faces'][0]['crop'] == [0, -13, 96]
  assert 'no crop of a face' in strip['error']
  assert cv2.imread(str(tmp_path / 'out' / wide['files']['restored'])).shape == (70, 96, 3)


def test_done_inputs_are_not_done_again(tmp_path, everything_is_swapped, no_report, monkeypatch):
  paths, out = _photographs(tmp_path / 'in'), tmp_path / 'out'
  first = examine.examine(paths, out, make_recoverer())
  tree = _tree(out)
  predicted = []
  predict = Recoverer.predict
  counting = lambda self, images, **options: (
    predicted.append(len(images)) or predict(self, images, **options)
  )
  monkeypatch.setattr(Recoverer, 'predict', counting)
  assert examine.examine(paths, out, make_recoverer()) == first
  assert _tree(out) == tree
  assert not predicted
  save(tmp_path / 'in' / '2.png', framed(faces()[7]))  # Another content,
  again = examine.examine(paths, out, make_recoverer())
  assert sum(predicted) == 1
  assert [a == b for a, b in zip(again['inputs'], first['inputs'], strict=True)].count(False) == 1
  examine.examine(paths, out, make_recoverer(), seed=1)  # and other settings.
  assert sum(predicted) == 1 + len(paths)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_is_done(tmp_path, everything_is_swapped, no_report, number):
  paths, out = _photographs(tmp_path / 'in', 40), tmp_path / 'out'
  done = []

  def after_each():
    done.append(1)
    if len(done) == 5:
      os.kill(os.getpid(), number)

  handler = signal.getsignal(number)
  with pytest.raises(examine.Interrupted) as raised:
    examine.examine(paths, out, make_recoverer(), started=lambda found: after_each)
  assert signal.getsignal(number) is handler
  assert raised.value.signal == number
  results = json.loads((out / 'results.json').read_text())
  assert 5 <= len(results['inputs']) == raised.value.done < 40
  assert len(results['unfinished']) == 40 - len(results['inputs'])
  for entry in results['inputs']:
    assert (out / entry['files']['restored']).exists()
  examine.examine(paths, out, make_recoverer())
  examine.examine(paths, tmp_path / 'whole', make_recoverer())
  assert _tree(out) == _tree(tmp_path / 'whole')


def test_killed_and_run_again(tmp_path, no_report):
  picture = framed(faces(64)[0])
  for k in range(150):
    picture[0, 0] = k
    save(tmp_path / 'in' / f'{k:03d}.png', picture)
  model, out = write_model(tmp_path / 'm.safetensors'), tmp_path / 'out'
  given = [f'--checkpoint={model}', '--batch-size=4', '--draws=3', '--threshold=0']
  environment = {
    **os.environ,
    'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.pytest_cache' / 'xla'),
    # As this process has: XLA shares out the work of one by their number, and last digits with it.
    'JAX_NUM_CPU_DEVICES': '8',
    'PYTHONPATH': str(ROOT),
  }
  process = subprocess.Popen(
    [sys.executable, '-m', 'dfrec_jax.recover', *given, f'--output={out}', str(tmp_path / 'in')],
    env=environment,
  )
  while process.poll() is None and not list(out.glob('*/result.json')):
    time.sleep(0.005)
  process.kill()
  process.wait()
  kept = {path.parent.name: path.stat().st_mtime_ns for path in out.glob('*/result.json')}
  assert 0 < len(kept) < 150
  assert not (out / 'results.json').exists()
  again = recoverer.load(model, batch_size=4, draws=3, threshold=0)
  make_recoverer().compile()
  again._program = make_recoverer()._program  # Of the same weights; compiled already.
  for folder in (out, tmp_path / 'whole'):
    examine.examine([str(tmp_path / 'in')], folder, again)
  assert _tree(out) == _tree(tmp_path / 'whole')
  for name, time_ in kept.items():
    assert (out / name / 'result.json').stat().st_mtime_ns == time_


def _run(monkeypatch, *arguments):
  monkeypatch.setattr(sys, 'argv', ['recover', *arguments])
  with pytest.raises(SystemExit) as ended:
    command.main()
  return ended.value.code


def test_exit_status_and_words(tmp_path, monkeypatch, capsys):
  model = write_model(tmp_path / 'm.safetensors', calibrated=False)
  good = save(tmp_path / 'good.png', framed(faces()[0]))
  options = [f'--checkpoint={model}', '--batch-size=4', '--draws=3', '--compilation-cache=']
  out = tmp_path / 'out'
  bad = str(tmp_path / 'bad.png')
  assert _run(monkeypatch, *options, f'--output={out}', bad, good) == 0
  printed = capsys.readouterr().out
  assert '1 input with 1 face, of which' in printed
  assert '1 input could not be done' in printed
  assert str(out / 'report.html') in printed
  entry = json.loads((out / 'results.json').read_text())['inputs'][1]
  assert entry['faces'][0]['false_alarm_rate'] is None
  assert 'was not evaluated' in entry['warnings'][0]
  code = _run(monkeypatch, *options, f'--output={out}', bad)
  assert code == f'Error: Nothing could be done. {bad} does not exist; correct the path.'
  assert json.loads((out / 'results.json').read_text())['inputs'][0]['status'] == 'failed'


@pytest.mark.parametrize(
  ('options', 'says'),
  [
    (['--checkpoint=nowhere'], 'nowhere holds no checkpoint'),
    (['--checkpoint=m', '--fps=0'], '--fps is 0.0'),
    (['--checkpoint=m', '--gallery=nowhere'], 'nowhere'),
  ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, monkeypatch, options, says):
  out = tmp_path / 'out'
  code = _run(monkeypatch, f'--output={out}', '--compilation-cache=', *options, 'a.png')
  assert code.startswith('Error: ')
  assert says in code
  assert not out.exists()


def test_unknown_flags_exit_with_2(monkeypatch, capsys):
  assert _run(monkeypatch, '--output=o', '--thresold=1', 'a.png') == 2
  assert '--thresold=1' in capsys.readouterr().err
  assert _run(monkeypatch, 'a.png') == 2
  assert '--output' in capsys.readouterr().err


def test_an_output_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch, no_report):
  paths = _photographs(tmp_path / 'in', 6)

  def full(*unused, **options):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(outputs.pathlib.Path, 'mkdir', full)
  with pytest.raises(examine.InputError, match='cannot be made: No space left'):
    examine.examine(paths, tmp_path / 'out', make_recoverer())
  monkeypatch.undo()
  monkeypatch.setattr(pipeline.Writer, 'write', full)
  with pytest.raises(examine.InputError, match='out cannot be written: No space left on device'):
    examine.examine(paths, tmp_path / 'out', make_recoverer())


def test_a_mistake_in_one_input_stops_no_other(tmp_path, monkeypatch, no_report):
  paths = _photographs(tmp_path / 'in', 5)
  write = pipeline.Writer.write

  def sometimes(self, job, candidates):
    if job.item.path.endswith('3.png'):
      raise ZeroDivisionError('by zero')
    return write(self, job, candidates)

  monkeypatch.setattr(pipeline.Writer, 'write', sometimes)
  entries = examine.examine(paths, tmp_path / 'out', make_recoverer())['inputs']
  assert [entry['status'] for entry in entries] == ['done'] * 3 + ['failed', 'done']
  assert '3.png could not be recovered, by an error that was not' in entries[3]['error']
  assert 'ZeroDivisionError' in entries[3]['error']


def test_waiting_pictures_are_bounded(tmp_path, monkeypatch, everything_is_swapped, no_report):
  """A budget smaller than one batch: it goes on with what there is, and never holds more."""
  monkeypatch.setattr(pipeline, '_WAITING_PIXELS', 100_000)
  paths = _photographs(tmp_path / 'in', 12)
  held, most = [0], [0]
  acquire, release = pipeline.Budget.acquire, pipeline.Budget.release

  def take(self, share):
    taken = acquire(self, share)
    held[0] += share * taken
    most[0] = max(most[0], held[0])
    return taken

  def give(self, share):
    held[0] -= share
    release(self, share)

  monkeypatch.setattr(pipeline.Budget, 'acquire', take)
  monkeypatch.setattr(pipeline.Budget, 'release', give)
  entries = examine.examine(paths, tmp_path / 'out', make_recoverer())['inputs']
  assert all(entry['status'] == 'done' for entry in entries)
  assert most[0] <= 100_000
  assert held[0] == 0


def test_people_are_searched(tmp_path, everything_is_swapped, no_report):
  import dataclasses

  @dataclasses.dataclass
  class Person:
    person: str
    similarity: float

  class Gallery:
    folder = tmp_path / 'gallery'

    def summary(self):
      return {'sha256': '0'}

    def embed(self, images, margin):
      assert margin == 1.6
      return np.stack([image.mean((0, 1)) for image in images])

    def search(self, embeddings, top=5):
      return [[Person(f'{e[0]:.3f}', 0.5)] for e in embeddings]

  paths = _photographs(tmp_path / 'in', 5) + [save(tmp_path / 'in' / 'ten.png', scene(10))]
  results = examine.examine(paths, tmp_path / 'out', make_recoverer(), gallery=Gallery())
  assert results['gallery'] == {'sha256': '0'}
  assert results['settings']['gallery'] == str(tmp_path / 'gallery')
  faces_ = [face for entry in results['inputs'] for face in entry['faces']]
  assert len(faces_) == 15
  for face in faces_:
    for role in ('source', 'target'):
      image = Image.open(tmp_path / 'out' / face['files'][role])
      mean = np.asarray(image)[..., 0].mean()
      assert face['candidates'][role] == [{'person': f'{mean:.3f}', 'similarity': 0.5}]
