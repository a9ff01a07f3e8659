"""Laws of the suites: rows are honest counts, and every suite has its words, its table and its file."""

import importlib
import pkgutil
from dataclasses import replace

import pytest
import torch

from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import OperatingPoint
from training.evaluation import suites
from training.evaluation.documents import Document
from training.evaluation.judged import Judged
from training.evaluation.suite import Job
from training.evaluation.suites import SUITES
from training.network import OATNet, folded

Documents = dict[str, Document]


def test_every_count_is_whole_and_its_share_lies_in_its_interval(job: Job, documents: Documents) -> None:
    for name in ("attacks", "unseen", "transfer", "joint", "corruptions"):
        for row in documents[name].rows:
            assert row["num_total"] == len(job.data) and row["accuracy"] == row["num_correct"] / len(job.data)
            assert 0.0 <= row["low_95"] <= row["accuracy"] <= row["high_95"] <= 1.0


def test_clean_counts_are_those_of_the_network_itself(job: Job, documents: Documents) -> None:
    x_NCHW, y_N = next(job.batches())
    for suite in ("attacks", "unseen"):
        for row in documents[suite].rows:
            if row["condition"] == "clean":
                plain = folded(job.judged.model, lam=row["lambda"], width=row["width"])
                assert row["num_correct"] == int((plain(x_NCHW).argmax(dim=1) == y_N).sum())


def test_the_worst_case_is_no_better_than_any_attack(documents: Documents) -> None:
    by_point: dict[tuple[object, object], dict[str, int]] = {}
    for row in documents["attacks"].rows:
        by_point.setdefault((row["lambda"], row["width"]), {})[str(row["condition"])] = row["num_correct"]
    assert len(by_point) == 6
    for counts in by_point.values():
        assert set(counts) == {"clean", "fgsm", "mi-fgsm", "pgd-7", "pgd-20", "apgd-ce", "apgd-t", "worst-case"}
        assert counts["worst-case"] == min(counts.values())


def test_unseen_lambdas_are_networks_of_their_own(documents: Documents) -> None:
    lambdas = {row["lambda"] for row in documents["unseen"].rows if not row["trained"]}
    assert lambdas == {0.15, 0.25, 0.35, 0.5, 0.7, 0.9}
    checks = {check.name: check for check in documents["unseen"].checks}
    differs = checks["logits differ from both neighbours'"]
    assert differs.ok and differs.value is not None and differs.value > 1e-3
    assert checks["outside its neighbours' range"].unit == "share of images"


def test_the_transfer_matrix_is_complete(job: Job, documents: Documents) -> None:
    pairs = [(row["made_at"], row["lambda"]) for row in documents["transfer"].rows]
    assert sorted(pairs) == [(a, b) for a in job.lambdas for b in job.lambdas]
    assert {row["width"] for row in documents["transfer"].rows} == {1.0}


def test_a_joint_attack_reports_every_point_and_the_images_that_any_point_gets_right(
    documents: Documents,
) -> None:
    for name in ("joint", "expectation"):
        of_points = [row for row in documents["joint"].rows if row["condition"] == f"{name} pgd-7"]
        (any_right,) = (r for r in documents["joint"].rows if r["condition"] == f"{name} pgd-7, any point right")
        assert len(of_points) == 6
        assert any_right["num_correct"] >= max(row["num_correct"] for row in of_points)


def test_all_corruptions_are_there_for_every_lambda(documents: Documents) -> None:
    keys = {(row["kind"], row["severity"], row["lambda"]) for row in documents["corruptions"].rows}
    assert len(keys) == len(documents["corruptions"].rows) == 15 * 5 * 3


