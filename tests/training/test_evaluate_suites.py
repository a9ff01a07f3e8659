"""Laws of the full evaluation: rows are honest counts, doubts are raised where they should be, and all is drawn."""

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oat_runtime.architecture import ModelConfig
from oat_runtime.bundle import Bundle
from oat_runtime.data import ImageSet
from oat_runtime.errors import ConfigError, DataError
from training import attack_checks, inspection, kept, results, run_suites
from training import evaluate as evaluate_module
from training.evaluate import ATTACKS, main
from training.network import OATNet, folded
from training.results import publish, verdict
from training.run_suites import ALONE
from training.subject import Subject, load_subject
from training.suites import Job

CONFIG = ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 0.3, 1.0))
NUM = 6


def shaken() -> OATNet:
    """A network that differs from λ to λ."""
    torch.manual_seed(0)
    net = OATNet(CONFIG)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if "norms" in name and tensor.is_floating_point() and "running_var" not in name:
                tensor.add_(0.3 * torch.randn_like(tensor))
            elif "film" in name:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def job(patches: Callable[..., ImageSet]) -> Job:
    subject = Subject("tiny", shaken(), "patches", {}, None)
    return Job(subject, patches(NUM), CONFIG.lambdas, CONFIG.widths, ATTACKS["pgd-7"], num_steps=2)


@pytest.fixture(scope="module")
def documents(job: Job) -> dict[str, dict[str, object]]:
    return {name: json.loads(json.dumps(run_suites._run(name, job, "validation"))) for name in ALONE}


def rows(documents: dict[str, dict[str, object]], suite: str) -> list[dict[str, object]]:
    found = documents[suite]["rows"]
    assert isinstance(found, list) and found
    return found


def test_every_count_is_whole_and_its_share_lies_in_its_interval(documents: dict[str, dict[str, object]]) -> None:
    for name in ("attacks", "unseen", "transfer", "joint", "corruptions"):
        for row in rows(documents, name):
            assert row["num_total"] == NUM and row["accuracy"] == row["num_correct"] / NUM  # type: ignore[operator]
            assert 0.0 <= row["low_95"] <= row["accuracy"] <= row["high_95"] <= 1.0  # type: ignore[operator]


def test_clean_counts_are_those_of_the_network_itself(job: Job, documents: dict[str, dict[str, object]]) -> None:
    x_NCHW, y_N = next(job.batches())
    for suite in ("attacks", "unseen"):
        for row in rows(documents, suite):
            if row["condition"] == "clean":
                plain = folded(job.subject.model, lam=row["lambda"], width=row["width"])  # type: ignore[arg-type]
                assert row["num_correct"] == int((plain(x_NCHW).argmax(dim=1) == y_N).sum())


def test_the_worst_case_is_no_better_than_any_attack(documents: dict[str, dict[str, object]]) -> None:
    by_point: dict[tuple[object, object], dict[str, int]] = {}
    for row in rows(documents, "attacks"):
        by_point.setdefault((row["lambda"], row["width"]), {})[str(row["condition"])] = row["num_correct"]  # type: ignore
    assert len(by_point) == 6
    for counts in by_point.values():
        assert set(counts) == {"clean", "fgsm", "mi-fgsm", "pgd-7", "pgd-20", "apgd-ce", "apgd-t", "worst-case"}
        assert counts["worst-case"] == min(counts.values())


def test_unseen_lambdas_are_networks_of_their_own(documents: dict[str, dict[str, object]]) -> None:
    lambdas = {row["lambda"] for row in rows(documents, "unseen") if not row["trained"]}
    assert lambdas == {0.15, 0.25, 0.35, 0.5, 0.7, 0.9}
    checks = {check["name"]: check for check in documents["unseen"]["checks"]}  # type: ignore[attr-defined]
    differs = checks["logits differ from both neighbours'"]
    assert differs["ok"] and differs["value"] > 1e-3
    assert checks["outside its neighbours' range"]["unit"] == "share of images"


def test_the_transfer_matrix_is_complete(documents: dict[str, dict[str, object]]) -> None:
    pairs = [(row["made_at"], row["lambda"]) for row in rows(documents, "transfer")]
    assert sorted(pairs) == [(a, b) for a in CONFIG.lambdas for b in CONFIG.lambdas]
    assert {row["width"] for row in rows(documents, "transfer")} == {1.0}


