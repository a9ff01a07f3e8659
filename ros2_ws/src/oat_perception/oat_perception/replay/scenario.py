"""Describe the scripted day: its phases, and the state of camera, battery and surroundings at each time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from oat_runtime.compat import Self
from oat_runtime.files import expanded, read_model
from oat_runtime.operating_point import StrictModel
from oat_runtime.stress.corruptions import CORRUPTIONS

AttackName = Literal["none", "pgd-10"]


class Manual(StrictModel):
    """The λ and width that the operator sets during a phase."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)


class Phase(StrictModel):
    """A part of the day in which one thing is different."""

    name: str = Field(pattern=r"^[a-z][a-z_]*$")
    title: str
    """For people, as in `Low battery`."""
    seconds: float = Field(gt=0)
    source: str = ""
    """Session of frames with boxes that the camera sees, as in `robocup/20260502_r5`; empty: the camera's `source`."""
    corruption: str = "none"
    severity: int = Field(default=3, ge=1, le=5)
    attack: AttackName = "none"
    confidence: float = Field(default=1.0, ge=0, le=1)
    """Environment confidence from `Scenario.ramp_s` after the start of the phase; 1: clear and trusted."""
    battery: float = Field(default=1.0, ge=0, le=1)
    """State of charge from then on; 1: full."""
    max_rate_hz: float | None = Field(default=None, gt=0)
    """Highest rate of the camera, for phases whose frames take long to make."""
    manual: Manual | None = None

    @model_validator(mode="after")
    def _corruption_exists(self) -> Self:
        if self.corruption != "none" and self.corruption not in CORRUPTIONS:
            raise ValueError(f"corruption must be 'none' or one of {', '.join(CORRUPTIONS)}, got {self.corruption!r}")
        return self


@dataclass(frozen=True, slots=True)
class Moment:
    """The state at one time of the day."""

    phase: Phase
    index: int
    confidence: float
    battery: float


class Scenario(StrictModel):
    """Phases in order. Confidence and battery move linearly to a phase's values during its first `ramp_s`."""

    phases: tuple[Phase, ...] = Field(min_length=1)
    ramp_s: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ValueError(f"phase names must differ, got {names}")
        return self

    @property
    def duration_s(self) -> float:
        """Length of the day."""
        return sum(phase.seconds for phase in self.phases)

    def at(self, elapsed_s: float) -> Moment | None:
        """Return the state `elapsed_s` after the start; None once the day is over."""
        if elapsed_s < 0:
            raise ValueError(f"elapsed_s must not be negative, got {elapsed_s}")
        begin_s = 0.0
        for index, phase in enumerate(self.phases):
            if elapsed_s < begin_s + phase.seconds:
                before = self.phases[max(0, index - 1)]
                share = min(1.0, (elapsed_s - begin_s) / self.ramp_s)
                return Moment(
                    phase,
                    index,
                    confidence=before.confidence + share * (phase.confidence - before.confidence),
                    battery=before.battery + share * (phase.battery - before.battery),
                )
            begin_s += phase.seconds
        return None

    def with_seconds_per_phase(self, seconds: float) -> Scenario:
        """Return the same day with phases of equal length."""
        phases = tuple(Phase(**{**dict(phase), "seconds": seconds}) for phase in self.phases)
        return Scenario(phases=phases, ramp_s=min(self.ramp_s, seconds / 2))

    def phase(self, name: str) -> Phase:
        """Return the phase of that name."""
        return next(phase for phase in self.phases if phase.name == name)

    def boundaries_s(self) -> list[float]:
        """Return when the phases begin, and when the last one ends."""
        return [0.0, *itertools.accumulate(phase.seconds for phase in self.phases)]


DAY = Scenario(
    phases=(
        Phase(name="clear", title="Clear", seconds=10, confidence=1.0, battery=0.92),
        Phase(
            name="noise", title="Noise", seconds=9, corruption="gaussian_noise", severity=3, confidence=0.9,
            battery=0.84,
        ),
        Phase(name="fog", title="Fog", seconds=9, corruption="fog", severity=4, confidence=0.9, battery=0.76),
        Phase(
            name="attack", title="Attack", seconds=11, attack="pgd-10", confidence=0.1, battery=0.68, max_rate_hz=5.0
        ),
        Phase(name="low_battery", title="Low battery", seconds=10, confidence=1.0, battery=0.10),
        Phase(
            name="override", title="Override", seconds=6, confidence=1.0, battery=0.10,
            manual=Manual(lam=0.8, width=1.0),
        ),
        Phase(name="release", title="Release", seconds=6, confidence=1.0, battery=0.10),
    )
)  # fmt: skip
"""The day of `make demo`. During the attack, another sensor raises the alarm: the confidence falls."""


ROBOT_DAY = Scenario(
    phases=(
        Phase(name="bright_hall", title="Bright hall", seconds=10, source="robocup/20260502_r5", battery=0.92),
        Phase(
            name="dark_hall", title="Dark hall", seconds=12, source="robocup-poor-light/20190707_r3", confidence=0.9,
            battery=0.84,
        ),
        Phase(
            name="attack", title="Attack", seconds=18, source="robocup/20260503_r3", attack="pgd-10", confidence=0.1,
            battery=0.76, max_rate_hz=1.5,
        ),
        Phase(name="low_battery", title="Low battery", seconds=10, source="robocup/20260503_r5", battery=0.10),
        Phase(
            name="override", title="Override", seconds=6, source="robocup/20260503_r5", battery=0.10,
            manual=Manual(lam=0.8, width=1.0),
        ),
        Phase(name="release", title="Release", seconds=6, source="robocup/20260503_r5", battery=0.10),
    )
)  # fmt: skip
"""The day of `make demo DEMO_ARGS=--robot`, at 4 images a second: then each session has enough frames to show none
twice. The halls are two venues, seven years apart, and all are test sessions."""

SCENARIOS = {"day": DAY, "robot": ROBOT_DAY}
"""Scenarios that are known by name."""


def load_scenario(name: str) -> Scenario:
    """Return a scenario of `SCENARIOS`, or read one from a JSON file.

    Raises:
        ConfigError: no such file, or it is not a scenario.
    """
    if name in SCENARIOS:
        return SCENARIOS[name]
    expected = f"expected {', '.join(map(repr, SCENARIOS))} or the path of a JSON file"
    return read_model(Scenario, expanded(name), what="a scenario", remedy=expected)
