"""The report: everything escaped, embedded and named, and it works in a browser."""

import base64
import copy
import datetime
import html.parser
import io
import os
import re
import zipfile

import numpy as np
from PIL import Image
import pytest

from dfrec_jax import demo
from dfrec_jax.recover import wording
from dfrec_jax.recover.drawing import LARGEST_THUMBNAIL
from dfrec_jax.recover.report import write_report
from tests import browsing

NASTY = 'evidence/<script>alert("x")</script> \'&amp;\' Grüße 東京 \u202egpj.exe \udcff.jpg'
SHOWN = 'evidence/<script>alert("x")</script> \'&amp;\' Grüße 東京 \\u202egpj.exe \\udcff.jpg'
BLUE, RED = (20, 40, 200), (200, 40, 20)
WRITTEN = datetime.datetime(2024, 5, 17, 14, 3, tzinfo=datetime.UTC)


class Page(html.parser.HTMLParser):
  """What a browser sees: elements with their attributes, and texts."""

  def __init__(self, text: str):
    super().__init__()
    self.elements, self.text, self._open = [], '', []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    self._open.append(tag)

  def handle_endtag(self, tag):
    while self._open and self._open.pop() != tag:
      pass

  def handle_data(self, data):
    if self._open[-1:] not in (['script'], ['style']):
      self.text += data

  def all(self, tag):
    return [attributes for name, attributes in self.elements if name == tag]


def save(colour, path, size=(40, 40)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, colour).save(path)


def swapped_face(folder, number=1, **changes):
  names = ('crop', 'mask', 'overlay', 'source', 'target', 'spread')
  candidate = {
    'person': 'Ann "<b>O\'Neill</b>"',
    'photo': 'ann/1.jpg',
    'similarity': 0.61,
    'false_match_rate': 0.0,
    'pairs': 2970,
    'best_match_rate': 0.25,
    'queries': 55,
  }
  return {
    'number': number,
    'box': [4, 4, 20, 24],
    'crop': [0, 0, 30],
    'score': 0.97,
    'false_alarm_rate': 2 / 128,
    'swapped': True,
    'warnings': [],
    'instability': 3.21,
    'draws': 4,
    'files': {name: f'{folder}/face-{number}/{name}.png' for name in names},
    'candidates': {'source': [candidate], 'target': [{**candidate, 'false_match_rate': 1 / 420}]},
    **changes,
  }


def unswapped_face(folder, number, **changes):
  face = swapped_face(folder, number, score=0.1, false_alarm_rate=0.5, swapped=False)
  files = {'crop': face['files']['crop']}
  return {**face, 'instability': None, 'files': files, 'candidates': {}, **changes}


def entry(name, folder, faces, **changes):
  return {
    'input': name,
    'sha256': f'{len(name):064x}',
    'kind': 'image',
    'width': 640,
    'height': 480,
    'status': 'done',
    'error': None,
    'warnings': [],
    'folder': folder,
    'files': {'boxes': f'{folder}/boxes.jpg', 'restored': f'{folder}/restored.png'},
    'faces': faces,
    **changes,
  }


def failed(name, error):
  changes = {'status': 'failed', 'error': error, 'kind': None, 'files': {}}
  return entry(name, None, [], **changes)


@pytest.fixture
def results():
  video_face = swapped_face('film-1')
  video_face['track'] = {
    'frames': [0, 12, 24],
    'times': [0.0, 0.5, 1.0],
    'scores': [0.99, 0.5, 0.97],
    'best_frame': 0,
    'plot': 'film-1/face-1/scores.png',
    'images': ['film-1/face-1/frame.jpg', 'film-1/face-1/target-of-best-frame.png'],
  }
  film = entry('film.mp4', 'film-1', [video_face], kind='video', frames=3, duration=1.5)
  film['files']['side_by_side'] = 'film-1/side_by_side.mp4'
  inputs = [
    entry(NASTY, 'nasty-1', [swapped_face('nasty-1'), unswapped_face('nasty-1', 2)]),
    entry('nobody.png', 'nobody-1', [], files={'boxes': 'nobody-1/boxes.jpg'}),
    failed('<i>bad</i>.jpg', 'The image <i>bad</i>.jpg is truncated; copy it again.'),
    film,
  ]
  inputs[1]['warnings'] = ['No face was found in nobody.png.']
  return {
    'schema': 1,
    'tool': {
      'name': 'dfrec_jax',
      'version': '0.1.0',
      'libraries': {'jax': '0.9.9', 'numpy': '9.9.9'},
      'platform': 'Linux x86_64, cpu',
    },
    'checkpoint': {
      'path': 'runs/<mine>',
      'step': 2700,
      'sha256': 'c' * 64,
      'size': 'nano',
      'image_size': 96,
      'calibration': {'data': 'val.csv', 'pristine': 128, 'forged': 256, 'people': 90},
    },
    'settings': {'seed': 7, 'draws': 4, 'threshold': 0.93, 'false_alarms': 0.05, 'gallery': None},
    'gallery': {
      'path': 'gallery',
      'sha256': 'd' * 64,
      'encoder': {'name': 'mobilefacenet', 'sha256': 'e' * 64},
      'people': 55,
      'photographs': 55,
    },
    'inputs': inputs,
    'unfinished': ['late <b>.jpg'],
    'passed_over': ['notes.txt', 'read me'],
  }


