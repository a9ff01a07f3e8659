"""The benchmark of training, `python -m training.bench`: steps of recipes, norms, and the deployed network."""
