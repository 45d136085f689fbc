"""Inputs listed, folders named, written whole or not at all, and taken up again."""

import json
import os
import re

import numpy as np
import pytest

from dfrec_jax.errors import InputError
from dfrec_jax.recover import drawing, examine, outputs
from dfrec_jax.recover.budget import Budget
from dfrec_jax.recover.crops import Crop
from dfrec_jax.recover.inputs import IMAGE, VIDEO, find_inputs
from dfrec_jax.recover.outputs import OutputFolder, folder_name
from input_pipeline.prepare.tracks import Square

NASTY = [
  'a b.jpg',
  '<script>alert("x")<\\script>.png',
  "Grüße 'ñ' 東京.webp",
  '-rf.jpg',
  '$(id).jpg',
]


def _names(found):
  return [os.path.basename(item.path) for item in found]


def _touch(*paths):
  for path in paths:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')


def test_folders_are_searched(tmp_path):
  top = tmp_path / 'in'
  _touch(*(top / 'deep' / 'er' / name for name in NASTY), top / 'b.MP4', top / 'notes.txt')
  _touch(top / '.hidden.jpg', top / '.cache' / 'c.jpg', top / 'landmarks.npz')
  (top / 'photograph').write_bytes(b'\xff\xd8\xff\xe0 and so on')
  (top / 'README').write_bytes(b'text')
  given = [str(top), str(top / 'notes.txt')]
  everything = find_inputs(given[:1], tmp_path / 'out')
  found = everything.items
  assert sorted(_names(found)) == sorted([*NASTY, 'b.MP4', 'photograph'])
  assert {item.kind for item in found if item.path.endswith('MP4')} == {VIDEO}
  assert all(item.error is None for item in found)
  assert everything == find_inputs([str(top), str(top / 'b.MP4')], tmp_path / 'out')
  # Neither lost nor looked at, unless they are named themselves.
  names = lambda found: [os.path.basename(path) for path in found.passed_over]
  assert names(everything) == ['README', 'landmarks.npz', 'notes.txt']
  assert names(find_inputs(given, tmp_path / 'out')) == ['README', 'landmarks.npz']


def test_links_and_circles(tmp_path):
  _touch(tmp_path / 'in' / 'a.jpg', tmp_path / 'elsewhere' / 'b.jpg')
  (tmp_path / 'in' / 'round').symlink_to(tmp_path / 'in')
  (tmp_path / 'in' / 'other').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'in' / 'file.jpg').symlink_to(tmp_path / 'in' / 'a.jpg')
  (tmp_path / 'in' / 'gone.jpg').symlink_to(tmp_path / 'nowhere')
  found = find_inputs([str(tmp_path / 'in')], tmp_path / 'out').items
  assert sorted(_names(found)) == ['a.jpg', 'b.jpg', 'file.jpg', 'gone.jpg']


def _write_results(folder, complete=True):
  """As an earlier run would leave it."""
  _touch(folder / 'a-0' / 'face-1' / 'crop.jpg', folder / outputs.REPORT)
  (folder / 'a-0' / outputs.RESULT).write_text('{"tool": {"name": "dfrec_jax"}}')
  if complete:
    (folder / outputs.RESULTS).write_text('{"tool": {"name": "dfrec_jax"}}')


