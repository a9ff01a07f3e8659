"""Define the policy's settings, each with its meaning, unit, range and default.

The ROS parameters read these fields. `make settings` writes the comments of `perception.yaml` and docs/parameters.md
from them. "None:" in a description says what None means. Accuracies and charges are shares in [0, 1].
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from oat_runtime.compat import Self
from oat_runtime.operating_point import StrictModel


@dataclass(frozen=True, slots=True)
class Quantity:
    """Unit of a setting, and the closed range that its ROS parameter offers.

    An end of this range counts only if the field itself has no closed bound there (`ge`, `le`).
    """

    unit: str = ""
    least: float = 0.001
    most: float = 1.0


_Seconds = Annotated[float, Quantity("s", most=3600.0)]
_Hertz = Quantity("Hz", most=1000.0)


class BatteryStep(StrictModel):
    """One step of the battery ladder: what is allowed at this state of charge and above."""

    # fmt: off
    min_charge: float = Field(ge=0, le=1, description=
        "Least state of charge of each step of the battery ladder; the steps descend, and the last one is at 0.")
    max_width: float = Field(gt=0, le=1, description=
        "Greatest width that each step of the battery ladder allows; it does not grow as the charge falls.")
    max_rate_hz: Annotated[float | None, _Hertz] = Field(default=None, gt=0, description=
        "Highest rate of images that each step of the battery ladder allows. None: no limit.")
    # fmt: on


class PolicyConfig(StrictModel):
    """Configuration of `AdaptivePolicy`. Every default works on a robot without battery, deadline or profile."""

    # fmt: off
    adaptive: bool = Field(default=True, description=
        "Let the policy choose λ and width. False: it holds the default point. Operator, hard limits and safety lock "
        "work in both cases.")
    default_lam: float | None = Field(default=None, ge=0, le=1, description=
        "λ while `adaptive` is false. None: the λ of the best worst-case accuracy within the limits.")
    default_width: float | None = Field(default=None, gt=0, le=1, description=
        "Width while `adaptive` is false. None: the widest one within the limits.")

    lambda_floor: float = Field(default=0.0, ge=0, le=1, description=
        "Least λ that the policy chooses, whatever the sensors say (the hazard floor). The safety lock keeps to it. An "
        "operator may go below it.")
    lam_min: float = Field(default=0.0, ge=0, le=1, description=
        "Least λ, for the policy and for the operator (a hard limit).")
    lam_max: float = Field(default=1.0, ge=0, le=1, description=
        "Greatest λ, for the policy and for the operator (a hard limit).")
    width_min: float = Field(default=0.0, ge=0, le=1, description=
        "Least width, for the policy and for the operator (a hard limit).")
    width_max: float = Field(default=1.0, gt=0, le=1, description=
        "Greatest width, for the policy and for the operator (a hard limit).")
    reference_width: float | None = Field(default=None, gt=0, le=1, description=
        "Width of the table at which the policy compares values of λ. None: the table's widest one.")

    hedge: float = Field(default=0.25, ge=0, le=1, description=
        "Weight of the worst credible regime when a λ is scored: 0 looks at the expectation over regimes alone, 1 at "
        "the worst one alone.")
    credible_mass: Annotated[float, Quantity(most=0.999)] = Field(default=0.1, gt=0, lt=1, description=
        "Share of the belief from which a regime is credible.")
    switch_cost: float = Field(default=0.003, ge=0, le=1, description=
        "Gain in expected accuracy that every move to another λ needs.")
    margin: float = Field(default=0.003, ge=0, le=1, description=
        "Gain in expected accuracy that a move to a less robust λ needs on top of `switch_cost`. A change of width "
        "that no budget forces needs it, too.")
    settle_s: _Seconds = Field(default=0.5, ge=0, description=
        "Time for which the policy must have wanted the same less robust λ before it takes it, at the start too.")
    dwell_s: _Seconds = Field(default=2.0, gt=0, description=
        "Least mean time between changes of λ: in a time T there are at most T / `dwell_s` of them, plus one for each "
        "λ of the table. A move to a more robust λ never waits.")
    width_dwell_s: _Seconds = Field(default=10.0, gt=0, description=
        "Least mean time between changes of width, counted in the same way. Narrowing that a budget forces never "
        "waits.")

    confidence_topic: Literal["required", "absent"] = Field(default="required", description=
        "Whether this robot has an environment confidence. Where it has none, the policy needs none; but one that came "
        "and fell silent, or that is not a number from 0 to 1, still means that the regime is unknown.")
    confidence_max_age_s: _Seconds = Field(default=2.0, gt=0, description=
        "Age up to which an environment confidence counts; later the regime is unknown.")
    network_max_age_s: _Seconds = Field(default=3.0, gt=0, description=
        "Age up to which the network's result on the previous image counts: its confidence, its probe and its latency. "
        "That age is the time between two images, so where the rate may fall below one image in this time, raise it.")

    battery_ladder: tuple[BatteryStep, ...] = Field(default=(), description=
        "Steps from the state of charge to the greatest width and the highest rate; empty: no ladder.")
    battery_max_age_s: _Seconds = Field(default=10.0, gt=0, description=
        "Age up to which a battery reading counts; later the battery is unknown.")
    battery_hold_s: _Seconds = Field(default=60.0, ge=0, description=
        "Time for which the last known charge still counts while the battery is unknown.")
    battery_capacity_wh: Annotated[float | None, Quantity("Wh", most=1e6)] = Field(default=None, gt=0, description=
        "Energy of the full battery. With it, the charge above the reserve gives a budget of power for the mission; "
        "this needs a device profile with energies. None: no such budget.")
    battery_reserve: Annotated[float, Quantity(most=0.99)] = Field(default=0.2, ge=0, lt=1, description=
        "State of charge that inference must leave at the end of the mission, for the way home.")
    perception_share: float = Field(default=0.1, gt=0, le=1, description=
        "Share of the battery's energy above the reserve that inference may use.")
    mission_s: Annotated[float, Quantity("s", least=1.0, most=1e7)] = Field(default=3600.0, gt=0, description=
        "Length of the mission, from the first image. Once it is over, a minute counts as left, so that the budget of "
        "power hardly limits what is spent above the reserve.")
    battery_unknown_width: float | None = Field(default=None, gt=0, le=1, description=
        "Greatest width, where there is a battery ladder, while no charge is known: before the first reading, and once "
        "`battery_hold_s` is over. None: that of the ladder's last step.")
    battery_unknown_rate_hz: Annotated[float | None, _Hertz] = Field(default=None, gt=0, description=
        "Highest rate of images, where there is a battery ladder, while no charge is known. None: that of the ladder's "
        "last step.")

    deadline_ms: Annotated[float | None, Quantity("ms", most=60_000.0)] = Field(default=None, gt=0, description=
        "Time that one inference may take, with all regions of the image; this needs a device profile. None: any time.")
    deadline_probability: float = Field(default=0.99, ge=0.5, le=0.9999, description=
        "Probability with which an inference must meet `deadline_ms`.")
    power_budget_w: Annotated[float | None, Quantity("W", most=10_000.0)] = Field(default=None, gt=0, description=
        "Mean power that inference may draw; this needs a device profile with energies. None: any power.")
    min_rate_hz: Annotated[float, _Hertz] = Field(default=1.0, gt=0, description=
        "Rate of images that the budget of power must allow at a width before the policy chooses that width.")
    max_rate_hz: Annotated[float | None, _Hertz] = Field(default=None, gt=0, description=
        "Highest rate of images. None: no limit.")

    probe_period_s: _Seconds = Field(default=0.5, ge=0, description=
        "Time between probes, which look at an image a second time with the opposite λ; 0: no probes.")
    alert_probe_period_s: _Seconds = Field(default=0.1, ge=0, description=
        "Time between probes while an attack is credible and not certain; `probe_period_s` where that is shorter.")

    regime_persistence_s: _Seconds = Field(default=100.0, gt=0, description=
        "Rough time for which a regime lasts: the policy forgets old images with this time constant.")
    evidence_weight: float = Field(default=0.8, gt=0, le=1, description=
        "Power to which one image's likelihood is raised, since neighbouring images are alike; 1: they are "
        "independent.")
    evidence_cap_nats: Annotated[float, Quantity("nats", most=100.0)] = Field(default=4.0, gt=0, description=
        "Most by which one image moves the log odds between two kinds of image.")

    false_alarm_drives: Annotated[int, Quantity(least=2, most=1000)] = Field(default=20, ge=2, description=
        "At most one drive in so many raises a false alarm. It is guaranteed while drives are like those of the "
        "calibration, and no calibration of fewer drives promises more than one in its number plus one.")

    bundle_sha256: str = Field(default="", description=
        "SHA-256 that the bundle must have, as 64 hex digits; empty: any bundle.")
    device: str = Field(default="", description=
        "Device on which the table's latencies must have been measured; empty: any device.")
    # fmt: on

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
        """Return the ladder's step at a state of charge in [0, 1]; None without a ladder."""
        return next((step for step in self.battery_ladder if charge >= step.min_charge), None)

    @property
    def battery_unknown_step(self) -> BatteryStep | None:
        """Return the step that applies while the charge is unknown; None without a ladder."""
        if not self.battery_ladder:
            return None
        last = self.battery_ladder[-1]
        return last.model_copy(
            update={
                "max_width": self.battery_unknown_width or last.max_width,
                "max_rate_hz": self.battery_unknown_rate_hz or last.max_rate_hz,
            }
        )
