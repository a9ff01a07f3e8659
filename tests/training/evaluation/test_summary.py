"""Laws of an evaluation's first sentences: true figures at the ends of λ, the worst of each kind, how far to trust."""

from typing import Any

import pytest

from oat_runtime.errors import DataError
from oat_runtime.report import Check
from training.evaluation.documents import Document
from training.evaluation.suite import Job
from training.evaluation.summary import summary

Documents = dict[str, Document]
CHECK = Check.at_least("agreement", [1.0], 0.99)
INTERVAL = "± names the distance to the farther end of a 95 % interval."


def row(lam: float, condition: str, num_correct: int, num_total: int = 200, **more: Any) -> dict[str, Any]:
    return {
        "lambda": lam,
        "width": 1.0,
        "condition": condition,
        "num_correct": num_correct,
        "num_total": num_total,
        "accuracy": num_correct / num_total,
    } | more


ROWS = {
    "attacks": [
        *(row(0.0, name, num) for name, num in (("clean", 190), ("fgsm", 30), ("pgd-20", 4), ("worst-case", 3))),
        *(row(0.3, name, 1) for name in ("clean", "fgsm", "pgd-20", "worst-case")),
        *(row(1.0, name, num) for name, num in (("clean", 160), ("fgsm", 99), ("pgd-20", 91), ("worst-case", 90))),
        *(row(1.0, name, 0) | {"width": 0.5} for name in ("clean", "fgsm", "pgd-20", "worst-case")),
    ],
    "classes": [
        row(0.0, "clean", 19, 20, **{"class": "stop"}),
        row(0.0, "clean", 12, 30, **{"class": "a\nyield"}),
        row(1.0, "pgd-20", 2, 20, **{"class": "stop"}),
        row(1.0, "pgd-20", 9, 30, **{"class": "a\nyield"}),
    ],
    "corruptions": [
        row(lam, f"{kind}-{severity}", num, kind=kind, severity=severity)
        for severity in (1, 2)
        for lam, kind, num in (
            (0.0, "fog", 20), (1.0, "fog", 100), (0.0, "gaussian_noise", 40), (1.0, "gaussian_noise", 60),
        )
    ],
}  # fmt: skip


@pytest.fixture
def judged(documents: Documents) -> Documents:
    update = {"num_images": 200, "split": "test", "checks": (), "warnings": ()}
    return {name: documents[name].model_copy(update=update | {"rows": rows}) for name, rows in ROWS.items()}


def test_ten_seconds_tell_the_ends_of_lambda_and_the_worst_of_each_kind(judged: Documents) -> None:
    assert summary(judged) == [
        "At λ=0, 95 % of clean images are correct, and 2 % under the worst of 2 attacks.",
        "At λ=1, 80 % of clean images are correct, and 45 % under the worst of 2 attacks.",
        r"The hardest class clean at λ=0 is a\nyield: 12 of its 30 images are correct (95 % interval 25 to 58 %).",
        "The hardest class under PGD-20 at λ=1 is stop: 2 of its 20 images are correct (95 % interval 3 to 30 %).",
        # at its better end, noise is worse than fog
        "The hardest corruption is gaussian noise: 20 % at λ=0 and 30 % at λ=1, over all severities.",
        f"Counted on 200 test images: an accuracy is good to about 7 points. {INTERVAL}",
        "Nothing looks suspect: there is no warning.",
    ]
    checked = judged["attacks"].model_copy(update={"checks": (CHECK,)})
    assert summary({"attacks": checked})[-1] == "Nothing looks suspect: there is no warning, and every check holds."


def test_no_class_is_the_hardest_where_all_are_correct(judged: Documents) -> None:
    rows = [row(0.0, "clean", 2, 2, **{"class": name}) for name in ("stop", "yield")]
    assert not any(
        "hardest" in said for said in summary({"classes": judged["classes"].model_copy(update={"rows": rows})})
    )


def test_few_images_and_doubts_are_said(judged: Documents, job: Job, documents: Documents) -> None:
    doubted = judged["attacks"].model_copy(update={"num_images": 20, "warnings": ({"text": "a"}, {"text": "b"})})
    *_, images, verdict = summary({"attacks": doubted})
    assert images == (
        "Counted on 20 test images: an accuracy is good to about 22 points. "
        f"That is few: count more before you trust a figure. {INTERVAL}"
    )
    both = summary(judged | {"attacks": judged["attacks"].model_copy(update={"num_images": 2000})})
    assert f"Counted on 200 to 2,000 test images: an accuracy is good to about 2 to 7 points. {INTERVAL}" in both
    held_out = {"num_images": 500, "split": "validation"}  # regression: they were called test images
    mixed = summary(judged | {"unseen": documents["unseen"].model_copy(update=held_out)})
    assert mixed[-2].startswith(
        "Counted on 200 test images and 500 validation images: an accuracy is good to about 4 to 7"
    )
    assert verdict == "Read the 2 warnings before you trust these figures."
    assert f"Counted on {len(job.data)} validation images" in summary(documents)[-2]


def test_rows_of_another_suite_are_refused(judged: Documents) -> None:
    with pytest.raises(DataError, match=r"corruptions\.json"):
        summary({"corruptions": judged["attacks"].model_copy(update={"name": "corruptions"})})
