"""Tell which widths and rates the deadline, the energy and the battery allow. λ's score plays no part here."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from oat_runtime.errors import ConfigError, DataError, quoted
from oat_runtime.operating_point import OperatingPoint, OperatingRow, OperatingTable
from policy.config import BatteryStep, PolicyConfig
from policy.signals import Reading, Signals, SignalState
from policy.snapshot import Remembering

_MAX_SLOWDOWN = 100.0
_Z_99 = NormalDist().inv_cdf(0.99)
_LEAST_MISSION_S = 60.0
"""Least remaining time of a mission, so that the power budget stays finite when it is over."""
_J_PER_WH = 3600.0


class Slowdown(Remembering):
    """Estimate how much slower the machine is than its profile, as mean and spread of a log ratio.

    This follows ALERT (Wan et al., "ALERT: Accurate Learning for Energy and Timeliness", USENIX ATC 2020). ALERT scales
    all profiled latencies by one factor, a Gaussian that is filtered from the last latencies. Here its logarithm is
    filtered, because latencies have long upper tails. A machine never counts as faster than its profile: otherwise a
    few lucky frames would widen the network.
    """

    _REMEMBERED = ("mean", "variance")
    _MEAN_GAIN, _VARIANCE_GAIN = 0.2, 0.05
    """The mean follows within five frames. One slow frame alone raises the spread only a little."""

    def __init__(self) -> None:
        """Start as fast as the profile."""
        self.mean, self.variance = 0.0, 0.0

    def restore(self, saved: Any) -> None:
        """As in `Remembering`; within what `observe` can reach."""
        super().restore(saved)
        most = math.log(_MAX_SLOWDOWN)
        if not (0.0 <= self.mean <= most and 0.0 <= self.variance <= most**2):
            raise DataError(f"expected a slowdown of at most {_MAX_SLOWDOWN:g}, got {quoted(saved)}")

    def observe(self, ratio: float) -> None:
        """Take in one latency, divided by the profile's median; beyond the range of what is believed, its end."""
        step = math.log(min(max(1.0, ratio), _MAX_SLOWDOWN)) - self.mean
        self.mean += self._MEAN_GAIN * step
        self.variance = (1 - self._VARIANCE_GAIN) * (self.variance + self._VARIANCE_GAIN * step * step)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is allowed now.

    Attributes:
        step: step of the battery ladder; None: no limit.
        cause: why that step applies, for people.
        power_w: mean power that inference may draw; None: no limit.
        unknown: the battery's state, where the step is that of an unknown battery; otherwise None.
    """

    step: BatteryStep | None
    cause: str
    power_w: float | None
    unknown: SignalState | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The highest rate of images, and what sets it, for people; the same words as long as the same thing sets it."""

    rate_hz: float
    cause: str


