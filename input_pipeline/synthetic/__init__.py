"""Synthetic faces: the embedded data set of procedural people, swapped with exact masks."""

from input_pipeline.synthetic.source import SyntheticFaces
from input_pipeline.synthetic.swap import ATTACKS

__all__ = ['ATTACKS', 'SyntheticFaces']
