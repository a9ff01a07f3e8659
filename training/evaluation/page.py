"""Write a whole evaluation as one HTML page that needs no other file: figures, counts and warnings."""

from __future__ import annotations

import base64
from pathlib import Path

from oat_runtime.data import short_name
from oat_runtime.files import write_whole
from oat_runtime.report import Row, figure_text
from oat_runtime.style import drawn, html_page, wide
from oat_runtime.text import html_text
from training.evaluation.documents import Document, check_text, heading, read_documents, shown, warning_text
from training.evaluation.judged import Judged
from training.evaluation.summary import summary

_STYLE = """
.short { font-size: 18px; padding-left: 1.1em; max-width: 44em; } .short li { margin: 6px 0; }
td, th { text-align: right; padding: 2px 14px 2px 0; white-space: nowrap; } details { margin: 12px 0; }
"""
_COLUMNS = (
    "lambda", "width", "made_at", "condition", "class", "group", "size", "num_correct", "num_total", "accuracy",
    "low_95", "high_95", "temperature", "error", "network", "alignment", "half_95", "convolutions", "norms", "film",
    "folded", "parameters",
)  # fmt: skip


def write_page(judged: Judged, results: Path, folder: Path) -> Path:
    """Draw every figure whose suite has a document in `results`, into `folder`, with `index.html`.

    Raises:
        DataError: no documents, or a document of another network.
    """
    documents = read_documents(judged, results)
    said = "".join(f"<li>{html_text(sentence)}" for sentence in summary(documents))
    parts = [f"<h1>{html_text(judged.name)}</h1>", f"<ul class=short>{said}</ul>", _origin(documents)]
    for name, document in documents.items():
        with shown(name):
            parts.append(f"<h2>{html_text(heading(name))}</h2>{_paragraph(document.suite.about)}")
            parts.append(_paragraph(document.setting(), kind="note"))
            parts += [_paragraph(warning_text(warning), kind="warn") for warning in document.warnings]
            parts += [_paragraph(check_text(check), kind="" if check.ok else "warn") for check in document.checks]
            for file_name, draw in document.suite.figures.items():
                path = folder / f"{'-'.join([*name.split('/')[:-1], file_name])}.png"
                figure = draw(document.rows)
                content = drawn(figure, "png")
                write_whole(path, content)
                code = base64.b64encode(content).decode()
                parts.append(wide(figure, f"<img alt='{html_text(file_name)}' src='data:image/png;base64,{code}'>"))
            parts.append(_rows(document.rows))
    index = folder / "index.html"
    write_whole(index, html_page(judged.name, "\n".join(parts), more_style=_STYLE))
    return index


def _origin(documents: dict[str, Document]) -> str:
    first = next(iter(documents.values()))
    weights = f" Weights {first.weights_sha256[:12]}." if first.weights_sha256 else ""
    return _paragraph(
        f"{first.model} trained on {short_name(first.dataset)}. λ is how robust the network is set, from 0 "
        "(most accurate) to 1 (most robust). Accuracy under an attack is an upper bound of robustness, not a proof: a "
        f"stronger attack may find more errors. Intervals are 95 % Wilson intervals.{weights}",
        kind="note",
    )


def _paragraph(text: str, *, kind: str = "") -> str:
    return f"<p{kind and f' class={kind}'}>{html_text(text)}</p>" if text else ""


def _rows(rows: list[Row]) -> str:
    columns = [key for key in _COLUMNS if any(key in row for row in rows)]
    shown = [row for row in rows if any(key in row for key in ("num_total", "folded"))]
    head = "".join(f"<th>{html_text(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html_text(figure_text(row.get(column, '')))}</td>" for column in columns) + "</tr>"
        for row in shown
    )
    table = f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"
    return f"<details><summary>Table of {len(shown)} rows</summary>{table}</details>"
