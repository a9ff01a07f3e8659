"""Decide what the launch files start. They run in ROS's own Python, so this imports the standard library alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_NAMESPACE = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)
_BOOLEANS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
_VALUES: dict[type, tuple[str, Callable[[str], Any]]] = {
    bool: ("true or false", lambda text: _BOOLEANS[text.lower()]),
    int: ("a whole number", int),
    float: ("a number", float),
    str: ("a text", str),
}
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


def check_own_topic(argument: str, topic: str, cameras: Sequence[str]) -> None:
    """Check a topic that each camera has for itself, as its images.

    Raises:
        ValueError: it would be one topic of several cameras, and each node would answer for the same one.
    """
    if topic.startswith("/") and len(cameras) > 1:
        raise ValueError(
            f"{argument} must be a name within each camera's namespace, got {topic!r}, which all {len(cameras)} "
            "cameras would share: leave out the slash at its front"
        )


def profile_to_load(environment: Mapping[str, str], *, shipped: str) -> str:
    """Return the Fast DDS profile that a launch file loads: the shipped one, or none where the user chose already.

    Args:
        environment: the launch's environment variables. One that is set to nothing chooses Fast DDS's own buffers.
        shipped: the file of this package.
    """
    return "" if any(name in environment for name in _PROFILES) else shipped


def value_of(argument: str, text: str, kind: type) -> Any:
    """Return the value of a launch argument, which is given as text, as a bool, int, float or str.

    Raises:
        ValueError: the text is none.
    """
    words, convert = _VALUES[kind]
    try:
        return convert(text)
    except (KeyError, ValueError):
        raise ValueError(f"{argument} must be {words}, got {text!r}") from None


def file_of(argument: str, text: str) -> str:
    """Return the path of a file that a launch argument names. It may begin with `~`, which no shell expands there.

    Raises:
        ValueError: there is no such file. `launch` would warn, and start the node without it.
    """
    path = os.path.expanduser(text)
    if not os.path.isfile(path):
        raise ValueError(f"{argument} must be a file, and there is none at {text!r}")
    return path


def namespace_of(text: str) -> str:
    """Return a node's namespace; an empty text is none.

    Raises:
        ValueError: the text is no namespace.
    """
    if text not in ("", "/") and not _NAMESPACE.fullmatch(text):
        raise ValueError(f"namespace must be names of letters, digits and _ with slashes between them, got {text!r}")
    return text
