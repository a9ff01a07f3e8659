"""Laws of the energy counters, on made-up sysfs trees, and of freed memory: what can be read is read right."""

import mmap
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from oat_runtime.devices import device_name, energy_counter, power_mode, processor_name, resident_mb, usable_cpus


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


RAPL = "sys/class/powercap/intel-rapl"
HWMON = "sys/class/hwmon"


def test_a_machine_without_a_counter_has_none(tmp_path: Path) -> None:
    assert energy_counter("cpu", tmp_path) is None
    write(tmp_path, {f"{HWMON}/hwmon0/name": "coretemp\n", f"{HWMON}/hwmon1/name": "ina3221\n"})
    assert energy_counter("cpu", tmp_path) is None


@pytest.mark.parametrize(
    ("groups", "files", "paid"),
    [
        ("0::/", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/a.slice/b.service", {"cpu.max": "max 100000\n", "a.slice/b.service/cpu.max": "150000 100000\n"}, 2),
        ("0::/a.slice/b.service", {"a.slice/cpu.max": "50000 100000\n", "a.slice/b.service/cpu.max": "max 1\n"}, 1),
        ("0::/docker/of-the-host", {"cpu.max": "300000 100000\n"}, 3),
        ("4:memory:/\n1:cpu,cpuacct:/x\n0::/", {"cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
                                               "cpu,cpuacct/x/cpu.cfs_period_us": "50000\n"}, 2),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("2:cpuset:/", {"cpuset/cpu.max": "100000 100000\n"}, 8),
        ("0::/", {"cpu.max": "\n"}, 8), ("0::/", {}, 8), ("", {}, 8), (None, {}, 8),
    ],
)  # fmt: skip
def test_a_quota_bounds_the_cpus_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str | None, files: dict[str, str], paid: int
) -> None:
    """Regression: with twice the threads that a quota paid for, a fifth fewer images came in the same time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    write(tmp_path, {f"sys/fs/cgroup/{name}": content for name, content in files.items()})
    if groups is not None:
        write(tmp_path, {"proc/self/cgroup": groups})
    assert usable_cpus(tmp_path) == paid
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert usable_cpus(tmp_path) == 1


@pytest.mark.parametrize("content", ["", "no number\n"])
def test_a_counter_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    write(tmp_path, {f"{RAPL}:0/energy_uj": content, f"{RAPL}:0/max_energy_range_uj": "1000\n"})
    assert energy_counter("cpu", tmp_path) is None


def test_packages_add_up_their_parts_do_not_count_and_counters_wrap(tmp_path: Path) -> None:
    for zone in ("0", "1", "0:0"):
        write(tmp_path, {f"{RAPL}:{zone}/energy_uj": "9000000\n", f"{RAPL}:{zone}/max_energy_range_uj": "10000000\n"})
    counter = energy_counter("cpu", tmp_path)
    assert counter is not None
    assert counter.source == "rapl"
    assert counter.energy_j() == 0.0
    write(tmp_path, {f"{RAPL}:0/energy_uj": "9500000\n", f"{RAPL}:0:0/energy_uj": "9900000\n"})
    assert counter.energy_j() == pytest.approx(0.5)
    write(tmp_path, {f"{RAPL}:0/energy_uj": "500000\n", f"{RAPL}:1/energy_uj": "9000001\n"})
    assert counter.energy_j() == pytest.approx(1.500001)
    counter.close()


@pytest.mark.parametrize(("device", "rail"), [("cpu", "VDD_IN"), ("cuda", "POM_5V_IN")])
def test_a_jetson_gives_power_of_its_input_rail_which_is_summed_up_over_time(
    tmp_path: Path, device: str, rail: str
) -> None:
    chip = f"{HWMON}/hwmon3"
    write(
        tmp_path,
        {
            f"{chip}/name": "ina3221\n", f"{chip}/in1_label": "VDD_CPU_GPU_CV\n", f"{chip}/in2_label": f"{rail}\n",
            f"{chip}/in1_input": "1\n", f"{chip}/curr1_input": "1\n",
            f"{chip}/in2_input": "5000\n", f"{chip}/curr2_input": "2000\n",
        },
    )  # fmt: skip
    counter = energy_counter(device, tmp_path)  # type: ignore[arg-type]
    assert counter is not None
    assert counter.source == "ina3221"
    start_j, start_s = counter.energy_j(), time.monotonic()
    time.sleep(0.05)
    spent_j, spent_s = counter.energy_j() - start_j, time.monotonic() - start_s
    counter.close()
    assert spent_j == pytest.approx(10.0 * spent_s, rel=0.2)


def test_the_power_mode_is_named_or_unknown(tmp_path: Path) -> None:
    assert power_mode(tmp_path) == "unknown"
    write(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n"})
    assert power_mode(tmp_path) == "governor powersave"
    write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0002\n"})
    assert power_mode(tmp_path) == "nvpmodel pmode:0002"


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_mb()
    if before is None:
        pytest.skip("no /proc")
    with mmap.mmap(-1, 300_000_000) as held:  # fresh pages, whatever memory this process keeps
        held[:: mmap.PAGESIZE] = b"1" * -(-len(held) // mmap.PAGESIZE)
        after = resident_mb()
        assert after is not None
        assert after - before > 0.9 * len(held) / 1e6  # what other tests free meanwhile is small beside it


class FakeNVML(ModuleType):
    """NVIDIA's binding where two GPUs are: the first one does not tell its power, the second one takes 100 W."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index > 1:
            raise self.NVMLError("invalid argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return {"GPU-a": 0, "GPU-b": 1}[uuid]

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"GPU number {handle}"

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if handle == 0:
            raise self.NVMLError("not supported")
        return 100_000


@pytest.mark.parametrize(
    ("visible", "name", "source"),
    [
        ("1", "GPU number 1", "nvml"),
        ("GPU-b,GPU-a", "GPU number 1", "nvml"),
        ("0", "GPU number 0", None),
        (None, "GPU number 0", None),
        ("7", "a GPU without NVML", None),
    ],
)
def test_the_gpu_in_use_is_named_and_gives_its_power_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, name: str, source: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNVML("pynvml"))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_name("cuda") == f"{name} with {processor_name()}"
    counter = energy_counter("cuda", tmp_path)
    assert (None if counter is None else counter.source) == source
    if counter is not None:
        before_s, start_j, after_s = time.monotonic(), counter.energy_j(), time.monotonic()
        time.sleep(0.05)
        least_s, spent_j = time.monotonic() - after_s, counter.energy_j() - start_j
        most_s = time.monotonic() - before_s
        counter.close()
        assert 100.0 * least_s <= spent_j <= 100.0 * most_s


