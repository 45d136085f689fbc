"""Faces found, cut out and put back; and warnings of faces that are unlike the training data."""

import cv2
import numpy as np
import pytest

from dfrec_jax.errors import InputError
from dfrec_jax.recover import crops, finding
from input_pipeline.prepare.faces import CascadeFinder, Face
from input_pipeline.prepare.tracks import Square, cut
from tests.recovering import faces, framed, scene

RNG = np.random.default_rng(0)


class _At:
  """A finder that finds faces where it is told."""

  def __init__(self, *boxes):
    self._boxes = boxes

  def find(self, image):
    return [Face(box) for box in self._boxes]


def _noise(height, width):
  return RNG.integers(0, 256, (height, width, 3), np.uint8)


def test_crops_have_the_margin():
  picture = _noise(200, 300)
  found = crops.find_crops(picture, _At((100, 60, 40, 50), (10, 10, 20, 20)), 1.6)
  assert [crop.square.side for crop in found] == [80, 32]
  first = found[0]
  np.testing.assert_array_equal(first.pixels, cut(picture, first.square, 1000))
  assert first.square.left == 120 - 40
  assert first.box == (100, 60, 40, 50)


def test_a_large_crop_is_shrunk(monkeypatch):
  monkeypatch.setattr(crops, 'LARGEST_SIDE', 64)
  crop = crops.find_crops(_noise(200, 200), _At((50, 50, 100, 100)), 1.5)[0]
  assert crop.square.side == 150
  assert crop.pixels.shape == (64, 64, 3)


def test_a_whole_picture_is_made_square():
  assert crops.whole_picture(_noise(30, 30)).square == Square(0, 0, 30)
  crop = crops.whole_picture(_noise(30, 40))
  assert crop.pixels.shape == (40, 40, 3)
  assert crop.square == Square(0, -5, 40)
  with pytest.raises(InputError, match=r'a\.jpg is 90 x 30 pixels.*leave out --already-cropped'):
    crops.whole_picture(_noise(30, 90), 'a.jpg')


@pytest.mark.parametrize(
  'square', [Square(20, 30, 50), Square(-20, 40, 60), Square(50, -10, 60), Square(0, 0, 100)]
)
def test_put_back(square):
  picture = _noise(100, 100)
  crop = cut(picture, square, 1000)
  np.testing.assert_array_equal(crops.put_back(picture, crop, crop, square), picture)
  before = picture.copy()
  result = crops.put_back(picture, crop, np.full_like(crop, 77), square)
  np.testing.assert_array_equal(picture, before)
  middle = square.top + square.side // 2, square.left + square.side // 2
  assert (result[middle] == 77).all()
  outside = np.ones((100, 100), bool)
  outside[
    max(square.top, 0) : square.top + square.side, max(square.left, 0) : square.left + square.side
  ] = False
  np.testing.assert_array_equal(result[outside], picture[outside])


def test_the_edge_is_feathered_but_where_the_picture_ends():
  picture = np.zeros((100, 100, 3), np.uint8)
  found = np.zeros((60, 60, 3), np.uint8)
  result = crops.put_back(picture, found, np.full_like(found, 200), Square(0, 20, 60))
  row = result[50, :, 0].astype(int)
  assert row[0] == 200
  assert 0 < row[59] < row[57] < 200
  assert row[60] == 0


def test_a_shrunk_crop_leaves_untouched_detail():
  picture = _noise(200, 200)
  square = Square(20, 20, 160)
  small = cut(picture, square, 40)
  np.testing.assert_array_equal(crops.put_back(picture, small, small, square), picture)
  changed = small.astype(int)
  changed[:, :20] += 10
  result = crops.put_back(picture, small, np.clip(changed, 0, 255).astype(np.uint8), square)
  np.testing.assert_array_equal(result[40:160, 120:], picture[40:160, 120:])
  assert (result[60:140, 40:80] != picture[60:140, 40:80]).mean() > 0.8