def test_results_are_no_inputs_and_what_lies_beside_them_is(tmp_path):
  out, earlier, killed = (tmp_path / name for name in ('out', 'earlier', 'killed'))
  _touch(tmp_path / 'a.jpg', out / 'b.jpg', earlier / 'c.jpg', earlier / 'deep' / 'd.jpg')
  _write_results(out)
  _write_results(earlier)
  _write_results(killed, complete=False)
  found = find_inputs([str(tmp_path)], out)
  assert _names(found.items) == ['a.jpg', 'c.jpg', 'd.jpg', 'b.jpg']
  lost = [str(earlier / 'a-0'), str(killed / 'a-0'), str(killed / outputs.REPORT)]
  assert found.passed_over == lost
  (killed / outputs.REPORT).unlink()
  matched = find_inputs([str(tmp_path / '**' / '*.*')], out).items
  assert sorted(_names(matched)) == ['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg']
  (item,) = find_inputs([str(earlier / 'a-0' / '**' / '*.jpg')], out).items
  assert 'nothing but results' in item.error
  # Who names them wants them. The results of another program are not left out.
  assert _names(find_inputs([str(earlier / 'a-0')], out).items) == ['crop.jpg']
  (earlier / 'a-0' / outputs.RESULT).write_text('{"tool": "another"}')
  assert len(find_inputs([str(earlier)], out).items) == 3


def test_results_do_not_go_where_the_inputs_are(tmp_path):
  evidence = tmp_path / 'evidence'
  _touch(evidence / 'a.jpg')
  (tmp_path / 'link').symlink_to(evidence)
  for given in (evidence, tmp_path / 'link', tmp_path / 'evi*'):
    with pytest.raises(InputError, match='is where the results go'):
      examine.examine([str(given)], evidence, None)
  assert os.listdir(evidence) == ['a.jpg']
  # A pattern that also matches the results goes on.
  _write_results(tmp_path / 'out')
  found = find_inputs([str(tmp_path / '*')], tmp_path / 'out')
  assert {item.path for item in found.items} >= {str(evidence / 'a.jpg')}
  assert all(item.error is None for item in found.items)
  (item,) = find_inputs([str(tmp_path / 'o*')], tmp_path / 'out').items
  assert 'nothing but results' in item.error


def test_the_content_tells_the_kind(tmp_path):
  ftyp = lambda brand: b'\0\0\0\x18ftyp' + brand + bytes(12)
  png, avi = b'\x89PNG\r\n\x1a\n' + bytes(8), b'RIFF\1\2\3\4AVI LIST'
  webm = b'\x1a\x45\xdf\xa3' + bytes(8)
  bitmap = b'BM\x46\0\0\0\0\0\0\0\x36\0\0\0'
  contents = {
    'no suffix': (ftyp(b'isom'), VIDEO),
    'dashcam': (avi, VIDEO),
    'picture.mp4': (png, IMAGE),
    'film.jpg': (ftyp(b'mp42'), VIDEO),
    'Photo 12.03.2024': (png, IMAGE),
    'b.dat': (webm, VIDEO),
    'c.tmp': (ftyp(b'heic'), IMAGE),
    'd.mov': (ftyp(b'avif'), IMAGE),
    'e': (b'RIFF\1\2\3\4WEBPVP8 ', IMAGE),
    'f.old': (bitmap, IMAGE),
    'g.mpg': (b'', VIDEO),
    'h.pgm': (b'P5 1 1 255\n0', IMAGE),
    'song': (ftyp(b'M4A '), None),
    'song.wav': (b'RIFF\1\2\3\4WAVEfmt ', None),
    'notes': (b'BMW and Audi, a comparison', None),
    'raw.nef': (b'MM\0*\0\0\0\x08', None),
  }
  for name, (content, _) in contents.items():
    (tmp_path / 'in').mkdir(exist_ok=True)
    (tmp_path / 'in' / name).write_bytes(content)
  found = find_inputs([str(tmp_path / 'in')], tmp_path / 'out')
  kinds = {os.path.basename(item.path): item.kind for item in found.items}
  assert kinds == {name: kind for name, (_, kind) in contents.items() if kind}
  assert [os.path.basename(path) for path in found.passed_over] == sorted(
    name for name, (_, kind) in contents.items() if not kind
  )
  (item,) = find_inputs([str(tmp_path / 'in' / 'picture.mp4')], tmp_path / 'out').items
  assert item.kind == IMAGE


