"""Tracing: people are found again, chance is counted, and nothing bad gets through quietly."""

import hashlib
import json
import os
import pathlib
import pickle
import sys

import cv2
import numpy as np
import pytest

from dfrec_jax.encoders import alignment
from dfrec_jax.errors import InputError
from dfrec_jax.recover import finding
from dfrec_jax.trace import __main__ as command
from dfrec_jax.trace import (
  embedding,
  framing,
  gallery,
  indexing,
  listing,
  people_search,
  rates,
  storage,
)
from dfrec_jax.trace.framing import FaceReader, Framing
from input_pipeline.prepare.faces import Face

CROPS = Framing(None)


class ColourEncoder:
  """Embeds 4 x 4 colours: as good as an encoder of faces for pictures made of them."""

  name, weights, sha256 = 'colours', 'colours.npz', '0' * 64

  def __init__(self):
    self.images = 0

  def __call__(self, images):
    self.images += len(images)
    small = [cv2.resize(i, (4, 4), interpolation=cv2.INTER_AREA) for i in images]
    vectors = np.float32(small).reshape(len(images), -1)
    return storage.unit(vectors - vectors.mean(1, keepdims=True)).astype(np.float32)


def photograph(person, number, path):
  """A picture of a person: their colours, a little varied. Returns its path."""
  colours = np.random.default_rng(person).integers(40, 216, (4, 4, 3))
  colours += np.random.default_rng([person, number]).integers(-20, 21, (4, 4, 3))
  path.parent.mkdir(parents=True, exist_ok=True)
  picture = cv2.resize(colours.astype(np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST)
  done, data = cv2.imencode('.jpg', picture)
  assert done
  path.write_bytes(data.tobytes())
  return path


@pytest.fixture
def people(tmp_path):
  """Five people with two photographs each, and one with a single one, directly in the folder."""
  folder = tmp_path / 'people'
  for person in range(5):
    for number in range(2):
      photograph(person, number, folder / f'person{person}' / f'{number}.jpg')
  photograph(5, 0, folder / 'alone.jpg')
  return folder


def hashes(folder):
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def unit_rows(seed, *shape):
  return storage.unit(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


class TestGallery:
  def test_people_are_found_again(self, people, tmp_path):
    encoder = ColourEncoder()
    indexing.build(people, tmp_path / 'g', encoder, CROPS)
    found = gallery.Gallery.load(tmp_path / 'g', encoder=encoder)
    paths = [photograph(person, 9, tmp_path / f'{person}.jpg') for person in range(6)]
    crops = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    lists = found.search(found.embed(crops), top=20)
    names = [*(f'person{person}' for person in range(5)), 'alone.jpg']
    assert [candidates[0].person for candidates in lists] == names
    assert lists[0][0].photo in ('person0/0.jpg', 'person0/1.jpg')
    for candidates in lists:
      assert len(candidates) == 6
      similarities = [candidate.similarity for candidate in candidates]
      assert similarities == sorted(similarities, reverse=True)
    # Of 11 photographs each meets the 5 other people, and nobody resembles anybody.
    assert lists[0][0].pairs == 55 and lists[0][0].queries == 11
    assert lists[0][0].false_match_rate == 0 and lists[0][-1].false_match_rate > 0.5

  def test_similarity_is_of_the_mean_of_a_persons_photographs(self):
    first, second, third = unit_rows(0, 3, 8)
    templates = storage.templates(np.stack([first, second, third]), np.array([0, 2]))
    np.testing.assert_allclose(templates[0], storage.unit(first + second), atol=1e-6)
    np.testing.assert_allclose(templates[1], third, atol=1e-6)

  def test_result_does_not_depend_on_the_other_queries(self, people, tmp_path):
    encoder = ColourEncoder()
    indexing.build(people, tmp_path / 'g', encoder, CROPS)
    found = gallery.Gallery.load(tmp_path / 'g', encoder=encoder)
    queries = unit_rows(1, 70, 48)
    together = found.search(queries, top=3)
    assert together == [found.search(2 * query[None], top=3)[0] for query in queries]
    assert found.search(np.zeros((0, 48))) == [] and found.embed([]).shape == (0, 48)

  def test_margin_brings_the_face_to_its_place(self):
    crop = np.zeros((360, 360, 3), np.uint8)
    cv2.circle(crop, (180, 202), 20, (255, 255, 255), -1)  # the oval's centre of any margin
    framed = framing.reframe(crop, 1.8)
    assert framed.shape == (framing.SIDE, framing.SIDE, 3)
    rows, columns = np.nonzero(framed[..., 0] > 128)
    np.testing.assert_allclose((columns.mean(), rows.mean()), (80, framing.MIDDLE * 160), atol=1)
    diameter = 40 * (1.8 / 1.45) * 160 / 360
    assert abs(np.ptp(columns) + 1 - diameter) < 2

  def test_landmarks_come_to_their_mean_places(self, tmp_path, monkeypatch):
    rotation = cv2.getRotationMatrix2D((150, 150), 12, 1.1)
    five = cv2.transform(alignment.MEAN_POINTS[None] * 200 + 50, rotation)[0]
    points = np.full((468, 2), 150, np.float32)
    for indices, point in zip(framing._FIVE, five, strict=True):
      points[list(indices)] = point
    picture = np.zeros((300, 300, 3), np.uint8)
    cv2.circle(picture, np.rint(five[4]).astype(int).tolist(), 4, (255, 255, 255), -1)
    done, data = cv2.imencode('.jpg', picture)
    assert done
    (tmp_path / 'a.jpg').write_bytes(data.tobytes())

    class Finder:
      def find(self, image):
        return [Face((60.0, 50.0, 180.0, 200.0), points)]

    monkeypatch.setattr(finding, 'make_finder', lambda name: Finder())
    (face,) = FaceReader(Framing('mesh')).read(tmp_path / 'a.jpg').faces
    rows, columns = np.nonzero(face.pixels[..., 0] > 128)
    expected = alignment.MEAN_POINTS[4] * framing.SIDE
    np.testing.assert_allclose((columns.mean(), rows.mean()), expected, atol=1)


class TestRates:
  def test_rates_are_shares_of_pairs_of_different_people(self, monkeypatch):
    monkeypatch.setattr(rates, '_PEOPLE_BLOCK', 7)
    monkeypatch.setattr(rates, '_QUERY_BLOCK', 5)
    embeddings, person_of = unit_rows(2, 60, 4), np.repeat(np.arange(20), 3)
    templates = storage.templates(embeddings, np.arange(0, 60, 3))
    measured = rates.measure(embeddings, person_of, templates)
    similarities = embeddings @ templates.T
    similarities[np.arange(60), person_of] = -2
    assert (measured.pairs, measured.queries) == (60 * 19, 60)
    for similarity in (-0.5, 0.2, 0.7, 0.95):
      # Similarities are counted in steps, always so that a rate is not too small.
      for share, values, of in (
        (measured.false_match(similarity), similarities, 60 * 19),
        (measured.best_match(similarity), similarities.max(1), 60),
      ):
        low, high = ((values >= similarity - s).sum() / of for s in (0, 1 / rates.STEPS))
        assert low <= share <= high
    assert measured.false_match(1.0) <= measured.false_match(-1.0) == 1

  def test_a_large_gallery_is_sampled_and_always_alike(self, monkeypatch):
    monkeypatch.setattr(rates, '_PAIRS', 0)
    monkeypatch.setattr(rates, '_LEAST_QUERIES', 10)
    embeddings = unit_rows(3, 40, 4)
    first, second = (rates.measure(embeddings, np.arange(40), embeddings) for _ in range(2))
    assert (first.queries, first.pairs) == (10, 390)
    np.testing.assert_array_equal(first.counts, second.counts)

  def test_one_person_has_no_rate(self):
    measured = rates.measure(unit_rows(4, 2, 4), np.zeros(2, int), unit_rows(4, 1, 4))
    assert measured.false_match(0.5) is None and measured.best_match(0.5) is None

  def test_a_rate_of_zero_names_the_number_of_pairs(self):
    assert rates.one_in(0.0, 2970) == 'fewer than 1 in 2,970'
    assert rates.one_in(1 / 420, 2970) == '1 in 420' and rates.one_in(0.4, 10) == '1 in 2.5'


class TestSearch:
  def test_blocks_make_no_difference(self, monkeypatch):
    templates, queries = unit_rows(5, 101, 8), unit_rows(6, 9, 8)
    expected = np.argsort(-(queries @ templates.T), axis=1)[:, :4]
    monkeypatch.setattr(people_search, '_PEOPLE_BLOCK', 10)
    monkeypatch.setattr(people_search, '_QUERY_BLOCK', 4)
    found = people_search.ExactSearch(templates).nearest(queries, 4)
    assert [set(row) for row in found] == [set(row) for row in expected]

  def test_faiss_gives_the_same_answers(self, people, tmp_path):
    pytest.importorskip('faiss')
    encoder = ColourEncoder()
    for index in ('exact', 'faiss'):
      indexing.build(people, tmp_path / index, encoder, CROPS, index=index)
    queries = unit_rows(7, 50, 48)
    exact, approximate = (
      gallery.Gallery.load(tmp_path / index, encoder=encoder).search(queries, top=4)
      for index in ('exact', 'faiss')
    )
    assert exact == approximate

  def test_faiss_among_many(self, tmp_path):
    pytest.importorskip('faiss')
    templates, queries = unit_rows(8, 5000, 32), unit_rows(9, 40, 32)
    people_search.write_faiss(templates, tmp_path / 'i')
    found = people_search.FaissSearch(tmp_path / 'i', 5000, 32).nearest(queries, 13)
    best = np.argsort(-(queries @ templates.T), axis=1)[:, :5]
    assert all(set(row) >= set(few) for few, row in zip(best, found, strict=True))

  def test_without_faiss_the_extra_is_named(self, people, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    monkeypatch.setattr(people_search, 'MANY_PEOPLE', 3)
    for index in ('faiss', 'auto'):
      with pytest.raises(InputError, match=r"extra `faiss`: pip install -e '\.\[faiss\]'"):
        indexing.build(people, tmp_path / 'g', ColourEncoder(), CROPS, index=index)
    indexing.build(people, tmp_path / 'g', ColourEncoder(), CROPS, index='exact')


class TestIndexing:
  def test_equal_runs_give_equal_bytes(self, people, tmp_path):
    for name in ('a', 'b'):
      indexing.build(people, tmp_path / name, ColourEncoder(), CROPS)
    assert hashes(tmp_path / 'a') == hashes(tmp_path / 'b')
    assert not list(tmp_path.glob('.*'))

  def test_an_interrupted_run_goes_on(self, people, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, '_BATCH', 4)
    indexing.build(people, tmp_path / 'whole', ColourEncoder(), CROPS)

    class Interrupted(ColourEncoder):
      def __call__(self, images):
        if self.images:
          raise KeyboardInterrupt
        return super().__call__(images)

    with pytest.raises(KeyboardInterrupt):
      indexing.build(people, tmp_path / 'parts', Interrupted(), CROPS)
    assert not (tmp_path / 'parts').exists()
    encoder = ColourEncoder()
    indexing.build(people, tmp_path / 'parts', encoder, CROPS)
    assert encoder.images == 7
    assert hashes(tmp_path / 'whole') == hashes(tmp_path / 'parts')

  def test_a_gallery_is_brought_up_to_date(self, people, tmp_path):
    encoder = ColourEncoder()
    indexing.build(people, tmp_path / 'g', encoder, CROPS)
    photograph(6, 0, people / 'new' / '0.jpg')
    (people / 'alone.jpg').unlink()
    stored = indexing.build(people, tmp_path / 'g', encoder, CROPS)
    assert encoder.images == 12 and 'new' in stored.people and 'alone.jpg' not in stored.people
    # Other crops are other faces.
    indexing.build(people, tmp_path / 'g', encoder, Framing(None, 1.8))
    assert encoder.images == 23

  def test_what_cannot_be_used_is_listed(self, people, tmp_path, monkeypatch):
    data = (people / 'alone.jpg').read_bytes()
    bad = people / 'person0'
    (bad / 'text.jpg').write_text('no picture')
    (bad / 'empty.jpg').touch()
    (bad / 'cut.jpg').write_bytes(data[: len(data) // 2])
    (bad / 'notes.txt').write_text('notes')
    (bad / '.hidden.jpg').write_bytes(data)
    photograph(7, 0, people / 'crowd' / 'two.jpg')
    photograph(8, 0, people / 'nobody' / 'wall.jpg')
    found = {}
    for path in people.glob('*/*.jpg'):
      if (picture := cv2.imread(str(path))) is not None:
        found[picture[0, 0].tobytes()] = {'crowd': 2, 'nobody': 0}.get(path.parent.name, 1)

    class Finder:
      def find(self, image):
        faces = found.get(image[0, 0, ::-1].tobytes(), 1)
        return [Face((10.0, 10.0, 40.0 - k, 40.0)) for k in range(faces)]

    monkeypatch.setattr(finding, 'make_finder', lambda name: Finder())
    stored = indexing.build(people, tmp_path / 'g', ColourEncoder(), Framing())
    reasons = {left['photograph']: left['reason'] for left in stored.left_out}
    assert set(reasons) == {
      *(f'person0/{name}' for name in ('text.jpg', 'empty.jpg', 'cut.jpg', 'notes.txt')),
      'crowd/two.jpg',
      'nobody/wall.jpg',
    }
    assert 'several faces' in reasons['crowd/two.jpg']
    assert 'No face was found' in reasons['nobody/wall.jpg']
    for name, reason in reasons.items():
      assert name in reason and reason.endswith('.')
    assert len(stored.photographs) == 11 and 'crowd' not in stored.people
    description = json.loads((tmp_path / 'g' / 'gallery.json').read_text())
    assert (description['photographs'], description['left_out']) == (11, 6)

  def test_one_file_under_two_names_is_said(self, people, tmp_path):
    (people / 'twin').mkdir()
    (people / 'twin' / '0.jpg').write_bytes((people / 'person0' / '0.jpg').read_bytes())
    stored = indexing.build(people, tmp_path / 'g', ColourEncoder(), CROPS)
    (sentence,) = stored.warnings
    assert sentence.startswith('person0/0.jpg and twin/0.jpg are one file under two names')

  def test_a_folder_without_faces_is_refused(self, tmp_path):
    with pytest.raises(InputError, match='There is no folder'):
      indexing.build(tmp_path / 'nowhere', tmp_path / 'g', ColourEncoder(), CROPS)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='There is no photograph in'):
      indexing.build(tmp_path / 'empty', tmp_path / 'g', ColourEncoder(), CROPS)
    (tmp_path / 'empty' / 'a.jpg').write_text('x')
    with pytest.raises(InputError, match=r'None of the 1 photographs .* can be used; the first: '):
      indexing.build(tmp_path / 'empty', tmp_path / 'g', ColourEncoder(), CROPS)
    assert not (tmp_path / 'g').exists()

  def test_nothing_else_is_overwritten(self, people, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'letter.txt').write_text('dear')
    for out in (tmp_path / 'mine', people, people / 'g', tmp_path):
      with pytest.raises(InputError, match=r'is no gallery; name another|lie in one another'):
        indexing.build(people, out, ColourEncoder(), CROPS)
    assert (tmp_path / 'mine' / 'letter.txt').exists()
    assert len(listing.list_people(people).photographs) == 11


class TestBadGalleries:
  @pytest.fixture
  def made(self, people, tmp_path):
    indexing.build(people, tmp_path / 'g', ColourEncoder(), CROPS)
    return tmp_path / 'g'

  def refused(self, folder, match):
    with pytest.raises(InputError, match=match) as info:
      gallery.Gallery.load(folder, encoder=ColourEncoder())
    assert str(info.value).endswith('.') and str(folder) in str(info.value)

  def test_no_gallery(self, tmp_path):
    self.refused(tmp_path, 'is no gallery; make one with')

  @pytest.mark.parametrize('name', ['embeddings.npy', 'photographs.json', 'non_mates.npy'])
  def test_damaged_or_missing(self, made, name):
    data = bytearray((made / name).read_bytes())
    data[-1] ^= 1
    (made / name).write_bytes(data)
    self.refused(made, f'{name} is damaged')
    (made / name).unlink()
    self.refused(made, f'{name} is damaged')

  def test_objects_are_never_unpickled(self, made):
    class Bomb:
      def __reduce__(self):
        return os.mkdir, (str(made / 'exploded'),)

    (made / 'embeddings.npy').write_bytes(pickle.dumps(np.array([Bomb()], object)))
    self.sign(made)
    self.refused(made, 'is damaged')
    np.save(made / 'embeddings.npy', np.array([Bomb()], object))
    self.sign(made)
    self.refused(made, 'is damaged')
    assert not (made / 'exploded').exists()

  @pytest.mark.parametrize(
    'array', [np.ones((11, 48), np.float32), np.full((11, 48), np.nan, np.float32), np.ones(3)]
  )
  def test_arrays_that_are_none_of_ours(self, made, array):
    np.save(made / 'embeddings.npy', array)
    self.sign(made)
    self.refused(made, 'is damaged or not of this gallery')

  def test_descriptions_that_are_none_of_ours(self, made):
    path = made / 'gallery.json'
    description = json.loads(path.read_text())
    for changes, match in (
      ({'schema': 99}, 'schema 99'),
      ({'files': {**description['files'], '../people/alone.jpg': ''}}, 'damaged'),
      ({'files': {}}, 'damaged'),
      ({'framing': {'finder': 'other', 'margin': 1.45}}, 'damaged'),
    ):
      path.write_text(json.dumps({**description, **changes}))
      self.refused(made, match)
    path.write_text('{')
    self.refused(made, 'damaged')

  def test_another_encoder(self, made, tmp_path):
    other = ColourEncoder()
    other.sha256 = '1' * 64
    with pytest.raises(InputError, match=r'made with the encoder colours of SHA-256 000.* 111'):
      gallery.Gallery.load(made, encoder=other)
    with pytest.raises(InputError, match=r'whose weights are not at .*give their file with'):
      gallery.Gallery.load(made)
    (tmp_path / 'w.npz').write_bytes(b'x')
    with pytest.raises(InputError, match='give that file with --encoder-weights'):
      gallery.Gallery.load(made, encoder_weights=tmp_path / 'w.npz')

  def sign(self, folder):
    """Makes the hashes fit, as somebody who means harm would."""
    path = folder / 'gallery.json'
    description = json.loads(path.read_text())
    description['files']['embeddings.npy'] = hashes(folder)['embeddings.npy']
    path.write_text(json.dumps(description))


def test_without_weights_the_encoder_of_the_package_is_taken(tmp_path, capsys):
  for person in range(2):
    photograph(person, 0, tmp_path / 'people' / str(person) / '0.jpg')
  arguments = ['index', str(tmp_path / 'people'), str(tmp_path / 'g'), '--already-cropped']
  assert command.main(arguments) == 0
  made = json.loads((tmp_path / 'g' / 'gallery.json').read_text())
  assert made['encoder']['weights'] == 'shipped_lfw'  # Wherever the package lies.
  assert len(gallery.Gallery.load(tmp_path / 'g').embed([np.zeros((64, 64, 3), np.uint8)])) == 1
  assert command.main([*arguments, '--encoder=iresnet']) != 0
  assert 'give their file with --encoder-weights' in capsys.readouterr().err


class TestCommand:
  @pytest.fixture(autouse=True)
  def colours(self, monkeypatch, tmp_path):
    """The command with the encoder of colours."""
    (tmp_path / 'colours.npz').write_bytes(b'colours')
    sha256 = embedding.file_sha256(tmp_path / 'colours.npz')
    self.weights = str(tmp_path / 'colours.npz')

    def make(name, weights):
      encoder = ColourEncoder()
      encoder.weights, encoder.sha256 = str(weights), sha256
      return encoder

    monkeypatch.setattr(embedding, 'FaceEncoder', make)
    monkeypatch.setattr(gallery, 'FaceEncoder', make)

  def index(self, people, out):
    weights = f'--encoder-weights={self.weights}'
    return command.main(['index', str(people), str(out), '--already-cropped', weights])

  @pytest.mark.skipif(sys.platform != 'linux', reason='needs file names that are any bytes')
  def test_names_of_any_kind(self, people, tmp_path, capsys):
    names = ['<script>alert(1)</script>'.replace('/', ''), 'Grüße 東京', '"\'&;$(x)', 'a\nb\x1b[2J']
    names.append(os.fsdecode(b'bytes\xff'))
    for number, name in enumerate(names, 10):
      photograph(number, 0, people / name / f'{name}.jpg')
    assert self.index(people, tmp_path / 'g') == 0
    queries = [str(photograph(n, 1, tmp_path / f'{n}.jpg')) for n in range(10, 15)]
    capsys.readouterr()
    assert command.main(['query', str(tmp_path / 'g'), *queries, '--json', '--top=1']) == 0
    result = json.loads(capsys.readouterr().out)
    first = [entry['faces'][0]['candidates'][0] for entry in result['inputs']]
    assert [(c['person'], c['photo']) for c in first] == [(n, f'{n}/{n}.jpg') for n in names]
    assert command.main(['query', str(tmp_path / 'g'), *queries]) == 0
    shown = capsys.readouterr().out
    shown.encode()  # A terminal can show all of it,
    assert '\x1b' not in shown and r'a\nb\x1b[2J' in shown  # and none of it steers the terminal.
    assert '東京' in shown and 'fewer than 1 in' in shown and 'no identification' in shown

  def test_bad_images_are_listed_beside_good_ones(self, people, tmp_path, capsys):
    self.index(people, tmp_path / 'g')
    (tmp_path / 'bad.jpg').write_text('x')
    good, bad = str(people / 'person1'), str(tmp_path / 'bad.jpg')
    capsys.readouterr()
    assert command.main(['query', str(tmp_path / 'g'), bad, good, '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert [entry['status'] for entry in result['inputs']] == ['failed', 'done', 'done']
    assert result['inputs'][0]['error'].startswith(bad)
    assert result['gallery']['people'] == 6
    assert command.main(['query', str(tmp_path / 'g'), bad]) == 1

  def test_patterns_are_expanded(self, people, tmp_path, capsys):
    self.index(people, tmp_path / 'g')
    for number, name in enumerate(('forged1.jpg', 'forged2.jpg', 'forged[12].jpg')):
      photograph(number, 1, tmp_path / name)
    (tmp_path / 'forged1.jpg').rename(tmp_path / 'forgeda.jpg')
    capsys.readouterr()

    def queried(pattern):
      command.main(['query', str(tmp_path / 'g'), str(tmp_path / pattern), '--json'])
      inputs = json.loads(capsys.readouterr().out)['inputs']
      return [(os.path.basename(entry['input']), entry['status']) for entry in inputs]

    assert queried('forged?.jpg') == [('forged2.jpg', 'done'), ('forgeda.jpg', 'done')]
    assert queried('forged[12].jpg') == [('forged[12].jpg', 'done')]  # It is there.
    assert queried('pe*/person1') == [('0.jpg', 'done'), ('1.jpg', 'done')]
    assert queried('*.gif') == [('*.gif', 'failed')]

  def test_errors_are_one_sentence(self, people, tmp_path, capsys):
    assert self.index(tmp_path / 'nowhere', tmp_path / 'g') == 1
    assert capsys.readouterr().err.startswith('Error: There is no folder')
    for arguments in (
      ['index', str(people), 'g', '--margin=1.8'],
      ['index', str(people), 'g', '--already-cropped', '--margin=nan'],
      ['query', 'g', 'a.jpg', '--top=0'],
    ):
      with pytest.raises(SystemExit) as info:
        command.main(arguments)
      assert info.value.code == 2


def test_smiling_people_are_found_by_their_neutral_photographs(shared, tmp_path):
  faces = shared / 'faces' / 'london512'
  weights = shared / 'encoders' / 'mobilefacenet.npz'
  if not (faces.is_dir() and weights.is_file()):
    pytest.skip(f'{faces} or {weights} is not there.')
  names = sorted(path.parent.name for path in faces.glob('*/neutral.jpg'))
  for name in names:
    place = tmp_path / 'neutral' / name / 'neutral.jpg'
    place.parent.mkdir(parents=True)
    place.symlink_to(faces / name / 'neutral.jpg')
  indexing.build(
    tmp_path / 'neutral',
    tmp_path / 'g',
    embedding.FaceEncoder('mobilefacenet', weights),
    Framing(),
  )
  found = gallery.Gallery.load(tmp_path / 'g')
  reader = FaceReader(found.framing)
  smiling = [reader.read(pathlib.Path(faces, name, 'smiling.jpg')).faces for name in names]
  lists = found.search(found.embed([photograph[0].pixels for photograph in smiling]))
  first = [candidates[0] for candidates in lists]
  assert np.mean([c.person == name for c, name in zip(first, names, strict=True)]) >= 0.98
  assert all(candidate.false_match_rate < 0.01 for candidate in first)