def test_put_back_outside_of_the_picture_changes_nothing():
  picture = _noise(40, 40)
  crop = _noise(20, 20)
  result = crops.put_back(picture, crop, crop // 2, Square(50, 50, 20))
  np.testing.assert_array_equal(result, picture)


def test_overlapping_crops_do_not_undo_each_other():
  picture = np.full((100, 200, 3), 50, np.uint8)
  left, right = Square(0, 0, 100), Square(60, 0, 100)
  for first, second in ((left, right), (right, left)):
    result = picture
    for square in (first, second):
      found = cut(picture, square, 100)
      recovered = found.copy()
      if square is first:
        recovered[30:70, 30:70] = 150
      result = crops.put_back(result, found, recovered, square)
    middle = result[30:70, first.left + 30 : first.left + 70]
    assert (middle == 150).all()


def test_a_picture_too_thin_for_a_face():
  assert crops.find_crops(_noise(3, 5000), finding.make_finder('cascade'), 1.45) == []


def test_warnings():
  face = faces(160)[0]
  sharp = crops.Crop((0, 0, 1, 1), Square(0, 0, 160), face)
  assert crops.warnings_of(sharp, 96) == []
  tiny = crops.Crop((0, 0, 1, 1), Square(0, 0, 40), cv2.resize(face, (40, 40)))
  (sentence,) = crops.warnings_of(tiny, 96, 'Face 2 of a.jpg')
  assert sentence.startswith('Face 2 of a.jpg is tiny: its crop of 40 pixels')
  blurred = crops.Crop((0, 0, 1, 1), Square(0, 0, 160), cv2.GaussianBlur(face, (0, 0), 5))
  assert ['blurred' in sentence for sentence in crops.warnings_of(blurred, 96)] == [True]
  half = face.copy()
  half[:, 80:] = 128
  covered = crops.Crop((0, 0, 1, 1), Square(0, 0, 160), half)
  assert any('turned aside or partly covered' in s for s in crops.warnings_of(covered, 96))


def test_landmarks_tell_a_profile():
  points = np.zeros((468, 2), np.float32)
  points[[1, 234, 454], 0] = 50, 10, 90
  straight = crops.Crop((0, 0, 1, 1), Square(0, 0, 160), faces(160)[0], Face((0, 0, 1, 1), points))
  assert crops.warnings_of(straight, 96) == []
  aside = points.copy()
  aside[1, 0] = 80
  turned = crops.Crop((0, 0, 1, 1), Square(0, 0, 160), faces(160)[0], Face((0, 0, 1, 1), aside))
  assert 'turned aside' in crops.warnings_of(turned, 96)[0]


def test_every_face_of_a_picture_is_found():
  picture = scene(10)
  found = crops.find_crops(picture, finding.make_finder('cascade'), 1.45)
  assert len(found) == 10
  cells = {
    (int((x + w / 2) // 192), int((y + h / 2) // 192)) for x, y, w, h in (c.box for c in found)
  }
  assert len(cells) == 10
  areas = [crop.face.area for crop in found]
  assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize('side', [60, 96, 250, 700])
def test_the_quick_finder_finds_what_the_strict_one_does(side):
  picture = framed(cv2.resize(faces()[0], (side, side), interpolation=cv2.INTER_CUBIC))
  (quick,), (strict,) = finding.QuickCascade().find(picture), CascadeFinder().find(picture)
  assert finding.overlap(quick.box, strict.box) > 0.85
  assert quick.area == pytest.approx(strict.area, rel=0.25)


def test_pictures_without_faces():
  finder = finding.make_finder('cascade')
  for picture in (np.zeros((1, 1, 3), np.uint8), _noise(5, 900), np.zeros((300, 300, 3), np.uint8)):
    assert crops.find_crops(picture, finder, 1.45) == []


def test_an_unknown_finder_is_named():
  with pytest.raises(InputError, match="no face finder 'eyes'"):
    finding.make_finder('eyes')


def test_an_almost_empty_mask_is_told():
  mask = np.zeros((40, 40), np.float32)
  mask[:2, :20] = 1
  (sentence,) = crops.mask_warnings(mask, 'Face 1 of a.png')
  assert sentence.startswith('Face 1 of a.png has an almost empty mask')
  mask[10:30, 10:30] = 1
  assert not crops.mask_warnings(mask)
