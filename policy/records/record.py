"""Write and read the decision log: one JSON line for the policy, then one for each step. Floats keep their bits.

If steps are missing, a line of kind `gap` stands in their place. It says how many, why, and what the policy remembers
after them. So the steps after a gap replay as well.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from pydantic import ValidationError

from oat_runtime.errors import DataError, one_line, quoted
from oat_runtime.files import parse_json, reason_of
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from policy.belief.constants import EstimatorConstants
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.decision import Decision
from policy.image import ImageStatistics
from policy.signals import NetworkSignals, Override, Reading, Signals
from policy.snapshot import Plain

_SCHEMA = 1
_Kind = TypeVar("_Kind")


class TornLineError(DataError):
    """A line is no JSON: its writer was stopped in it, or it was damaged."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Steps that a log does not hold.

    Attributes:
        num_lost: how many; 0 where a file goes on from another one.
        reason: why they are missing, for people.
        state: what the policy remembers after them (`AdaptivePolicy.snapshot`).
    """

    num_lost: int
    reason: str
    state: Plain

    def line(self) -> str:
        """This gap as a line of a log."""
        return json.dumps(
            {"kind": "gap", "num_lost": self.num_lost, "reason": self.reason, "state": self.state}, allow_nan=False
        )

    @classmethod
    def of(cls, line: str) -> Gap:
        """Return the gap of a line.

        Raises:
            DataError: not a gap.
        """
        head = _parse(line, "gap")
        num_lost, reason, state = (head.get(name) for name in ("num_lost", "reason", "state"))
        if type(num_lost) is not int or num_lost < 0 or not isinstance(reason, str) or not isinstance(state, dict):
            raise DataError(f"a gap of the decision log cannot be read: got {quoted(line)}")
        return cls(num_lost, one_line(reason), state)

    def and_then(self, later: Gap) -> Gap:
        """This gap and the one right behind it as one."""
        return Gap(self.num_lost + later.num_lost, later.reason, later.state)


def header_line(policy: AdaptivePolicy) -> str:
    """Return the first line of a log, with all that the policy was built from. Write it before the first step."""
    return json.dumps(
        {
            "kind": "policy",
            "schema": _SCHEMA,
            "table": policy.table.model_dump(mode="json"),
            "config": policy.config.model_dump(mode="json"),
            "constants": None if policy.constants is None else policy.constants.model_dump(mode="json"),
        }
    )


def policy_of(line: str) -> AdaptivePolicy:
    """Build a fresh policy from a header line.

    Raises:
        DataError: not a header, or of another schema.
    """
    head = _parse(line, "policy")
    if head.get("schema") != _SCHEMA:
        raise DataError(f"expected a decision log of schema {_SCHEMA}, got {head.get('schema')}: record it again")
    try:
        # As JSON text, since a tuple or an enum that was read back is a list or a string only there.
        table, config, constants = (json.dumps(head[name]) for name in ("table", "config", "constants"))
        return AdaptivePolicy(
            OperatingTable.model_validate_json(table),
            PolicyConfig.model_validate_json(config),
            None if head["constants"] is None else EstimatorConstants.model_validate_json(constants),
        )
    except KeyError as error:
        raise DataError(f"the header of the decision log cannot be read: it lacks {error}") from None
    except ValidationError as error:
        raise DataError(f"the header of the decision log cannot be read: {reason_of(error)}") from None


def step_line(signals: Signals, decision: Decision) -> str:
    """Return one line of a log. NaN and infinities are written as strings, so that the line is standard JSON."""
    return json.dumps({"kind": "step", "signals": _plain(signals), "decision": _plain(decision)}, allow_nan=False)


def signals_of(line: str) -> tuple[Signals, dict[str, Any]]:
    """Return the signals and the decision (as plain JSON values) of one line.

    Raises:
        DataError: not a step.
    """
    step = _parse(line, "step")
    try:
        return _signals(step["signals"]), step["decision"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"a step of the decision log cannot be read ({quoted(error)}): expected {Signals.__slots__}"
        ) from None


def plain_decision(decision: Decision) -> dict[str, Any]:
    """Return a decision as it reads back from a line, for comparison."""
    plain: dict[str, Any] = json.loads(json.dumps(_plain(decision), allow_nan=False))
    return plain


def _parse(line: str, kind: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise TornLineError(f"expected one JSON object a line, got {line[:40]!r} ({one_line(error)})") from None
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise DataError(f"expected a line of kind '{kind}', got {line[:40]!r}: is this a decision log from its start?")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _of_type(kind: type[_Kind], value: Any) -> _Kind:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}")
    return value


def _reading(plain: dict[str, Any]) -> Reading:
    return Reading(_number(plain["value"]), float(plain["age_s"]), _of_type(str, plain["source"]))


def _override(plain: dict[str, Any] | None) -> Override | None:
    return None if plain is None else Override(float(plain["value"]), _number(plain["expires_s"]))


def _network(plain: dict[str, Any] | None) -> NetworkSignals | None:
    if plain is None:
        return None
    return NetworkSignals(
        point=OperatingPoint(float(plain["point"]["lam"]), float(plain["point"]["width"])),
        confidence=_number(plain["confidence"]),
        disagrees=_disagreement(plain["disagrees"]),
        latency_ms=_number(plain["latency_ms"]),
        age_s=float(plain["age_s"]),
    )


def _disagreement(value: Any) -> bool | float | None:
    if value is None or isinstance(value, bool):
        return value
    if not 0.0 <= (share := float(value)) <= 1.0:
        raise ValueError(f"expected a share in [0, 1], got {value}")
    return share


def _signals(plain: dict[str, Any]) -> Signals:
    image, num_regions = plain["image"], plain.get("num_regions")
    return Signals(
        now_s=float(plain["now_s"]),
        image=None if image is None else ImageStatistics(*(float(value) for value in image)),
        network=_network(plain["network"]),
        confidence=_reading(plain["confidence"]),
        battery=_reading(plain["battery"]),
        override_lam=_override(plain["override_lam"]),
        override_width=_override(plain["override_width"]),
        safety_lock=_of_type(bool, plain["safety_lock"]),
        num_regions=None if num_regions is None else _of_type(int, num_regions),
    )
