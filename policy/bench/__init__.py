"""The policy's benchmark, `python -m policy.bench`: streams of test images, players, attacks, trials. Needs torch."""

from oat_runtime.extras import require_or_exit

require_or_exit("torch", extra="torch", by="policy.bench")
