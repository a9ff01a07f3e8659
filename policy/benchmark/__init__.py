"""Parts of `python -m policy.bench`: images, cached outcomes, streams, players, statistics. May import torch."""
