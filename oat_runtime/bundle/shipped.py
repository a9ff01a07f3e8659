"""Finds the bundles that travel with the project, so that a name is enough to load one. Reads none of them."""

from __future__ import annotations

import os
from pathlib import Path

from oat_runtime.errors import BundleError, quoted


def bundles_folder() -> Path:
    """Return where the shipped bundles are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "bundles"
    return installed if installed.is_dir() else package.parent / "bundles"


def shipped_bundles() -> tuple[str, ...]:
    """Return the names of the shipped bundles in alphabetical order; none where the folder is missing."""
    return tuple(sorted(manifest.parent.name for manifest in bundles_folder().glob("*/manifest.json")))


def find_bundle(path: str | os.PathLike[str]) -> Path:
    """Return the folder that a path or the name of a shipped bundle stands for.

    Args:
        path: a path that exists is taken as it is. A bare name, without a separator, is looked up among the shipped
            bundles. Any other path is returned unchanged: whoever reads the bundle reports it.

    Raises:
        BundleError: it is a bare name, no such path exists, and no shipped bundle has that name.
    """
    given, text = Path(path), os.fspath(path)
    # A shell completes a folder's name with a slash.
    if text.rstrip("/") != given.name or os.path.exists(given):
        return given
    if given.name in (names := shipped_bundles()):
        return bundles_folder() / given.name
    raise BundleError(
        f"no bundle {quoted(given.name)}: expected a bundle's folder, or the name of a shipped one "
        f"({', '.join(names) or 'there is none in ' + str(bundles_folder())})"
    )
