"""The runtime's benchmark, `python -m oat_runtime.bench`: one file a part."""
