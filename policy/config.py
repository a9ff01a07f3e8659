"""What an operator may set about the policy. Accuracies are shares in [0, 1]; every time is in seconds."""

from __future__ import annotations

import itertools
from typing import Literal, Self

from pydantic import Field, model_validator

from oat_runtime.operating_point import StrictModel


class BatteryStep(StrictModel):
    """One step of the battery ladder: what is allowed at this state of charge and above."""

    min_charge: float = Field(ge=0, le=1)
    max_width: float = Field(gt=0, le=1)
    max_rate_hz: float | None = Field(default=None, gt=0)


class PolicyConfig(StrictModel):
    """Configuration of `AdaptivePolicy`. Every default works on a robot without battery, deadline or profile."""

    adaptive: bool = True
    """False: hold the default point (operator, limits and safety lock still work)."""
    default_lam: float | None = Field(default=None, ge=0, le=1)
    """λ while not adaptive; None: the λ of best minimax accuracy."""
    default_width: float | None = Field(default=None, gt=0, le=1)
    """Width while not adaptive; None: the reference width."""

    lambda_floor: float = Field(default=0.0, ge=0, le=1)
    """Hazard floor: no sensor signal brings λ below it. An operator may; `lam_min` binds the operator too."""
    lam_min: float = Field(default=0.0, ge=0, le=1)
    lam_max: float = Field(default=1.0, ge=0, le=1)
    width_min: float = Field(default=0.0, ge=0, le=1)
    width_max: float = Field(default=1.0, gt=0, le=1)
    reference_width: float | None = Field(default=None, gt=0, le=1)
    """Width at which λ values are compared; None: the widest of the table."""

    hedge: float = Field(default=0.25, ge=0, le=1)
    """Weight of the worst credible regime against the expectation over regimes."""
    credible_mass: float = Field(default=0.1, gt=0, lt=1)
    """Posterior mass from which a regime is credible."""
    switch_cost: float = Field(default=0.003, ge=0, le=1)
    """Accuracy that a change of λ must bring to be a target at all."""
    margin: float = Field(default=0.003, ge=0, le=1)
    """Advantage in expected accuracy that a move to a less robust λ, or to another width by choice, needs."""
    settle_s: float = Field(default=0.5, ge=0)
    """How long the rule must have wanted the same λ before it gives up a more robust one; at the start, too."""
    dwell_s: float = Field(default=2.0, gt=0)
    """Least mean time between changes of λ: in time T there are at most num_lambdas + T / dwell_s, on any input."""
    width_dwell_s: float = Field(default=10.0, gt=0)
    """The same for changes of width. Narrowing that a budget forces never waits."""

    confidence_topic: Literal["required", "absent"] = "required"
    """`absent` declares that this robot has no environment confidence: never having received one is then trusted.
    One that was received and then fell silent, or is not a number in [0, 1], still means unknown."""
    confidence_max_age_s: float = Field(default=2.0, gt=0)
    network_max_age_s: float = Field(default=1.0, gt=0)

    battery_ladder: tuple[BatteryStep, ...] = ()
    """Descending in charge, the last step at 0; empty: the battery is not looked at."""
    battery_max_age_s: float = Field(default=10.0, gt=0)
    battery_hold_s: float = Field(default=60.0, ge=0)
    """For how long the last known charge is held when the battery is unknown."""
    battery_capacity_wh: float | None = Field(default=None, gt=0)
    """Energy of the full battery. With it, and a table that knows joules, the battery sets a power budget."""
    battery_reserve: float = Field(default=0.2, ge=0, lt=1)
    """State of charge that perception must leave at the mission's end, for the way home."""
    perception_share: float = Field(default=0.1, gt=0, le=1)
    """Share of the battery's energy above the reserve that inference may use."""
    mission_s: float = Field(default=3600.0, gt=0)
    """Length of the mission, from the policy's first step."""
    battery_unknown_width: float | None = Field(default=None, gt=0, le=1)
    """Widest width allowed after that, or before any reading; None: that of the ladder's last step."""

    deadline_ms: float | None = Field(default=None, gt=0)
    """Time one inference may take; needs a table with latencies."""
    deadline_probability: float = Field(default=0.99, ge=0.5, le=0.9999)
    power_budget_w: float | None = Field(default=None, gt=0)
    """Mean power that inference may draw; needs a table with energies."""
    min_rate_hz: float = Field(default=1.0, gt=0)
    """Rate that the power budget must allow for a width to be admissible."""
    max_rate_hz: float | None = Field(default=None, gt=0)

    probe_period_s: float = Field(default=0.5, ge=0)
    """Time between probes of the opposite λ; 0: never."""
    alert_probe_period_s: float = Field(default=0.1, ge=0)
    """The same while an attack is credible and not certain; never longer than `probe_period_s`."""

    regime_persistence_s: float = Field(default=100.0, gt=0)
    """How long a regime lasts, roughly: the filter forgets at this time constant."""
    evidence_weight: float = Field(default=0.8, gt=0, le=1)
    """Power to which one frame's likelihood is raised, because neighbouring frames are not independent."""
    evidence_cap_nats: float = Field(default=4.0, gt=0)
    """No single frame moves the odds between two kinds of image by more than exp of this."""

    bundle_sha256: str = ""
    """Bundle that the table must belong to; empty: any."""
    device: str = ""
    """Device that the table's latencies must belong to; empty: any."""

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Self:
        if self.lam_min > self.lam_max:
            raise ValueError(f"lam_min must not exceed lam_max, got {self.lam_min} > {self.lam_max}")
        if self.lambda_floor > self.lam_max:
            raise ValueError(f"lambda_floor must not exceed lam_max, got {self.lambda_floor} > {self.lam_max}")
        if self.width_min > self.width_max:
            raise ValueError(f"width_min must not exceed width_max, got {self.width_min} > {self.width_max}")
        for name, value, low, high in (
            ("default_lam", self.default_lam, max(self.lam_min, self.lambda_floor), self.lam_max),
            ("default_width", self.default_width, self.width_min, self.width_max),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be within [{low}, {high}] (limits and floor), got {value}")
        return self

    @model_validator(mode="after")
    def _ladder_descends(self) -> Self:
        ladder = self.battery_ladder
        if ladder and ladder[-1].min_charge != 0.0:
            raise ValueError(f"battery_ladder must end with min_charge 0, got {ladder[-1].min_charge}")
        for upper, lower in itertools.pairwise(ladder):
            if not (upper.min_charge > lower.min_charge and upper.max_width >= lower.max_width):
                raise ValueError("battery_ladder must descend in min_charge and not widen as the charge falls")
        return self

    def battery_step(self, charge: float) -> BatteryStep | None:
        """The ladder's step at a state of charge in [0, 1]; None without a ladder."""
        return next((step for step in self.battery_ladder if charge >= step.min_charge), None)

    @property
    def battery_unknown_step(self) -> BatteryStep | None:
        """What is allowed while the battery is unknown; None without a ladder."""
        if not self.battery_ladder:
            return None
        last = self.battery_ladder[-1]
        return last.model_copy(update={"max_width": self.battery_unknown_width or last.max_width})
