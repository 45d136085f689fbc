"""Tracing: which known people a face is most similar to, and how little that may mean."""