def test_a_joint_attack_reports_every_point_and_the_images_that_any_point_gets_right(
    documents: dict[str, dict[str, object]],
) -> None:
    for name in ("joint", "expectation"):
        of_points = [row for row in rows(documents, "joint") if row["condition"] == f"{name} pgd-7"]
        (any_right,) = (r for r in rows(documents, "joint") if r["condition"] == f"{name} pgd-7, any point right")
        assert len(of_points) == 6
        assert any_right["num_correct"] >= max(row["num_correct"] for row in of_points)  # type: ignore[type-var,operator]


def test_all_corruptions_are_there_for_every_lambda(documents: dict[str, dict[str, object]]) -> None:
    keys = {(row["kind"], row["severity"], row["lambda"]) for row in rows(documents, "corruptions")}
    assert len(keys) == len(rows(documents, "corruptions")) == 15 * 5 * 3


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_the_calibration_error_is_that_by_hand(scale: float) -> None:
    torch.manual_seed(0)
    logits, y_N = scale * 3 * torch.randn(400, 4), torch.randint(4, (400,))
    found = inspection.reliability(logits, y_N, num_bins=10)
    confidence, predicted = torch.softmax(logits.double(), dim=1).max(dim=1)
    by_hand = 0.0
    for low in range(10):
        chosen = (confidence >= low / 10) & (confidence < (low + 1) / 10 if low < 9 else confidence <= 1)
        if chosen.any():
            right = (predicted[chosen] == y_N[chosen]).double().mean()
            by_hand += float(chosen.double().mean() * (right - confidence[chosen].mean()).abs())
    assert found.error == pytest.approx(by_hand, abs=1e-9)
    assert np.nansum(found.share_B) == pytest.approx(1.0)


def test_a_network_that_knows_its_chances_is_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 3, generator=generator)
    drawn = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]
    assert inspection.reliability(logits, drawn).error < 0.015
    assert inspection.reliability(logits, drawn, temperature=0.3).error > 0.1


def test_multiply_adds_are_those_by_hand() -> None:
    found = inspection.cost(shaken(), width=1.0, height=8, columns=8)
    convolutions = 64 * 3 * 16 * 9  # the stem
    for inputs, outputs, pixels in ((16, 16, 64), (16, 32, 16), (32, 64, 4)):
        convolutions += pixels * 9 * (inputs * outputs + outputs * outputs)
        convolutions += pixels * inputs * outputs * (inputs != outputs)
    assert found.convolutions == convolutions + 64 * 10
    assert found.convolutions < found.folded < 1.2 * found.convolutions
    sites = [(16, 64), (16, 64), (16, 64), (32, 16), (32, 16), (64, 4), (64, 4)]
    assert found.norms == sum(channels * pixels for channels, pixels in sites)
    assert found.film == found.norms + sum(2 * channels * (128 + channels) for channels, _ in sites)
    narrow = inspection.cost(shaken(), width=0.5, height=8, columns=8)
    assert narrow.folded < 0.4 * found.folded and narrow.parameters < 0.4 * found.parameters


def test_norm_statistics_are_those_of_the_values_that_enter(job: Job) -> None:
    x_NCHW, y_N = next(job.batches())
    model = job.subject.model
    found = inspection.norm_statistics(model, x_NCHW, y_N, lambdas=(0.0, 1.0), width=1.0, attack=ATTACKS["pgd-7"])
    assert [(s.lam, s.images) for s in found] == [(0.0, "clean"), (1.0, "clean"), (1.0, "mixed")]
    assert all(len(s.mean_C) == 64 and (s.var_C >= 0).all() for s in found)
    assert not np.allclose(found[1].mean_C, found[2].mean_C, atol=1e-6)  # adversarial images differ
    assert model.final_norm is not None and not model.final_norm._forward_pre_hooks


def test_alignment_is_one_for_the_image_itself_and_ignores_scale_sign_and_brightness() -> None:
    x_NCHW = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    centred = x_NCHW - x_NCHW.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(inspection.alignment(-7.0 * centred, x_NCHW + 0.2), torch.ones(5))
    noise = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    assert inspection.alignment(noise, x_NCHW).max() < 0.5


