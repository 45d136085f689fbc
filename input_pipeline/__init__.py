"""Triplets of faces: sources, transforms, and the loader. Nothing here knows of models."""
