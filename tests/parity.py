"""Reads the parity cases: what the published PyTorch implementation computes."""

import functools
import importlib.util
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest


class Case:
  """One folder of the parity cases, arrays in PyTorch's layout (N, C, H, W)."""

  def __init__(self, name: str):
    parent = pathlib.Path(__file__).resolve().parents[2]
    shared = pathlib.Path(os.environ.get('DFREC_SHARED', parent / 'shared'))
    root = pathlib.Path(os.environ.get('DFREC_PARITY', shared / 'parity'))
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
    """The tensors of `state_dict`, `recover1_state_dict` or `recover2_state_dict`."""
    return self.weights.state_dict(self.shapes[network], self.settings['seed'])

  def image(self, seed: int | None = None) -> np.ndarray:
    """(B, H, W, 3) images."""
    seed = self.settings['seed'] if seed is None else seed
    size, batch = self.settings['image_size'], self.settings['batch']
    return to_nhwc(self.weights.image(seed, batch, size))

  def outputs(self, name: str) -> dict[str, np.ndarray]:
    with np.load(self.folder / f'{name}.npz', allow_pickle=False) as arrays:
      return dict(arrays)


def to_nhwc(array: np.ndarray) -> jnp.ndarray:
  return jnp.asarray(np.moveaxis(array, 1, -1))


def assert_same_tensors(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
  """Bit for bit, types included."""
  assert set(actual) == set(expected)
  for name, array in expected.items():
    assert actual[name].dtype == array.dtype, name
    np.testing.assert_array_equal(actual[name], array, err_msg=name)
