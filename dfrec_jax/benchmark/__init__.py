"""Benchmark: throughput, parts, FLOP, memory, comparison with PyTorch, and plans for TPU slices."""
