"""What the parameters of the node make of the network that it loads."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oat_perception.core.loading import Loaded, about, load
from oat_perception.core.parameters import SPECS
from oat_perception.core.perception import CameraFrame, ExternalSignals

from oat_runtime.bundle import Bundle
from oat_runtime.errors import ConfigError
from policy.belief.constants import FittedFor
from policy.records.record import header_line, step_line
from policy.replay import main
from policy.signals import Override, Signals

FRAME_HWC = np.zeros((48, 64, 3), np.uint8)


def _values(**values: object) -> dict[str, Any]:
    given = {"bundle": "gtsrb-wrn-16-2", "backend": "onnxruntime", "num_threads": 1, **values}
    return {spec.name: spec.default for spec in SPECS} | given


def _loaded(**values: object) -> Loaded:
    return load(_values(**values), check=lambda runtime, config: None)


@pytest.mark.parametrize(("memory_budget_mb", "all_fit"), [(64, True), (1, False)])
def test_points_in_int8_are_held_within_the_memory_budget(memory_budget_mb: int, all_fit: bool) -> None:
    """All 18 points of this network take 8 MB in int8."""
    pytest.importorskip("onnxruntime")
    with closing(_loaded(precision="int8", memory_budget_mb=memory_budget_mb)) as loaded:
        points = [row.point for row in loaded.runtime.table.rows]
        assert all(map(loaded.runtime.is_prepared, points)) is all_fit
        assert any(map(loaded.runtime.is_prepared, points))


def test_no_frame_waits_for_the_engine_to_compile_whatever_number_of_regions_it_has() -> None:
    """Regression: with `max_regions` of 1, 3 or 7, OpenVINO compiled when the first image with all of them came."""
    pytest.importorskip("openvino")
    box = (0, 0, 8, 8)
    with closing(_loaded(backend="openvino", max_regions=1)) as loaded:
        network = loaded.runtime._active.plan.network  # type: ignore[attr-defined]
        ready = set(network._requests)
        lam, width = Override(loaded.runtime.active.lam), Override(loaded.runtime.active.width)
        external = ExternalSignals(override_lam=lam, override_width=width)
        for boxes in (None, (), (box,)):
            loaded.core.process(CameraFrame(FRAME_HWC, 0.0, boxes), external=external, now_s=0.0)
        assert loaded.runtime._active.plan.network is network  # type: ignore[attr-defined]
        assert set(network._requests) == ready


def test_an_estimator_that_was_fitted_for_another_network_is_refused_and_one_that_names_none_is_worth_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: after a change of `bundle` alone, the estimator of the old one went on to decide."""
    pytest.importorskip("onnxruntime")
    mine, other = (Bundle.load(name) for name in ("gtsrb-wrn-16-2", "cifar10-wrn-16-4"))
    files = {name: tmp_path / f"{name}.json" for name in ("of mine", "of other", "of none")}
    for file, of in zip(files.values(), (mine, other, None), strict=True):
        named = None if of is None else FittedFor.of(of).model_dump()
        file.write_text(json.dumps((mine.estimator or {}) | {"fitted_for": named, "fitted_on": file.stem}))
    with closing(_loaded(estimator=str(files["of mine"]))) as loaded:
        assert loaded.core.policy.constants is not None and loaded.core.policy.constants.fitted_on == "of mine"
    with pytest.raises(ConfigError, match=r"expected gtsrb-wrn-16-2 .*, got cifar10-wrn-16-4 .*: run oat-calibrate"):
        _loaded(estimator=str(files["of other"]))
    assert not caplog.records
    _loaded(estimator=str(files["of none"])).close()
    assert [record.getMessage() for record in caplog.records] == [
        f"the estimator {files['of none']} may be of another network, since the file names none: run oat-calibrate "
        "again if in doubt"
    ]


def test_a_record_names_the_network_also_where_the_bundle_s_own_estimator_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: such a record was replayed with any network's estimator, with a warning alone."""
    pytest.importorskip("onnxruntime")
    log, file = tmp_path / "log.jsonl", tmp_path / "mine.json"
    with closing(_loaded()) as loaded:
        assert (loaded.runtime.bundle.estimator or {}).get("fitted_for") is None
        policy, signals = loaded.core.policy, Signals(0.0)
        log.write_text(f"{header_line(policy)}\n{step_line(signals, policy.step(signals))}\n")
        assert policy.constants is not None
        for name, status in (("gtsrb-wrn-16-2", 0), ("cifar10-wrn-16-4", 2)):
            of = FittedFor.of(Bundle.load(name))
            file.write_text(policy.constants.model_copy(update={"fitted_for": of}).model_dump_json())
            assert main([str(log), "--estimator", str(file)]) == status
    assert "expected gtsrb-wrn-16-2 (weights" in capsys.readouterr().err
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "lines", "warnings"),
    [
        (
            {"decision_log": "log.jsonl"},
            ["loaded gtsrb-wrn-16-2 on onnxruntime in float32", "every decision goes to /"],
            [],
        ),
        ({"bundle": "robocup-wrn-16-2"}, ["the alarm's promise: "], ["trained on boxes and max_regions is 0"]),
        ({"bundle": "robocup-wrn-16-2", "max_regions": 4}, ["the estimator was fitted on "], []),
    ],
)
def test_what_was_loaded_is_told_and_what_may_not_be_meant_is_a_warning(
    given: dict[str, object], lines: list[str], warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    with closing(_loaded(**given)) as loaded:
        told = list(about(loaded, _values(**given)))
    for expected, is_warning in ((lines, False), (warnings, True)):
        found = [line for warns, line in told if warns is is_warning]
        assert all(any(words in line for line in found) for words in expected), told
        assert not is_warning or len(found) == len(expected)
