"""Write docs/training-settings.md from the settings of `training/config.py` as the code words them: `make settings`.

It reads the source text and imports nothing of it, so that it needs no torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training-settings.md"
TRAINING = ROOT / "training" / "config.py"
PARTS = {
    "TrainConfig": ("", TRAINING),
    "ModelConfig": ("model.", ROOT / "oat_runtime" / "architecture.py"),
    "AttackSpec": ("attack.", ROOT / "oat_runtime" / "operating_point.py"),
}
"""Each class of settings, the prefix of their names, and its file."""
CHOICES = dict(re.findall(r"^(\w+) = (Literal\[.*\])$", PARTS["ModelConfig"][1].read_text(), re.MULTILINE))
HEAD = """\
# Settings of training

Look up here what a setting of a training run does, its default and its range. `oat-train RECIPE --set NAME=VALUE` sets
it, and so does a line of a YAML recipe ([training.md](training.md)). A recipe sets some of them otherwise:
`config.json` in a run's folder holds what a run was trained with. `make settings` writes this page from the code.
"""


@dataclass(frozen=True)
class Setting:
    """One row of the page."""

    name: str
    default: str
    range_text: str
    meaning: str


def settings() -> Iterator[Setting]:
    """Yield all settings in the order of the code.

    Raises:
        SystemExit: a setting does not say what it means.
    """
    attack: dict[str, ast.expr] = {}
    for title, (prefix, path) in PARTS.items():
        classes = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}
        body = classes[title].body
        for node, below in zip(body, [*body[1:], None], strict=True):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            if ast.unparse(node.annotation) in PARTS:  # its settings stand in rows of their own
                attack |= _keywords(node.value, "AttackSpec")
                continue
            if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
                raise SystemExit(f"{path.name}: say below {title}.{node.target.id} what it means")
            value = attack.get(node.target.id, node.value) if title == "AttackSpec" else node.value
            meaning = re.sub(
                r"\b(None|True|False)\b", lambda word: _json(word[0]), " ".join(str(below.value.value).split())
            )
            yield Setting(prefix + node.target.id, _default(value), _range(node), meaning)


def page() -> str:
    """Return the page in Markdown."""
    rows = [f"| `{s.name}` | {s.default} | {s.range_text} | {s.meaning} |" for s in settings()]
    return "\n".join([HEAD, "| setting | default | range | what it does |", "| -- | -- | -- | -- |", *rows, ""])


def _keywords(value: ast.expr | None, of: str = "Field") -> dict[str, ast.expr]:
    if not isinstance(value, ast.Call) or ast.unparse(value.func) != of:
        return {}
    return {word.arg: word.value for word in value.keywords if word.arg}


def _json(text: str) -> str:
    return {"None": "`null`", "True": "`true`", "False": "`false`"}.get(text, text)


def _default(value: ast.expr | None) -> str:
    shown = _keywords(value).get("default") or value
    if shown is None or isinstance(shown, ast.Call):
        return "the recipe's"
    text = ast.unparse(shown).translate(str.maketrans("()", "[]", "'"))
    if isinstance(shown, ast.BinOp):  # 8 / 255
        return f"`{_share(shown):.5f}` ({text})"
    return _json(text) if text in ("None", "True", "False") else f"`{text}`" if text else "empty"


def _range(node: ast.AnnAssign) -> str:
    annotation = ast.unparse(node.annotation)
    if choices := re.fullmatch(r"Literal\[(.*)\]", CHOICES.get(annotation, annotation)):
        return ", ".join(f"`{choice}`" for choice in re.findall(r"['\"](.*?)['\"]", choices[1]))
    words = {name: _number(value) for name, value in _keywords(node.value).items()}
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{sign} {words[name]}" for name, sign in signs.items() if name in words)


def _share(value: ast.BinOp) -> float:
    above, below = (ast.literal_eval(part) for part in (value.left, value.right))
    return float(above / below)


def _number(value: ast.expr) -> str:
    text = ast.unparse(value).translate(str.maketrans("", "", "()"))
    power = re.fullmatch(r"10 \*\* (\d+)", text)
    whole = str(10 ** int(power[1])) if power else text
    return f"{int(whole):,}" if whole.isdecimal() else whole.replace(" ** ", "^")


def main() -> None:
    """Write the page, and say whether it changed."""
    text = page()
    same = PAGE.is_file() and PAGE.read_text() == text
    PAGE.write_text(text)
    print(f"{PAGE.relative_to(ROOT)}: {'as it was' if same else 'written'}")


if __name__ == "__main__":
    main()