def test_a_file_of_several_spellings_is_one(tmp_path, monkeypatch):
  _touch(tmp_path / 'a.jpg')
  monkeypatch.chdir(tmp_path)
  found = find_inputs(['a.jpg', './a.jpg', str(tmp_path / 'a.jpg')], tmp_path / 'out').items
  assert [item.path for item in found] == ['a.jpg']


def test_patterns_and_what_is_not_there(tmp_path):
  _touch(tmp_path / 'x' / 'a1.jpg', tmp_path / 'x' / 'a2.jpg', tmp_path / 'x' / '[b].jpg')
  found = find_inputs([str(tmp_path / '**' / 'a?.jpg')], tmp_path / 'out').items
  assert _names(found) == ['a1.jpg', 'a2.jpg']
  # A file whose name looks like a pattern is that file.
  (item,) = find_inputs([str(tmp_path / 'x' / '[b].jpg')], tmp_path / 'out').items
  assert item.error is None
  (tmp_path / 'empty').mkdir()
  for given, says in (
    ('x/*.gif', 'matches no file'),
    ('gone.jpg', 'does not exist'),
    ('empty', 'holds no images or videos'),
  ):
    (item,) = find_inputs([str(tmp_path / given)], tmp_path / 'out').items
    assert says in item.error
    assert str(tmp_path / given) in item.error
    assert item.kind == IMAGE


@pytest.mark.parametrize(
  'path', [*NASTY, '../../etc/passwd', '...', '/', '.ssh', 'x' * 300 + '.jpg', 'a/\udcff\n.jpg']
)
def test_names_of_folders_are_harmless(path):
  name = folder_name(path, '0' * 64)
  assert re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9._-]{0,39}-[0-9a-f]{16}', name)
  assert name != folder_name(f'other/{path}', '0' * 64)
  assert name != folder_name(path, '1' * 64)
  assert name == folder_name(path, '0' * 64)


def _entry(name):
  return {'input': 'a.jpg', 'files': {'boxes': f'{name}/boxes.jpg'}, 'faces': []}


def test_a_folder_is_whole_or_not_there(tmp_path):
  out = tmp_path / 'out'
  with OutputFolder(out, {'schema': 1, 'settings': {'seed': 0}}) as folder:
    with pytest.raises(RuntimeError), folder.fresh('a-0123456789') as (place, finish):
      (place / 'boxes.jpg').write_bytes(b'1')
      finish(_entry('a-0123456789'))
      raise RuntimeError
    assert not list(out.iterdir())
    for content in (b'2', b'3'):  # The second replaces the first.
      with folder.fresh('a-0123456789') as (place, finish):
        (place / 'boxes.jpg').write_bytes(content)
        finish(_entry('a-0123456789'))
    assert (out / 'a-0123456789' / 'boxes.jpg').read_bytes() == b'3'
    assert folder.stored('a-0123456789') == _entry('a-0123456789')
    assert folder.stored('b-0123456789') is None


