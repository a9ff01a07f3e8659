"""Give Python 3.10, which ROS 2 Humble runs on, what its library lacks of that of 3.11.

`Self` is for type checkers alone: where it is used, annotations are never evaluated.
"""

from __future__ import annotations

import hashlib
import re
import sys
from enum import Enum
from typing import IO, TYPE_CHECKING

if sys.version_info >= (3, 11):
    from enum import StrEnum
    from typing import Self
else:
    if TYPE_CHECKING:
        from typing_extensions import Self
    else:
        Self = object

    class StrEnum(str, Enum):
        """An enumeration whose members are strings, and print as such."""

        __str__ = str.__str__


__all__ = ["Self", "StrEnum", "possessive", "sha256_of"]

_BLOCK_BYTES = 1 << 18


def possessive(pattern: bytes) -> bytes:
    """Return a pattern for `re` whose quantifiers such as `*+` give nothing back, or plain ones where there are none.

    It is for patterns that match the same text in the same time with plain ones, which only take more memory.
    """
    return pattern if sys.version_info >= (3, 11) else re.sub(rb"([*+])\+", rb"\1", pattern)


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of an open file's bytes from here on, in hexadecimal digits."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
