"""Name a device, its power mode and its energy use, from Linux's own counters."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

_LOG = logging.getLogger(__name__)

EnergySource = Literal["nvml", "rapl", "ina3221"]
_SAMPLE_PERIOD_S = 0.02
"""INA3221 and NVML give power, not energy; the Jetson's sensor has a new value about every 10 ms."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers of the options that `mallopt` sets (malloc.h)."""


def processor_name(root: Path = Path("/")) -> str:
    """Return the processor's name as x86 Linux gives it, or the board's (Jetson, Raspberry Pi), or the architecture.

    A virtual machine may say no more than "AMD EPYC" of processors with and without AVX-512. A name without a number
    comes with the processor's family and model: "AMD EPYC (family 25, model 1)".

    Args:
        root: where `proc` is; another folder for tests.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
        if (name := _first(lines, "model name")) is None:
            return (root / "proc/device-tree/model").read_text().rstrip("\0\n")
    except OSError:
        return platform.processor() or platform.machine()
    family, model = _first(lines, "cpu family"), _first(lines, "model")
    if family is None or model is None or any(character.isdigit() for character in name):
        return name
    return f"{name} (family {family}, model {model})"


def _first(lines: list[str], key: str) -> str | None:
    """Return the first value of `key` in /proc/cpuinfo, or None."""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), None)


def device_name(device: Literal["cpu", "cuda"]) -> str:
    """Return the name of the processor, with the GPU's if that is used."""
    if device == "cpu":
        return processor_name()
    gpu = _GPU.find()
    return f"{'a GPU without NVML' if gpu is None else gpu.name} with {processor_name()}"


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use at a time: those of its affinity, or fewer where a quota says so.

    A container's or a service's quota (`docker run --cpus`, systemd's `CPUQuota`) is CPU time in every 100 ms. Threads
    beyond it use that up sooner, and then all of them wait for the next 100 ms.

    Args:
        root: where `proc` and `sys` are; another folder for tests.
    """
    num = len(os.sched_getaffinity(0))
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return num
    for _, controllers, group in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers  # of version 2, which has one tree, there is no name
        place = Path(group.lstrip("/"))  # as the host sees it, perhaps: then only the top is there
        for folder in (place, *place.parents):
            if (paid := _paid_cpus(top / folder)) is not None:
                num = min(num, max(1, math.ceil(paid)))
    return num


def _paid_cpus(group: Path) -> float | None:
    """Return the CPUs that a control group's quota pays for; None without one."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
            return int(quota) / int(period) if int(quota) > 0 else None
        except (OSError, ValueError):  # `max` is no number
            continue
    return None


def power_mode(root: Path = Path("/")) -> str:
    """Return the machine's power mode: Jetson's nvpmodel, or the CPU governor, or `unknown`.

    Args:
        root: where `etc` and `sys` are; another folder for tests.
    """
    for name, label in (
        ("var/lib/nvpmodel/status", "nvpmodel"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "governor"),
    ):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text:
            return f"{label} {text.splitlines()[-1]}"
    return "unknown"


def resident_mb(pid: int | Literal["self"] = "self") -> float | None:
    """Return the memory of a process in megabytes, with swap and shared libraries; None outside Linux."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return None


def give_memory_back() -> None:
    """Return freed memory to the system, which the C library (glibc) would otherwise hold.

    Compiling the three networks of a WRN-16-4 left 24 MB behind that nothing used.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Keep freed memory, large blocks too, for the next allocation, where the C library (glibc) can be told to.

    Otherwise each large tensor comes as fresh pages, which the system clears first. On an EPYC, PGD-7 on 100 images
    took 3.8 s of one core instead of 4.2, and a step of `cifar10-cpu` 1,194 ms of both instead of 1,268, in the mean.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, 2**31 - 1)


class EnergyCounter(Protocol):
    """Counts the joules that the device has taken since some moment; use the difference of two readings."""

    source: EnergySource

    def energy_j(self) -> float:
        """The joules so far."""

    def close(self) -> None:
        """Stop sampling."""


