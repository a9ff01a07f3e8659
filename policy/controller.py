"""Choose the operating point: one `Signals` in and one `Decision` out for each frame. No data makes it raise an error.

λ is chosen first, at a reference width and without looking at energy. Then the width is chosen for that λ, within
deadline, power and battery. So the battery never moves λ. Operator, hard limits and safety lock only mask the adaptive
choice. It goes on in the background, so it takes over at once when they end.
"""

from __future__ import annotations

import math

from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import MEASURED_REGIMES, OperatingPoint, OperatingTable, Regime
from policy.belief.constants import EstimatorConstants
from policy.belief.filter import RegimeFilter
from policy.choice.budget import Allowance, Budget, RateLimit
from policy.choice.hysteresis import Hysteresis
from policy.choice.score import Belief, Scores
from policy.config import PolicyConfig
from policy.decision import ChosenBy, Decision, Rejected, Rule
from policy.signals import NetworkSignals, Override, Signals, SignalState, image_state, opposite
from policy.snapshot import Remembering


class AdaptivePolicy(Remembering):
    """Choose the operating point of each frame from a measured table.

    Args:
        table: the bundle's `select` table.
        config: limits, budgets and hysteresis.
        constants: the fitted estimator; None: the regime is always unknown, so λ is the one of best minimax accuracy.

    Raises:
        ConfigError: the table is not `select`, is of another bundle or device, lacks a regime, a latency or an energy
            that the configuration needs, or the configuration leaves no operating point.
    """

    _REMEMBERED = (
        "_filter", "_lam_rule", "_width_rule", "_budget", "_last_now_s", "_elapsed_s", "_last_probe_s", "_last_point"
    )  # fmt: skip

    def __init__(
        self, table: OperatingTable, config: PolicyConfig, constants: EstimatorConstants | None = None
    ) -> None:
        """Check that table and configuration agree, and start at the safest allowed λ."""
        _check_table(table, config)
        self.table, self.config, self.constants = table, config, constants
        self._filter = RegimeFilter(constants, config) if constants is not None else None
        self._lambdas = _within(table.lambdas, max(config.lambda_floor, config.lam_min), config.lam_max, "λ")
        self._widths = _within(table.widths, config.width_min, config.width_max, "width")
        self._reference = config.reference_width if config.reference_width is not None else table.widths[-1]
        if self._reference not in table.widths:
            raise ConfigError(f"reference_width must be one of {list(table.widths)}, got {self._reference}")
        self._scores = Scores(table, config, *((constants.kinds, constants.spread) if constants is not None else ()))
        minimax_lam = max(self._lambdas, key=lambda lam: self._scores.rank(OperatingPoint(lam, self._reference)))
        self._lam_rule = Hysteresis(
            {lam: self._scores.rank(OperatingPoint(lam, self._reference)) for lam in self._lambdas},
            start=minimax_lam,
            dwell_s=config.dwell_s,
            margin=config.margin,
            settle_s=config.settle_s,
        )
        # For width, safe is narrow: a deadline or an empty battery cannot wait, more accuracy can.
        self._width_rule = Hysteresis(
            {width: (-width, 0.0, 0.0) for width in self._widths},
            start=None,
            dwell_s=config.width_dwell_s,
            margin=config.margin,
            urgent="forced climb",
        )
        self._budget = Budget(table, config)
        # Safety lock and fallback keep to the floor: it is what people rely on.
        above_floor = [row.point for row in table.rows if row.lam >= config.lambda_floor]
        in_time = [point for point in above_floor if self._budget.in_time(point)]
        self.safety_point = max(in_time or above_floor, key=self._scores.rank)
        self._default = OperatingPoint(
            config.default_lam if config.default_lam is not None else minimax_lam,
            config.default_width if config.default_width is not None else self._widths[-1],
        )
        if self._default.width not in table.widths:
            raise ConfigError(f"default_width must be one of {list(table.widths)}, got {self._default.width:g}")
        if not table.lambdas[0] <= self._default.lam <= table.lambdas[-1]:
            raise ConfigError(
                f"default_lambda must lie in [{table.lambdas[0]:g}, {table.lambdas[-1]:g}], got {self._default.lam:g}"
            )
        self._below_floor = tuple(
            Rejected(lam, None, f"outside λ limits [{max(config.lambda_floor, config.lam_min):g}, {config.lam_max:g}]")
            for lam in table.lambdas
            if lam not in self._lambdas
        )
        self._last_now_s: float | None = None
        self._elapsed_s = 0.0
        self._last_probe_s = 0.0
        self._last_point: OperatingPoint | None = None
        self._rate_limit: RateLimit | None = None

    def step(self, signals: Signals) -> Decision:
        """Decide for this frame. The same sequence of signals gives the same sequence of decisions, bit for bit."""
        forward_s, clock = self._advance(signals.now_s)
        states = self._states(signals, clock)
        belief = self._believe(signals, states, forward_s=forward_s)

        lam_target, lam_rule, lam_scores = self._choose_lam(belief)
        lam = self._lam_rule.current
        allowance = self._budget.allowance(signals, states, elapsed_s=self._elapsed_s)
        width_target, width_rule, too_much = self._choose_width(lam, belief, allowance)
        adaptive = OperatingPoint(lam, self._width_rule.current)

        point, lam_source, width_source, remarks = self._arbitrate(signals, adaptive)
        self._rate_limit = self._budget.rate_limit(point, allowance)
        others = [other for other in self._lambdas if other != lam]
        runner_up = max(others, key=lambda other: (lam_scores[other], self._lam_rule.ranks[other]), default=None)
        explanation = _explain(belief, lam, lam_scores, lam_target, lam_rule, runner_up)
        if adaptive.width != self._widths[-1] and too_much:
            explanation += f"; width {adaptive.width:g} since {too_much[-1].width:g} is {too_much[-1].reason}"
        decision = Decision(
            point=point,
            changed=self._last_point is not None and point != self._last_point,
            reason="; ".join([*remarks, explanation]),
            lam_source=lam_source,
            width_source=width_source,
            rule=lam_rule,
            width_rule=width_rule,
            target=OperatingPoint(lam_target, width_target),
            runner_up=None if runner_up is None else OperatingPoint(runner_up, adaptive.width),
            expected_accuracy=lam_scores[lam],
            posterior=belief.posterior,
            states=states,
            rejected=(*self._below_floor, *too_much),
            probe=self._probe(point, belief),
            max_rate_hz=None if self._rate_limit is None else self._rate_limit.rate_hz,
        )
        self._last_point = point
        return decision

    @property
    def rate_cause(self) -> str:
        """What sets `max_rate_hz` of the last decision, as `battery missing (battery_unknown_rate_hz)`; empty: nothing.

        It is no part of the decision, so that records of older versions still replay equal.
        """
        return "" if self._rate_limit is None else self._rate_limit.cause

    @property
    def alarmed(self) -> bool:
        """Whether the last frames look unusual, even if λ stays; False without an estimator."""
        return self._filter is not None and self._filter.alarmed()

    @property
    def promise(self) -> str:
        """What the alarm promises, and if what; empty if it only follows the belief."""
        promise = self._filter.promise if self._filter is not None else None
        return "" if promise is None else str(promise)

    def _advance(self, now_s: float) -> tuple[float, SignalState]:
        """Return the time since the last step, and add it to the policy's own clock, which never runs backwards."""
        if not math.isfinite(now_s):
            return 0.0, SignalState.INVALID
        last_s, self._last_now_s = self._last_now_s, now_s
        if last_s is None:
            return 0.0, SignalState.OK
        if now_s < last_s:
            return 0.0, SignalState.CLOCK_REGRESSED
        self._elapsed_s += now_s - last_s
        return now_s - last_s, SignalState.OK

    def _states(self, signals: Signals, clock: SignalState) -> dict[str, SignalState]:
        config, network = self.config, signals.network
        states = {
            "clock": clock,
            "image": image_state(signals.image, signals.num_regions),
            "network": (SignalState.MISSING if network is None else network.state(max_age_s=config.network_max_age_s)),
            "confidence": signals.confidence.state(low=0.0, high=1.0, max_age_s=config.confidence_max_age_s),
            "battery": signals.battery.state(low=0.0, high=1.0, max_age_s=config.battery_max_age_s),
        }
        if clock is not SignalState.OK:
            # Ages are differences of this clock, so none of them can be believed now.
            for name in ("network", "confidence", "battery"):
                if states[name] is SignalState.OK:
                    states[name] = SignalState.CLOCK_REGRESSED
        return states

    def _believe(self, signals: Signals, states: dict[str, SignalState], *, forward_s: float) -> Belief:
        """Estimate the regime from image and network. The external confidence decides how far it is trusted."""
        if self._filter is None:
            return Belief.unknown("no estimator constants")
        image = signals.image if states["image"] is SignalState.OK else None
        network: NetworkSignals | None = signals.network if states["network"] is SignalState.OK else None
        self._filter.update(image, network, elapsed_s=forward_s)
        confidence, doubt = 0.0, f"environment confidence {states['confidence'].value}"
        held = states["image"] is SignalState.NOTHING and self._filter.informed
        if image is None and not held:
            doubt = f"image {states['image'].value}"
        elif states["confidence"] is SignalState.OK and signals.confidence.value is not None:
            confidence = signals.confidence.value
            doubt = f"environment confidence {confidence:.2f}" if confidence < 1 else ""
        elif states["confidence"] is SignalState.MISSING and self.config.confidence_topic == "absent":
            confidence, doubt = 1.0, ""
        return Belief.of(
            self._filter.posterior(),
            confidence=confidence,
            credible_mass=self.config.credible_mass,
            doubt=doubt,
            kinds=self._filter.kinds(),
        )

    def _choose_lam(self, belief: Belief) -> tuple[float, Rule, dict[float, float]]:
        """Choose λ at the reference width, minus the switching cost; also return each λ's score before that cost."""
        points = {lam: OperatingPoint(lam, self._reference) for lam in self._lambdas}
        present = points[self._lam_rule.current]
        worth = {lam: self._scores.blended(point, belief) for lam, point in points.items()}
        net = {
            lam: worth[lam] - self._scores.switching(point, belief, present=present) for lam, point in points.items()
        }
        target, rule = self._lam_rule.step(net, elapsed_s=self._elapsed_s)
        return target, rule, worth

    def _choose_width(
        self, lam: float, belief: Belief, allowance: Allowance
    ) -> tuple[float, Rule, tuple[Rejected, ...]]:
        """Choose the most accurate width that the budgets allow at this λ; if they allow none, the narrowest."""
        scores, rejected = {}, []
        for width in self._widths:
            objection = self._budget.objection(OperatingPoint(lam, width), allowance)
            if objection is None:
                scores[width] = self._scores.blended(OperatingPoint(lam, width), belief)
            else:
                rejected.append(Rejected(None, width, objection))
        return *self._width_rule.step(scores or {self._widths[0]: 0.0}, elapsed_s=self._elapsed_s), tuple(rejected)

    def _arbitrate(
        self, signals: Signals, adaptive: OperatingPoint
    ) -> tuple[OperatingPoint, ChosenBy, ChosenBy, list[str]]:
        """Apply the precedence: safety lock > hard limits > operator > adaptive > default."""
        if signals.safety_lock:
            return self.safety_point, ChosenBy.SAFETY_LOCK, ChosenBy.SAFETY_LOCK, [f"safety lock: {self.safety_point}"]
        base, source = (adaptive, ChosenBy.ADAPTIVE) if self.config.adaptive else (self._default, ChosenBy.DEFAULT)
        remarks = [] if self.config.adaptive else [f"not adaptive: {base}"]
        config, now_s = self.config, signals.now_s
        lam, lam_source, remark = _mask(
            "λ", base.lam, source, signals.override_lam, now_s=now_s, limits=(config.lam_min, config.lam_max)
        )
        remarks += remark
        if lam_source is not source and lam < config.lambda_floor:
            remarks.append(f"λ={lam:g} is below the hazard floor {config.lambda_floor:g} by the operator's command")
        width, width_source, remark = _mask(
            "width", base.width, source, signals.override_width, now_s=now_s,
            limits=(self._widths[0], self._widths[-1]), allowed=self.table.widths,
        )  # fmt: skip
        return OperatingPoint(lam, width), lam_source, width_source, remarks + remark

    def _probe(self, point: OperatingPoint, belief: Belief) -> OperatingPoint | None:
        """Return the point to probe, at the opposite λ, or None. Probe more often while an attack is in doubt."""
        period_s = self.config.probe_period_s
        attacked = belief.shares[Regime.ADVERSARIAL]
        if self.config.credible_mass <= attacked <= 1 - self.config.credible_mass:
            period_s = min(period_s, self.config.alert_probe_period_s)
        if not self.config.probe_period_s or self._filter is None or self._elapsed_s - self._last_probe_s < period_s:
            return None
        self._last_probe_s = self._elapsed_s
        return OperatingPoint(opposite(point.lam, self.table.lambdas), point.width)