def paths_of(results):
  """Every picture that the report shows."""
  for given in results['inputs']:
    yield from (path for name, path in given['files'].items() if name != 'side_by_side')
    for face in given['faces']:
      yield from (path for name, path in face['files'].items() if name != 'mask')
      track = face.get('track', {})
      yield from track.get('images', ())
      if track:
        yield track['plot']


@pytest.fixture
def out(results, tmp_path):
  """The folder of the results, with the images that they name."""
  folder = tmp_path / 'out'
  for path in paths_of(results):
    colour = RED if path.endswith('target.png') else BLUE
    save(colour, folder / path, (500, 400) if 'boxes' in path else (40, 40))
  return folder


def render(results, out):
  return write_report(results, out, written=WRITTEN).read_text('utf-8')


def test_names_are_shown_and_never_obeyed(results, out):
  page = Page(render(results, out))
  assert len(page.all('script')) == 1 and not page.all('i') and not page.all('b')
  assert SHOWN in page.text
  assert 'Ann "<b>O\'Neill</b>"' in page.text and 'runs/<mine>' in page.text
  assert 'The image <i>bad</i>.jpg is truncated; copy it again.' in page.text
  assert any(image['alt'] == f'Face 1 of {SHOWN}, as found' for image in page.all('img'))


def test_every_picture_is_embedded_small_and_described(results, out):
  page = Page(render(results, out))
  images = page.all('img')
  assert len(images) == len(list(paths_of(results)))
  assert all(image['alt'] for image in images)
  for image in images:
    kind, data = image['src'].split(';base64,')
    assert kind in ('data:image/jpeg', 'data:image/png')
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
      assert picture.size == (int(image['width']), int(image['height']))
      assert max(picture.size) <= LARGEST_THUMBNAIL
  boxes = next(image for image in images if 'numbered box' in image['alt'])
  assert (boxes['width'], boxes['height']) == ('384', '307')


def test_nothing_comes_from_elsewhere(results, out):
  text = render(results, out)
  assert not re.search(r'\w+://|url\(|@import|<link|<iframe', text)
  page = Page(text)
  ids = {attributes.get('id') for _, attributes in page.elements}
  for tag, attributes in page.elements:
    assert not [name for name in attributes if name.startswith('on')], tag
    if 'href' in attributes:
      assert attributes['href'].removeprefix('#') in ids
  policy = next(meta['content'] for meta in page.all('meta') if 'http-equiv' in meta)
  assert "default-src 'none'" in policy and 'unsafe-inline' not in policy.split('script-src')[1]


def test_a_target_candidate_that_is_near_the_source_is_marked(results, out):
  one, other = {'person': 'one'}, {'person': 'other'}
  for target, marked in (([one, other], True), ([other], False)):
    face = swapped_face('a')
    known = face['candidates']['source'][0]
    face['candidates'] = {
      'source': [{**known, **one}],
      'target': [{**known, **person} for person in target],
    }
    text = wording.first_place(face['candidates'], 'target')
    assert ('more likely the person who was pasted' in text) == marked
    assert 'pasted' not in wording.first_place(face['candidates'], 'source')
    page = Page(render({**results, 'inputs': [entry('a', 'nasty-1', [face])]}, out))
    assert page.text.count('nearest to the source, too') == marked


def test_missing_and_damaged_pictures_are_named(results, out):
  (out / 'nasty-1/face-1/target.png').unlink()
  (out / 'nasty-1/restored.png').write_bytes(b'no picture')
  results['inputs'][1]['files']['boxes'] = '../secret.png'
  save(RED, out.parent / 'secret.png')
  text = Page(render(results, out)).text
  for path in ('nasty-1/face-1/target.png', 'nasty-1/restored.png', '../secret.png'):
    assert f'The image {path} is missing or damaged.' in text


def test_it_states_what_was_examined_and_how(results, out):
  text = re.sub(r'[ \n]+', ' ', Page(render(results, out)).text)
  for given in results['inputs']:
    assert given['sha256'] in text
  for words in (
    'c' * 64,
    'step 2700',
    '2024-05-17',
    'An estimate, never proof of identity',
    '2 of the 128 genuine photographs of the evaluation (of 90 people), 1.6\u00a0%, scored as high '
    'or higher.',
    'varies inside the mask by 3.2 of 255 grey levels',
    'No face was found in nobody.png.',
    'film-1/side_by_side.mp4',
    '2 of them score at least 0.930; the lowest is 0.500, the highest 0.990.',
    '1 of 2 faces scores as swapped',
    'Face 1: scores as swapped',
    'Face 2: no swap found',
    '3 faces were examined; of as many genuine ones about 0.2 would score as swapped.',
    'Genuine faces often get a mask, too: it is no evidence of a swap',
    'own photographs, not on recovered faces, for which chance may do more.',
    'jax 0.9.9, numpy 9.9.9',
    'Linux x86_64, cpu',
    '128 genuine (of 90 people) and 256 forged photographs',
    'Recovered target of that frame alone, an estimate',
    'fewer than 1 in 2,970',
    '1 in 420',
    'people who are not in the gallery, 1 in 4 would find somebody at least as similar by a '
    'photograph; by a recovered face it may be more.',
    'compared by mobilefacenet',
    'The run was stopped before 1 further input.',
    'late <b>.jpg',
    '2 other entries of the folders',
  ):
    assert words in text, words


