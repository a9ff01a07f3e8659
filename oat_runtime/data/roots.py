"""Decide where data sets lie, by one rule for training, the benchmarks, the camera replay and the demo.

1. The folder that a caller names, and no other.
2. Else the folder that `$OAT_DATA` names, and no other.
3. Else `../shared/data` beside the project, then the user's cache. The first that holds what is asked for is read.

Downloads go to the named folder, or to the cache.
"""

from __future__ import annotations

import os
from pathlib import Path

from oat_runtime.files import expanded, user_cache

BESIDE_PROJECT = Path(__file__).resolve().parents[3] / "shared" / "data"


def data_roots(root: Path | None = None) -> tuple[Path, ...]:
    """Return the folders to look in, in this order; the last one is where downloads go.

    Args:
        root: a folder that the caller names. None: `$OAT_DATA` decides; if that is unset or empty, the usual two
            folders.
    """
    named = root or os.environ.get("OAT_DATA")
    if named:
        return (expanded(named),)
    cache = user_cache()
    return (BESIDE_PROJECT,) if cache is None else (BESIDE_PROJECT, cache / "data")
