"""What tests of preparations share: running one, and reading what it left."""

import contextlib
import csv
import json
import stat
import sys

import cv2
import numpy as np

from input_pipeline.prepare import faces
from input_pipeline.prepare.__main__ import main
from input_pipeline.prepared import Prepared


def prepare(dataset, raw, out, *options):
  return main([dataset, f'--raw={raw}', f'--out={out}', '--workers=0', *options])


def read_all(folder, split):
  """Every record of a split, with the fields that training leaves out."""
  source = Prepared(folder, split)
  return [source._source[i] for i in range(len(source))]


def names_of(folder, split):
  return sorted(record['name'].decode() for record in read_all(folder, split))


def unusable(folder):
  with open(folder / 'unusable.csv', newline='') as file:
    return {row['file']: row['reason'] for row in csv.DictReader(file)}


def summary(folder):
  return json.loads((folder / 'summary.json').read_text())


def place(crop, image):
  """Where a crop lies in an image, and how well it fits, in grey levels."""
  errors = cv2.matchTemplate(image, crop, cv2.TM_SQDIFF)
  _, _, (x, y), _ = cv2.minMaxLoc(errors)
  return (x, y), np.abs(image[y : y + len(crop), x : x + len(crop)].astype(int) - crop).mean()


MEDIAPIPE = """
import types

class FaceMesh:
  def __init__(self, static_image_mode, max_num_faces, refine_landmarks):
    print('libraries print things')

  def process(self, image):
    faces = 0 if image.std() < 5 else 2 if image[0, 0, 0] == 255 else 1
    height = lambda k, i: 0.2 + 0.5 * i / 467 - 0.1 * k
    point = lambda k, i: types.SimpleNamespace(x=0.3 + 0.4 * (i % 2), y=height(k, i))
    mesh = lambda k: types.SimpleNamespace(landmark=[point(k, i) for i in range(478)])
    return types.SimpleNamespace(multi_face_landmarks=[mesh(k) for k in range(faces)] or None)

solutions = types.SimpleNamespace(face_mesh=types.SimpleNamespace(FaceMesh=FaceMesh))
"""


@contextlib.contextmanager
def stand_in_for_mediapipe(tmp_path, monkeypatch):
  """The Python of an environment with a stand-in for MediaPipe and nothing of this project."""
  (tmp_path / 'site').mkdir()
  (tmp_path / 'site/mediapipe.py').write_text(MEDIAPIPE)
  python = tmp_path / 'python'
  python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n')
  python.chmod(python.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv('DFREC_LANDMARKS_PYTHON', str(python))
  faces.make_finder.cache_clear()
  yield python
  if faces.make_finder.cache_info().currsize:
    faces.make_finder('mesh').close()
  faces.make_finder.cache_clear()
