"""Define every parameter of the node, with meaning, unit, range and check, and build the policy's configuration.

Meaning, unit, range and default of a setting of the policy come from its field in `policy.config`.
`make settings` writes the comments of config/*.yaml and docs/parameters.md from this file, without ROS.
"""

from __future__ import annotations

import difflib
import itertools
import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from oat_runtime.backends import BackendName, Precision
from oat_runtime.data.decoding import FULL_BITS
from oat_runtime.data.image_headers import MAX_PIXELS
from oat_runtime.errors import ConfigError, quoted
from oat_runtime.image import MAX_SIDE_PX
from oat_runtime.plans import DEFAULT_BUDGET_MB
from policy.config import BatteryStep, PolicyConfig, Quantity

ADAPTIVE = -1.0
"""Value of `lambda` and `width` that leaves the knob to the policy."""
OVERRIDES = ("lambda", "width")
_MAX_LENGTH = 4096
"""Characters of a text (a path, say), and numbers of a list: the longest path that Linux takes."""

Value = bool | int | float | str | list[float]
Offered = Callable[[float | None, float | None], object]
"""Raises ValueError if the bundle does not offer an operator's λ or width; None: not asked for."""


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
        default: also fixes the type: bool, float (which accepts integers), int, str, or list of floats.
        meaning: what it does, in whole sentences.
        low: least number (each one of a list); None: any, and then `high` is None too.
        high: greatest number.
        unit: of the number, as in `s`.
        choices: the allowed words; empty: any.
        change: when it may be set.
        policy_field: field of `PolicyConfig` that it sets.
        none: number that means "no number", because ROS has no empty value; None: there is none. Where it is -1, the
            parameter is a share, from 0 to 1.
        positive: whether a share of 0 is refused.
        is_path: whether it names a file or folder. It may be relative, or begin with `~`, which no shell expands behind
            `:=`.
    """

    name: str
    default: Value
    meaning: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    change: Change = Change.UNCONFIGURED
    policy_field: str = ""
    none: float | None = None
    positive: bool = False
    is_path: bool = False

    @property
    def is_number(self) -> bool:
        """Whether integers and floats are both accepted."""
        return isinstance(self.default, float)

    @property
    def range_text(self) -> str:
        """The values that it accepts, as in `in [0, 3600] s`; empty: any of its type."""
        return " ".join(filter(None, [self._constraint(), self.unit]))

    def objection(self, value: Any) -> str:
        """Return why this value is refused, or an empty text."""
        if self.is_number:
            return self._number_objection(value)
        if isinstance(value, (str, list, tuple, array)) and len(value) > _MAX_LENGTH:
            return f"{self.name} must be of length {_MAX_LENGTH} at most, got {len(value)}"
        if isinstance(self.default, list):
            if not isinstance(value, (list, tuple, array)) or not len(value):
                return f"{self.name} must be a list of at least one number, got {quoted(value)}"
            return next(filter(None, map(self._number_objection, value)), "")
        if type(value) is not type(self.default):
            return f"{self.name} must be of type {type(self.default).__name__}, got {quoted(value)}"
        if self.choices and value not in self.choices:
            return f"{self.name} must be one of {list(self.choices)}, got {quoted(value)}"
        return self._number_objection(value) if type(value) is int else ""

    def _number_objection(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{self.name} must be a number, got {quoted(value)}"
        if self.none == ADAPTIVE:
            fits = value == ADAPTIVE or (0.0 <= value <= 1.0 and not (self.positive and value == 0.0))
        else:
            fits = math.isfinite(value) and (self.low is None or self.high is None or self.low <= value <= self.high)
        return "" if fits else f"{self.name} must be {self._constraint()}, got {value}"

    def _constraint(self) -> str:
        if self.choices:
            return f"one of {list(self.choices)}"
        if self.low is None:
            return ""
        if self.none == ADAPTIVE:
            share = "(0, 1]" if self.positive else "[0, 1]"
            return f"in {share}, or -1{' to leave it to the policy' if self.name in OVERRIDES else ''}"
        return f"in [{self.low:g}, {self.high:.10g}]"


def _of(model: type[BaseModel], field: str, *, name: str, default: Value | None = None) -> Spec:
    """Return the parameter of a policy field, with its description, unit, range and, unless given, its default."""
    info = model.model_fields[field]
    quantity = next((mark for mark in info.metadata if isinstance(mark, Quantity)), Quantity())
    low = next((mark.ge for mark in info.metadata if hasattr(mark, "ge")), quantity.least)
    high = next((mark.le for mark in info.metadata if hasattr(mark, "le")), quantity.most)
    meaning, none = info.description or "", None
    if info.default is None:
        # A share may be 0; a time, a rate or a power that is set is not.
        low = none = 0.0 if quantity.unit else ADAPTIVE
        meaning = meaning.replace("None:", f"{none:g}:")
    value = next(each for each in (default, info.default, none) if each is not None)
    spec = Spec(name, value, meaning, policy_field=field if model is PolicyConfig else "")
    if isinstance(value, (bool, str)):
        return spec
    positive = any(hasattr(mark, "gt") for mark in info.metadata)
    return replace(spec, low=float(low), high=float(high), unit=quantity.unit, none=none, positive=positive)


_HOUR_S = 3600.0
_OF_ANOTHER_FORM = ("confidence_topic", "battery_ladder", "device")
_RENAMED = {"default_lam": "default_lambda", "lam_min": "lambda_min", "lam_max": "lambda_max"}

SPECS: tuple[Spec, ...] = (
    Spec("lambda", ADAPTIVE, "Operator's λ: 0 is the most accurate setting, 1 the most robust one.",
         -1.0, 1.0, change=Change.ANY_TIME, none=ADAPTIVE),
    Spec("width", ADAPTIVE, "Operator's width: a share of the channels, and one that the bundle offers.",
         -1.0, 1.0, change=Change.ANY_TIME, none=ADAPTIVE, positive=True),
    Spec("safety_lock", False, "Force the safest operating point, over policy, operator and hard limits. Its λ is "
         "at least `lambda_floor`.", change=Change.ANY_TIME),
    Spec("min_confidence", 0.0, "Confidence below which the answer is `unknown`, in results, regions and the annotated "
         "image. Confidence is the calibrated probability of the most probable class, at the operating point that ran. "
         "The policy and its record see every answer as it is. 0: every class is told.", 0.0, 1.0,
         change=Change.ANY_TIME),
    Spec("always_process", False, "Classify images also while nobody subscribes to a result.", change=Change.ANY_TIME),
    Spec("auto_activate", False, "Configure and activate the node by itself at its start, where no lifecycle manager "
         "does it. The launch files set it by their argument, which is `true` unless another value is given.",
         change=Change.AT_START),
    Spec("bundle", "", "Folder of the trained network, or the name of a shipped one. The launch files set it by their "
         "argument.", is_path=True),
    Spec("backend", "auto", "Engine that runs the network. auto: the fastest of those that are installed, timed on one "
         "image.", choices=("auto", *get_args(BackendName))),
    Spec("precision", "auto", "Arithmetic of the network. auto: float32 where `backend` names an engine; with "
         "`backend` auto, the fastest one on this machine of float32, bfloat16, and int8 where the bundle's counts say "
         "that it loses at most 0.5 points on clean images and 1 point under attack at every operating point.",
         choices=("auto", *get_args(Precision))),
    Spec("profile", "", "File of this device's latencies, which oat-profile writes; empty: none. `deadline_ms` needs "
         "it.", is_path=True),
    Spec("estimator", "", "File of the estimator that oat-calibrate fitted to this camera; empty: the bundle's own "
         "estimator.", is_path=True),
    Spec("num_threads", 0, "CPU threads of the network. 0: all that this process may use.", 0, 1024),
    Spec("memory_budget_mb", int(DEFAULT_BUDGET_MB), "Most memory of the weights in int8, in which every operating "
         "point is a network of its own. If the points need more, `precision` auto leaves int8 out, and int8 lets go "
         "of a point and compiles it again before a switch, with a warning.", 1, 100_000, unit="MB"),
    Spec("image_transport", "raw", "How images come. raw: sensor_msgs/Image on `image`; compressed: JPEG or PNG as "
         "sensor_msgs/CompressedImage on `image/compressed`.", choices=("raw", "compressed")),
    Spec("image_reliability", "best_effort", "Reliability that the node asks of the camera. best_effort: it hears "
         "every camera, but loses large images unless camera and node load config/fastdds.xml; reliable: it hears "
         "reliable cameras alone.", choices=("best_effort", "reliable")),
    Spec("image_depth", 5, "Images that the middleware keeps for the node, which takes the newest one in any case.",
         1, 1000),
    Spec("max_pixels", MAX_PIXELS, "Most pixels of an image. A larger one is dropped before memory is taken for it. "
         "The default is 8K, 7680x4320.", 1, MAX_SIDE_PX**2),
    Spec("image_bits", FULL_BITS, "Bits that a value of a 16-bit image uses: mono16, rgb16 and its kin, Bayer, "
         "or a PNG. 16: the driver fills all of them, or the upper ones. A camera of 10 to 14 bits that fills the "
         "lower ones gives nearly black images until its number stands here.", 8, FULL_BITS),
    Spec("camera_timeout_s", 1.0, "Time without an image after which diagnostics call the camera silent.",
         0.01, _HOUR_S, unit="s"),
    Spec("policy_timeout_s", 1.0, "Time that an image may be in work before diagnostics call the policy silent.",
         0.01, _HOUR_S, unit="s"),
    Spec("max_regions", 0, "Most regions of an image that are classified, as vision_msgs/Detection2DArray on `regions` "
         "names them; this needs vision_msgs. 0: whole images.", 0, 1000),
    Spec("regions_wait_s", 1.0, "Time for which images wait for detections before whole images are answered without "
         "them, until detections come again. Keep it above the detector's delay and above the time between its "
         "messages.", 0.01, _HOUR_S, unit="s"),
    Spec("regions_queue_s", 2.0, "Time for which an image is kept for its detections. Keep it above the detector's "
         "delay.", 0.01, _HOUR_S, unit="s"),
    Spec("regions_queue_mb", 256, "Most memory of the images that are kept for their detections. Beyond, the oldest "
         "one goes, and is counted. Two seconds of VGA at 30 images a second take 55 MB, of 1080p 373 MB.", 1, 100_000,
         unit="MB"),
    Spec("regions_top_k", 5, "Most hypotheses of a region in `~/detections`, the most probable one first; 0: one for "
         "each class. A hypothesis takes 370 bytes.", 0, 65_535),
    Spec("regions_min_score", 0.0, "Least score of a hypothesis in `~/detections`. A region may have none then. "
         "`~/vision_label_info` says it as its threshold.", 0.0, 1.0),
    Spec("regions_smoothing_s", 0.0, "Time constant of the mean of a region's probabilities over the images of its "
         "track, which its id names; 0: each image by itself. A region without an id is never smoothed. At most 1,024 "
         "tracks are remembered.", 0.0, _HOUR_S, unit="s"),
    Spec("decision_log", "", "File for every decision, as JSON lines for oat-replay, one for each node; empty: none. "
         "Where it is full or there is one already, that one is kept as <file>.1, the one before as <file>.2, and so "
         "on.", is_path=True),
    Spec("decision_log_size_mb", 100, "Size of the decision log at which the next file begins. An hour at 30 images a "
         "second takes about 200 MB.", 1, 10_000, unit="MB"),
    Spec("decision_log_files", 10, "Files of decisions that are kept, with the one that is written. The oldest goes "
         "first.", 1, 1000),
    Spec("confidence_required", True, PolicyConfig.model_fields["confidence_topic"].description or ""),
    Spec("use_battery", False, "Let the battery limit width and rate, by the battery ladder."),
    Spec("battery_percentage_full", 1.0, "Percentage that this robot's driver sends for a full battery: 1, as the "
         "message says, or 100. The node never guesses it: up to 5 % above counts as full, and more as unknown."),
    _of(BatteryStep, "min_charge", name="battery_ladder_charge", default=[0.3, 0.15, 0.0]),
    _of(BatteryStep, "max_width", name="battery_ladder_width", default=[1.0, 0.75, 0.5]),
    _of(BatteryStep, "max_rate_hz", name="battery_ladder_rate_hz", default=[0.0, 0.0, 0.0]),
    *(_of(PolicyConfig, field, name=_RENAMED.get(field, field)) for field in PolicyConfig.model_fields
      if field not in _OF_ANOTHER_FORM),
)  # fmt: skip
BY_NAME = {spec.name: spec for spec in SPECS}


def objection(changes: Mapping[str, Any], *, current: Mapping[str, Any], offered: Offered | None) -> str:
    """Return why these changes, taken together, are refused, or an empty text. This changes nothing.

    Args:
        changes: new values by name; names of other nodes' parameters are ignored.
        current: present values, as far as declared.
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


def no_such_parameter(name: str, known: Iterable[str], *, meant: Callable[[str], str] = str) -> str:
    """Return that there is no parameter of this name, and which of the known names is most like it, if one is.

    Args:
        name: as it was given.
        known: names that may be meant.
        meant: returns the right name for a known one, where that is another spelling of it.
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no parameter {quoted(name)}" + (f": is {meant(near[0])} meant?" if near else "")


def policy_config(values: Mapping[str, Any]) -> PolicyConfig:
    """Return the policy's configuration from the values of all parameters.

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
    """Return whether two values are equal; a list equals an array of the same numbers."""
    return list(a) == list(b) if isinstance(a, (list, tuple, array)) and isinstance(b, (list, array)) else a == b


def _plain(spec: Spec, value: Any) -> Any:
    """Return a value as the policy takes it."""
    if spec.none is not None and value == spec.none:
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
