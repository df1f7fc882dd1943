"""Benchmarks of learning, run by `memrl-ctrl bench`."""
