"""Benchmark training: steps of recipes, norms, and the deployed network (`python -m training.bench`)."""
