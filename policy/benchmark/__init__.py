"""Parts of `python -m policy.bench`: images, cached outcomes, streams, players, statistics. Needs torch."""

from oat_runtime.extras import require_or_exit

require_or_exit("torch", extra="torch", by="policy.bench")
