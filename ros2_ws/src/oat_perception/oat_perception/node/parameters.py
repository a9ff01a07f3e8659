"""Every parameter of the node: meaning, unit, range, when it may change, its check; and the policy's configuration."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import ValidationError
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from oat_runtime.errors import ConfigError
from policy.config import BatteryStep, PolicyConfig

ADAPTIVE = -1.0
"""Value of `lambda` and `width` that leaves the knob to the policy."""
OVERRIDES = ("lambda", "width")
_NONE = {name: -1.0 for name in ("default_lambda", "default_width", "reference_width", "battery_unknown_width")}
_NO_LIMIT = ("deadline_ms", "power_budget_w", "max_rate_hz", "battery_capacity_wh")

Value = bool | int | float | str | list[float]
Offered = Callable[[float | None, float | None], object]
"""Raises ValueError where the bundle does not offer an operator's λ or width; None: not asked for."""


class Change(Enum):
    """When a parameter may be set."""

    ANY_TIME = "at any time"
    UNCONFIGURED = "while the node is unconfigured"
    AT_START = "at start only"


@dataclass(frozen=True, slots=True)
class Spec:
    """One parameter.

    Attributes:
        name: its ROS name.
        default: also gives the kind: bool, float (an integer will do), int, str, or list of floats.
        meaning: one sentence, with the unit.
        low: least number (each one of a list); None: any.
        high: greatest number.
        choices: the words allowed; empty: any.
        change: when it may be set.
        policy_field: field of `PolicyConfig` that it sets.
    """

    name: str
    default: Value
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    change: Change = Change.UNCONFIGURED
    policy_field: str = ""

    @property
    def is_number(self) -> bool:
        """Whether integers and floats are both accepted."""
        return isinstance(self.default, float)

    def descriptor(self, *, with_range: bool) -> ParameterDescriptor:
        """For `ros2 param describe`; to declare, without the range: rclpy would refuse by it, and not say why."""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.meaning,
            additional_constraints="; ".join(filter(None, [self._constraint(), f"set {self.change.value}"])),
            read_only=self.change is Change.AT_START,
            # Whoever types 1 means 1.0; rclpy would refuse it for a double. `objection` checks the type instead.
            dynamic_typing=isinstance(self.default, (float, list)),
        )
        if not with_range or self.low is None or self.high is None:
            return descriptor
        if self.is_number or isinstance(self.default, list):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
        if type(self.default) is int:
            descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return descriptor

    def objection(self, value: Any) -> str:
        """Why this value is refused; empty where it is not."""
        if self.is_number:
            return self._number_objection(value)
        if isinstance(self.default, list):
            if not isinstance(value, (list, tuple, array)) or not len(value):
                return f"{self.name} must be a list of at least one number, got {value!r}"
            return next(filter(None, map(self._number_objection, value)), "")
        if type(value) is not type(self.default):
            return f"{self.name} must be of type {type(self.default).__name__}, got {value!r}"
        if self.choices and value not in self.choices:
            return f"{self.name} must be one of {list(self.choices)}, got {value!r}"
        return self._number_objection(value) if type(value) is int else ""

    def _number_objection(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{self.name} must be a number, got {value!r}"
        if self.name in OVERRIDES:
            fits = value == ADAPTIVE or (0.0 <= value <= 1.0 and (self.name == "lambda" or value > 0.0))
        else:
            fits = math.isfinite(value) and (self.low is None or value >= self.low)
            fits = fits and (self.high is None or value <= self.high)
        return "" if fits else f"{self.name} must be {self._constraint()}, got {value}"

    def _constraint(self) -> str:
        if self.name == "lambda":
            return "in [0, 1], or -1 to leave it to the policy"
        if self.name == "width":
            return "in (0, 1], or -1 to leave it to the policy"
        if self.choices:
            return f"one of {list(self.choices)}"
        if self.low is None:
            return ""
        return f"at least {self.low:g}" if self.high is None else f"in [{self.low:g}, {self.high:g}]"


def _policy(name: str, meaning: str, low: float = 0.0, high: float = 1.0, field: str = "") -> Spec:
    """A parameter of the policy, with the policy's own default."""
    default = PolicyConfig.model_fields[field or name].default
    if default is None:
        default = 0.0 if name in _NO_LIMIT else _NONE[name]
    is_number = isinstance(default, float)
    return Spec(
        name, default, meaning, low if is_number else None, high if is_number else None, policy_field=field or name
    )


_HOUR_S = 3600.0

SPECS: tuple[Spec, ...] = (
    Spec("lambda", ADAPTIVE, "Operator's lambda: 0 is most accurate, 1 most robust; -1: the policy chooses.",
         -1.0, 1.0, change=Change.ANY_TIME),
    Spec("width", ADAPTIVE, "Operator's width, a share of the channels that the bundle offers; -1: the policy chooses.",
         -1.0, 1.0, change=Change.ANY_TIME),
    Spec("safety_lock", False, "Force the safest operating point, over everything else.", change=Change.ANY_TIME),
    Spec("always_process", False, "Classify also while nobody subscribes to a result.", change=Change.ANY_TIME),
    Spec("auto_activate", False, "Configure and activate by itself at start, for use without a lifecycle manager.",
         change=Change.AT_START),
    Spec("bundle", "", "Folder of the trained network (manifest.json and its files)."),
    _policy("bundle_sha256", "Hash that this bundle must have, 64 hex digits; empty: any."),
    Spec("backend", "auto", "Inference engine.", choices=("auto", "torch", "openvino", "onnxruntime", "tensorrt")),
    Spec("precision", "auto", "Arithmetic of the network.", choices=("auto", "float32", "bfloat16", "float16")),
    Spec("profile", "", "File with this device's latencies, from oat-profile; deadline_ms needs it. Empty: none."),
    Spec("estimator", "", "File that oat-calibrate fitted to this camera; empty: the bundle's own estimator."),
    Spec("num_threads", 0, "CPU threads of the network; 0: all that this process may use.", 0, 1024),
    Spec("image_transport", "raw", "raw: sensor_msgs/Image; compressed: CompressedImage on <image>/compressed.",
         choices=("raw", "compressed")),
    Spec("image_reliability", "best_effort", "Reliability that is asked of the camera; best_effort hears every camera.",
         choices=("best_effort", "reliable")),
    Spec("image_depth", 5, "Images that the middleware keeps for this node; the newest wins in any case.", 1, 1000),
    Spec("camera_timeout_s", 1.0, "Seconds without an image after which diagnostics call the camera silent.",
         0.01, _HOUR_S),
    Spec("policy_timeout_s", 1.0, "Seconds that an image may be in work before diagnostics call the policy silent.",
         0.01, _HOUR_S),
    Spec("max_regions", 0, "Most regions of an image to classify, as `regions` names them; 0: whole images only. "
         "Needs vision_msgs.", 0, 1000),
    Spec("decision_log", "", "File for the decisions, JSON lines for oat-replay; empty: none."),
    _policy("adaptive", "False: hold the default point; operator, limits and safety lock still work."),
    _policy("default_lambda", "Lambda while not adaptive; -1: the safest.", -1.0, field="default_lam"),
    _policy("default_width", "Width while not adaptive; -1: the widest.", -1.0),
    _policy("lambda_floor", "Hazard floor: no sensor signal brings lambda below it; an operator may."),
    _policy("lambda_min", "Least lambda, for the operator too.", field="lam_min"),
    _policy("lambda_max", "Greatest lambda, for the operator too.", field="lam_max"),
    _policy("width_min", "Least width, for the operator too."),
    _policy("width_max", "Greatest width, for the operator too.", 0.001),
    _policy("reference_width", "Width at which lambdas are compared; -1: the widest.", -1.0),
    _policy("hedge", "Weight of the worst credible regime against the expectation over regimes."),
    _policy("credible_mass", "Belief from which a regime is credible.", 0.001, 0.999),
    _policy("switch_cost", "Gain in expected accuracy that a change of lambda must bring to be considered."),
    _policy("margin", "Gain in expected accuracy that a move to a less robust lambda needs."),
    _policy("settle_s", "Seconds that a less robust lambda must have been wanted before it is taken.", 0.0, _HOUR_S),
    _policy("dwell_s", "Least mean seconds between changes of lambda.", 0.001, _HOUR_S),
    _policy("width_dwell_s", "Least mean seconds between changes of width.", 0.001, _HOUR_S),
    _policy("probe_period_s", "Seconds between probes of the opposite lambda; 0: never.", 0.0, _HOUR_S),
    _policy("alert_probe_period_s", "The same while an attack is credible and not certain.", 0.0, _HOUR_S),
    _policy("regime_persistence_s", "Seconds that a regime lasts, roughly.", 0.001, _HOUR_S),
    _policy("evidence_weight", "Share of an image's evidence that counts, since neighbouring images are alike.", 0.001),
    _policy("evidence_cap_nats", "Most nats by which one image moves the odds between two regimes.", 0.001, 100.0),
    Spec("confidence_required", True, "False: this robot has no environment confidence; never having one is fine."),
    _policy("confidence_max_age_s", "Seconds after which a confidence no longer counts.", 0.001, _HOUR_S),
    _policy("network_max_age_s", "Seconds after which the previous frame no longer counts.", 0.001, _HOUR_S),
    Spec("use_battery", False, "Let the battery limit width and rate, by the ladder below."),
    Spec("battery_percentage_full", 1.0, "What this robot's driver sends as percentage of a full battery: 1 or 100."),
    Spec("battery_ladder_charge", [0.3, 0.15, 0.0], "Ladder: least charge (0 to 1) of each step, descending to 0.",
         0.0, 1.0),
    Spec("battery_ladder_width", [1.0, 0.75, 0.5], "Ladder: greatest width of each step.", 0.0, 1.0),
    Spec("battery_ladder_rate_hz", [0.0, 0.0, 0.0], "Ladder: greatest rate of each step in Hz; 0: no limit.",
         0.0, 1000.0),
    _policy("battery_max_age_s", "Seconds after which a battery reading no longer counts.", 0.001, _HOUR_S),
    _policy("battery_hold_s", "Seconds that the last known step is held when the battery is unknown.",
            0.0, _HOUR_S),
    _policy("battery_capacity_wh", "Watt hours of the full battery, for an energy budget; 0: none. Needs a table that "
            "knows joules.", 0.0, 1e6),
    _policy("battery_reserve", "State of charge that perception leaves at the mission's end.", 0.0, 0.99),
    _policy("perception_share", "Share of the battery's energy above the reserve that inference may use.", 0.001),
    _policy("mission_s", "Seconds that a mission lasts, from the first image.", 1.0, 1e7),
    _policy("battery_unknown_width", "Greatest width after that; -1: that of the ladder's last step.", -1.0),
    _policy("deadline_ms", "Milliseconds that one inference may take; 0: any. Needs a device profile.",
            0.0, 60_000.0),
    _policy("deadline_probability", "Probability with which it must be met.", 0.5, 0.9999),
    _policy("power_budget_w", "Mean watts for inference; 0: any. Needs a device profile.", 0.0, 10_000.0),
    _policy("min_rate_hz", "Images a second that the power budget must allow for a width to be chosen.", 0.001, 1000.0),
    _policy("max_rate_hz", "Most images a second; 0: any.", 0.0, 1000.0),
)  # fmt: skip
BY_NAME = {spec.name: spec for spec in SPECS}


def objection(changes: Mapping[str, Any], *, current: Mapping[str, Any], offered: Offered | None) -> str:
    """Why these changes, taken together, are refused; empty where they are not. Changes nothing.

    Args:
        changes: new values by name; names that are not the node's own are passed over.
        current: values in force, as far as declared.
        offered: the loaded bundle's check of an override; None while the node is unconfigured.
    """
    for name, value in changes.items():
        spec = BY_NAME.get(name)
        if spec is None:
            continue
        if problem := spec.objection(value):
            return problem
        if offered and spec.change is Change.UNCONFIGURED and not _same(value, current.get(name)):
            return f"{name} cannot change while the node is configured: clean it up, set {name}, and configure it again"
    if changes.get("battery_percentage_full", 1.0) not in (1.0, 100.0):
        return f"battery_percentage_full must be 1 or 100, got {changes['battery_percentage_full']}"
    if offered and changes.keys() & set(OVERRIDES):
        wanted = (changes.get(name, ADAPTIVE) for name in OVERRIDES)
        try:
            offered(*(None if value == ADAPTIVE else float(value) for value in wanted))
        except ValueError as error:
            return str(error)
    return ""


def policy_config(values: Mapping[str, Any]) -> PolicyConfig:
    """The policy's configuration from the values of all parameters.

    Raises:
        ConfigError: they contradict each other.
    """
    fields = {spec.policy_field: _plain(spec, values[spec.name]) for spec in SPECS if spec.policy_field}
    try:
        return PolicyConfig(
            **fields,
            confidence_topic="required" if values["confidence_required"] else "absent",
            battery_ladder=_ladder(values) if values["use_battery"] else (),
        )
    except ValidationError as error:
        problems = "; ".join(str(detail["msg"]).removeprefix("Value error, ") for detail in error.errors())
        raise ConfigError(f"parameters contradict each other: {problems}") from error


def _same(a: Any, b: Any) -> bool:
    """Equal, whether a list came as a list or as an array."""
    return list(a) == list(b) if isinstance(a, (list, tuple, array)) and isinstance(b, (list, array)) else a == b


def _plain(spec: Spec, value: Any) -> Any:
    """A value as the policy takes it: None for the stand-ins that ROS needs, since it has no empty number."""
    if value == _NONE.get(spec.name) or (spec.name in _NO_LIMIT and value == 0):
        return None
    return float(value) if spec.is_number else value


def _ladder(values: Mapping[str, Any]) -> tuple[BatteryStep, ...]:
    columns = [list(values[f"battery_ladder_{name}"]) for name in ("charge", "width", "rate_hz")]
    if any(len(a) != len(b) for a, b in itertools.pairwise(columns)):
        raise ConfigError(
            f"battery_ladder_charge, _width and _rate_hz must be of equal length, got {[len(c) for c in columns]}"
        )
    return tuple(
        BatteryStep(min_charge=charge, max_width=width, max_rate_hz=rate_hz or None)
        for charge, width, rate_hz in zip(*columns, strict=True)
    )
