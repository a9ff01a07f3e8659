"""What the suites found: JSON documents, kept in a bundle as counts and written as a page of Markdown tables."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from oat_runtime.bundle import Bundle
from oat_runtime.bundle_writer import attach_file
from oat_runtime.errors import ConfigError, DataError
from oat_runtime.operating_point import OperatingPoint, OperatingTable, Proportion
from training.origin import short
from training.subject import Subject

Document = dict[str, Any]
Row = dict[str, Any]

ABOUT = {
    "attacks": "Clean and robust accuracy of every operating point. An image counts as broken if any iterate of the "
    "attack is misclassified; “worst-case” counts it as right only if no attack broke it.",
    "unseen": "λ that no training saw, made by interpolating γ and β between the trained neighbours.",
    "transfer": "Attacks made against one λ and shown to another: changing λ is not a defence where rows and columns "
    "look alike.",
    "joint": "One perturbation for all operating points at once, by an attacker who does not know which one is active.",
    "corruptions": "Fifteen kinds of corruption after CIFAR-10-C, five severities each.",
    "calibration": "How far confidence is from accuracy. Temperatures were fitted on validation images.",
    "inside": "Batch-norm statistics by λ, gradients of the loss with respect to the pixels, and cost. Multiply-adds "
    "are those of convolutions and classifier, plus what scales and shifts by channel and cannot be folded.",
    "crosscheck": "Our Auto-PGD beside that of the Adversarial Robustness Toolbox, a third party's.",
    "dedicated": "One network for every λ and width beside networks trained for one λ and one width each.",
}
"""What each suite looks at, in the order in which people read them."""
_ATTACHED = "evaluation.json"
_DERIVED = ("accuracy", "low_95", "high_95")


def read_documents(subject: Subject, folder: Path) -> dict[str, Document]:
    """The documents of a network's suites in `folder` and in folders within, in the order of `ABOUT`.

    Returns:
        Documents by where they are below `folder`: `attacks`, `targeted/attacks`.

    Raises:
        DataError: no documents, or a document of another network.
    """
    found = [path.relative_to(folder) for path in folder.rglob("*.json") if path.stem in ABOUT]
    found.sort(key=lambda path: (list(ABOUT).index(path.stem), len(path.parts), path))
    paths = {path.with_suffix("").as_posix(): folder / path for path in found}
    documents = {name: json.loads(path.read_text()) for name, path in paths.items()}
    if not documents:
        raise DataError(f"no results under {folder}: run oat-evaluate with --suite first")
    for name, document in documents.items():
        if (document["subject"], document.get("weights_sha256")) != (subject.name, subject.identity):
            raise DataError(f"{paths[name]} is of another network: run its suite again, or name another --out")
    return documents


def heading(name: str) -> str:
    """The title of a document: its suite, and the folders that it lies in."""
    *folders, suite = name.split("/")
    return ", ".join([suite.capitalize(), *folders])


def attack_text(attack: Row) -> str:
    """Name, ε, number and size of steps and seed of an `AttackSpec` dumped to a dict."""
    scale, unit = (1, " (L2)") if attack["name"].endswith("-l2") else (255, "/255")
    size = f" of {scale * attack['step_size']:.3g}{unit}" if attack["step_size"] else " it sizes itself"
    steps = f"{attack['num_steps']} step{'s' if attack['num_steps'] > 1 else ''}{size}"
    return f"{attack['name']} (ε = {scale * attack['epsilon']:.3g}{unit}, {steps}, seed {attack['seed']})"


def setting(document: Document) -> str:
    """One sentence: how many images, how long, which attacks."""
    images = f"{document['num_images']:,} {document['split']} images, {document['minutes']:g} minutes"
    return f"{'; '.join([images, *map(attack_text, document['attacks'])])}."


def verdict(check: Row) -> str:
    """One sentence on a check: what it measured (nothing: –) and whether its limit holds."""
    value = "–" if check["value"] is None else f"{check['value']:.4g}"
    mark = "holds" if check["ok"] else "does not hold"
    return f"Check “{check['name']}”: {value} ({check['unit']}), limit {check['limit']:g}: {mark}."


def doubt(warning: Row) -> str:
    """A warning and the point, or the width, that it is about."""
    at = ", ".join(f"{key} {warning[key]:g}" for key in ("lambda", "width") if key in warning)
    return f"Warning at {at}: {warning['text']}"


def publish(subject: Subject, folder: Path, page: Path) -> Bundle:
    """Keep the counts of all documents in the bundle, listed in its manifest, and write them as a page.

    Args:
        subject: a bundle.
        folder: where its documents are.
        page: a Markdown file to write.

    Raises:
        ConfigError: a checkpoint, which has nothing to keep them in.
        DataError: no documents, or a document of another network.
    """
    if subject.bundle is None:
        raise ConfigError(f"{subject.name} is a checkpoint: export it, and publish the bundle's results")
    documents = read_documents(subject, folder)
    counts = {name: document | {"rows": _counts(document["rows"])} for name, document in documents.items()}
    parts = [
        *_head(subject.bundle),
        _origin(documents),
        *_operating_points(subject.bundle.report),
        *_sections(documents),
        f"## Recipe\n\n```json\n{json.dumps(subject.bundle.manifest.provenance.recipe, indent=1)}\n```",
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")
    return attach_file(subject.bundle, _ATTACHED, json.dumps(counts, ensure_ascii=False).encode())


def _counts(rows: Iterable[Row]) -> list[Row]:
    """Rows without curves, pictures and what follows from the counts."""
    slim = ({k: v for k, v in row.items() if k not in _DERIVED and not isinstance(v, list)} for row in rows)
    return [row for row in slim if row.get("part") not in ("norm", "images")]


def _head(bundle: Bundle) -> list[str]:
    manifest, origin = bundle.manifest, bundle.manifest.provenance
    weights = manifest.files["weights.safetensors"]
    return [
        f"# Figures of `{manifest.name}`",
        f"{manifest.model.name}, trained on {origin.dataset} with seed {origin.seed}, by the recipe at the end, in "
        f"{origin.train_minutes:g} minutes on {origin.hardware}; code at `{short(origin.commit)}`. "
        f"Weights: {weights.num_bytes / 1e6:.1f} MB, SHA-256 `{weights.sha256[:12]}…`.",
        "Accuracy under an attack is an upper bound of robustness, not a proof. Intervals are 95 % Wilson intervals. "
        "Nothing was chosen by test images.",
    ]


def _origin(documents: dict[str, Document]) -> str:
    """Which code counted the parts, and where."""
    places = [
        f"{document['machine']['processor']}, {document['machine']['threads']} threads, code at "
        f"`{short(document['commit'])}`"
        for document in documents.values()
    ]
    return f"Parts below were counted on {'; '.join(dict.fromkeys(places))}."


def _operating_points(report: OperatingTable) -> list[str]:
    """SA and RA of every trained point, as the bundle reports them."""
    conditions = ("clean", report.attack.name)
    columns = [f"{what}, width {width:g}" for width in reversed(report.widths) for what in ("SA", "RA")]
    table = _table("λ", *columns)
    for lam in report.lambdas:
        rows = [report.row(OperatingPoint(lam, width)) for width in reversed(report.widths)]
        table.add_row(f"{lam:g}", *(_share(row.condition(name)) for row in rows for name in conditions))
    clean, attacked = (report.rows[0].condition(name).num_total for name in conditions)
    text = (
        f"SA on {clean:,} test images, RA on the first {attacked:,} under {attack_text(report.attack.model_dump())}; "
        "in %, with half the interval's width."
    )
    return ["## Operating points", text, _markdown(table)]


def _sections(documents: dict[str, Document]) -> Iterable[str]:
    for name, document in documents.items():
        yield f"## {heading(name)}"
        yield f"{ABOUT[document['name']]} {setting(document)}"
        yield f"```\n{document['command']}\n```"
        yield from map(_markdown, tables(document))
        remarks = [*map(verdict, document["checks"]), *map(doubt, document["warnings"])]
        if remarks:
            yield "\n".join(f"- {remark}" for remark in remarks)


def tables(document: Document) -> list[Table]:
    """What a suite counted, for people."""
    return [draw(document["rows"]) for draw in _TABLES[document["name"]]]


def _by_condition(rows: list[Row]) -> Table:
    """A line an operating point, a column a condition."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    table = _table("width", "λ", *conditions)
    points: dict[tuple[Any, Any], dict[str, str]] = {}
    for row in rows:
        points.setdefault((row["width"], row["lambda"]), {})[row["condition"]] = _share(_proportion(row))
    for point, cells in points.items():
        table.add_row(*(_number(value) for value in point), *(cells.get(condition, "") for condition in conditions))
    return table