def test_classes_add_up_to_the_outcomes_of_the_whole_set(job: Job, documents: Documents) -> None:
    rows = documents["classes"].rows
    for lam in (job.lambdas[0], job.lambdas[-1]):
        for condition, attack in (("clean", None), (job.attack.name, job.attack)):
            mine = [row for row in rows if (row["lambda"], row["condition"]) == (lam, condition)]
            correct_N = job.outcomes(OperatingPoint(lam, 1.0), attack=attack)
            assert sum(row["num_correct"] for row in mine) == int(correct_N.sum())
            assert sum(row["num_total"] for row in mine) == len(job.data)
            assert all(sum(row["taken_for"].values()) == row["num_total"] for row in mine)
            for row in mine:
                label = job.data.class_names.index(row["class"])
                assert (
                    row["taken_for"].get(row["class"], 0)
                    == row["num_correct"]
                    == int(correct_N[job.data.labels_N == label].sum())
                )


def test_every_file_of_a_suite_is_in_the_list() -> None:
    files = {module.name for module in pkgutil.iter_modules(suites.__path__)}
    assert files == set(SUITES)
    assert all(importlib.import_module(f"{suites.__name__}.{name}").SUITE is SUITES[name] for name in files)


def test_every_suite_has_a_text_and_a_table(documents: Documents) -> None:
    assert all(suite.title and suite.about and suite.tables for suite in SUITES.values())
    num_rows = {
        name: [table(found.rows).row_count for table in found.suite.tables] for name, found in documents.items()
    }
    by_class, _ = num_rows.pop("classes")
    assert by_class == len({row["class"] for row in documents["classes"].rows})
    assert num_rows == {
        "attacks": [6], "unseen": [18], "transfer": [3], "joint": [7], "corruptions": [16], "calibration": [6],
        "inside": [2, 3],
    }  # fmt: skip
    texts = {name: found.setting() for name, found in documents.items()}
    assert "6 validation images" in texts["calibration"] and "ε" not in texts["calibration"]
    assert "fgsm (ε = 8/255, 1 step of 8/255, seed 0); " in texts["attacks"]
    assert "apgd-ce (ε = 8/255, 2 steps it sizes itself, seed 0)" in texts["attacks"]


def single(lam: float, width: float, job: Job, **recipe: int) -> Judged:
    """A network trained for one point."""
    torch.manual_seed(1)
    net = OATNet(job.judged.model.config.model_copy(update={"lambdas": (lam,), "widths": (width,)}))
    return Judged(f"at-{lam:g}-{width:g}", net.eval().requires_grad_(False), job.judged.dataset, recipe, None)


def test_dedicated_networks_are_counted_on_the_same_images_at_their_own_point(job: Job) -> None:
    other = single(1.0, 0.5, job)
    x_NCHW, _ = next(job.batches())
    theirs_N = folded(other.model, lam=1.0, width=0.5)(x_NCHW).argmax(dim=1).numpy()
    ours_N = job.plain(OperatingPoint(1.0, 0.5))(x_NCHW).argmax(dim=1).numpy()
    data = replace(job.data, labels_N=theirs_N)  # they are always right
    found = SUITES["dedicated"].run(replace(job, data=data, beside=(other,)))
    counts = {row["condition"]: row["num_correct"] for row in found.rows}
    assert (counts["clean"], counts["clean, dedicated"]) == (int((ours_N == theirs_N).sum()), len(job.data))
    assert {(row["lambda"], row["width"]) for row in found.rows} == {(1.0, 0.5)}
    checks = {check.name: check for check in found.checks}
    mean, worst = (checks[f"clean: below the dedicated networks, {of}"] for of in ("mean over points", "worst point"))
    assert counts["clean"] < len(job.data)  # else nothing is lost here
    assert mean.value == worst.value == pytest.approx(1 - counts["clean"] / len(job.data))
    assert (mean.ok, mean.limit, worst.limit) == (False, 0.005, 0.015)


def test_a_network_that_does_not_compare_is_refused(job: Job) -> None:
    dedicated = SUITES["dedicated"].run
    with pytest.raises(ConfigError, match="name them with --beside"):
        dedicated(job)
    for other, reason in (
        (job.judged, "expected one of each"),
        (single(0.9, 1.0, job), "λ=0.9 and width 1, which tiny was not trained for"),
        (single(1.0, 1.0, job, seed=1, num_validation=6), "trained on other images than tiny"),
    ):
        with pytest.raises(ConfigError, match=reason):
            dedicated(replace(job, beside=(other,)))
