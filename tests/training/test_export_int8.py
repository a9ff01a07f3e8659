"""Laws of counting in int8: what is attached is what int8 answers, it goes on after a stop, and it is whole."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends import available
from oat_runtime.bundle import Bundle
from oat_runtime.data import ImageSet
from oat_runtime.operating_point import OperatingPoint as P
from oat_runtime.runtime import OATRuntime
from training import evaluate as evaluate_module
from training import export as export_module
from training import export_int8 as int8_module
from training.augment import to_unit
from training.evaluation import cache
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import ATTACKS, Bools
from training.evaluation.judged import load_judged
from training.evaluation.paired import Difference, differences
from training.evaluation.suite import Job
from training.evaluation.suites import SUITES
from training.network import Rounding

pytestmark = [
    pytest.mark.usefixtures("loader"),
    pytest.mark.skipif("onnxruntime" not in available(), reason="onnxruntime is not installed"),
]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few images, and one engine: OpenVINO compiles for longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_module, "_NUM_CLEAN", 8)
        patch.setattr(int8_module, "_NUM_ATTACKED", 4)
        for module in ("training.export_int8", "training.evaluation.judged"):
            patch.setattr(f"{module}.int8_engines", lambda: ("onnxruntime",))
        yield


@pytest.fixture
def mine(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle, in a folder from which a command may write."""
    path = tmp_path / bundle.path.name
    shutil.copytree(bundle.path, path)
    return path


