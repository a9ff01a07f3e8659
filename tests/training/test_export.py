"""From a checkpoint to a bundle and back: what was measured is what a second evaluation finds."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oat_runtime.architecture import InputSpec
from oat_runtime.bundle import Bundle, DataSummary, Fingerprints, HeldOut
from oat_runtime.data import ImageSet, fingerprint, split_validation
from oat_runtime.errors import BackendError
from oat_runtime.operating_point import OperatingPoint, Proportion, Regime
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS
from training import evaluate as evaluate_module
from training import export as export_module
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.evaluation import cache
from training.evaluation import judged as judged_module
from training.evaluation.counting import Bools
from training.evaluation.table import accuracies
from training.evaluation.text_table import markdown, share
from training.network import LambdaBatch, OATNet, network_of
from training.optimizer import decayed_weights

Sets = dict[str, ImageSet]


def command(monkeypatch: pytest.MonkeyPatch, main: Callable[[], int], *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    return main()


@torch.no_grad()
def test_a_bundle_computes_what_the_checkpoint_computes_with_weights_that_float16_holds(
    bundle: Bundle, checkpoint: Path
) -> None:
    saved = load_checkpoint(checkpoint)
    net = OATNet(saved.config.model).eval()
    net.load_state_dict(saved.model)
    for weight in decayed_weights(net):
        torch.testing.assert_close(weight.half().float(), weight, atol=1e-7, rtol=2**-11)
        weight.copy_(weight.half())
    shipped, x_NCHW = network_of(bundle.tensors(), bundle.manifest.model), torch.rand(3, 3, 16, 16)
    for lam in (0.0, 0.4, 1.0):
        for width in (0.5, 1.0):
            batch = LambdaBatch.constant(lam, 3, saved.config.model.lambdas)
            assert torch.equal(
                shipped(x_NCHW, batch, width=width),
                net(x_NCHW, batch, width=width),
            )


def test_a_bundle_cuts_regions_out_with_the_margin_of_its_training_images(bundle: Bundle) -> None:
    assert bundle.input == InputSpec(height=16, width=16, region_margin=0.25)


def test_each_table_is_counted_on_its_own_images(bundle: Bundle) -> None:
    points = {(lam, width) for lam in (0.0, 1.0) for width in (0.5, 1.0)}
    expected = {
        "select": (10, {f"{kind}-{severity}" for kind in FITTING_KINDS for severity in (2, 4)}),
        "report": (20, {f"{kind}-3" for kind in CORRUPTIONS}),
    }
    for table in (bundle.select, bundle.report):
        num_clean, conditions = expected[table.name]
        assert {(row.lam, row.width) for row in table.rows} == points
        for row in table.rows:
            totals = {m.condition: m.num_total for m in row.measurements}
            assert totals == {"clean": num_clean, "pgd-20": 6} | dict.fromkeys(conditions, 3)
    assert (bundle.select.split, bundle.report.split) == ("validation", "test")


def test_its_accuracies_are_shown_at_the_ends_of_lambda_and_width(bundle: Bundle) -> None:
    """An export ended with a path and a hash."""
    shown = markdown(accuracies(bundle.report)).splitlines()[-4:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown]
    assert [(width, lam) for width, lam, *_ in cells] == [("1", "0"), ("1", "1"), ("0.5", "0"), ("0.5", "1")]
    for width, lam, *counts in cells:
        row = bundle.report.row(OperatingPoint(float(lam), float(width)))
        corrupted = [m for m in row.measurements if m.regime in (Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY)]
        num_images = corrupted[0].num_total  # the same ones under every corruption
        of_all = Proportion(sum(m.num_correct for m in corrupted), sum(m.num_total for m in corrupted), num_images)
        assert counts == [share(count) for count in (row.condition("clean"), row.condition("pgd-20"), of_all)]


def test_the_outcomes_are_those_of_the_report(bundle: Bundle) -> None:
    outcomes = bundle.outcomes()
    for row in bundle.report.rows:
        for m in row.measurements:
            assert outcomes.pop(f"{m.condition}/{row.lam:g}/{row.width:g}").sum() == m.num_correct
    assert outcomes == {}


def test_the_policys_table_does_not_depend_on_the_test_set(
    bundle: Bundle, checkpoint: Path, sets: Sets, tmp_path: Path
) -> None:
    images, labels = np.roll(sets["test"].images_NHWC, 1, axis=0), sets["test"].labels_N
    other = export_module.export(
        load_checkpoint(checkpoint),
        tmp_path / "exported",
        training_set=sets["train"],
        test_set=ImageSet(images, labels, sets["test"].class_names, "another test set"),
        num_attacked=6,
        num_corrupted=3,
        device="cpu",
    )
    ours, theirs = (one.manifest.figures["float32"] for one in (bundle, other))
    assert theirs.select == ours.select
    assert theirs.temperatures == ours.temperatures
    assert theirs.report != ours.report


def test_an_export_goes_on_where_it_was_stopped(
    bundle: Bundle, checkpoint: Path, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    stop_at = [5]

    def outcomes_of(*args: object, attack: object, **kwargs: object) -> Bools:
        if attack is not None:  # once a point
            if len(counted) == stop_at[0]:
                raise KeyboardInterrupt
            counted.append("a point")
        return original(*args, attack=attack, **kwargs)  # type: ignore[arg-type]

    def export(name: str, scale: float = 1.0) -> Bundle:
        saved = load_checkpoint(checkpoint)
        saved.model["classifier.weight"].mul_(scale)
        options = {"num_attacked": 6, "num_corrupted": 3, "device": "cpu", "run": tmp_path}
        data = {"training_set": sets["train"], "test_set": sets["test"]}
        return export_module.export(saved, tmp_path / name, **data, **options)  # type: ignore

    original = cache.outcomes_of
    monkeypatch.setattr(cache, "outcomes_of", outcomes_of)
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")
    with pytest.raises(KeyboardInterrupt):
        export("exported")
    stop_at[0] = 99
    resumed = export("exported")
    assert len(counted) == 8  # four points in each of two tables, none twice
    assert resumed.manifest.figures == bundle.manifest.figures
    assert all(np.array_equal(correct_N, bundle.outcomes()[key]) for key, correct_N in resumed.outcomes().items())
    export("other", scale=2.0)
    assert len(counted) == 16  # another network's points are its own
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a" + "-dirty")
    export("again")
    assert len(counted) == 24  # code that has no name proves nothing


def test_a_bundle_says_where_it_comes_from(bundle: Bundle, checkpoint: Path, sets: Sets) -> None:
    saved, provenance = load_checkpoint(checkpoint), bundle.manifest.provenance
    assert provenance.dataset_sha256 == fingerprint(sets["train"])
    held_out = saved.config.num_validation
    trained_on, validation = split_validation(sets["train"], held_out, seed=saved.config.seed)
    assert bundle.manifest.data == DataSummary(
        held_out=HeldOut(rule="random", num_images=held_out, seed=saved.config.seed),
        fingerprints=Fingerprints(
            train=fingerprint(trained_on), validation=fingerprint(validation), test=fingerprint(sets["test"])
        ),
    )
    assert TrainConfig.model_validate_json(json.dumps(provenance.recipe)) == saved.config
    assert (provenance.seed, bundle.manifest.name) == (saved.config.seed, "exported")
    assert (provenance.commit, provenance.hardware) == (saved.commit, "a large GPU")
    assert (bundle.input.height, bundle.input.width) == (16, 16)


@pytest.mark.parametrize(("attack", "count", "num_compared"), [(None, 20, 20), ("pgd-20", 6, 6), ("pgd-7", 6, 0)])
@pytest.mark.usefixtures("loader")
def test_evaluating_again_agrees_image_by_image(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    attack: str | None,
    count: int,
    num_compared: int,
) -> None:
    arguments = [str(bundle.path), "--count", str(count), *(("--attack", attack) if attack else ())]
    assert command(monkeypatch, evaluate_module.main, *arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["machine"]["bundle_sha256"] == bundle.sha256
    assert {(r["lambda"], r["width"]) for r in result["rows"]} == {(0, 0.5), (0, 1), (1, 0.5), (1, 1)}
    for r in result["rows"]:
        assert (r["num_total"], r["num_compared"]) == (count, num_compared)
        assert r["agreement"] == (1.0 if num_compared else None)
    assert [(check["value"], check["ok"]) for check in result["checks"]] == ([(1.0, True)] if num_compared else [])


@pytest.mark.usefixtures("loader")
def test_another_network_does_not_agree(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = judged_module.load_judged(bundle.path)
    with torch.no_grad():
        for weight in other.model.classifier.parameters():
            weight.neg_()
    monkeypatch.setattr(evaluate_module, "load_judged", lambda path, device: other)
    assert command(monkeypatch, evaluate_module.main, str(bundle.path), "--count", "20") == 1
    assert not json.loads(capsys.readouterr().out.splitlines()[-1])["checks"][0]["ok"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--count", "3"], "kept for its test"),
        (["--suite", "calibration", "--count", "3"], "kept for its test"),
        (["--suite", "calibration", "--count", "3", "--split", "validation"], "held out for validation"),
    ],
)
@pytest.mark.usefixtures("loader")
def test_a_bundle_is_judged_on_no_other_images_than_its_own(
    arguments: list[str],
    part: str,
    bundle: Bundle,
    sets: Sets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Regression: two classes that changed names, or pictures that were added, gave other figures and exit status 0."""
    for split in ("train", "test"):
        changed = replace(sets[split], labels_N=(sets[split].labels_N + 1) % 10)
        monkeypatch.setitem(sets, split, changed)
    out = ["--out", str(tmp_path)] if "--suite" in arguments else []
    assert command(monkeypatch, evaluate_module.main, str(bundle.path), *arguments, *out) == 2
    assert f"expected the very images of {bundle.path.name}, {part}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lambda", "1.5"], "--lambda: must be in [0, 1], got 1.5"),
        (["--width", "0.6"], "width must be one of [0.5, 1.0], got 0.6"),
        (["--count", "0"], "--count: must be at least 1, got 0"),
    ],
)
@pytest.mark.usefixtures("loader")
def test_a_wrong_argument_is_named(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert command(monkeypatch, evaluate_module.main, str(bundle.path), *arguments) == 2
    assert message in capsys.readouterr().err


def test_an_unfinished_run_is_exported_with_the_weights_that_it_is_judged_by(
    checkpoint: Path, sets: Sets, tmp_path: Path
) -> None:
    """Regression: the bundle got the last weights, and `oat-evaluate` judged their average."""
    saved = load_checkpoint(checkpoint)
    average = {name: 0.5 * tensor for name, tensor in saved.model.items() if tensor.is_floating_point()}
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(replace(saved, finished=False, average=average), path)
    made = export_module.export(
        load_checkpoint(path),
        tmp_path / "exported",
        training_set=sets["train"],
        test_set=sets["test"],
        num_attacked=1,
        num_corrupted=1,
        device="cpu",
    )
    judged, shipped = (judged_module.load_judged(one).model for one in (path, made.path))
    assert torch.equal(judged.classifier.bias, average["classifier.bias"])
    with torch.no_grad():
        for weight in decayed_weights(judged):
            weight.copy_(weight.half())
    expected, found = judged.with_film_tables().state_dict(), shipped.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_export_that_no_engine_can_end_in_int8_is_refused_before_it_measures(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> None:
        raise BackendError("int8 needs an engine that works here")

    monkeypatch.setattr(export_module, "int8_engines", none)
    monkeypatch.setattr(export_module, "load_dataset", lambda *_, **__: pytest.fail("measured"))
    arguments = [str(checkpoint), str(tmp_path / "both"), "--precision", "int8"]
    assert command(monkeypatch, export_module.main, *arguments) == 2
    assert "int8 needs an engine that works here" in capsys.readouterr().err


@pytest.mark.usefixtures("loader")
def test_the_command_exports_a_finished_run_only(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = load_checkpoint(checkpoint)
    partial = tmp_path / "partial.pt"
    save_checkpoint(Checkpoint(saved.config, 1, saved.model, saved.optimizer, 1.0), partial)
    arguments = [str(tmp_path / "out"), "--attacked", "2", "--corrupted", "1", "--device", "cpu"]
    assert command(monkeypatch, export_module.main, str(partial), *arguments) == 2
    assert "has not ended: run oat-train again to go on, or take it as it is with --unf" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command(monkeypatch, export_module.main, str(partial), *arguments, "--unfinished") == 0
    said = capsys.readouterr().out
    assert Bundle.load(tmp_path / "out").sha256[:12] in said and "of a run that was stopped after step 1," in said
    assert said.endswith(f"for int8, then: oat-export {tmp_path / 'out'} --precision int8\n")
