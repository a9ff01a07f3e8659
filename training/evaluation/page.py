"""Write a whole evaluation as one HTML page that needs no other file: figures, counts and warnings."""

from __future__ import annotations

import base64
from pathlib import Path

from oat_runtime.files import write_whole
from oat_runtime.report import Row
from oat_runtime.text import html_text
from training.evaluation.documents import Document, check_text, heading, read_documents, shown, warning_text
from training.evaluation.judged import Judged

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #e4e7eb; }
img { max-width: 100%; } p.note { color: #57606a; } .warn { background: #fff8e1; padding: .4rem .8rem; }
table { border-collapse: collapse; font-size: .85rem; } td, th { padding: .15rem .7rem; text-align: right; }
th { border-bottom: 2px solid #e4e7eb; } tr:nth-child(even) { background: #f6f8fa; } details { margin: .8rem 0; }
"""
_COLUMNS = (
    "lambda", "width", "made_at", "condition", "num_correct", "num_total", "accuracy", "low_95", "high_95",
    "temperature", "error", "network", "alignment", "half_95", "convolutions", "norms", "film", "folded", "parameters",
)  # fmt: skip


def write_page(judged: Judged, results: Path, folder: Path) -> Path:
    """Draw every figure whose suite has a document in `results`, into `folder`, with `index.html`.

    Raises:
        DataError: no documents, or a document of another network.
    """
    documents = read_documents(judged, results)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"<h1>{html_text(judged.name)}</h1>", _summary(documents)]
    for name, document in documents.items():
        with shown(name):
            parts.append(f"<h2>{html_text(heading(name))}</h2>{_paragraph(document.suite.about)}")
            parts.append(f"<p class='note'>{html_text(document.setting())}</p>")
            parts += [f"<p class='warn'>{html_text(warning_text(warning))}</p>" for warning in document.warnings]
            parts += [_paragraph(check_text(check)) for check in document.checks]
            for file_name, draw in document.suite.figures.items():
                path = folder / f"{'-'.join([*name.split('/')[:-1], file_name])}.png"
                draw(document.rows).savefig(path)
                code = base64.b64encode(path.read_bytes()).decode()
                parts.append(f"<img alt='{html_text(file_name)}' src='data:image/png;base64,{code}'>")
            parts.append(_rows(document.rows))
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html_text(judged.name)}</title>"
    index = folder / "index.html"
    write_whole(index, f"{page}<style>{_STYLE}</style>{''.join(parts)}</html>\n")
    return index


def _summary(documents: dict[str, Document]) -> str:
    first = next(iter(documents.values()))
    text = (
        f"{first.model} trained on {first.dataset}; judged on {first.split} images. Accuracy under an attack "
        "is an upper bound of robustness, not a proof. Intervals are 95 % Wilson intervals."
    )
    return _paragraph(text) + _paragraph(f"Weights {first.weights_sha256[:12]}" if first.weights_sha256 else "")


def _paragraph(text: str) -> str:
    return f"<p>{html_text(text)}</p>" if text else ""


def _rows(rows: list[Row]) -> str:
    columns = [key for key in _COLUMNS if any(key in row for row in rows)]
    shown = [row for row in rows if any(key in row for key in ("num_total", "folded"))]
    head = "".join(f"<th>{html_text(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html_text(_text(row.get(column, '')))}</td>" for column in columns) + "</tr>"
        for row in shown
    )
    return f"<details><summary>{len(shown)} figures</summary><table><tr>{head}</tr>{body}</table></details>"


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
