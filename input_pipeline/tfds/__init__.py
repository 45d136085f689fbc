"""Builders of TensorFlow Datasets for the prepared data sets; none needs TensorFlow."""

from input_pipeline.tfds.builders import (
  BUILDERS,
  CelebaMegafs,
  FfhqE4s,
  Ffpp,
  MegafsFfpp,
)

__all__ = ['BUILDERS', 'CelebaMegafs', 'FfhqE4s', 'Ffpp', 'MegafsFfpp']
