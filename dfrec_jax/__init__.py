"""DFREC in JAX: recover the source and the target person of a face swap."""

__version__ = '0.1.0'
