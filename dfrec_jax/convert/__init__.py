"""Weights to and from PyTorch: one file for each published network."""
