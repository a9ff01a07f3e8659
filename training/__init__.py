"""Training of once-for-all adversarial networks: data, λ and width sampling, the loop, evaluation, export."""
