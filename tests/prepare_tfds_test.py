"""`tfds:NAME` as a folder of people: labels, LFW without TensorFlow, training at once."""

import dataclasses
import http.server
import io
import pathlib
import shutil
import tarfile
import threading

import cv2
import pytest
import tensorflow_datasets as tfds

from configs import faces as config_of_faces
from dfrec_jax.encoders.registry import load_encoder
from dfrec_jax.errors import InputError
from input_pipeline.people.landmarks import read_landmarks
from input_pipeline.prepare import landmarks, lfw, portraits, tfds_people
from input_pipeline.sources import make_source
from tests import raw_trees
from tests.preparing import place, prepare, stand_in_for_mediapipe

PEOPLE = ('ann', 'bob', 'ann')


def encoded(number):
  return cv2.imencode('.png', raw_trees.portrait(number % 2).image[..., ::-1])[1].tobytes()


class _Portraits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Two people; it needs no TensorFlow."""

  VERSION = tfds.core.Version('1.0.0')
  url_infos = {}  # noqa: RUF012
  LABEL = tfds.features.Text()

  def _info(self):
    image = tfds.features.Image(shape=(None, None, 3))
    features = tfds.features.FeaturesDict({'label': self.LABEL, 'image': image})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for number, label in enumerate(PEOPLE):
      yield number, {'label': label, 'image': encoded(number)}


class SmallPortraits(_Portraits):
  """People by name."""


class ClassPortraits(_Portraits):
  """People by the number of their class, which has a name."""

  LABEL = tfds.features.ClassLabel(names=['bob', 'ann'])


class NumberPortraits(_Portraits):
  """People by number."""

  LABEL = tfds.features.ClassLabel(num_classes=3)

  def _generate_examples(self):
    for number, label in enumerate((2, 0, 2)):
      yield number, {'label': label, 'image': encoded(number)}


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  monkeypatch.chdir(tmp_path)
  for cached in (tfds_people._builder, tfds_people._source):
    cached.cache_clear()


@pytest.fixture
def mesh(tmp_path, monkeypatch):
  with stand_in_for_mediapipe(tmp_path, monkeypatch) as python:
    yield python


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('small_portraits', ['ann/ann_0001.jpg', 'ann/ann_0002.jpg', 'bob/bob_0001.jpg']),
    ('class_portraits', ['ann/ann_0001.jpg', 'ann/ann_0002.jpg', 'bob/bob_0001.jpg']),
    ('number_portraits', ['0/0_0001.jpg', '2/2_0001.jpg', '2/2_0002.jpg']),
  ],
)
def test_labels_are_people(mesh, tmp_path, name, expected):
  assert prepare('faces', f'tfds:{name}', tmp_path / 'out') == 0
  names, _ = read_landmarks(tmp_path / 'out')
  assert names.tolist() == expected
  bob = cv2.imread(str(tmp_path / 'out' / next(name for name in expected if name[0] in 'b0')))
  fits = [place(bob[..., ::-1].copy(), raw_trees.portrait(n).image)[1] for n in (0, 1)]
  assert fits[1] < 5 < fits[0], 'each photograph with its own name'
  assert not list(tmp_path.glob('**/incomplete*'))


def test_sets_that_do_not_name_people_are_refused(mesh, tmp_path, capsys):
  assert prepare('faces', 'tfds:no_such_set', tmp_path / 'out') == 1
  assert "TensorFlow Datasets has no 'no_such_set'" in capsys.readouterr().err
  assert prepare('faces', 'tfds:celeb_a', tmp_path / 'out') == 1
  assert "has no feature 'label'; give a set with image and label" in capsys.readouterr().err


def test_labels_cannot_lead_out_of_the_folder():
  text = tfds.features.Text()
  assert tfds_people._person(text, b'../../etc') == '_.._etc'
  assert tfds_people._person(text, b'..') == 'unnamed'


def test_training_prepares_at_the_first_use(mesh, monkeypatch):
  """The one command of a new user: `--config=configs/faces.py:root=tfds:NAME`."""
  config = config_of_faces.get_config('root=tfds:small_portraits,image_size=32,batch_size=2')
  config.data.held_out = 0.0
  train = make_source(config.data, 'train', seed=0)
  example = train[0]
  assert {example['source_identity'], example['target_identity']} == {'ann', 'bob'}
  assert example['forged'].shape == (32, 32, 3)

  def unused(*args):
    raise AssertionError('It is prepared already.')

  monkeypatch.setattr(portraits, 'prepare', unused)
  assert len(make_source(config.data, 'train', seed=0).names) == 3
  monkeypatch.setattr('jax.process_count', lambda: 2)
  config.data.root = 'tfds:class_portraits'
  with pytest.raises(InputError, match=r'prepare faces --raw=tfds:class_portraits --out=data/clas'):
    make_source(config.data, 'train', seed=0)


def test_without_a_file_of_weights_a_new_user_trains_with_those_of_the_package(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  config = config_of_faces.get_config('root=tfds:lfw')
  assert config.data.root == 'tfds:lfw' and not config.data.eval
  assert config.metric_encoder.weights == 'shipped_lfw' and config.loss.weights.identity > 0
  assert load_encoder(config.metric_encoder.name, 'shipped_lfw').embed
  given = config_of_faces.get_config('root=tfds:lfw,encoder=mine.npz')
  assert given.metric_encoder.weights == 'mine.npz'


def test_the_environment_of_landmarks_is_made(tmp_path, monkeypatch):
  """With a stand-in for the Makefile."""
  monkeypatch.delenv('DFREC_LANDMARKS_PYTHON', raising=False)
  monkeypatch.setattr(landmarks, '_ROOT', tmp_path)
  with pytest.raises(InputError, match='make landmarks'):
    landmarks.make_environment()
  (tmp_path / 'Makefile').write_text('landmarks:\n\tfalse\n')
  with pytest.raises(InputError, match='failed, as told above'):
    landmarks.make_environment()
  python = '.venv-landmarks/bin/python'
  (tmp_path / 'Makefile').write_text(
    f'landmarks:\n\tmkdir -p .venv-landmarks/bin && touch {python}\n'
  )
  landmarks.make_environment()
  assert landmarks.interpreter() == tmp_path / python and (tmp_path / python).exists()
  (tmp_path / 'Makefile').write_text('landmarks:\n\tfalse\n')
  landmarks.make_environment()


@dataclasses.dataclass
class Server:
  """Answers every request with `content`."""

  content: bytes = b''
  requests: int = 0


@pytest.fixture
def server(monkeypatch):
  state = Server()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      state.requests += 1
      self.send_response(200 if state.content else 404)
      self.end_headers()
      self.wfile.write(state.content)

    def log_message(self, *unused):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as listening:
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setattr(lfw, 'URL', f'http://127.0.0.1:{listening.server_port}/lfw.tgz')
    yield state
    listening.shutdown()


def archive(names=('lfw/Ann_A/Ann_A_0001.jpg', 'lfw/Bob_B/Bob_B_0001.jpg')):
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w:gz') as tar:
    for number, name in enumerate(names):
      data = cv2.imencode('.jpg', raw_trees.portrait(number).image)[1].tobytes()
      entry = tarfile.TarInfo(name)
      entry.size = len(data)
      tar.addfile(entry, io.BytesIO(data))
  return content.getvalue()


def test_lfw_is_fetched_without_tensorflow(mesh, server, tmp_path, monkeypatch):
  server.content = archive()
  monkeypatch.setattr(lfw, 'SHA256', lfw.hashlib.sha256(server.content).hexdigest())
  for out in ('one', 'two'):
    assert prepare('faces', 'tfds:lfw', tmp_path / out) == 0
  names, _ = read_landmarks(tmp_path / 'one')
  assert names.tolist() == ['Ann_A/Ann_A_0001.jpg', 'Bob_B/Bob_B_0001.jpg']
  assert server.requests == 1, 'it is fetched once'
  assert [path.name for path in (tmp_path / 'tfds/downloads').iterdir()] == ['lfw']


def test_an_archive_that_leads_outside_is_refused(mesh, server, tmp_path, monkeypatch, capsys):
  server.content = archive(['lfw/../../../outside.jpg'])
  monkeypatch.setattr(lfw, 'SHA256', lfw.hashlib.sha256(server.content).hexdigest())
  assert prepare('faces', 'tfds:lfw', tmp_path / 'out') == 1
  assert 'leads out of the archive' in capsys.readouterr().err
  assert not list(tmp_path.rglob('outside.jpg'))


def test_lfw_that_cannot_be_fetched_is_one_sentence(mesh, server, tmp_path, capsys):
  for content, says in ((b'', '404'), (b'half of it', '10 bytes with another checksum')):
    server.content = content
    assert prepare('faces', 'tfds:lfw', tmp_path / 'out') == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith('LFW cannot be fetched from http') and says in said
  assert not pathlib.Path('tfds/downloads/lfw').exists()
  shutil.rmtree(tmp_path / 'tfds')