class Budget(Remembering):
    """Turn deadline, energy and battery of one robot into limits on width and rate."""

    _REMEMBERED = ("_slowdown", "_known_charge", "_known_s")

    def __init__(self, table: OperatingTable, config: PolicyConfig) -> None:
        """Check that the table holds what the budgets need.

        Raises:
            ConfigError: a deadline without latencies, or a power budget without energies.
        """
        self._config = config
        self._rows = {row.point: row for row in table.rows}
        if config.deadline_ms is not None and any(row.latency_ms_p50 is None for row in table.rows):
            raise ConfigError("deadline_ms is set but the table holds no latencies: run oat-profile, or unset it")
        knows_joules = all(row.energy_j is not None for row in table.rows)
        if config.power_budget_w is not None and not knows_joules:
            raise ConfigError("power_budget_w is set but the table holds no energies: profile them, or unset it")
        if config.battery_capacity_wh is not None and not (knows_joules or config.battery_ladder):
            raise ConfigError(
                "battery_capacity_wh is set but the table holds no energies: profile them, or set a battery_ladder, "
                "which needs the charge alone"
            )
        self._knows_joules = knows_joules
        self._z = NormalDist().inv_cdf(config.deadline_probability)
        self._slowdown = Slowdown()
        self._known_charge: float | None = None
        self._known_s = 0.0

    def restore(self, saved: Any) -> None:
        """As in `Remembering`; a known charge is in [0, 1]."""
        super().restore(saved)
        if self._known_charge is not None and not 0.0 <= self._known_charge <= 1.0:
            raise DataError(f"expected a charge in [0, 1], got {quoted(saved)}")

    def allowance(self, signals: Signals, states: dict[str, SignalState], *, elapsed_s: float) -> Allowance:
        """Return what battery and mission allow now, and update the estimate of the machine's speed."""
        self._observe_latency(signals)
        config = self._config
        if not (config.battery_ladder or config.battery_capacity_wh):
            return Allowance(None, "", config.power_budget_w)
        charge, cause = signals.battery.value, f"battery {states['battery'].value}"
        if states["battery"] is SignalState.OK and charge is not None:
            self._known_charge, self._known_s = charge, elapsed_s
            cause = f"battery {100 * charge:.0f} %"
        elif self._known_charge is not None and elapsed_s - self._known_s <= config.battery_hold_s:
            charge, cause = self._known_charge, f"{cause}, held"
        else:
            charge = None
        power_w = self._power_w(charge, elapsed_s)
        if charge is None:
            return Allowance(config.battery_unknown_step, cause, power_w, unknown=states["battery"])
        return Allowance(config.battery_step(charge), cause, power_w)

    def in_time(self, point: OperatingPoint) -> bool:
        """Return whether the profile meets the deadline at the required probability; True if no deadline is set."""
        return self._config.deadline_ms is None or self._late_ms(point, Slowdown()) <= self._config.deadline_ms

    def objection(self, point: OperatingPoint, allowance: Allowance) -> str | None:
        """Return why this point is not allowed now, or None if it is."""
        config, step = self._config, allowance.step
        if step is not None and point.width > step.max_width:
            return f"above {step.max_width:g} ({allowance.cause})"
        if config.deadline_ms is not None:
            late_ms = self._late_ms(point, self._slowdown)
            if late_ms > config.deadline_ms:
                return f"late: {late_ms:.1f} ms of {config.deadline_ms:g} ms"
        energy_j = self._rows[point].energy_j
        if allowance.power_w is not None and energy_j is not None:
            power_w = energy_j * config.min_rate_hz
            if power_w > allowance.power_w:
                cause = f" ({allowance.cause})" if allowance.cause else ""
                return f"over power: {power_w:.2f} W of {allowance.power_w:.2f} W{cause}"
        return None

    def rate_limit(self, point: OperatingPoint, allowance: Allowance) -> RateLimit | None:
        """Return the lowest of the budgets' limits; None: no limit. Power never limits it below `min_rate_hz`."""
        config, row, limits = self._config, self._rows.get(point), []
        if config.max_rate_hz is not None:
            limits.append(RateLimit(config.max_rate_hz, "max_rate_hz"))
        if allowance.step is not None and allowance.step.max_rate_hz is not None:
            limits.append(RateLimit(allowance.step.max_rate_hz, self._step_cause(allowance.step, allowance.unknown)))
        energy_j = row.energy_j if row is not None else self._worst_energy_j(point.width)
        if allowance.power_w is not None and energy_j is not None:
            rate_hz = max(config.min_rate_hz, allowance.power_w / energy_j)
            limits.append(RateLimit(rate_hz, "budget of power"))
        return min(limits, key=lambda limit: limit.rate_hz, default=None)

    def _step_cause(self, step: BatteryStep, unknown: SignalState | None) -> str:
        if unknown is None:
            return f"battery's step from {100 * step.min_charge:g} % (battery_ladder)"
        setting = (
            "battery_ladder, last step" if self._config.battery_unknown_rate_hz is None else "battery_unknown_rate_hz"
        )
        return f"battery {unknown.value} ({setting})"

    def _worst_energy_j(self, width: float) -> float | None:
        """Return the largest energy of this width's rows. λ costs no compute, so these rows differ only by noise."""
        return max((row.energy_j for row in self._rows.values() if row.width == width and row.energy_j), default=None)

    def _row_beside(self, point: OperatingPoint) -> OperatingRow | None:
        """Return the row of this width at the nearest λ: an operator may set any λ, and λ costs no compute."""
        same = (row for row in self._rows.values() if row.width == point.width)
        return min(same, key=lambda row: (abs(row.lam - point.lam), row.lam), default=None)

    def _power_w(self, charge: float | None, elapsed_s: float) -> float | None:
        """Return the mean power that leaves the reserve at the mission's end, within the configured budget.

        An unknown charge counts as the reserve. Then nothing may be spent: the narrowest width at the lowest rate.
        """
        config = self._config
        if config.battery_capacity_wh is None or not self._knows_joules:
            return config.power_budget_w
        spare = 0.0 if charge is None else max(0.0, charge - config.battery_reserve)
        left_s = max(_LEAST_MISSION_S, config.mission_s - elapsed_s)
        power_w = spare * config.battery_capacity_wh * _J_PER_WH * config.perception_share / left_s
        return power_w if config.power_budget_w is None else min(power_w, config.power_budget_w)

    def _late_ms(self, point: OperatingPoint, slowdown: Slowdown) -> float:
        """Return the latency that holds at the required probability: log-normal, with the larger spread of both."""
        row = self._rows[point]
        assert row.latency_ms_p50 is not None, "checked when the policy was built"
        spread = max(_profiled_spread(row), math.sqrt(slowdown.variance))
        return row.latency_ms_p50 * math.exp(slowdown.mean + self._z * spread)

    def _observe_latency(self, signals: Signals) -> None:
        network = signals.network
        if network is None:
            return
        row = self._row_beside(network.point)
        if row is None or row.latency_ms_p50 is None:
            return
        observed = Reading(network.latency_ms, network.age_s)
        # Any finite one: the profile is of one image, the latency of a batch of an image with all its regions.
        most_ms, max_age_s = sys.float_info.max, self._config.network_max_age_s
        ok = observed.state(low=0.0, high=most_ms, max_age_s=max_age_s) is SignalState.OK
        if ok and network.latency_ms is not None:
            self._slowdown.observe(network.latency_ms / row.latency_ms_p50)


def _profiled_spread(row: OperatingRow) -> float:
    """Return the standard deviation of the log latency, from the profile's median and 99th percentile."""
    assert row.latency_ms_p50 is not None, "checked when the policy was built"
    return math.log(max(1.0, (row.latency_ms_p99 or row.latency_ms_p50) / row.latency_ms_p50)) / _Z_99
