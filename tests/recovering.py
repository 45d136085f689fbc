"""What tests of the examiner's tool share: a small model, and pictures with faces to be found."""

import functools
import itertools
import json
import pathlib
import tempfile

import cv2
from flax import linen as nn
import jax
import numpy as np

from configs import quickstart
from dfrec_jax import calibration
from dfrec_jax.checkpointing import build_model, init_variables
from dfrec_jax.model_file import write_model_file
from dfrec_jax.recover import recoverer
from input_pipeline.prepare.faces import CascadeFinder
from input_pipeline.synthetic import SyntheticFaces

BATCH, DRAWS = 4, 3
# Scores of the calibration: 5 % of the pristine ones reach 0.96.
PRISTINE, FORGED = np.arange(1, 101) / 100 - 0.0, np.linspace(0.5, 1, 50)


def write_model(path, *, calibrated: bool = True, margin: float | None = 1.6) -> str:
  """A model with random parameters, 32 pixels, as a single file."""
  config = quickstart.get_config('runlocal')
  if margin is None:
    del config.data.margin
  else:
    config.data.margin = margin
  variables = _variables()
  record = calibration.make_record(
    {'pristine': PRISTINE, 'forged': FORGED},
    checkpoint='test',
    step=3,
    sha256=calibration.weights_sha256(variables),
    data='test faces',
    people=80,
  )
  stored = record if calibrated else None
  write_model_file(str(path), variables, json.loads(config.to_json()), 3, stored)
  return str(path)


@functools.cache
def _variables():
  """Random numbers in the shapes of the model's variables; nothing is compiled for them."""
  model = build_model(quickstart.get_config('runlocal').model)
  abstract = nn.unbox(jax.eval_shape(lambda key: init_variables(model, key), jax.random.key(0)))
  rng = np.random.default_rng(0)

  def fill(path, x):
    name = path[-1].key
    if name in ('scale', 'var'):
      return np.ones(x.shape, np.float32)
    width = np.prod(x.shape[:-1]) if name == 'kernel' else 25
    values = rng.standard_normal(x.shape) * np.sqrt(2 / width)
    if path[-2].key == 'mask_head':
      # Masks of a few patches: if more were covered than are masked, nothing would be drawn.
      values = 2 * values if name == 'kernel' else np.full(x.shape, -1)
    return values.astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, abstract)


@functools.cache
def make_recoverer() -> recoverer.Recoverer:
  """Compiled once for all tests of a process. Tests that change it must change it back."""
  with tempfile.TemporaryDirectory() as folder:
    path = write_model(pathlib.Path(folder) / 'model.safetensors')
    return recoverer.load(path, batch_size=BATCH, draws=DRAWS)


@functools.cache
def faces(side: int = 96) -> list[np.ndarray]:
  """Drawn portraits (side, side, 3) in which the cascade finds one face each."""
  source, finder = SyntheticFaces('eval', examples=16, image_size=side), CascadeFinder()
  drawn = (source[i]['forged' if i % 2 else 'target'] for i in range(16))
  return list(itertools.islice((f for f in drawn if len(finder.find(framed(f))) == 1), 8))


def scene(count: int, side: int = 96) -> np.ndarray:
  """A picture of `count` people in rows of five, each in a cell of twice `side`."""
  rows = []
  for first in range(0, count, 5):
    cells = [framed(faces(side)[k % 8]) for k in range(first, min(first + 5, count))]
    cells += [np.full_like(cells[0], 128)] * (5 - len(cells))
    rows.append(np.hstack(cells))
  return np.vstack(rows)


def framed(face: np.ndarray) -> np.ndarray:
  """A portrait with room around it, twice as large."""
  room = len(face) // 2
  return cv2.copyMakeBorder(face, room, room, room, room, cv2.BORDER_REPLICATE)


def save(path, pixels: np.ndarray) -> str:
  """Writes an image, makes its folder, and returns the path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  data = cv2.imencode(path.suffix or '.png', pixels[..., ::-1])[1]
  path.write_bytes(data.tobytes())
  return str(path)
