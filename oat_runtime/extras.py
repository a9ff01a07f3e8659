"""Check for optional packages, with an error of one line that names the extra to install."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from oat_runtime.errors import ConfigError


def require(package: str, *, extra: str, by: str) -> None:
    """Check that an optional package is installed, without importing it.

    Args:
        package: the module's name, as in `torch`.
        extra: the extra of this project that brings it.
        by: what needs it, for the message.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec(package) is None:
        raise ConfigError(f"{by} needs {package}: pip install 'oat-robot[{extra}]'")


def require_or_exit(package: str, *, extra: str, by: str) -> None:
    """Do the same in a module that cannot be imported without the package: print one line, and end with status 2."""
    try:
        require(package, extra=extra, by=by)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