def energy_counter(device: Literal["cpu", "cuda"], root: Path = Path("/")) -> EnergyCounter | None:
    """Return the machine's counter of energy for this device, or None if there is none that this user may read.

    `cuda`: NVML's, of the whole GPU, or the Jetson's. `cpu`: RAPL of all packages, or the Jetson's INA3221 (input
    of the whole board). All of them also count what other programs take.
    """
    if device == "cuda" and (gpu := _GPU.find()) is not None and gpu.power_w() is not None:
        return _Integrator("nvml", lambda: gpu.power_w() or 0.0)
    if device == "cpu" and (zones := _rapl_zones(root)):
        return _RAPL(zones)
    if (rail := _ina3221_rail(root)) is not None:
        return _Integrator("ina3221", lambda: _ina3221_w(rail))
    return None


def _rapl_zones(root: Path) -> list[Path]:
    """Return the package zones whose counter can be read; since 2020 most kernels allow that only to root."""
    zones = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if zone.name.count(":") != 1:
            continue  # a part of a package, or a mirror
        try:
            int((zone / "energy_uj").read_text())
            int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError) as error:
            _LOG.info("RAPL zone %s cannot be read: %s", zone.name, error)
            continue
        zones.append(zone)
    return zones


class _RAPL:
    """Running average power limit: energy of the CPU packages, with counters that wrap (within minutes to hours)."""

    source: EnergySource = "rapl"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = [(zone, int((zone / "max_energy_range_uj").read_text())) for zone in zones]
        self._last = [self._read(zone) for zone, _ in self._zones]
        self._total_uj = 0

    @staticmethod
    def _read(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())

    def energy_j(self) -> float:
        now = [self._read(zone) for zone, _ in self._zones]
        for value, last, (_, wraps_at) in zip(now, self._last, self._zones, strict=True):
            self._total_uj += value - last if value >= last else value - last + wraps_at
        self._last = now
        return 1e-6 * self._total_uj

    def close(self) -> None:
        pass


def _ina3221_rail(root: Path) -> tuple[Path, int] | None:
    """Return (hwmon folder, channel) of the board's input: `VDD_IN` on Orin, `POM_5V_IN` on Nano."""
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        try:
            if (chip / "name").read_text().strip() != "ina3221":
                continue
        except OSError:
            continue
        for label in sorted(chip.glob("in*_label")):
            name = label.read_text().strip()
            channel = int(label.name.removeprefix("in").removesuffix("_label"))
            if name.endswith("_IN") and (chip / f"curr{channel}_input").is_file():
                return chip, channel
    return None


def _ina3221_w(rail: tuple[Path, int]) -> float:
    """Return the watts of one rail: millivolts times milliamperes."""
    chip, channel = rail
    return 1e-6 * int((chip / f"in{channel}_input").read_text()) * int((chip / f"curr{channel}_input").read_text())


@dataclass(frozen=True, slots=True)
class _GPU:
    """The GPU that CUDA programs of this process use first, as NVIDIA's management library (NVML) knows it."""

    nvml: Any
    handle: Any
    name: str

    @classmethod
    def find(cls) -> _GPU | None:
        """Return the GPU; None, with the reason in the log, if there is none or NVML cannot be asked."""
        try:
            import pynvml
        except ImportError:
            _LOG.info("NVML cannot be read: pip install 'oat-robot[nvml]'")
            return None
        try:
            pynvml.nvmlInit()
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
            by_index, by_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
            handle = by_index(int(visible)) if visible.isdigit() else by_uuid(visible)
            return cls(pynvml, handle, str(pynvml.nvmlDeviceGetName(handle)))
        except pynvml.NVMLError as error:
            _LOG.info("NVML cannot be read: %s", error)
            return None

    def power_w(self) -> float | None:
        """Return the power of the whole GPU in watts; None if it does not tell."""
        try:
            return 1e-3 * float(self.nvml.nvmlDeviceGetPowerUsage(self.handle))
        except self.nvml.NVMLError as error:
            _LOG.info("the power of %s cannot be read: %s", self.name, error)
            return None


class _Integrator:
    """Sums up power to energy: a thread samples it, and the trapezoidal rule integrates."""

    def __init__(self, source: EnergySource, watts: Callable[[], float]) -> None:
        self.source: EnergySource = source
        self._watts = watts
        self._lock = threading.Lock()
        self._joules, self._last_s, self._last_w = 0.0, time.monotonic(), watts()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="oat-energy", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._closed.wait(_SAMPLE_PERIOD_S):
            self.energy_j()

    def energy_j(self) -> float:
        with self._lock:
            now_s, now_w = time.monotonic(), self._watts()
            self._joules += (now_s - self._last_s) * (now_w + self._last_w) / 2
            self._last_s, self._last_w = now_s, now_w
            return self._joules

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
