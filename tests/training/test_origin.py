"""Laws of `commit_of_code`: it names exactly the code that runs, or nothing."""

import shutil
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from training import origin
from training.origin import is_committed

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path, message: str = "change") -> str:
    git(folder, "add", ".")
    git(folder, "commit", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit of something else."""
    git(tmp_path, "init")
    (tmp_path / "mine.txt").write_text("mine")
    commit(tmp_path)
    return tmp_path


def put_into(folder: Path) -> Path:
    """Copy the module into a folder, as an installation or a checkout does."""
    folder.mkdir(parents=True)
    return Path(shutil.copy(str(origin.__file__), folder))


def loaded(file: Path) -> ModuleType:
    """Load that copy."""
    spec = spec_from_file_location("loaded_origin", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_repository_around_an_installed_package_is_not_its_own(repository: Path) -> None:
    """Regression: outcomes of one release were taken for those of the next, while the user's repository stood still."""
    installed = put_into(repository / ".venv" / "lib" / "training")
    assert loaded(installed).commit_of_code() == "unknown"
    (repository / ".gitignore").write_text(".venv\n")
    commit(repository)
    assert loaded(installed).commit_of_code() == "unknown"


@pytest.mark.parametrize("tag", [["release"], ["--annotate", "-m", "release", "release"]], ids=["light", "annotated"])
def test_a_commit_is_its_digits_whatever_its_tags_are(repository: Path, tag: list[str]) -> None:
    """Regression: an annotated tag took the place of the digits."""
    file = put_into(repository / "training")
    head = commit(repository)
    git(repository, "tag", *tag)
    assert loaded(file).commit_of_code() == head and len(head) == 40
    head = commit(repository)
    assert loaded(file).commit_of_code() == head
    (repository / "mine.txt").write_text("changed")
    assert loaded(file).commit_of_code() == f"{head}-dirty"
    assert not is_committed(f"{head}-dirty")


def test_a_commit_that_is_made_meanwhile_is_not_that_of_the_code_that_runs(repository: Path) -> None:
    """Regression: a suite's document, and what a suite kept, came under a commit that was made while it counted."""
    file = put_into(repository / "training")
    before = commit(repository)
    module = loaded(file)
    assert commit(repository) != before
    (repository / "mine.txt").write_text("changed")
    assert module.commit_of_code() == before


def test_outside_a_repository_nothing_is_named(tmp_path: Path) -> None:
    assert loaded(put_into(tmp_path / "training")).commit_of_code() == "unknown"
