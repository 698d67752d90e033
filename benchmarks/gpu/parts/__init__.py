"""The parts of benchmarks/gpu/check.py; each module has a function `run(context)` that yields its figures."""
