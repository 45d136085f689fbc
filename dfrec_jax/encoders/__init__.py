"""Frozen identity and perceptual networks, for losses and metrics."""

from dfrec_jax.encoders.registry import ENCODERS, FrozenEncoder, load_encoder

__all__ = ['ENCODERS', 'FrozenEncoder', 'load_encoder']