@pytest.fixture(scope="module")
def counted(bundle: Bundle, sets: dict[str, ImageSet], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with its int8 figures."""
    path = tmp_path_factory.mktemp("int8") / bundle.path.name
    shutil.copytree(bundle.path, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "training.evaluation.judged.load_dataset", lambda name, split, limit=None, **_: sets[split].first(limit)
        )
        return int8_module.export_int8(load_judged(path))


def losing(*, points: float) -> Callable[[Bundle], dict[P, tuple[Difference, Difference]]]:
    """`differences`, but int8 loses so much at every point: what so few images show is chance."""

    def of(bundle: Bundle) -> dict[P, tuple[Difference, Difference]]:
        clean, attacked = ({"mean": -points, "low": -points - 0.1, "high": -points + 0.1} for _ in range(2))
        return {
            point: (replace(found[0], **clean), replace(found[1], **attacked))
            for point, found in differences(bundle).items()
        }

    return of


def run(monkeypatch: pytest.MonkeyPatch, main: Callable[[], int], *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    return main()


def test_the_figures_are_counted_as_float32s_were_and_say_what_int8_answers(
    bundle: Bundle, counted: Bundle, sets: dict[str, ImageSet]
) -> None:
    before, after = bundle.manifest.figures["float32"], counted.manifest.figures["int8"]
    assert counted.manifest.figures["float32"] == before
    for ours, theirs in ((after.select, before.select), (after.report, before.report)):
        assert (ours.split, ours.attack, ours.name) == (theirs.split, theirs.attack, theirs.name)
        for mine, its in zip(ours.rows, theirs.rows, strict=True):
            assert mine.point == its.point
            assert [(m.condition, m.regime, m.num_total) for m in mine.measurements] == [
                (m.condition, m.regime, m.num_total) for m in its.measurements
            ]
    assert len(after.temperatures) == len(before.temperatures)
    quantization, outcomes = counted.quantization(), counted.outcomes("int8")
    assert quantization is not None and "pgd-20" in quantization.measured and "onnxruntime" in quantization.measured
    x_NCHW = to_unit(torch.from_numpy(sets["test"].images_NHWC[:]))
    rounding, model = Rounding(quantization, (16, 16), "onnxruntime"), load_judged(counted.path).model
    for row in after.report.rows:
        with torch.no_grad():
            right_N = rounding.net(model, row.point)(x_NCHW).argmax(dim=1).numpy() == sets["test"].labels_N
        key = f"clean/{row.lam:g}/{row.width:g}"
        assert outcomes[key].tolist() == right_N.tolist()
        assert row.condition("clean").num_correct == int(right_N.sum())
    assert set(differences(counted)) == {row.point for row in after.report.rows}
    runtime = OATRuntime.load(counted.path, backend="onnxruntime", precision="int8")  # holds it to the probe
    assert runtime.table_precision == "int8"
    runtime.close()


def test_a_stopped_count_goes_on_and_changes_the_bundle_whole_or_not_at_all(
    mine: Path, counted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, measured, stop_at = [], [], [7]
    original, ranges = cache.outcomes_of, int8_module._ranges_of

    def outcomes_of(*args: Any, attack: object, **kwargs: Any) -> Bools:
        if attack is not None:  # once a point and a table
            if len(made) == stop_at[0]:
                raise KeyboardInterrupt
            made.append("a point")
        return original(*args, attack=attack, **kwargs)

    monkeypatch.setattr(cache, "outcomes_of", outcomes_of)
    monkeypatch.setattr(int8_module, "_ranges_of", lambda *args: (measured.append("a point"), ranges(*args))[1])
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")
    before = Bundle.load(mine)
    with pytest.raises(KeyboardInterrupt):
        int8_module.export_int8(load_judged(mine), kept=tmp_path / "kept")
    assert Bundle.load(mine).sha256 == before.sha256 and len(measured) == 4
    stop_at[0] = 99
    resumed = int8_module.export_int8(load_judged(mine), kept=tmp_path / "kept")
    assert (len(made), len(measured)) == (8, 4)  # four points in each of two tables, none twice
    assert resumed.manifest.figures == counted.manifest.figures
    assert all(np.array_equal(hits, counted.outcomes("int8")[key]) for key, hits in resumed.outcomes("int8").items())


def test_outcomes_of_float32_and_of_int8_never_mix(
    counted: Bundle, sets: dict[str, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")
    judged, data = load_judged(counted.path), sets["test"]
    float32 = OutcomeCache(tmp_path, judged.model)
    int8 = OutcomeCache(tmp_path, judged.model, judged.rounding())
    marked_N = np.arange(len(data)) % 2 == 0
    assert float32.get("key", data, lambda: marked_N).tolist() == marked_N.tolist()
    assert int8.get("key", data, lambda: ~marked_N).tolist() == (~marked_N).tolist()
    assert float32.get("key", data, lambda: 1 / 0).tolist() == marked_N.tolist()  # type: ignore[arg-type, return-value]


def test_the_commands_count_in_int8_and_agree_with_each_other(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, evaluate_module.main, str(mine), "--precision", "int8", "--count", "3") == 2
    assert "holds no activation ranges: run oat-export" in capsys.readouterr().err
    int8 = ["--precision", "int8", "--device", "cpu"]
    for arguments, reason in (
        ([str(mine)], "made of a run's checkpoint.pt, so name that; or add int8 to a finished bundle"),
        ([str(mine), str(tmp_path / "new"), *int8], "made of a run's checkpoint.pt"),
        ([str(mine), *int8, "--attacked", "7"], "--attacked 7 is more than the 6 images that exported was counted on"),
        ([str(mine), *int8, "--corrupted", "4"], "--corrupted 4 is more than the 3 images"),
    ):
        assert run(monkeypatch, export_module.main, *arguments) == 2
        assert reason in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # root may write everywhere
        assert run(monkeypatch, export_module.main, str(mine), *int8) == 2
    assert "cannot be changed: no permission to write" in capsys.readouterr().err
    few = ["--attacked", "3", "--corrupted", "1", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(export_module, "differences", losing(points=0.0))
        assert run(patch, export_module.main, str(mine), "--precision", "int8", *few) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["sa"]["num_total"], row["ra"]["num_total"]) for row in found["rows"]] == 4 * [(20, 3)]
    again = ["--precision", "int8", "--attack", "pgd-20", "--count", "3"]
    assert run(monkeypatch, evaluate_module.main, str(mine), *again) == 0
    said = capsys.readouterr().out
    assert "gradients of the float32 network" in said
    assert {row["agreement"] for row in json.loads(said.splitlines()[-1])["rows"]} == {1.0}


def test_a_checkpoint_becomes_a_bundle_with_int8_in_one_command(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["--attacked", "1", "--corrupted", "999", "--device", "cpu", "--precision", "int8"]
    monkeypatch.setattr(export_module, "differences", losing(points=2.0))
    assert run(monkeypatch, export_module.main, str(checkpoint), str(tmp_path / "both"), *few) == 1
    made = Bundle.load(tmp_path / "both")
    assert set(made.manifest.figures) == {"float32", "int8"} and "int8" in made.manifest.probe_atol


def test_engines_that_take_an_image_for_two_wrong_classes_do_not_agree(
    sets: dict[str, ImageSet], caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: both were wrong, and that counted as agreement."""
    config = ModelConfig(lambdas=(0.0, 1.0), widths=(1.0,))
    model = SimpleNamespace(config=config, code_KD=torch.zeros(1))

    def always(label: int) -> Any:
        logits_K = torch.eye(10)[label]
        return SimpleNamespace(
            model=model, about=f"engine {label}", plain=lambda _: lambda x: logits_K.expand(len(x), -1)
        )

    others = sets["test"].subset(np.flatnonzero(sets["test"].labels_N > 1), "others")
    with caplog.at_level(logging.INFO):
        int8_module._spot_check(always(0), always(1), others)
        int8_module._spot_check(always(0), always(0), others)
    agreed = [f"agree on {num} of {len(others)} test images" for num in (0, len(others))]
    assert all(part in record.message for part, record in zip(agreed, caplog.records, strict=True))


def test_suites_count_in_int8_or_say_that_they_do_not(
    counted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.evaluation.suites.rounding._NUM_QUERIES", 3)
    command = [str(counted.path), "--precision", "int8", "--count", "4", "--out", str(tmp_path), "--width", "0.5"]
    assert run(monkeypatch, evaluate_module.main, *command, "--suite", "inside") == 2
    assert "inside: counted in float32 only, not in int8" in capsys.readouterr().err
    assert run(monkeypatch, evaluate_module.main, str(counted.path), "--suite", "rounding") == 2
    assert "rounding: counted in int8 only, not in float32" in capsys.readouterr().err
    chosen = ["--steps", "2", "--suite", "attacks", "paired", "rounding", "--attacks", "fgsm"]
    assert run(monkeypatch, evaluate_module.main, *command, *chosen) in (0, 1)
    for name in ("attacks", "paired", "rounding"):
        document = json.loads((tmp_path / f"{name}.json").read_text())
        assert document["machine"]["arithmetic"].startswith("int8 on onnxruntime")
    said = " ".join(capsys.readouterr().out.split())  # where a line is broken depends on how long the suites took
    assert "attacked with gradients of the float32 network" in said
    by_point: dict[float, dict[str, int]] = {}
    for row in document["rows"]:
        by_point.setdefault(row["lambda"], {})[row["condition"]] = row["num_correct"]
    for counts in by_point.values():
        attacks = ("clean", "pgd-20", "apgd-t", "square", "float32 to int8")
        assert counts["worst-case"] <= min(counts[name] for name in attacks)
        assert {"int8 to float32", "float32 pgd-20", "float32 clean"} < set(counts)


def test_paired_differences_are_those_of_both_networks_on_the_same_images(
    counted: Bundle, sets: dict[str, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")
    judged, data, attack = load_judged(counted.path), sets["test"].first(6), ATTACKS["fgsm"]
    rounding = judged.rounding()
    job = Job(judged, data, (1.0,), (0.5,), attack, attacks=("fgsm",), cache_folder=tmp_path, rounding=rounding)
    found = SUITES["paired"].run(job)
    assert SUITES["paired"].run(again := replace(job)).rows == found.rows
    assert again.cached_s == again.cache.cached_s + again.float32.cached_s > again.float32.cached_s > 0.0
    correct = {}
    for name, one in (("int8", rounding), ("float32", None)):
        of_point = [OutcomeCache(None, judged.model, one).outcomes(P(1.0, 0.5), data, attack=a) for a in (None, attack)]
        correct[name] = [of_point[0].sum(), (of_point[0] & of_point[1]).sum()]
    expected = [100 * (int(ours) - int(its)) / 6 for ours, its in zip(correct["int8"], correct["float32"], strict=True)]
    assert [row["gained"] for row in found.rows] == pytest.approx(expected)
    assert [row["num_correct"] for row in found.rows] == correct["int8"]
    assert len(found.checks) == 3 and SUITES["paired"].tables[0](found.rows).row_count == 1