def test_saliency_is_the_slope_of_the_loss() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double().requires_grad_(False)
    x_NCHW, y_N = torch.rand(2, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 2])
    slope = inspection.saliency(net, x_NCHW, y_N)
    moved = x_NCHW.clone()
    moved[1, 2, 0, 1] += 1e-6
    before, after = (nn.functional.cross_entropy(net(x), y_N, reduction="sum") for x in (x_NCHW, moved))
    assert float((after - before) / 1e-6) == pytest.approx(float(slope[1, 2, 0, 1]), abs=1e-5)


def kinds(found: list[attack_checks.Suspicion]) -> list[str]:
    return [doubt.kind for doubt in found]


def test_a_sound_network_raises_no_doubt(job: Job) -> None:
    x_NCHW, y_N = next(job.batches())
    assert attack_checks.inspect_network(folded(job.subject.model, lam=1.0, width=1.0), x_NCHW, y_N) == []


def test_random_saturated_and_normalized_outputs_raise_doubt() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    x_NCHW, y_N = torch.rand(8, 3, 4, 4), torch.zeros(8, dtype=torch.int64)

    def noisy(images: Tensor) -> Tensor:
        return net(images) + 0.1 * torch.randn(len(images), 4)

    def saturated(images: Tensor) -> Tensor:
        return torch.cat([1e6 + 0 * images.mean(dim=(1, 2, 3))[:, None], net(images)[:, 1:]], dim=1)

    assert kinds(attack_checks.inspect_network(noisy, x_NCHW, y_N)) == ["randomness"]
    assert kinds(attack_checks.inspect_network(saturated, x_NCHW, y_N)) == ["zero gradients"]
    assert "probabilities" in kinds(attack_checks.inspect_network(lambda x: torch.softmax(net(x), 1), x_NCHW, y_N))


def standing(**shares: float) -> dict[str, np.ndarray]:
    return {name.replace("_", "-"): np.arange(100) < 100 * share for name, share in shares.items()}


def test_a_weaker_attack_that_beats_a_stronger_one_raises_doubt() -> None:
    sound = standing(clean=0.8, fgsm=0.4, pgd_7=0.35, pgd_20=0.33, apgd_ce=0.32, apgd_t=0.3)
    assert attack_checks.inspect_outcomes(sound) == []
    inverted = attack_checks.inspect_outcomes(sound | standing(apgd_ce=0.4))
    assert kinds(inverted) == ["weaker beats stronger"]
    assert "apgd-ce left 7.0 points more" in inverted[0].text
    overfitted = attack_checks.inspect_outcomes(standing(clean=0.8, fgsm=0.7, pgd_20=0.05))
    assert kinds(overfitted) == ["one-step gap"]


def test_a_lambda_without_effect_raises_doubt() -> None:
    assert kinds(attack_checks.inspect_lambdas({0.0: (0.8, 0.3), 1.0: (0.801, 0.302)})) == ["λ without effect"]
    assert attack_checks.inspect_lambdas({0.0: (0.8, 0.0), 1.0: (0.7, 0.3)}) == []
    assert attack_checks.inspect_lambdas({0.0: (0.8, 0.0)}) == []


def test_a_checkpoint_is_never_judged_on_the_test_set(job: Job) -> None:
    with pytest.raises(ConfigError, match="judged on validation images"):
        job.subject.images("test")
    with pytest.raises(ConfigError, match="does not say which images were held out"):
        Subject("x", job.subject.model, "cifar10", {}, None).images("validation")


