"""DFREC in JAX: recover the source and the target person of a face swap."""

from typing import Any

__version__ = '0.1.0'
__all__ = ['__version__', 'load']


def __getattr__(name: str) -> Any:
  # Not imported before it is asked for: JAX takes seconds, and a tool's wrong flag should not.
  if name == 'load':
    from dfrec_jax.recover.recoverer import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
