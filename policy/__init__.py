"""Choose λ and width from the environment and the battery, without a clock, I/O or torch. Imports are lazy.

Give `AdaptivePolicy.step` one `Signals` for each frame, and it returns one `Decision`. The two make one line of a log,
from which `oat-replay` computes the same decisions again.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `as` exports a name to type checkers
    from policy.belief.constants import EstimatorConstants as EstimatorConstants
    from policy.belief.constants import FittedFor as FittedFor
    from policy.belief.constants import constants_of as constants_of
    from policy.belief.constants import read_estimator as read_estimator
    from policy.config import BatteryStep as BatteryStep
    from policy.config import PolicyConfig as PolicyConfig
    from policy.config import Quantity as Quantity
    from policy.controller import AdaptivePolicy as AdaptivePolicy
    from policy.decision import ChosenBy as ChosenBy
    from policy.decision import Decision as Decision
    from policy.decision import Rule as Rule
    from policy.image import ImageStatistics as ImageStatistics
    from policy.image import image_statistics as image_statistics
    from policy.image import mean_statistics as mean_statistics
    from policy.records.record import Gap as Gap
    from policy.records.record import header_line as header_line
    from policy.records.record import step_line as step_line
    from policy.signals import NetworkSignals as NetworkSignals
    from policy.signals import Override as Override
    from policy.signals import Reading as Reading
    from policy.signals import Signals as Signals
    from policy.signals import SignalState as SignalState
    from policy.signals import network_signals as network_signals

_NAMES = {
    "config": "BatteryStep PolicyConfig Quantity",
    "controller": "AdaptivePolicy",
    "decision": "ChosenBy Decision Rule",
    "belief.constants": "EstimatorConstants FittedFor constants_of read_estimator",
    "image": "ImageStatistics image_statistics mean_statistics",
    "records.record": "Gap header_line step_line",
    "signals": "NetworkSignals Override Reading SignalState Signals network_signals",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


if not TYPE_CHECKING:  # type checkers know each name from above, and report any other

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'policy' has no attribute {name!r}")
        return getattr(importlib.import_module(f"policy.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
