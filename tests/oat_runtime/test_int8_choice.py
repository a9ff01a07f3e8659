"""Laws of `auto` and int8: taken only where it is measured faster by enough, and loses no more than the bound."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from oat_runtime.backends import available, choice
from oat_runtime.bundle import Bundle, Figures, LossBound, outcome_key
from oat_runtime.bundle.loss import losses, objection
from oat_runtime.bundle.writer import attach_quantization
from oat_runtime.errors import BundleError
from oat_runtime.operating_point import OperatingPoint, OperatingRow
from oat_runtime.runtime import OATRuntime
from tests.oat_runtime.forged import plant

P = OperatingPoint
WHERE = P(0.4, 0.5)
"""The point at which int8 is worse than elsewhere; the tiny bundle counts 1,000 images."""


def changed(figures: Figures, fewer: Mapping[str, int], *, without: str = "") -> Figures:
    """Return figures with fewer correct images of some conditions at `WHERE`, or without one condition."""

    def row_of(row: OperatingRow) -> OperatingRow:
        lost = fewer if row.point == WHERE else {}
        kept = tuple(
            m.model_copy(update={"num_correct": m.num_correct - lost.get(m.condition, 0)})
            for m in row.measurements
            if m.condition != without
        )
        return row.model_copy(update={"measurements": kept})

    tables = {
        name: table.model_copy(update={"rows": tuple(map(row_of, table.rows))})
        for name, table in (("select", figures.select), ("report", figures.report))
    }
    return figures.model_copy(update=tables)


def counted(source: Path, folder: Path, fewer: Mapping[str, int], *, without: str = "") -> Bundle:
    """Return a copy of a bundle that was counted in int8, with such losses."""
    bundle = Bundle.load(shutil.copytree(source, folder))
    figures = changed(bundle.manifest.figures["float32"], fewer, without=without)
    outcomes = {
        outcome_key(m.condition, row.point, precision="int8"): np.arange(m.num_total) < m.num_correct
        for row in figures.report.rows
        for m in row.measurements
    }
    quantization, probe_atol = bundle.quantization(), bundle.manifest.probe_atol["int8"]
    assert quantization is not None
    return attach_quantization(bundle, quantization, probe_atol=probe_atol, figures=figures, outcomes=outcomes)


@pytest.mark.parametrize(
    ("fewer", "says"),
    [
        ({}, ""),
        ({"clean": 5, "pgd-20": 10}, ""),
        ({"clean": -30, "fog-3": 100}, ""),
        ({"clean": 6}, "it loses 0.6 points SA and 0 RA at λ=0.4 width=0.5, and may lose 0.5 and 1"),
        ({"clean": -5, "pgd-20": 11}, "it loses -0.5 points SA and 1.1 RA at λ=0.4 width=0.5, and may lose 0.5 and 1"),
    ],
)
def test_the_worst_point_decides(int8_bundle: Path, tmp_path: Path, fewer: Mapping[str, int], says: str) -> None:
    bundle = counted(int8_bundle, tmp_path / "tiny", fewer)
    assert objection(bundle, "int8", LossBound()) == says
    assert objection(bundle, "int8", LossBound(sa_points=5.0, ra_points=5.0)) == ""
    assert len(losses(bundle, "int8")) == 18


@pytest.mark.parametrize("without", ["clean", "pgd-20"])
def test_figures_that_cannot_be_compared_allow_nothing(int8_bundle: Path, tmp_path: Path, without: str) -> None:
    says = "tiny has no figures of int8 that compare with those of float32"
    assert objection(Bundle.load(int8_bundle), "int8", LossBound()) == says
    bundle = counted(int8_bundle, tmp_path / "tiny", {}, without=without)
    assert objection(bundle, "int8", LossBound(sa_points=100.0, ra_points=100.0)) == says


def test_int8_has_to_be_faster_by_a_tenth() -> None:
    in_float, in_int8 = ("openvino", "float32"), ("onnxruntime", "int8")
    assert choice._best({in_float: 1.0, in_int8: 0.89}) == in_int8  # type: ignore[dict-item]
    assert choice._best({in_float: 1.0, in_int8: 0.91}) == in_float  # type: ignore[dict-item]
    assert choice._best({in_float: 1.0, ("openvino", "bfloat16"): 0.91, in_int8: 0.92}) == ("openvino", "bfloat16")  # type: ignore[dict-item]
    assert choice._best({in_int8: 1.0}) == in_int8  # type: ignore[dict-item]


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[choice.Candidate, float]]:
    """What the stopwatch of the choice will say of each candidate; one without a time was refused."""
    if "onnxruntime" not in available():
        pytest.skip("onnxruntime is not installed")
    found: dict[choice.Candidate, float] = {("onnxruntime", "float32"): 2.0, ("onnxruntime", "int8"): 1.0}

    def measure(make_net: object, probe: object, settings: object, candidates: list[choice.Candidate]) -> object:
        return {candidate: found[candidate] for candidate in candidates if candidate in found}

    monkeypatch.setattr(choice, "measure", measure)
    monkeypatch.setattr(choice, "available", lambda device: ("onnxruntime", "torch"))
    monkeypatch.setattr(choice, "versions", lambda name: name)
    monkeypatch.setattr(choice, "cache_path", lambda: tmp_path / "cache.json")
    found["torch", "float32"] = 3.0
    yield found


def precision_of(bundle: Bundle, caplog: pytest.LogCaptureFixture, **settings: object) -> tuple[str, str]:
    """Return the precision that `auto` takes, and what it logs."""
    caplog.clear()
    with (
        caplog.at_level(logging.INFO, "oat_runtime"),
        closing(OATRuntime(bundle, num_threads=1, **settings)) as runtime,  # type: ignore[arg-type]
    ):
        assert runtime.table_precision == runtime.precision
        assert runtime.plans == ("folded" if runtime.precision == "int8" else "shared")
        return runtime.precision, caplog.text


def test_auto_takes_int8_where_it_is_faster_and_says_so(
    int8_bundle: Path, tmp_path: Path, times: dict[choice.Candidate, float], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = counted(int8_bundle, tmp_path / "tiny", {"clean": 5})
    precision, says = precision_of(bundle, caplog)
    assert precision == "int8" and "onnxruntime int8 of onnxruntime float32 2.00 ms, onnxruntime int8 1.00 ms" in says
    precision, says = precision_of(bundle, caplog)
    assert precision == "int8" and "onnxruntime int8, measured before" in says
    precision, says = precision_of(bundle, caplog, int8_loss=LossBound(sa_points=0.4))
    assert precision == "float32", "what was measured before binds nobody who may lose less"
    assert "int8 is left out of the choice: it loses 0.5 points SA and 0 RA at λ=0.4 width=0.5" in says
    assert precision_of(bundle, caplog, backend="onnxruntime")[0] == "float32"
    assert precision_of(bundle, caplog, precision="float32")[0] == "float32"


def test_auto_leaves_int8_out_where_it_is_not_faster_and_says_so(
    int8_bundle: Path, tmp_path: Path, times: dict[choice.Candidate, float], caplog: pytest.LogCaptureFixture
) -> None:
    times["onnxruntime", "int8"] = 1.9
    precision, says = precision_of(counted(int8_bundle, tmp_path / "tiny", {}), caplog)
    assert precision == "float32" and "onnxruntime int8 1.90 ms" in says
    assert "int8 is not chosen: it must take at most 0.9 of the time" in says


def test_nothing_is_said_of_the_time_of_int8_where_none_was_measured(
    int8_bundle: Path, tmp_path: Path, times: dict[choice.Candidate, float], caplog: pytest.LogCaptureFixture
) -> None:
    del times["onnxruntime", "int8"]
    precision, says = precision_of(counted(int8_bundle, tmp_path / "tiny", {}), caplog)
    assert precision == "float32" and "int8 is not chosen" not in says


def test_auto_never_takes_int8_without_counts_or_memory_for_all_points(
    tiny_bundle: Path,
    int8_bundle: Path,
    tmp_path: Path,
    times: dict[choice.Candidate, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = counted(int8_bundle, tmp_path / "tiny", {})
    for given, settings, reason in (
        (Bundle.load(tiny_bundle), {}, "tiny holds no activation ranges"),
        (Bundle.load(int8_bundle), {}, "tiny has no figures of int8"),
        (bundle, {"memory_budget_mb": 0.5}, "MB, and memory_budget_mb is 0.5"),
    ):
        precision, says = precision_of(given, caplog, **settings)
        assert precision == "float32" and "int8 is left out of the choice: " in says and reason in says


def test_hostile_ranges_are_refused_by_auto_too(
    int8_bundle: Path, tmp_path: Path, times: dict[choice.Candidate, float]
) -> None:
    bundle = counted(int8_bundle, tmp_path / "tiny", {})
    plant(bundle.path, "quantization.json", b"{}")
    with pytest.raises(BundleError, match="measure them again"):
        OATRuntime.load(bundle.path, num_threads=1)