def _mask(
    knob: str,
    base: float,
    source: ChosenBy,
    override: Override | None,
    *,
    now_s: float,
    limits: tuple[float, float],
    allowed: tuple[float, ...] | None = None,
) -> tuple[float, ChosenBy, list[str]]:
    """Return the operator's value within the hard limits, if it is usable; otherwise the value that was chosen."""
    if override is None or not override.active(now_s):
        return base, source, []
    value = override.value
    if not 0.0 <= value <= 1.0 or (allowed is not None and value not in allowed):
        wanted = "a number in [0, 1]" if allowed is None else f"one of {list(allowed)}"
        return base, source, [f"operator's {knob} {value:g} ignored: expected {wanted}"]
    limited = min(max(value, limits[0]), limits[1])
    if limited != value:
        return limited, ChosenBy.HARD_LIMIT, [f"operator's {knob} {value:g} meets the hard limit {limited:g}"]
    return value, ChosenBy.OPERATOR, [f"operator set {knob} {value:g}"]


def _explain(
    belief: Belief, lam: float, scores: dict[float, float], target: float, rule: Rule, runner_up: float | None
) -> str:
    """Explain the choice of λ, as in `low_frequency 0.71: λ=0.1 expects 78.2 %, +3.1 over λ=0.4`."""
    regime, mass = max(belief.posterior.items(), key=lambda item: item[1])
    cause = f" ({belief.doubt})" if regime is Regime.UNKNOWN and belief.doubt else ""
    sentence = f"{regime.value} {mass:.2f}{cause}: λ={lam:g} expects {100 * scores[lam]:.1f} %"
    if rule is Rule.HOLD_MARGIN:
        return f"{sentence}; λ={target:g} is within the margin ({100 * (scores[target] - scores[lam]):+.1f})"
    if rule is Rule.HOLD_DWELL:
        return f"{sentence}; λ={target:g} ({100 * (scores[target] - scores[lam]):+.1f}) waits out the dwell time"
    if runner_up is not None:
        sentence += f", {100 * (scores[lam] - scores[runner_up]):+.1f} over λ={runner_up:g}"
    return sentence


def _within(values: tuple[float, ...], low: float, high: float, knob: str) -> tuple[float, ...]:
    allowed = tuple(value for value in values if low <= value <= high)
    if not allowed:
        raise ConfigError(f"no {knob} of the table {list(values)} lies in [{low:g}, {high:g}]: widen the limits")
    return allowed


def _check_table(table: OperatingTable, config: PolicyConfig) -> None:
    if table.name != "select":
        raise ConfigError(f"the policy reads the table 'select', got '{table.name}': pass Bundle.select")
    for what, expected, got in (
        ("bundle", config.bundle_sha256, table.bundle_sha256),
        ("device", config.device, table.device),
    ):
        if expected and expected != got:
            raise ConfigError(
                f"the table is of another {what}: expected '{expected}', got '{got}'; load the table that belongs to "
                f"this {what}, or measure one with oat-profile"
            )
    for row in table.rows:
        unmeasured = [regime.value for regime in MEASURED_REGIMES if not row.accuracy(regime).num_total]
        if unmeasured:
            raise ConfigError(f"the table has no measurement of {unmeasured} at {row.point}: evaluate the bundle again")
