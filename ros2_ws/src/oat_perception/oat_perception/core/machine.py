"""Read the machine's temperature, this process's memory and CPU time, and whose shared memory DDS uses."""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import time
from pathlib import Path

from oat_runtime.devices import resident_mb

_ZONES = Path("/sys/class/thermal")
_SHARED_MEMORY = Path("/dev/shm")
_SEGMENTS = "fast*_port*"
"""Fast DDS makes such a file for each participant that listens, and a user's file is closed to other users."""
_PLAUSIBLE_C = (-40.0, 150.0)
_READ_EVERY_S = 0.9
"""The watchdog looks far more often: some sensors take milliseconds, and CPU time over an instant says nothing."""


class Machine:
    """Readings of this process and its machine."""

    def __init__(self, zones: Path = _ZONES) -> None:
        """Find the temperature sensors, once."""
        self._sensors = sorted(zones.glob("thermal_zone*/temp"))
        self._before = time.process_time(), time.monotonic()
        self._values: dict[str, str] = {}
        self._read_s = -math.inf

    def values(self) -> dict[str, str]:
        """Return readings by name and unit, at most about a second old; what is not measured is left out."""
        now_s = time.monotonic()
        if now_s - self._read_s < _READ_EVERY_S:
            return dict(self._values)
        self._read_s = now_s
        readings = {
            "hottest sensor (°C)": self.temperature_c(),
            "memory (MB)": self.memory_mb(),
            "CPU (% of one core)": self._cpu_percent(),
        }
        self._values = {name: f"{value:.1f}" for name, value in readings.items() if math.isfinite(value)}
        return dict(self._values)

    def temperature_c(self) -> float:
        """Temperature of the hottest sensor; NaN if none can be read."""
        return max(filter(math.isfinite, map(_celsius, self._sensors)), default=math.nan)

    def memory_mb(self) -> float:
        """Resident memory of this process."""
        return resident_mb() or math.nan

    def _cpu_percent(self) -> float:
        """Return the CPU load since the last reading."""
        now = time.process_time(), time.monotonic()
        before, self._before = self._before, now
        wall_s = now[1] - before[1]
        return 100 * (now[0] - before[0]) / wall_s if wall_s > 0 else math.nan


def user_name(uid: int) -> str:
    """Return a user's name; the number where it has none, as in a container."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def other_users(folder: Path = _SHARED_MEMORY) -> list[str]:
    """Return the names of the other users whose Fast DDS participants use shared memory here.

    There are none if this process's own user has no such memory, because it then speaks by other means.
    """
    owners = set[int]()
    for segment in folder.glob(_SEGMENTS):
        with contextlib.suppress(OSError):  # gone by now
            owners.add(segment.stat().st_uid)
    return sorted(map(user_name, owners - {os.geteuid()})) if os.geteuid() in owners else []


def _celsius(sensor: Path) -> float:
    """Return a sensor's temperature; NaN if it is broken or impossible."""
    try:
        celsius = int(sensor.read_text()) / 1000
    except (OSError, ValueError):
        return math.nan
    low, high = _PLAUSIBLE_C
    return celsius if low <= celsius <= high else math.nan
