"""Make the ROS 2 wheels usable for building: point their exported CMake files at this environment's own headers.

The wheels were built in a container, and the CMake files in them still name its Python and NumPy include folders
(`/opt/python/cp3XX-cp3XX/...`), which CMake refuses where they do not exist. Run it with the environment's Python; a
second run changes nothing.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

BUILD_MACHINE = re.compile(r"/opt/python/[^;\"$]*?/(?:(numpy/(?:_core|core)/include)|include/python3\.\d+)")


def rewrite(text: str) -> str:
    """Replace the build machine's NumPy and Python include folders by this environment's."""
    return BUILD_MACHINE.sub(lambda match: numpy.get_include() if match[1] else sysconfig.get_path("include"), text)


def main() -> int:
    """Rewrite every exported CMake file under the environment's `share`; 1 where a foreign path is left."""
    left = []
    for path in sorted(Path(sys.prefix, "share").glob("*/cmake/*.cmake")):
        before = path.read_text(encoding="utf-8")
        if "/opt/python/" not in before:
            continue
        after = rewrite(before)
        path.write_text(after, encoding="utf-8")
        if "/opt/python/" in after:
            left.append(str(path))
    if left:
        print(f"{left[0]} still names its build machine's folders: extend BUILD_MACHINE in {__file__}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
