"""What tests of preparations share: running one, and reading what it left."""

import csv
import json

import cv2
import numpy as np

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
