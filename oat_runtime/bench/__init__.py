"""Benchmark the runtime, with one file for each part: `python -m oat_runtime.bench`."""
