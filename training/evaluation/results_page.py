"""Write the results of suites: their counts into the bundle, and all as a page of Markdown tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from pydantic import RootModel

from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import EVALUATION, attach_file, check_changeable
from oat_runtime.data import short_name
from oat_runtime.errors import ConfigError, DataError, quoted
from oat_runtime.files import read_model, write_whole
from oat_runtime.operating_point import OperatingPoint, OperatingTable, Proportion
from oat_runtime.report import Row
from oat_runtime.text import count_of, markdown_block, markdown_code, markdown_text
from training.evaluation.documents import (
    Document,
    attack_text,
    check_text,
    heading,
    in_order,
    read_documents,
    shown,
    warning_text,
)
from training.evaluation.judged import Judged
from training.evaluation.suites import SUITES
from training.evaluation.text_table import markdown, new_table, share
from training.origin import short

_LOG = logging.getLogger(__name__)
_DERIVED = ("accuracy", "low_95", "high_95")


def write_results(judged: Judged, folder: Path, page: Path) -> Bundle:
    """Write the counts of all documents into the bundle and its manifest, and write all results as a page.

    Counts that the bundle holds already stay in both, unless `folder` has a document of the same place. So the
    documents of a published suite need not be kept.

    Args:
        judged: a bundle.
        folder: where its documents are.
        page: a Markdown file to write.

    Raises:
        ConfigError: a checkpoint, which cannot hold them.
        DataError: no documents, a document of another network, or counts in the bundle that cannot be read.
    """
    bundle = _bundle_of(judged)
    documents = in_order(_published(judged) | read_documents(judged, folder))
    counts = {
        place: document.model_copy(update={"rows": _counts(document.rows)}).model_dump()
        for place, document in documents.items()
    }
    parts = [
        *_head(bundle),
        _origin(documents),
        *_operating_points(bundle.report),
        *_sections(documents),
        f"## Recipe\n\n```json\n{json.dumps(bundle.manifest.provenance.recipe, indent=1)}\n```",
    ]
    write_whole(page, "\n\n".join(parts) + "\n")
    return attach_file(bundle, EVALUATION, json.dumps(counts, ensure_ascii=False).encode())


def check_publishable(judged: Judged) -> None:
    """Refuse what cannot take counts, before the work whose counts go into it.

    Raises:
        BundleError: it cannot be changed.
        ConfigError: a checkpoint, which cannot hold them.
        DataError: the counts that it holds cannot be read.
    """
    check_changeable(_bundle_of(judged))
    _published(judged)


def _bundle_of(judged: Judged) -> Bundle:
    if judged.bundle is None:
        raise ConfigError(f"{judged.name} is a checkpoint: export it, then write the bundle's results")
    return judged.bundle


class _Published(RootModel[dict[str, Document]]):
    """The documents that a bundle holds, by their places."""


def _published(judged: Judged) -> dict[str, Document]:
    """Return the documents that the bundle holds, without curves and pictures, and less those of other ranges."""
    bundle = _bundle_of(judged)
    if EVALUATION not in bundle.manifest.files:
        return {}
    path = bundle.path / EVALUATION
    found = read_model(_Published, path, what="counts of suites", remedy="export the bundle again", error=DataError)
    documents = {}
    for place, document in found.root.items():
        if place.split("/")[-1] != document.name or document.name not in SUITES:
            raise DataError(f"{path}: {quoted(place)} is not a suite of this version: export the bundle again")
        if document.ranges_sha256 not in ("", judged.ranges_sha256):
            _LOG.warning(
                "left out: %s in %s, which was counted in int8 with other activation ranges: run its suite again",
                quoted(place), path,
            )  # fmt: skip
            continue
        with shown(place):
            rows = [_with_shares(row) for row in document.rows]
        documents[place] = document.model_copy(update={"rows": rows})
    return documents


def _with_shares(row: Row) -> Row:
    if "num_correct" not in row:
        return row
    count = Proportion(row["num_correct"], row["num_total"])
    return row | dict(zip(_DERIVED, (count.rate, *count.interval()), strict=True))


def _counts(rows: Iterable[Row]) -> list[Row]:
    """Return rows without curves, pictures and figures that follow from the counts."""
    slim = ({k: v for k, v in row.items() if k not in _DERIVED and not isinstance(v, list)} for row in rows)
    return [row for row in slim if row.get("part") not in ("norm", "images")]


def _head(bundle: Bundle) -> list[str]:
    manifest, origin = bundle.manifest, bundle.manifest.provenance
    weights = manifest.files["weights.safetensors"]
    start = f", from {markdown_text(str(origin.recipe['start']))}" if origin.recipe.get("start") else ""
    further = "further " if start else ""
    return [
        f"# Figures of {markdown_code(manifest.name)}",
        f"{manifest.model.name}, trained on {markdown_text(short_name(origin.dataset))} with seed {origin.seed}, "
        f"by the recipe at the end{start}, in {origin.train_minutes:g} {further}minutes on "
        f"{markdown_text(origin.hardware)}; code at {markdown_code(short(origin.commit))}. "
        f"Weights: {weights.num_bytes / 1e6:.1f} MB, SHA-256 `{weights.sha256[:12]}…`.",
        "Accuracy under an attack is an upper bound of robustness, not a proof. Intervals are 95 % Wilson intervals; "
        "± names the distance to the farther end. "
        "Nothing was chosen by test images.",
    ]


def _origin(documents: dict[str, Document]) -> str:
    """Say which code counted the parts, and where."""
    places = [
        markdown_text(f"{on.get('processor')}, {count_of(on['threads'], 'thread')}, code at ")
        + markdown_code(short(commit))
        for on, commit in ((document.machine, document.commit) for document in documents.values())
    ]
    return f"Parts below were counted on {'; '.join(dict.fromkeys(places))}."


def _operating_points(report: OperatingTable) -> list[str]:
    """Return SA and RA of every trained point, as the bundle reports them."""
    conditions = ("clean", report.attack.name)
    columns = [f"{what}, width {width:g}" for width in reversed(report.widths) for what in ("SA", "RA")]
    table = new_table("λ", *columns)
    for lam in report.lambdas:
        rows = [report.row(OperatingPoint(lam, width)) for width in reversed(report.widths)]
        table.add_row(f"{lam:g}", *(share(row.condition(name)) for row in rows for name in conditions))
    clean, attacked = (report.rows[0].condition(name).num_total for name in conditions)
    attack = markdown_text(attack_text(report.attack))
    text = f"SA on {clean:,} test images, RA on the first {attacked:,} under {attack}; in %."
    return ["## Operating points", text, markdown(table)]


def _sections(documents: dict[str, Document]) -> Iterable[str]:
    for place, document in documents.items():
        with shown(place):
            yield from list(_section(place, document))


def _section(place: str, document: Document) -> Iterable[str]:
    yield f"## {markdown_text(heading(place))}"
    yield f"{document.suite.about} {markdown_text(document.setting())}"
    yield markdown_block(document.command)
    yield from (markdown(table(document.rows)) for table in document.suite.tables)
    remarks = [*map(check_text, document.checks), *map(warning_text, document.warnings)]
    if remarks:
        yield "\n".join(f"- {markdown_text(remark)}" for remark in remarks)
