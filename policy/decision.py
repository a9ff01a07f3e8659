"""Define the policy's answer for a frame: the operating point, and all that explains it."""

from __future__ import annotations

from dataclasses import dataclass

from oat_runtime.compat import StrEnum
from oat_runtime.operating_point import OperatingPoint, Regime
from policy.signals import SignalState


class ChosenBy(StrEnum):
    """Who chose a value, highest precedence first."""

    SAFETY_LOCK = "safety_lock"
    HARD_LIMIT = "hard_limit"
    OPERATOR = "operator"
    ADAPTIVE = "adaptive"
    DEFAULT = "default"


class Rule(StrEnum):
    """What the adaptive rule did with its target."""

    START = "start"
    KEEP = "keep"
    RAISE = "raise"
    SWITCH = "switch"
    HOLD_MARGIN = "hold_margin"
    HOLD_DWELL = "hold_dwell"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A setting that was not considered, and why; None stands for any λ or any width."""

    lam: float | None
    width: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision.

    Attributes:
        point: the operating point to run next.
        changed: whether it differs from the previous decision's.
        reason: one sentence for people.
        lam_source: who chose λ.
        width_source: who chose the width.
        rule: what the adaptive rule did with λ.
        width_rule: what it did with the width.
        target: the rule's best point before margin and dwell.
        runner_up: the second-best λ at the same width; None where only one is allowed.
        expected_accuracy: blended lower-bound accuracy of the adaptive point at the reference width.
        posterior: probability of each regime, after the external confidence was applied; sums to 1.
        states: state of each input, by name.
        rejected: settings that were not considered.
        probe: a point to run on the next frame beside the active one, to compare labels; None most of the time.
        max_rate_hz: rate that budgets allow; None: no limit.
    """

    point: OperatingPoint
    changed: bool
    reason: str
    lam_source: ChosenBy
    width_source: ChosenBy
    rule: Rule
    width_rule: Rule
    target: OperatingPoint
    runner_up: OperatingPoint | None
    expected_accuracy: float
    posterior: dict[Regime, float]
    states: dict[str, SignalState]
    rejected: tuple[Rejected, ...]
    probe: OperatingPoint | None
    max_rate_hz: float | None

    @property
    def source(self) -> ChosenBy:
        """The source of λ or of width, whichever has the higher precedence."""
        order = list(ChosenBy)
        return min(self.lam_source, self.width_source, key=order.index)