def test_a_gpu_without_nvidias_binding_has_no_name_and_no_counter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_name("cuda") == f"a GPU without NVML with {processor_name()}"
    assert energy_counter("cuda", tmp_path) is None


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n", "AMD EPYC (family 25, model 17)"),
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\n", "AMD EPYC 9R14"),
        ("processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n", "ARMv8 Processor rev 1 (v8l)"),
        ("model name\t: Loongson\n", "Loongson"),
        ("processor\t: 0\nmodel\t\t: 17\n", "NVIDIA Jetson Orin Nano"),
    ],
)
def test_processors_of_different_generations_have_different_names(tmp_path: Path, cpuinfo: str, name: str) -> None:
    write(tmp_path, {"proc/cpuinfo": cpuinfo, "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0"})
    assert processor_name(tmp_path) == name


def test_a_machine_that_names_no_processor_has_its_architecture(tmp_path: Path) -> None:
    assert processor_name(tmp_path) in {platform.processor(), platform.machine()} - {""}


FRESH_PAGES = """
import resource, sys
import numpy as np
from oat_runtime.devices import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(100_000_000, 1, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_serves_the_next_allocation_without_fresh_pages() -> None:
    def num_faults(mode: str) -> int:
        command = [sys.executable, "-c", FRESH_PAGES, mode]
        return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)

    assert num_faults("given back") > 40
    assert num_faults("kept") < 20
