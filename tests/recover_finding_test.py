"""Which faces of a picture are looked for, and how small they may be."""

import cv2
import numpy as np
import pytest

from dfrec_jax.recover import finding
from input_pipeline.prepare.faces import CascadeFinder, overlap
from tests.recovering import faces, framed


def _crowd(shape, side, count=6):
  """A picture with faces in rows on a smooth ground, and the middles of their portraits."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(90, 160, (shape[0] // 200, shape[1] // 200, 3), np.uint8)
  picture = cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC)
  middles = []
  for k in range(count):
    left, top = 40 + (k % 3) * (shape[1] // 3), 40 + (k // 3) * (shape[0] // 2)
    face = cv2.resize(
      framed(faces()[(3, 4, 6)[k % 3]]), (2 * side, 2 * side), interpolation=cv2.INTER_AREA
    )
    picture[top : top + 2 * side, left : left + 2 * side] = face
    middles.append((left + side, top + side))
  return picture, middles


def _middles(found):
  return [(x + width / 2, y + height / 2) for x, y, width, height in (f.box for f in found)]


@pytest.mark.parametrize(('shape', 'side'), [((1500, 2000), 100), ((3000, 4000), 180)])
def test_small_faces_of_a_large_picture(shape, side):
  picture, middles = _crowd(shape, side)
  finder = finding.make_finder('cascade', 24)
  found = finder.find(picture)
  # Far below a twelfth of the smaller side, from which on the strict finder looks.
  assert found[0].box[3] < shape[0] / 12
  assert finder.smallest_face(shape) < found[-1].box[3]
  places = _middles(found)
  for x, y in middles:
    assert sum(abs(u - x) + abs(v - y) < 0.4 * side for u, v in places) == 1
  assert len(found) == len(middles)


def test_small_faces_beside_a_large_one():
  picture, _ = _crowd((1500, 2000), 100)
  large = cv2.resize(faces()[7], (500, 500), interpolation=cv2.INTER_CUBIC)
  picture[900:1400, 1400:1900] = large
  found = finding.make_finder('cascade', 24).find(picture)
  assert found[0].box[3] > 250
  assert sum(face.box[3] < 125 for face in found) >= 5


def test_a_small_face_is_boxed_as_by_the_strict_finder():
  picture, middles = _crowd((1500, 2000), 100)
  found = finding.make_finder('cascade', 24).find(picture)
  for x, y in middles:
    (face,) = (
      f for f, (u, v) in zip(found, _middles(found), strict=True) if abs(u - x) < 100 > abs(v - y)
    )
    (strict,) = CascadeFinder().find(picture[y - 100 : y + 100, x - 100 : x + 100])
    left, top, width, height = face.box
    assert overlap((left - x + 100, top - y + 100, width, height), strict.box) > 0.85
    assert face.area == pytest.approx(strict.area, rel=0.3)


def test_the_smallest_face_that_is_looked_for():
  small, large = finding.QuickCascade(24), finding.QuickCascade(60)
  # Of a picture of one face, nothing but a twelfth.
  assert small.smallest_face((512, 512, 3)) == pytest.approx(42, abs=1)
  assert small.smallest_face((160, 160)) == pytest.approx(24, abs=1)
  # What is of use, where there is time for it.
  assert small.smallest_face((1000, 1100)) == pytest.approx(24, abs=1)
  assert large.smallest_face((2000, 1500)) == pytest.approx(60, abs=1)
  # Otherwise what the most pixels allow.
  assert large.smallest_face((3000, 4000)) == pytest.approx(75, abs=1)
  assert large.smallest_face((10_000, 10_000)) < 10_000 / 12 / 2
  # A third of the model's pixels a side.
  assert finding.smallest_useful(96, 1.6) == pytest.approx(20)
