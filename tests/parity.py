"""Reads the parity cases: what the published PyTorch implementation computes.

`DFREC_PARITY` names their root, by default `../shared/parity`, or else `tests/goldens`, which holds
a sample of the values of the case `tiny`.
"""

import functools
import importlib.util
import json
import os
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

GOLDENS = pathlib.Path(__file__).parent / 'goldens'
DICTIONARIES = ('state_dict', 'recover1_state_dict', 'recover2_state_dict')
_SAMPLE = 'sample/'


class Sample(NamedTuple):
  """Values of an array at `positions` of its flattened entries."""

  values: np.ndarray

  def of(self, array: np.ndarray) -> np.ndarray:
    return np.ravel(array)[positions(np.size(array), len(self.values))]


def positions(size: int, count: int) -> np.ndarray:
  """Which entries of an array of `size` a sample of `count` holds."""
  return np.random.Generator(np.random.PCG64(size)).permutation(size)[:count]


class Case:
  """One folder of the parity cases, arrays in PyTorch's layout (N, C, H, W)."""

  def __init__(self, name: str):
    root = _root()
    self.folder = root / name
    if not self.folder.is_dir():
      pytest.skip(f'The parity case {self.folder} is not there; set DFREC_PARITY.')
    spec = importlib.util.spec_from_file_location('parity_weights', root / 'weights.py')
    self.weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(self.weights)
    self.settings = json.loads((self.folder / 'case.json').read_text())

  @functools.cached_property
  def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
    return json.loads((self.folder / 'shapes.json').read_text())

  def state_dict(self, network: str) -> dict[str, np.ndarray]:
    """The tensors of a network, as one of `DICTIONARIES`."""
    return self.weights.state_dict(self.shapes[network], self.settings['seed'])

  def image(self, seed: int | None = None) -> jnp.ndarray:
    """(B, H, W, 3) images."""
    seed = self.settings['seed'] if seed is None else seed
    size, batch = self.settings['image_size'], self.settings['batch']
    return to_nhwc(self.weights.image(seed, batch, size))

  def outputs(self, name: str) -> dict[str, np.ndarray | Sample]:
    """The arrays of a file; skips where the case lacks it."""
    path = self.folder / f'{name}.npz'
    if not path.is_file():
      pytest.skip(f'The parity case {self.folder} has no {path.name}; set DFREC_PARITY.')
    with np.load(path, allow_pickle=False) as file:
      return {
        key.removeprefix(_SAMPLE): Sample(array) if key.startswith(_SAMPLE) else array
        for key, array in file.items()
      }


def _root() -> pathlib.Path:
  if 'DFREC_PARITY' in os.environ:
    return pathlib.Path(os.environ['DFREC_PARITY'])
  parent = pathlib.Path(__file__).resolve().parents[2]
  shared = pathlib.Path(os.environ.get('DFREC_SHARED', parent / 'shared')) / 'parity'
  return shared if shared.is_dir() else GOLDENS


def to_nhwc(array: np.ndarray) -> jnp.ndarray:
  return jnp.asarray(np.moveaxis(array, 1, -1))


def to_nchw(array: jnp.ndarray) -> np.ndarray:
  return np.moveaxis(np.asarray(array), -1, 1)


def assert_close(actual, expected: np.ndarray | Sample, atol: float, name: str = '') -> None:
  """Within `atol`, absolutely; `actual` in PyTorch's layout."""
  if isinstance(expected, Sample):
    actual, expected = expected.of(actual), expected.values
  np.testing.assert_allclose(actual, expected, atol=atol, rtol=0, err_msg=name)


def assert_same_tensors(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
  """Bit for bit, types included."""
  assert set(actual) == set(expected)
  for name, array in expected.items():
    assert actual[name].dtype == array.dtype, name
    np.testing.assert_array_equal(actual[name], array, err_msg=name)
