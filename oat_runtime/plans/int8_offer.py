"""Say whether `auto` may take int8 for a bundle: by what it loses there, and by what its networks weigh."""

from __future__ import annotations

from oat_runtime.bundle import Bundle
from oat_runtime.bundle.loss import LossBound, objection
from oat_runtime.plain_net import Tensors
from oat_runtime.plans.store import DEFAULT_BUDGET_MB, folded_bytes


def no_int8(bundle: Bundle, tensors: Tensors, *, bound: LossBound, budget_mb: float | None) -> str:
    """Return why `auto` may not take int8 for this bundle, for people; empty if it may.

    Args:
        bundle: with its counts.
        tensors: its weights.
        bound: the most that int8 may lose.
        budget_mb: megabytes of weights that folded plans may hold, as in `PlanStore`. All points have to fit, because
            one that was let go of has to be compiled again before a switch.
    """
    config = bundle.manifest.model
    if bundle.manifest.quantization is None:
        return f"{bundle.manifest.name} holds no activation ranges"
    if reason := objection(bundle, "int8", bound):
        return reason
    sizes = [folded_bytes(tensors, config, width=width, precision="int8") for width in config.widths]
    needed_mb, budget_mb = len(config.lambdas) * sum(sizes) / 1e6, DEFAULT_BUDGET_MB if budget_mb is None else budget_mb
    return (
        "" if needed_mb <= budget_mb else f"all points take {needed_mb:.3g} MB, and memory_budget_mb is {budget_mb:g}"
    )
