"""Laws of device profiles: what does not belong to this machine is refused by name, what does fills every row."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from oat_runtime import extras
from oat_runtime import profile as profile_module
from oat_runtime.bundle import Bundle
from oat_runtime.device_profile import DeviceProfile, ProfileRow
from oat_runtime.devices import power_mode, processor_name
from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import OperatingTable
from oat_runtime.profile import main, measure
from oat_runtime.runtime import OATRuntime
from oat_runtime.timing import interleave

IN_USE: dict[str, Any] = {"backend": "onnxruntime", "precision": "float32", "num_threads": 1}


@pytest.fixture
def table(tiny_bundle: Path) -> OperatingTable:
    return Bundle.load(tiny_bundle).select


@pytest.fixture
def profile(table: OperatingTable) -> DeviceProfile:
    rows = tuple(
        ProfileRow(
            lam=row.lam,
            width=row.width,
            batch=batch,
            latency_ms_p50=10.0 * row.width * batch + row.lam,
            latency_ms_p99=12.0 * row.width * batch + row.lam,
            num_calls=100,
            images_per_s=50.0,
            energy_j=0.1 * row.width,
        )
        for row in table.rows
        for batch in (1, 32)
    )
    return DeviceProfile(
        bundle_sha256=table.bundle_sha256,
        device=processor_name(),
        power_mode=power_mode(),
        plans="shared",
        rows=rows,
        **IN_USE,
    )


def test_apply_fills_every_row_by_its_width_and_touches_nothing_else(
    table: OperatingTable, profile: DeviceProfile
) -> None:
    filled = profile.apply(table, **IN_USE)
    assert [row.latency_ms_p50 for row in filled.rows] == [10.0 * row.width + row.lam for row in table.rows]
    assert [row.latency_ms_p99 for row in filled.rows] == [12.0 * row.width + row.lam for row in table.rows]
    assert [row.energy_j for row in filled.rows] == [0.1 * row.width for row in table.rows]
    assert all(word in filled.device for word in (processor_name(), "onnxruntime", "float32", "1 thread"))
    assert [row.measurements for row in filled.rows] == [row.measurements for row in table.rows]
    assert filled.bundle_sha256 == table.bundle_sha256
    assert all(row.latency_ms_p50 is None for row in table.rows)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p, t, u: (p.model_copy(update={"bundle_sha256": "0" * 64}), t, u), "bundle_sha256"),
        (lambda p, t, u: (p, t.model_copy(update={"bundle_sha256": ""}), u), "bundle_sha256"),
        (lambda p, t, u: (p.model_copy(update={"device": "abacus"}), t, u), "device"),
        (lambda p, t, u: (p, t, u | {"backend": "openvino"}), "backend"),
        (lambda p, t, u: (p, t, u | {"precision": "bfloat16"}), "precision"),
        (lambda p, t, u: (p, t, u | {"num_threads": 4}), "num_threads"),
        (lambda p, t, u: (p.model_copy(update={"power_mode": "nvpmodel 15W"}), t, u), "power_mode"),
        (lambda p, t, u: (p.model_copy(update={"rows": p.rows[1:]}), t, u), "points"),
    ],
)
def test_a_mismatch_is_refused_and_only_it_is_named(
    table: OperatingTable, profile: DeviceProfile, change: Callable[..., Any], named: str
) -> None:
    profile, table, in_use = change(profile, table, IN_USE)
    with pytest.raises(ConfigError, match="oat-profile") as caught:
        profile.apply(table, **in_use)
    everything = ("bundle_sha256:", "device:", "backend:", "precision:", "num_threads:", "points:", "power_mode:")
    assert [word for word in everything if word in str(caught.value)] == [f"{named}:"]


def test_a_profile_survives_its_file(tmp_path: Path, profile: DeviceProfile) -> None:
    path = tmp_path / "deep" / "profile.json"
    profile.save(path)
    assert DeviceProfile.load(path) == profile
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["", "{", "[]", "nan", "unknown key", "twice the same point"])
def test_a_damaged_file_is_refused(tmp_path: Path, profile: DeviceProfile, damage: str) -> None:
    path = tmp_path / "profile.json"
    document = profile.model_dump(mode="json")
    if damage == "nan":
        document["rows"][0]["latency_ms_p50"] = float("nan")
    elif damage == "unknown key":
        document["watts"] = 3
    elif damage == "twice the same point":
        document["rows"].append(document["rows"][0])
    path.write_text(damage if damage in ("", "{", "[]") else json.dumps(document))
    with pytest.raises(ConfigError, match="not a device profile"):
        DeviceProfile.load(path)
    with pytest.raises(ConfigError, match="cannot be read as a device profile"):
        DeviceProfile.load(tmp_path / "missing.json")


def test_measuring_covers_every_point_and_leaves_the_active_one_alone(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meter:
        source, joules = "rapl", 0.0

        def energy_j(self) -> float:
            self.joules += 1.0
            return self.joules

        def close(self) -> None:
            pass

    monkeypatch.setattr(profile_module, "energy_counter", lambda device: Meter())
    runtime = OATRuntime.load(tiny_bundle, backend="onnxruntime", plans="shared", num_threads=1)
    before = runtime.set_point(lam=0.3, width=0.75)
    measured = measure(runtime, seconds_per_point=1e-4, batches=(1, 2))
    runtime.close()
    assert runtime.active == before
    assert {(row.lam, row.width, row.batch) for row in measured.rows} == {
        (row.lam, row.width, batch) for row in runtime.table.rows for batch in (1, 2)
    }
    assert all(row.latency_ms_p50 <= row.latency_ms_p99 for row in measured.rows)
    assert measured.energy_source == "rapl"
    filled = measured.apply(runtime.table, **IN_USE)
    assert all(row.latency_ms_p99 and row.energy_j and row.energy_j <= 1.0 for row in filled.rows)


def test_every_row_holds_the_time_and_the_energy_of_its_own_point_and_batch(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here an image takes width + λ/10 milliseconds, and width joules."""

    class Meter:
        source, now_s, joules = "rapl", 0.0, 0.0

        def energy_j(self) -> float:
            return self.joules

        def close(self) -> None:
            pass

    meter, seen = Meter(), set()
    runtime = OATRuntime.load(tiny_bundle, backend="onnxruntime", plans="shared", num_threads=1)

    def infer(x_NCHW: npt.NDArray[np.float32]) -> None:
        point, batch = runtime.active, len(x_NCHW)
        seen.add((point.lam, point.width, batch))
        meter.now_s += 1e-3 * batch * (point.width + point.lam / 10)
        meter.joules += batch * point.width

    clock = SimpleNamespace(monotonic=lambda: meter.now_s)
    monkeypatch.setattr(runtime, "infer", infer)
    monkeypatch.setattr(profile_module, "energy_counter", lambda device: meter)
    monkeypatch.setattr(profile_module, "interleave", partial(interleave, clock=clock.monotonic))
    monkeypatch.setattr(profile_module, "time", clock)
    measured = measure(runtime, seconds_per_point=0.01, batches=(1, 2))
    runtime.close()
    assert seen == {(row.lam, row.width, batch) for row in runtime.table.rows for batch in (1, 2)}
    assert len(measured.rows) == len(seen)
    for row in measured.rows:
        taken_ms = row.batch * (row.width + row.lam / 10)
        assert (row.latency_ms_p50, row.latency_ms_p99) == pytest.approx((taken_ms, taken_ms))
        assert row.images_per_s == pytest.approx(1e3 * row.batch / taken_ms)
        assert row.energy_j == (pytest.approx(row.width) if row.batch == 1 else None)


