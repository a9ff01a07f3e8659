"""Every command of the README and the docs runs as it is typed, on small data, or stands in one list with its reason.

Pages run side by side, each in a sandbox of its own, and a page's commands run in its order: later ones find what
earlier ones made. `small/sitecustomize.py` changes sizes; nothing that is typed changes.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands.marked import MARKED, ON_THE_GRAPH
from tests.commands.reading import ROOT, Command, commands_of, documented
from tests.commands.sandbox import Outcome, make_sandbox, run_in

COMMANDS = documented()
RUN = [command for command in COMMANDS if command.text not in MARKED and command.text not in ON_THE_GRAPH]
_AT_A_TIME = 2


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Command, Outcome]:
    """How the commands of all pages ended of which a test was chosen."""
    pytest.importorskip("torch")
    chosen = {item.callspec.params["command"].page for item in request.session.items if hasattr(item, "callspec")
              and isinstance(item.callspec.params.get("command"), Command)}  # fmt: skip
    made = make_sandbox(tmp_path_factory.mktemp("made"))

    def run_page(page: str) -> dict[Command, Outcome]:
        folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("page") / "root", symlinks=True))
        return {command: run_in(folder, command.text) for command in RUN if command.page == page}

    longest_first = sorted(chosen, key=lambda page: sum(command.page == page for command in RUN), reverse=True)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return dict(itertools.chain.from_iterable(page.items() for page in pool.map(run_page, longest_first)))


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN, ids=[f"{command.page}: {command.text[:90]}" for command in RUN])
def test_it_runs_as_it_is_typed(command: Command, outcomes: dict[Command, Outcome]) -> None:
    outcome = outcomes[command]
    assert outcome.ran, f"{command}\nended with status {outcome.status}\n{outcome.stdout[-2000:]}\n{outcome.stderr}"


def test_a_mark_stands_only_for_a_command_that_is_documented() -> None:
    texts = {command.text for command in COMMANDS}
    assert {*MARKED, *ON_THE_GRAPH} - texts == set(), "no page has these any more: take them off the list"
    assert set(MARKED) & set(ON_THE_GRAPH) == set()
    assert all(reason for reason in MARKED.values())


def test_a_page_types_programs_by_name_since_activation_is_said_once() -> None:
    with_path = [str(command) for command in COMMANDS if re.search(r"venv/bin/(?!activate)", command.text)]
    assert with_path == []
    assert ". .venv/bin/activate" in [command.text for command in COMMANDS if command.page == "README.md"]


@pytest.mark.parametrize("target", [text.split()[1] for text in MARKED if text.startswith("make ")])
def test_make_knows_how_to_make_what_is_only_marked(target: str) -> None:
    planned = subprocess.run(["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    assert "python -m" in planned.stdout


def test_what_a_marked_command_names_is_there() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in MARKED:
        for path in re.findall(r"ros2_ws/src/\S+", text):
            assert (ROOT / path).is_file(), text
        for name in re.findall(r"\w+\.launch\.py", text):
            assert (ROOT / "ros2_ws/src/oat_perception/launch" / name).is_file(), text
        for name in re.findall(r"\[(\w+)\]'", text):
            assert name in extras, text


def test_every_size_that_is_changed_is_of_a_module_that_exists() -> None:
    pytest.importorskip("torch", reason="half of the modules are training's")
    source = (ROOT / "tests/commands/small/sitecustomize.py").read_text()
    names = re.findall(r'^    "([\w.]+)": _\w+,$', source, re.MULTILINE)
    assert len(names) > 5
    assert [name for name in names if importlib.util.find_spec(name) is None] == []


PAGE = """Say `make` first, then `oat-train --list`, or `oat-train smoke --run runs/x` and `oat-export RUN BUNDLE`.

```bash
oat-train smoke  # a comment
oat-export a \\
    b   # and its end
for_people "a # b"
```

```
oat-replay log
```

```python
oat-train = 1
```

Inline `python -m policy.fit
x --images y` ends it.
"""


def test_commands_are_read_line_by_line_without_comments_and_whole_ones_out_of_sentences() -> None:
    assert [(command.line, command.text) for command in commands_of("page", PAGE)] == [
        (1, "oat-train --list"),
        (1, "oat-train smoke --run runs/x"),
        (4, "oat-train smoke"),
        (5, "oat-export a b"),
        (7, 'for_people "a # b"'),
        (11, "oat-replay log"),
        (18, "python -m policy.fit x --images y"),
    ]


def test_a_quote_that_does_not_close_is_told() -> None:
    with pytest.raises(ValueError, match="page:2: a quote does not close"):
        commands_of("page", "```bash\noat-train don't\n```\n")


@pytest.mark.parametrize(
    ("outcome", "ran"),
    [
        (Outcome(0, "", "", 1.0), True),
        (Outcome(0, "", "Traceback (most recent call last):", 1.0), False),
        (Outcome(1, json.dumps({"checks": [{"ok": False}]}), "", 1.0), True),
        (Outcome(1, json.dumps({"checks": [{"ok": True}]}), "", 1.0), False),
        (Outcome(1, "oat-train: no", "", 1.0), False),
        (Outcome(2, json.dumps({"checks": [{"ok": False}]}), "", 1.0), False),
        (Outcome(127, "", "not found", 1.0), False),
    ],
)
def test_a_check_that_does_not_hold_is_an_answer_and_a_crash_is_none(outcome: Outcome, ran: bool) -> None:
    assert outcome.ran == ran