def _matrix(rows: list[Row]) -> Table:
    """A line each λ that attacks were made at, a column each λ that saw them."""
    lambdas = list(dict.fromkeys(row["made_at"] for row in rows))
    table = _table("made at λ", *(f"seen by {lam:g}" for lam in lambdas))
    for source in lambdas:
        seen = [_share(_proportion(row)) for row in rows if row["made_at"] == source]
        table.add_row(f"{source:g}", *seen)
    return table


def _corruptions(rows: list[Row]) -> Table:
    """A line a kind, a column each λ; all severities together."""
    lambdas = list(dict.fromkeys(row["lambda"] for row in rows))
    table = _table("kind", "regime", *(f"λ={lam:g}" for lam in lambdas))
    kinds = {row["kind"]: row["regime"] for row in rows}
    for kind, regime in (*kinds.items(), ("all", "")):
        cells = []
        for lam in lambdas:
            hits = [row for row in rows if row["lambda"] == lam and kind in (row["kind"], "all")]
            num_correct, num_total = (sum(row[key] for row in hits) for key in ("num_correct", "num_total"))
            cells.append(f"{100 * num_correct / num_total:.1f}")
        table.add_row(kind, regime, *cells)
    return table


def _calibration(rows: list[Row]) -> Table:
    """Expected calibration error of each point, without and with its temperature."""
    table = _table("width", "λ", "temperature", "error without, %", "error with, %")
    pairs: dict[tuple[float, float], dict[str, Row]] = {}
    for row in rows:
        pairs.setdefault((row["width"], row["lambda"]), {})[row["condition"]] = row
    for (width, lam), pair in pairs.items():
        errors = [f"{100 * pair[name]['error']:.2f}" for name in ("raw", "fitted")]
        table.add_row(f"{width:g}", f"{lam:g}", f"{pair['fitted']['temperature']:.3f}", *errors)
    return table


