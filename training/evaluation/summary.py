"""Say in a few sentences what an evaluation found: what a person learns in ten seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from oat_runtime.operating_point import Proportion
from oat_runtime.report import Row
from oat_runtime.style import lam_text
from oat_runtime.text import plain
from training.evaluation.documents import Document, shown

_FEW = 100
"""Images below which figures are good to about ten points at best."""


def summary(documents: Mapping[str, Document]) -> list[str]:
    """Return sentences about accuracy at the ends of λ, the hardest class and corruption, the images, and warnings.

    All figures are those of the widest width. A sentence is left out if its suite was not run.

    Raises:
        DataError: the rows of a document are not those of its suite.
    """
    said: list[str] = []
    for name, say in (("attacks", _accuracy), ("classes", _hardest_classes), ("corruptions", _hardest_corruption)):
        if name in documents:
            with shown(name):
                said += say(_widest(documents[name].rows))
    return [*said, _images(documents), _verdict(documents)]


def _accuracy(rows: list[Row]) -> Iterator[str]:
    conditions = dict.fromkeys(row["condition"] for row in rows)
    attacks = [name for name in conditions if name not in ("clean", "worst-case")]
    worst, how = "worst-case", f"under the worst of {len(attacks)} attacks"
    if attacks and (len(attacks) == 1 or worst not in conditions):
        worst, how = attacks[-1], f"under {plain(attacks[-1]).upper()}"
    for lam in _ends(rows):
        at = {row["condition"]: _count(row) for row in rows if row["lambda"] == lam}
        attacked = f", and {_percent(at[worst])} {how}" if attacks else ""
        yield f"At {lam_text(lam)}, {_percent(at['clean'])} of clean images are correct{attacked}."


def _hardest_classes(rows: list[Row]) -> Iterator[str]:
    ends = _ends(rows)
    attack = next((row["condition"] for row in rows if row["condition"] != "clean"), None)
    for lam, condition, how in (
        (ends[0], "clean", "clean"),
        (ends[-1], attack, f"under {plain(attack or '').upper()}"),
    ):
        found = [row for row in rows if (row["lambda"], row["condition"]) == (lam, condition)]
        if len(found) > 1:
            row = min(found, key=lambda row: float(row["accuracy"]))
            if row["accuracy"] == 1.0:
                continue
            low, high = _count(row).interval()
            yield (
                f"The hardest class {how} at {lam_text(lam)} is {plain(row['class'])}: {row['num_correct']} of its "
                f"{row['num_total']} images are correct (95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
            )


def _hardest_corruption(rows: list[Row]) -> Iterator[str]:
    ends = _ends(rows)
    kinds = dict.fromkeys(row["kind"] for row in rows)
    rates = {
        kind: [_mean([r for r in rows if (r["kind"], r["lambda"]) == (kind, lam)]) for lam in ends] for kind in kinds
    }
    hardest = min(kinds, key=lambda kind: max(rates[kind]))
    each = " and ".join(
        f"{100 * rate:.0f} % at {lam_text(lam)}" for rate, lam in zip(rates[hardest], ends, strict=True)
    )
    yield f"The hardest corruption is {plain(hardest).replace('_', ' ')}: {each}, over all severities."


def _images(documents: Mapping[str, Document]) -> str:
    nums_of: dict[str, list[int]] = {}
    for document in documents.values():
        nums_of.setdefault(document.split, []).append(document.num_images)
    counted = (f"{_from_to(f'{num:,}' for num in sorted(nums))} {split} images" for split, nums in nums_of.items())
    nums = sorted(num for nums in nums_of.values() for num in nums)
    good_to = _from_to(f"{98.0 / math.sqrt(num):.0f}" for num in reversed(nums))
    few = ". That is few: count more before you trust a figure" if nums[0] < _FEW else ""
    return (
        f"Counted on {' and '.join(counted)}: an accuracy is good to about {good_to} points{few}. "
        "± names the distance to the farther end of a 95 % interval."
    )


def _from_to(texts: Iterable[str]) -> str:
    found = list(texts)
    return " to ".join(dict.fromkeys((found[0], found[-1])))


def _verdict(documents: Mapping[str, Document]) -> str:
    warnings = sum(len(document.warnings) for document in documents.values())
    failed = sum(not check.ok for document in documents.values() for check in document.checks)
    if not warnings and not failed:
        held = ", and every check holds" if any(document.checks for document in documents.values()) else ""
        return f"Nothing looks suspect: there is no warning{held}."
    told = [
        what if num == 1 else f"{num} {what}s" for num, what in ((warnings, "warning"), (failed, "failed check")) if num
    ]
    return f"Read the {' and the '.join(told)} before you trust these figures."


def _widest(rows: list[Row]) -> list[Row]:
    widest = max(row["width"] for row in rows)
    return [row for row in rows if row["width"] == widest]


def _ends(rows: list[Row]) -> list[float]:
    lambdas = sorted({float(row["lambda"]) for row in rows})
    return list(dict.fromkeys((lambdas[0], lambdas[-1])))


def _count(row: Row) -> Proportion:
    return Proportion(row["num_correct"], row["num_total"])


def _mean(rows: list[Row]) -> float:
    return float(sum(row["num_correct"] for row in rows) / sum(row["num_total"] for row in rows))


def _percent(count: Proportion) -> str:
    return f"{100 * count.rate:.0f} %"