def test_the_command_ends_with_the_profile_it_wrote(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "profile.json"
    arguments = [str(tiny_bundle), "--backend", "onnxruntime", "--threads", "1", "--seconds-per-point", "1e-4"]
    picture = tmp_path / "profile.png"
    assert main([*arguments, "--output", str(path), "--plot", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    last = capsys.readouterr().out.splitlines()[-1]
    assert DeviceProfile.model_validate_json(last) == DeviceProfile.load(path)


def test_the_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no bundle at" in capsys.readouterr().err


def test_a_plot_without_matplotlib_says_what_to_install_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert main([str(tmp_path / "nothing"), "--plot", str(tmp_path / "profile.png")]) == 2
    assert capsys.readouterr().err == "oat-profile: --plot needs matplotlib: pip install 'oat-robot[plots]'\n"


def test_a_profile_of_int8_fits_int8_alone(int8_bundle: Path) -> None:
    """The policy's budget reads these latencies: it must not take those of another precision."""
    pytest.importorskip("onnxruntime")
    runtime = OATRuntime.load(int8_bundle, backend="onnxruntime", precision="int8", num_threads=1)
    measured = measure(runtime, seconds_per_point=1e-4, batches=(1,))
    runtime.close()
    assert (measured.precision, measured.plans) == ("int8", "folded")
    filled = measured.apply(runtime.table, **IN_USE | {"precision": "int8"})
    assert all(row.latency_ms_p50 for row in filled.rows) and "onnxruntime int8" in filled.device
    with pytest.raises(ConfigError, match="precision: profile int8, in use float32"):
        measured.apply(runtime.table, **IN_USE)
