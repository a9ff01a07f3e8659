"""Train, evaluate and export once-for-all adversarial networks."""

from oat_runtime.extras import require_or_exit

require_or_exit("torch", extra="training", by="training")
