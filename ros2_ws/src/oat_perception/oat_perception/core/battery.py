"""Read the state of charge from a BatteryState message."""

from __future__ import annotations

import math
from typing import Protocol

_MOST = 1.05
"""A hair above full is full, up to this charge: drivers send 1.0000001 by rounding, and 1.02 where they divide by a
nominal voltage. This guesses no scale: where full is 1, 87 stays unknown, and so does 1.06.
"""


class BatteryMessage(Protocol):
    """sensor_msgs/BatteryState."""

    percentage: float
    present: bool


def battery_charge(message: BatteryMessage, *, percentage_full: float) -> tuple[float, str]:
    """Return the state of charge in [0, 1], or NaN if the message has none, and what is odd about it, if anything.

    Args:
        message: as the driver sends it: `percentage` is meant to be 0 to 1, and many drivers send 0 to 100.
        percentage_full: the value that this robot's driver sends for a full battery. The scale is never guessed.
    """
    if not message.present:
        return math.nan, "battery_state says present=false"
    charge = message.percentage / percentage_full
    if 1.0 < charge <= _MOST:
        return (
            1.0,
            f"battery percentage {message.percentage!r} is a little above {percentage_full:g}: it counts as full",
        )
    if not 0.0 <= charge <= 1.0:
        return math.nan, (
            f"battery percentage {message.percentage:g} is not in [0, {percentage_full:g}]: "
            "if this driver's full battery is another number, set battery_percentage_full"
        )
    return charge, ""
