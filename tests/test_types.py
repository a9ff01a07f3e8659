"""Type checkers know the public names, though these are loaded lazily."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import oat_runtime
import policy

pytest.importorskip("mypy")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """What `mypy --strict` of a user says about a file, line by line."""
    options = ["--strict", "--config-file=", "--follow-imports=silent", "--no-error-summary"]
    cache = f"--cache-dir={tmp_path_factory.mktemp('mypy')}"

    def run(file: Path) -> list[str]:
        command = [sys.executable, "-m", "mypy", *options, cache, str(file)]
        environment = {**os.environ, "MYPYPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=file.parent, env=environment)
        assert not done.stderr
        return done.stdout.splitlines()

    return run


@pytest.mark.slow
def test_a_users_program_is_typed(mypy: Callable[[Path], list[str]]) -> None:
    assert mypy(ROOT / "tests" / "user_program.py") == []


@pytest.mark.slow
def test_no_public_name_is_any_and_a_misspelt_one_is_reported(
    mypy: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """Bug: `__getattr__` made every name `Any`, misspelt ones too."""
    names = [f"{package.__name__}.{name}" for package in (oat_runtime, policy) for name in package.__all__]
    program = tmp_path / "program.py"
    program.write_text(
        "\n".join(["import oat_runtime, policy", *(f"reveal_type({name})" for name in names), "policy.Decison", ""])
    )

    *revealed, misspelt = mypy(program)
    assert 'Module has no attribute "Decison"' in misspelt
    assert len(revealed) == len(names)
    assert [line for line in revealed if '"Any"' in line or ": error:" in line] == []
