"""Which widths the deadline, the power budget and the battery allow. Nothing here knows about λ's worth."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from policy.config import BatteryStep, PolicyConfig
from policy.signals import Reading, Signals, SignalState

_SLOWDOWN_SMOOTHING = 0.05
"""Weight of the newest frame in the estimate of how much slower this machine is than its profile."""
_MAX_SLOWDOWN = 100.0
_Z_99 = NormalDist().inv_cdf(0.99)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is allowed now: the battery's step (None: no limit), why, and the present slow-down against the profile."""

    step: BatteryStep | None
    cause: str
    slowdown: float


class Budget:
    """Deadline, power and battery of one robot."""

    def __init__(self, table: OperatingTable, config: PolicyConfig) -> None:
        """Check that the table holds what the budgets need.

        Raises:
            ConfigError: a deadline without latencies, or a power budget without energies.
        """
        self._config = config
        self._rows = {row.point: row for row in table.rows}
        if config.deadline_ms is not None and any(row.latency_ms_p50 is None for row in table.rows):
            raise ConfigError("deadline_ms is set but the table holds no latencies: run oat-profile, or unset it")
        if config.power_budget_w is not None and any(row.energy_j is None for row in table.rows):
            raise ConfigError("power_budget_w is set but the table holds no energies: profile them, or unset it")
        self._z = NormalDist().inv_cdf(config.deadline_probability)
        self._slowdown = 1.0
        self._known_step: BatteryStep | None = None
        self._known_s = 0.0

    def allowance(self, signals: Signals, states: dict[str, SignalState], *, elapsed_s: float) -> Allowance:
        """What the battery and the machine's present speed allow."""
        self._observe_latency(signals)
        config = self._config
        if not config.battery_ladder:
            return Allowance(None, "", self._slowdown)
        charge = signals.battery.value
        if states["battery"] is SignalState.OK and charge is not None:
            self._known_step = next(step for step in config.battery_ladder if charge >= step.min_charge)
            self._known_s = elapsed_s
            return Allowance(self._known_step, f"battery {100 * charge:.0f} %", self._slowdown)
        if self._known_step is not None and elapsed_s - self._known_s <= config.battery_hold_s:
            return Allowance(self._known_step, f"battery {states['battery'].value}, held", self._slowdown)
        return Allowance(config.battery_unknown_step, f"battery {states['battery'].value}", self._slowdown)

    def in_time(self, point: OperatingPoint, slowdown: float = 1.0) -> bool:
        """Whether the deadline is met at the required probability (always, where none is set)."""
        deadline_ms = self._config.deadline_ms
        return deadline_ms is None or self.latency_ms(point) * slowdown <= deadline_ms

    def latency_ms(self, point: OperatingPoint) -> float:
        """Latency at the required probability: log-normal through the profile's median and 99th percentile."""
        row = self._rows[point]
        assert row.latency_ms_p50 is not None, "checked when the policy was built"
        tail = max(1.0, (row.latency_ms_p99 or row.latency_ms_p50) / row.latency_ms_p50)
        return float(row.latency_ms_p50 * tail ** (self._z / _Z_99))

    def objection(self, point: OperatingPoint, allowance: Allowance) -> str | None:
        """Why this point is not admissible now; None where it is."""
        config, step = self._config, allowance.step
        if step is not None and point.width > step.max_width:
            return f"above {step.max_width:g} ({allowance.cause})"
        if not self.in_time(point, allowance.slowdown):
            late_ms = self.latency_ms(point) * allowance.slowdown
            return f"late: {late_ms:.1f} ms of {config.deadline_ms:g} ms"
        energy_j = self._rows[point].energy_j
        if config.power_budget_w is not None and energy_j is not None:
            power_w = energy_j * config.min_rate_hz
            if power_w > config.power_budget_w:
                return f"over power: {power_w:.2f} W of {config.power_budget_w:g} W"
        return None

    def max_rate_hz(self, point: OperatingPoint, allowance: Allowance) -> float | None:
        """Highest rate that all budgets allow at this point; None where nothing limits it."""
        row = self._rows.get(point)
        limits = [self._config.max_rate_hz, allowance.step.max_rate_hz if allowance.step else None]
        if self._config.power_budget_w is not None and row is not None and row.energy_j is not None:
            limits.append(self._config.power_budget_w / row.energy_j)
        return min((limit for limit in limits if limit is not None), default=None)

    def _observe_latency(self, signals: Signals) -> None:
        """Follow the machine's slow-down; a faster frame than the profile never widens anything."""
        network = signals.network
        row = self._rows.get(network.point) if network is not None else None
        if network is None or row is None or row.latency_ms_p50 is None:
            return
        observed = Reading(network.latency_ms, network.age_s)
        limit_ms = _MAX_SLOWDOWN * row.latency_ms_p50
        ok = observed.state(low=0.0, high=limit_ms, max_age_s=self._config.network_max_age_s) is SignalState.OK
        if ok and network.latency_ms is not None:
            ratio = max(1.0, network.latency_ms / row.latency_ms_p50)
            self._slowdown += _SLOWDOWN_SMOOTHING * (ratio - self._slowdown)
