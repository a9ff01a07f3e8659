"""Choose λ and width from the environment and the battery, without a clock, I/O or torch. Imports are lazy.

Give `AdaptivePolicy.step` one `Signals` for each frame, and it returns one `Decision`. The two make one line of a log,
from which `oat-replay` computes the same decisions again.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AdaptivePolicy": "controller",
    "BatteryStep": "config",
    "ChosenBy": "decision",
    "Decision": "decision",
    "EstimatorConstants": "estimator",
    "Gap": "record",
    "ImageStatistics": "image",
    "NetworkSignals": "signals",
    "Override": "signals",
    "PolicyConfig": "config",
    "Quantity": "config",
    "Reading": "signals",
    "Rule": "decision",
    "SignalState": "signals",
    "Signals": "signals",
    "header_line": "record",
    "image_statistics": "image",
    "step_line": "record",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'policy' has no attribute {name!r}")
    return getattr(importlib.import_module(f"policy.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
