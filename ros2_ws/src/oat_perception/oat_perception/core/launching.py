"""Decide what the launch files start. They run in ROS's own Python, so this imports the standard library alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMESPACE = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def camera_names(text: str) -> list[str]:
    """Return the namespaces of cameras that are named with commas between them.

    Raises:
        ValueError: one of them is no namespace, or occurs twice.
    """
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if not _NAMESPACE.fullmatch(name) or names.count(name) > 1]
    if wrong:
        raise ValueError(
            f"cameras must be different namespaces with commas between them, as in front,rear; got {text!r}, in which "
            f"{wrong[0]!r} {'occurs twice' if wrong[0] and names.count(wrong[0]) > 1 else 'is none'}"
        )
    return names


def profile_to_load(environment: Mapping[str, str], *, shipped: str) -> str:
    """Return the Fast DDS profile that a launch file loads: the shipped one, or none where the user chose already.

    Args:
        environment: the launch's environment variables. One that is set to nothing chooses Fast DDS's own buffers.
        shipped: the file of this package.
    """
    return "" if any(name in environment for name in _PROFILES) else shipped
