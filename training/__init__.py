"""Training of once-for-all adversarial networks: data, λ and width sampling, the loop, evaluation, export."""

from oat_runtime.extras import require_or_exit

require_or_exit("torch", extra="training", by="training")
