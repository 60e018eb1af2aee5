"""Benchmarks of samebits, for its maintainers: PYTHONPATH=src:tools python -m benchmarks.speed --help."""
