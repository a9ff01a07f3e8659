"""Print the exact version of everything that pip put into this environment, as constraints.txt holds it.

Run it with the environment's Python. What the ROS 2 wheels list beside themselves (egg-info of the Python packages in
them) is left out: those are no packages that pip could install.
"""

from __future__ import annotations

from importlib.metadata import distributions

HEADER = """\
# Exact versions of everything that set-up installs; pyproject.toml holds the lower bounds.
# Renew: install without this file into a fresh .venv, run every test, then `make constraints`.
"""
OURS = {"oat-robot", "pip"}


def main() -> None:
    """Print the header and one line a package, sorted by name, without local version labels such as `+cpu`."""
    lines = {
        f"{dist.name}=={dist.version.split('+')[0]}"
        for dist in distributions()
        if dist.name not in OURS and (dist.read_text("INSTALLER") or "").strip() == "pip"
    }
    print(HEADER + "\n".join(sorted(lines, key=str.lower)))


if __name__ == "__main__":
    main()
