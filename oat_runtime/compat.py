"""Give Python 3.10, which ROS 2 Humble runs on, what its library lacks of that of 3.11.

`Self` is for type checkers alone: where it is used, annotations are never evaluated.
"""

from __future__ import annotations

import re
import sys
from enum import Enum
from typing import TYPE_CHECKING

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


__all__ = ["Self", "StrEnum", "possessive"]


def possessive(pattern: bytes) -> bytes:
    """Return a pattern for `re` whose quantifiers such as `*+` give nothing back, or plain ones where there are none.

    It is for patterns that match the same text in the same time with plain ones, which only take more memory.
    """
    return pattern if sys.version_info >= (3, 11) else re.sub(rb"([*+])\+", rb"\1", pattern)