@pytest.mark.slow
def test_the_page_holds_every_figure_and_every_warning(
    job: Job, documents: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    from training.figures import FIGURES
    from training.html import write_page

    results = tmp_path / "results"
    results.mkdir()
    documents["attacks"]["warnings"] = [{"lambda": 0.3, "width": 0.5, "kind": "k", "value": 1.0, "text": "a < doubt"}]
    for name, document in documents.items():
        (results / f"{name}.json").write_text(json.dumps(document))
    page = write_page(job.subject, results, tmp_path / "plots")
    names = sorted(name for of_suite in FIGURES.values() for name in of_suite)
    assert sorted(path.stem for path in (tmp_path / "plots").glob("*.png")) == names
    text = page.read_text()
    assert text.count("data:image/png;base64,") == len(names)
    assert "a &lt; doubt" in text and "://" not in text
    other = Subject("another", job.subject.model, "patches", {}, None)
    with pytest.raises(DataError, match="is of another network"):
        write_page(other, results, tmp_path / "plots")
    with pytest.raises(DataError, match="no results under"):
        write_page(job.subject, tmp_path / "empty", tmp_path / "plots")


def test_the_command_runs_a_suite_on_a_bundle_and_writes_its_document(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patches: Callable[..., ImageSet],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(Subject, "images", lambda *_, **__: patches(4))
    command = [str(tiny_bundle), "--suite", "calibration", "--count", "3", "--lambda", "0.3", "--out", str(tmp_path)]
    assert main(command) == 0
    document = json.loads((tmp_path / "calibration.json").read_text())
    assert (document["split"], document["num_images"]) == ("test", 3)
    assert document["weights_sha256"] == load_subject(tiny_bundle).identity
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["name"] == "oat-evaluate"
    assert main([str(tiny_bundle), "--suite", "nonsense"]) == 2
    assert "unknown suite nonsense: expected attacks" in capsys.readouterr().err


def test_a_suite_goes_on_where_it_was_stopped_and_says_what_all_of_it_takes(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patches: Callable[..., ImageSet]
) -> None:
    counted: list[tuple[object, ...]] = []
    stop_at, original = [4], evaluate_module.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> object:
        if len(counted) == stop_at[0]:
            raise KeyboardInterrupt
        time.sleep(0.4)
        counted.append((*args, kwargs["attack"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(evaluate_module, "evaluate", evaluate)
    monkeypatch.setattr(kept, "commit_of_code", lambda: 40 * "a")
    monkeypatch.setattr(Subject, "images", lambda *_, **__: patches(4))

    def attacks(folder: str, *arguments: str) -> dict[str, Any]:
        out = ["--out", str(tmp_path / folder), "--width", "1", "--attacks", "fgsm", "--suite", "attacks"]
        out += ["--lambda", "0", "0.3", "1"]
        assert main([str(tiny_bundle), *out, *arguments]) == 0
        return json.loads((tmp_path / folder / "attacks.json").read_text())

    with pytest.raises(KeyboardInterrupt):
        attacks("here")
    stop_at[0] = 99
    resumed = attacks("here")
    assert len(counted) == 6  # three λ, clean and attacked, none twice
    assert resumed["minutes"] >= 6 * 0.4 / 60 - 0.005  # minutes are rounded
    unbroken = attacks("there")
    assert resumed["rows"] == unbroken["rows"] and len(counted) == 12
    attacks("here", "--count", "3")
    assert len(counted) == 18  # other images
    monkeypatch.setattr(kept, "commit_of_code", lambda: 40 * "b")
    attacks("here")
    assert len(counted) == 24  # other code


def test_published_counts_are_those_of_the_documents(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patches: Callable[..., ImageSet]
) -> None:
    monkeypatch.setattr(Subject, "images", lambda *_, **__: patches(4))
    bundle, out, page = tmp_path / "tiny", tmp_path / "out", tmp_path / "page.md"
    shutil.copytree(tiny_bundle, bundle)
    command = [str(bundle), "--count", "3", "--out", str(out)]
    narrow = ["--attack", "fgsm", "--attacks", "fgsm", "--width", "1"]
    assert main([*command, *narrow, "--suite", "attacks", "transfer", "corruptions", "calibration", "inside"]) == 0
    apart = ["--attacks", "mi-fgsm", "--lambda", "0.3", "--width", "1", "--suite", "attacks"]
    assert main([*command[:-1], str(out / "momentum"), *apart]) == 0
    assert main([*command, "--publish", str(page), "--plots", str(tmp_path / "plots")]) == 0
    kept = json.loads((Bundle.load(bundle).path / "evaluation.json").read_text())
    assert "evaluation.json" in Bundle.load(bundle).manifest.files
    for name in ("attacks", "transfer", "corruptions", "calibration"):
        document = json.loads((out / f"{name}.json").read_text())
        for row, counts in zip(document["rows"], kept[name]["rows"], strict=True):
            assert counts == {key: row[key] for key in counts} and counts["num_total"] == 3
    assert {row["condition"] for row in kept["momentum/attacks"]["rows"]} == {"clean", "mi-fgsm", "worst-case"}
    text = page.read_text()
    assert text.index("\n## Attacks\n") < text.index("\n## Attacks, momentum\n") < text.index("\n## Transfer\n")
    assert len(list((tmp_path / "plots").glob("momentum-*.png"))) > 0
    assert "oat-evaluate" in text and str(out) in text  # the command that makes the figures again
    (row,) = [r for r in kept["attacks"]["rows"] if (r["lambda"], r["condition"]) == (0.3, "clean")]
    assert f"| {100 * row['num_correct'] / 3:.1f}±" in text
    (cost,) = [row for row in kept["inside"]["rows"] if row["part"] == "cost"]
    assert f"{cost['parameters']:,} |" in text and re.search(r"\| +λ=0.3 \| +3 \|", text)
    assert main([*command, "--publish", str(page)]) == 0  # what was put into the bundle changed no network
    subject = load_subject(bundle)
    with pytest.raises(ConfigError, match="export it"):
        publish(Subject("run", subject.model, "cifar10", {}, None), out, page)


def test_every_suite_has_a_text_and_a_table(documents: dict[str, dict[str, object]]) -> None:
    assert list(results.ABOUT) == list(results._TABLES) == list(run_suites.SUITES)
    num_rows = {name: [table.row_count for table in results.tables(found)] for name, found in documents.items()}
    assert num_rows == {
        "attacks": [6], "unseen": [18], "transfer": [3], "joint": [7], "corruptions": [16], "calibration": [6],
        "inside": [2, 3],
    }  # fmt: skip
    texts = {name: results.setting(found) for name, found in documents.items()}
    assert "6 validation images" in texts["calibration"] and "ε" not in texts["calibration"]
    assert "fgsm (ε = 8/255, 1 step of 8/255, seed 0); " in texts["attacks"]
    assert "apgd-ce (ε = 8/255, 2 steps it sizes itself, seed 0)" in texts["attacks"]


def single(lam: float, width: float, job: Job, **recipe: int) -> Subject:
    """A network trained for one point."""
    torch.manual_seed(1)
    net = OATNet(CONFIG.model_copy(update={"lambdas": (lam,), "widths": (width,)}))
    return Subject(f"at-{lam:g}-{width:g}", net.eval().requires_grad_(False), job.subject.dataset, recipe, None)


def test_dedicated_networks_are_counted_on_the_same_images_at_their_own_point(job: Job) -> None:
    other = single(1.0, 0.5, job)
    x_NCHW, _ = next(job.batches())
    theirs_N = folded(other.model, lam=1.0, width=0.5)(x_NCHW).argmax(dim=1).numpy()
    ours_N = job.plain(1.0, 0.5)(x_NCHW).argmax(dim=1).numpy()
    data = replace(job.data, labels_N=theirs_N)  # they are always right
    found = run_suites.SUITES["dedicated"](replace(job, data=data, beside=(other,)))
    counts = {row["condition"]: row["num_correct"] for row in found.rows}
    assert (counts["clean"], counts["clean, dedicated"]) == (int((ours_N == theirs_N).sum()), NUM)
    assert {(row["lambda"], row["width"]) for row in found.rows} == {(1.0, 0.5)}
    checks = {check["name"]: check for check in found.checks}
    mean, worst = (checks[f"clean: below the dedicated networks, {of}"] for of in ("mean over points", "worst point"))
    assert counts["clean"] < NUM  # else nothing is lost here
    assert mean["value"] == worst["value"] == pytest.approx(1 - counts["clean"] / NUM)
    assert (mean["ok"], mean["limit"], worst["limit"]) == (False, 0.005, 0.015)


def test_a_network_that_does_not_compare_is_refused(job: Job) -> None:
    dedicated = run_suites.SUITES["dedicated"]
    with pytest.raises(ConfigError, match="name them with --beside"):
        dedicated(job)
    for other, reason in (
        (job.subject, "expected one of each"),
        (single(0.9, 1.0, job), "λ=0.9 and width 1, which tiny was not trained for"),
        (single(1.0, 1.0, job, seed=1, num_validation=6), "trained on other images than tiny"),
    ):
        with pytest.raises(ConfigError, match=reason):
            dedicated(replace(job, beside=(other,)))


def test_a_check_that_measured_nothing_is_said_to_have() -> None:
    check = {"name": "n", "value": None, "limit": 1e-3, "unit": "u", "ok": False}
    assert verdict(check) == "Check “n”: – (u), limit 0.001: does not hold."
    assert verdict(check | {"value": 0.25, "ok": True}) == "Check “n”: 0.25 (u), limit 0.001: holds."
