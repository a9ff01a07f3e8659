"""Laws of the benchmark: its yardstick is the same network, its timing is fair, and what is not measured is not ok."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oat_runtime import backends
from oat_runtime.architecture import ModelConfig
from oat_runtime.backends import available, int8_engines, trials
from oat_runtime.bench import __main__ as bench
from oat_runtime.bench import int8, latency, static_int8, switch
from oat_runtime.bundle import Bundle
from oat_runtime.errors import BackendError
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import PlainNet, fold
from oat_runtime.report import Check
from oat_runtime.runtime import OATRuntime
from oat_runtime.timing import interleave, median_ratio
from oat_runtime.untrained import static_net

ENGINE = "torch" if "torch" in available() else "onnxruntime"


@pytest.mark.parametrize("family", ["wide_resnet", "resnet"])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_the_static_network_has_exactly_the_shapes_of_the_folded_one(
    family: str, width: float, shaken_tensors: Callable[..., Any], plain_logits: Callable[..., Any]
) -> None:
    config = ModelConfig(family=family, depth=10, widen_factor=1)  # type: ignore[arg-type]
    static, folded = static_net(config, width), fold(shaken_tensors(config), config, lam=1.0, width=width)

    def shapes(net: PlainNet) -> list[object]:
        blocks = [conv for block in net.blocks for conv in (block.conv1, block.conv2, block.shortcut)]
        convolutions = [
            (conv.weight_OIHW.shape, conv.stride, conv.padding, conv.bias_O is None, conv.affine is None)
            for conv in (net.stem, *blocks)
            if conv is not None
        ]
        affines = [(name, affine.scale_C.shape, affine.bias_C.shape) for name, affine in net.affines().items()]
        return [convolutions, affines, net.pool, net.weight_KC.shape, net.bias_K.shape]

    assert shapes(static) == shapes(folded)
    x_NCHW = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    assert np.isfinite(plain_logits(static, x_NCHW)).all()
    np.testing.assert_array_equal(static.normalize.scale_C, folded.normalize.scale_C)
    np.testing.assert_array_equal(static.normalize.bias_C, folded.normalize.bias_C)


def test_interleaving_gives_each_call_one_turn_a_round_and_enters_its_state_first() -> None:
    seen: list[str] = []
    state = {"now": ""}

    def enter(name: str) -> None:
        state["now"] = name

    calls = {name: (lambda: seen.append(state["now"])) for name in "abc"}
    times = interleave(calls, seconds=0.0, enter=enter, burst=2, min_rounds=4)
    assert all(times[name].shape == (4, 2) and (times[name] >= 0).all() for name in "abc")
    turns = ["".join(seen[start : start + 3]) for start in range(0, len(seen), 3)]  # 1 untimed and 2 timed calls
    assert all(sorted(turns[start : start + 3]) == ["aaa", "bbb", "ccc"] for start in range(0, 12, 3))


def test_a_drift_that_hits_both_sides_does_not_move_the_ratio() -> None:
    drift = np.geomspace(1.0, 50.0, 9)[:, None]
    baseline = drift * np.array([[1.0, 1.1, 0.9]])
    assert median_ratio(1.25 * baseline, baseline) == pytest.approx(1.25)


def test_every_limit_is_a_check_and_what_has_no_figure_is_not_met() -> None:
    rows = [{"comparison": "folded_over_static", "value": 1.01}, {"comparison": "folded_over_static", "value": 1.02}]
    found = {check.name: check for check in bench.checks(rows)}
    assert list(found) == list(bench.LIMITS)
    assert found.pop("folded_over_static") == Check("folded_over_static", 1.02, 1.03, "× at most", ok=True)
    assert not any(check.ok or check.value for check in found.values())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "BATCHES", (1,))
    monkeypatch.setattr(bench, "QUICK_SECONDS", 0.01)


@pytest.mark.slow
def test_a_part_that_fails_leaves_the_figures_of_the_others(
    tiny_bundle: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise BackendError("no process could be started")

    monkeypatch.setattr(bench, "memory", broken)
    assert bench.main([str(tiny_bundle), "--quick", "--backend", ENGINE, "--threads", "1"]) == 2
    out = capsys.readouterr().out
    assert "memory: not measured: no process could be started" in out
    document = json.loads(out.splitlines()[-1])
    assert {"part": "memory", "not_measured": "no process could be started"} in document["rows"]
    values = {check["name"]: check["value"] for check in document["checks"]}
    assert values.pop("memory_shared_over_static") is None
    assert None not in values.values()


@pytest.mark.slow
def test_the_command_ends_with_one_json_line_of_every_check_and_says_by_its_status_that_one_failed(
    tiny_bundle: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a check that failed ended with status 0."""
    monkeypatch.setitem(bench.LIMITS, "memory_shared_over_static", (0.0, "× at most"))
    assert bench.main([str(tiny_bundle), "--quick", "--backend", ENGINE, "--threads", "1"]) == 1
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(document) == {"name", "machine", "rows", "checks"}
    assert [check["name"] for check in document["checks"]] == list(bench.QUICK)
    assert all(check["value"] is not None for check in document["checks"])
    measured = {row["comparison"] for row in document["rows"] if row.get("value") is not None}
    assert {name for name in bench.LIMITS if "bfloat16" not in name and "int8" not in name} - measured <= {
        "auto_over_openvino", "auto_over_onnxruntime",
    }  # fmt: skip
    assert len([row for row in document["rows"] if row["comparison"] == "shared_over_static"]) == 2


