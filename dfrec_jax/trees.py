"""Nested arrays by path."""

from typing import Any

import jax
import numpy as np


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Path, keys joined by '/', to the shape of each leaf."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.shape(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def differences(given: Any, wanted: Any) -> list[str]:
  """One line for each path whose shapes differ, or that one of the trees lacks."""
  given, wanted = shapes(given), shapes(wanted)
  return [
    f'{name} has shape {given.get(name)} instead of {wanted.get(name)}'
    for name in sorted(given.keys() | wanted.keys())
    if given.get(name) != wanted.get(name)
  ]