def test_what_is_stored_must_agree(tmp_path):
  head = {'schema': 1, 'settings': {'seed': 0}}
  with OutputFolder(tmp_path, head) as folder, folder.fresh('a-0123456789') as (place, finish):
    (place / 'boxes.jpg').write_bytes(b'1')
    finish(_entry('a-0123456789'))
  result = tmp_path / 'a-0123456789' / outputs.RESULT
  with OutputFolder(tmp_path, {**head, 'settings': {'seed': 1}}) as folder:
    assert folder.stored('a-0123456789') is None
  with OutputFolder(tmp_path, head) as folder:
    assert folder.stored('a-0123456789')
    whole = result.read_text()
    for damaged in ('', '[]', '{}', whole[: len(whole) // 2], '{"input": 3}'):
      result.write_text(damaged)
      assert folder.stored('a-0123456789') is None
    result.write_text(whole)
    (tmp_path / 'a-0123456789' / 'boxes.jpg').unlink()
    assert folder.stored('a-0123456789') is None


def test_leftovers_are_removed_and_nothing_else(tmp_path):
  for name in ('.a-0123456789abcdef.part', '.mine.part', 'a-0123456789'):
    (tmp_path / name).mkdir()
  (tmp_path / '.b-0123456789abcdef.part').write_bytes(b'a file')
  with OutputFolder(tmp_path, {}):
    assert sorted(os.listdir(tmp_path)) == [
      '.b-0123456789abcdef.part',
      '.mine.part',
      'a-0123456789',
    ]


def test_results_of_other_settings_are_removed_at_once(tmp_path):
  with OutputFolder(tmp_path, {'seed': 0}) as folder:
    folder.write_results([], [], [])
  (tmp_path / outputs.REPORT).write_text('of seed 0')
  with OutputFolder(tmp_path, {'seed': 0}):
    assert sorted(os.listdir(tmp_path)) == [outputs.REPORT, outputs.RESULTS]
  with OutputFolder(tmp_path, {'seed': 1}):
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('foreign', ['{"accuracy": 1}', '[]', 'no JSON'])
def test_results_of_something_else_are_left_alone(tmp_path, foreign):
  (tmp_path / outputs.RESULTS).write_text(foreign)
  for _ in range(2):  # The folder is free again.
    with pytest.raises(InputError, match=r'results\.json was not written by this command'):
      OutputFolder(tmp_path, {'seed': 0})
  assert (tmp_path / outputs.RESULTS).read_text() == foreign


def test_one_process_at_a_time(tmp_path):
  with OutputFolder(tmp_path, {}), pytest.raises(InputError, match='Another process writes into'):
    OutputFolder(tmp_path, {})
  with OutputFolder(tmp_path, {}):
    pass
  (tmp_path / 'file').write_bytes(b'')
  with pytest.raises(InputError, match='file cannot be made'):
    OutputFolder(tmp_path / 'file', {})


def test_results_are_written(tmp_path):
  with OutputFolder(tmp_path, {'schema': 1}) as folder:
    results = folder.write_results([outputs.failed('a', 'It is not there.')], ['b'], ['c.txt'])
  assert json.loads((tmp_path / outputs.RESULTS).read_text()) == results
  assert (results['schema'], results['unfinished']) == (1, ['b'])
  assert results['passed_over'] == ['c.txt']


def test_a_budget_lets_in_what_fits_or_one_alone():
  budget = Budget(10)
  assert budget.acquire(50)  # More than all of it, but nobody else is there.
  budget.release(50)
  assert budget.acquire(6)
  assert budget.acquire(4)
  budget.close()
  assert not budget.acquire(1)


def test_pictures_to_look_at(tmp_path):
  crop = np.full((20, 20, 3), 100, np.uint8)
  mask = np.zeros((20, 20), np.float32)
  mask[:, 10:] = 1
  painted = drawing.overlay(crop, mask)
  np.testing.assert_array_equal(painted[:, :10], crop[:, :10])
  assert painted[0, 15, 0] > 150 > 80 > painted[0, 15, 1]
  assert drawing.mask_image(mask)[0, 15] == 255
  heat = drawing.heat_map(np.array([[0, 4, drawing.HOTTEST, 200]], np.float32)).sum(-1)[0]
  assert heat[0] < heat[1] < heat[2] == heat[3]
  picture = np.zeros((800, 3200, 3), np.uint8)
  face = Crop((400, 200, 200, 300), Square(0, 0, 10), crop)
  boxes = drawing.draw_boxes(picture, [face, face], [False, True])
  assert boxes.shape == (400, 1600, 3)
  assert not picture.any()
  assert boxes[100:250, 200:300].any()
  for name in ('a.png', 'b.jpg'):
    drawing.write_image(tmp_path / 'new' / name, painted)
    assert (tmp_path / 'new' / name).stat().st_size > 100