def _costs(rows: list[Row]) -> Table:
    """Multiply-adds of an image and numbers stored, by width."""
    keys = ("convolutions", "norms", "film", "folded")
    table = _table("width", *(f"{key}, 10⁶" for key in keys), "parameters")
    for row in rows:
        if row["part"] == "cost":
            table.add_row(f"{row['width']:g}", *(f"{row[key] / 1e6:.2f}" for key in keys), f"{row['parameters']:,}")
    return table


def _alignments(rows: list[Row]) -> Table:
    """How much the gradient by the pixels looks like the image."""
    table = _table("network", "images", "alignment of gradient and image")
    for row in rows:
        if row["part"] == "saliency":
            table.add_row(row["network"], f"{row['num_total']}", f"{row['alignment']:.3f} ± {row['half_95']:.3f}")
    return table


_TABLES: dict[str, tuple[Callable[[list[Row]], Table], ...]] = {
    "attacks": (_by_condition,),
    "unseen": (_by_condition,),
    "transfer": (_matrix,),
    "joint": (_by_condition,),
    "corruptions": (_corruptions,),
    "calibration": (_calibration,),
    "inside": (_costs, _alignments),
    "crosscheck": (_by_condition,),
    "dedicated": (_by_condition,),
}


def _proportion(row: Row) -> Proportion:
    return Proportion(row["num_correct"], row["num_total"])


def _share(count: Proportion) -> str:
    """Per cent and half its interval's width, without blanks so that a narrow table keeps it together."""
    low, high = count.interval()
    return f"{100 * count.rate:.1f}±{50 * (high - low):.1f}"


def _number(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def _table(*names: str) -> Table:
    return Table(*(Column(name, justify="right", overflow="fold") for name in names))


def _markdown(table: Table) -> str:
    table.box = box.MARKDOWN
    text = io.StringIO()
    Console(file=text, width=1000, color_system=None).print(table)
    return "\n".join(line.strip() for line in text.getvalue().strip().splitlines())