def test_a_checkpoint_that_is_not_calibrated(results, out):
  results['checkpoint']['calibration'] = None
  for given in results['inputs']:
    for face in given['faces']:
      face['false_alarm_rate'] = None
  text = render(results, out)
  assert 'the checkpoint carries no scores' in re.sub(r'[ \n]+', ' ', text)


def test_no_input_at_all(results, tmp_path):
  results['inputs'] = []
  assert 'Face-swap report' in Page(render(results, tmp_path)).text


def test_equal_results_give_equal_pages_and_nothing_else(results, out):
  before = sorted(path.name for path in out.iterdir())
  given = copy.deepcopy(results)
  assert render(results, out) == render(results, out)
  assert results == given
  assert sorted(path.name for path in out.iterdir()) == sorted([*before, 'report.html'])


@pytest.mark.parametrize(
  ('rate', 'words'),
  [
    (0, '0\u00a0%'),
    (0.00071, '0.071\u00a0%'),
    (0.0123, '1.2\u00a0%'),
    (0.05, '5\u00a0%'),
    (1, '100\u00a0%'),
  ],
)
def test_per_cent(rate, words):
  assert wording.percent(rate) == words


def test_a_score_is_never_rounded_to_certainty():
  assert [wording.score(value) for value in (1.0, 0.99949, 0.5, 0.0)] == [
    '>\u00a00.999',
    '0.999',
    '0.500',
    '<\u00a00.001',
  ]


def test_no_false_alarm_among_few_is_no_proof_of_none():
  face = {'false_alarm_rate': 0.0}
  sentence = wording.false_alarms(face, {'pristine': 128, 'people': None})
  # (1 - p)^128 = 0.05 at p = 2.3 %.
  assert 'None of the 128' in sentence and '2.3\u00a0%' in sentence
  assert 'if each shows another person' in sentence
  # Of people, who may be there in several photographs: (1 - p)^60 = 0.05 at p = 4.9 %.
  sentence = wording.false_alarms(face, {'pristine': 128, 'people': 60})
  assert '(of 60 people)' in sentence and '4.9\u00a0%' in sentence
  assert 'counted by people' in sentence


def test_how_many_genuine_faces_would_score_as_swapped():
  many = wording.expected_alarms(300, 0.05)
  assert many == '300 faces were examined; of as many genuine ones about 15 would score as swapped.'
  one = wording.expected_alarms(1, 0.05)
  assert one == '1 face was examined; of genuine ones about 5\u00a0% score as swapped.'
  assert 'is not known' in wording.expected_alarms(2, None)


def test_a_picture_that_was_turned_and_a_face_of_a_single_draw(results, out):
  face = swapped_face('nasty-1', instability=None, draws=1)
  given = entry('a.jpg', 'nasty-1', [face])
  whole = Page(render({**results, 'inputs': [given]}, out))
  assert 'of the upright picture' not in whole.text
  assert not any('heat map' in image['alt'] for image in whole.all('img'))
  turned = Page(render({**results, 'inputs': [{**given, 'turned': True}]}, out))
  assert 'sides and boxes are of the upright picture' in turned.text


def test_results_of_a_tool_that_named_no_libraries(results, out):
  for name in ('libraries', 'platform'):
    del results['tool'][name]
  del results['checkpoint']['calibration']['people']
  text = render(results, out)
  assert 'Computed' not in text


@pytest.mark.parametrize('width', [1280, 390])
def test_in_a_browser(results, out, width):
  path = write_report(results, out)
  with browsing.open_window(width) as window:
    page = window.page
    page.goto(path.as_uri())
    assert browsing.unloaded_images(page) == []
    overflow = page.evaluate('document.documentElement.scrollWidth - innerWidth')
    assert overflow <= 0
    stage, handle = page.locator('.stage').first, page.locator('.slider input').first
    handle.scroll_into_view_if_needed()
    # What was found is blue, at the left of the line; the recovered target is red.
    sides = [browsing.shown_colour(stage, across) for across in (0.2, 0.8)]
    assert np.argmax(sides[0]) == 2 and np.argmax(sides[1]) == 0
    handle.focus()
    page.keyboard.press('Home')
    assert np.argmax(browsing.shown_colour(stage, 0.2)) == 0
    page.keyboard.press('End')
    assert np.argmax(browsing.shown_colour(stage, 0.8)) == 2
    assert window.complaints == []
    assert window.requests == [path.as_uri()]


def test_the_demo_gives_all_that_the_report_names(results, out):
  *pages, archive = demo._write(results, out)
  with zipfile.ZipFile(archive) as kept:
    names = set(kept.namelist())
  assert {*paths_of(results), *(os.path.basename(page) for page in pages)} <= names
