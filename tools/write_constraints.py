"""Print the exact version of everything that pip put into this environment, as constraints.txt holds it.

Run it with the environment's Python. What the ROS 2 wheels list beside themselves (egg-info of the Python packages in
them) is left out: those are no packages that pip could install. The present file's lines for another Python are kept.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

HEADER = """\
# Exact versions of everything that set-up installs; pyproject.toml holds the lower bounds.
# Renew: install without this file into a fresh .venv, run every test, then `make constraints`. It keeps the lines for
# Python 3.10, a robot's with ROS 2 Humble: `make pythons` tests those.
"""
OURS = {"oat-robot", "pip"}
FILE = Path(__file__).parents[1] / "constraints.txt"
OLDER = '; python_version < "3.11"'
NEWER = '; python_version >= "3.11"'


def constraints(installed: dict[str, str], present: str) -> str:
    """Return the new file.

    Args:
        installed: the version of each package, by name, in an environment of Python 3.11 or later.
        present: the file so far, whose lines for Python 3.10 are kept.
    """
    kept = [line for line in present.splitlines() if line.endswith(OLDER)]
    older = {_key(line.partition("==")[0]) for line in kept}
    lines = [f"{name}=={version}{NEWER if _key(name) in older else ''}" for name, version in installed.items()]
    return HEADER + "\n".join(sorted([*lines, *kept], key=str.lower)) + "\n"


def _key(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def main() -> None:
    """Print the header and one line a package, sorted by name, without local version labels such as `+cpu`."""
    installed = {
        dist.name: dist.version.split("+")[0]
        for dist in distributions()
        if dist.name not in OURS and (dist.read_text("INSTALLER") or "").strip() == "pip"
    }
    print(constraints(installed, FILE.read_text(encoding="utf-8")), end="")


if __name__ == "__main__":
    main()