@pytest.fixture
def int8_part(int8_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> int8.Int8:
    """The benchmark's part about int8, made small; both engines are installed."""
    if not set(int8.INT8_ENGINES) <= set(available()):
        pytest.skip("needs both engines")
    pytest.importorskip("onnxruntime.quantization.shape_inference", exc_type=ImportError)
    monkeypatch.setattr(int8, "held_in_a_process", lambda *args: 1.0)
    part = int8.Int8(Bundle.load(int8_bundle), num_threads=1, seconds=0.0, root=Path("/nowhere"), quick=True)
    part.num_switches = 5
    return part


def test_int8_is_compared_with_the_fastest_static_network_of_any_precision(int8_part: int8.Int8) -> None:
    rows = {row["comparison"]: row for row in int8_part.rows()}
    point = rows["int8_point"]
    assert point["calibrated_on"] == "2 images of the probe, because none was not found"
    assert {f"static {name} static int8" for name in int8.INT8_ENGINES} <= point["all_p50_ms"].keys()
    anchors = {key: ms for key, ms in point["all_p50_ms"].items() if key.startswith("static ")}
    assert f"static {point['anchor']}" == min(anchors, key=anchors.__getitem__)
    assert {name for name in bench.LIMITS if "int8" in name} - rows.keys() == {
        "int8_speedup_half_width", "int8_speedup_half_width_cpu",
        "int8_over_fastest_static_32", "int8_over_fastest_static_32_cpu",
    }  # fmt: skip
    assert rows["int8_weights_over_static"]["value"] < 3.0


def test_an_engine_that_refuses_int8_leaves_the_other_one_and_its_own_float_network(
    int8_part: int8.Int8, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a CPU that half shows AMX, on which OpenVINO refuses int8, ended the whole comparison."""
    monkeypatch.setattr(trials, "shows", lambda feature: feature == "amx_int8")
    monkeypatch.setattr(trials, "_INT8", "import os; os.abort()")
    trials.int8_works.cache_clear()
    try:
        assert int8_engines() == ("onnxruntime",)
        point = next(row for row in int8_part.rows() if row["comparison"] == "int8_point")
        assert {name for name in point["all_p50_ms"] if name.endswith("int8")} == {
            "ours onnxruntime int8", "static onnxruntime static int8",
        }  # fmt: skip
        assert "static openvino float32" in point["all_p50_ms"]
        monkeypatch.setattr(backends, "available", lambda: ("openvino",))
        (row,) = int8_part.rows()
        assert row["not_measured"].startswith("int8 needs an engine that works here")
    finally:
        trials.int8_works.cache_clear()


def test_a_missing_tool_of_the_anchor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization.shape_inference", None)
    net = static_net(ModelConfig(depth=10, widen_factor=1), 0.5)
    with pytest.raises(BackendError, match=r"quantize_static cannot be loaded .*: pip install onnxruntime sympy"):
        static_int8.quantize_static(net, np.zeros((1, 3, 32, 32), np.float32), input_hw=(32, 32))


def test_the_median_over_the_points_counts_and_the_worst_is_told() -> None:
    points = [
        {"batch": 1, "width": width, "lambda": 0.0}
        | {f"{name}{suffix}": value for name in ("speedup", "over_static") for suffix in ("", "_cpu")}
        | {"over_static_95": [value, value], "over_static_95_cpu": [value, value]}
        for width, value in ((1.0, 3.0), (0.75, 1.0), (0.5, 2.0))
    ]
    rows = {row["comparison"]: row for row in int8._summaries(points)}
    assert rows["int8_over_fastest_static_1"]["value"] == 2.0 and rows["int8_over_fastest_static_1"]["worst"] == 3.0
    assert (rows["int8_speedup_full_width"]["value"], rows["int8_speedup_half_width_cpu"]["value"]) == (3.0, 2.0)
    low, high = int8._interval(np.arange(100.0))
    assert 38 <= low <= 41 and 58 <= high <= 61


def test_a_bundle_without_ranges_is_not_measured_in_int8(tiny_bundle: Path) -> None:
    found = int8.Int8(Bundle.load(tiny_bundle), num_threads=1, seconds=0.0, root=None, quick=True).rows()
    assert [row["comparison"] for row in found] == ["int8"] and "not_measured" in found[0]


def test_a_stream_names_a_mixed_frame(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "_FRAME_RATE_HZ", 1e4)
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, plans="shared", num_threads=1)
    lost, _ = switch.stream(runtime, num_switches=10)
    assert lost["value"] == 0
    answer = OATRuntime.predict
    monkeypatch.setattr(
        OATRuntime,
        "predict",
        lambda self, frame, at=None: replace(answer(self, frame, at=at), point=OperatingPoint(0.123, 1.0)),
    )
    assert switch.stream(runtime, num_switches=3)[0]["value"] > 0
    runtime.close()
