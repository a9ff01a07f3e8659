"""Print the options by which pip finds a build of torch that fits this machine, and say why on stderr.

`torch_index.py [INDEX]`, run with the environment's Python. pip's default build for Linux brings gigabytes of CUDA. On
a machine without an NVIDIA driver, torch's own index of CPU builds goes before it, unless INDEX or pip's settings name
another source, or that index does not answer.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DRIVER_FILE = Path("/proc/driver/nvidia/version")
TIMEOUT_S = 5.0
_PIP_START_S = 60.0
"""What pip itself may take beside the index's answer, on a slow and busy machine; a mistake costs gigabytes."""
_SOURCE = re.compile(r"^(?:global|install|:env:)\.(index-url|extra-index-url|find-links|no-index)=", re.MULTILINE)
"""A source that `pip install` uses; settings of pip's other commands do not count."""
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@dataclass(frozen=True)
class Choice:
    """Options for pip, and the reason in one line."""

    options: tuple[str, ...]
    reason: str


def choose(
    index: str = "", *, driver_file: Path = DRIVER_FILE, cpu_index: str = CPU_INDEX, timeout_s: float = TIMEOUT_S
) -> Choice:
    """Return where pip shall look for torch besides its own settings.

    Args:
        index: the package index that somebody named; it goes before everything else. Empty: none.
        driver_file: the file that an NVIDIA driver makes.
        cpu_index: the index with CPU builds.
        timeout_s: seconds within which that index must answer.
    """
    if index := index.strip():
        if len(index.split()) > 1:
            raise SystemExit(f"Expected one URL in TORCH_INDEX, got {index!r}.")
        return Choice(("--extra-index-url", index), f"from {index}, which TORCH_INDEX names")
    if driver_file.exists() or shutil.which("nvidia-smi"):
        return Choice((), "pip's default build with CUDA, because this machine has an NVIDIA driver")
    if setting := _source_in_pip_settings():
        return Choice((), f"from the sources in pip's own settings, which set {setting}")
    if _offers_torch(cpu_index, timeout_s):
        return Choice(("--extra-index-url", cpu_index), f"CPU build from {cpu_index}: there is no NVIDIA driver here")
    return Choice(
        (),
        f"pip's default build with gigabytes of CUDA, because {cpu_index} offered none within {timeout_s:g} s; "
        "to take another index: make TORCH_INDEX=URL",
    )


def _source_in_pip_settings() -> str | None:
    """The name of a setting, in files or in the environment, that names a source of packages; None where none does."""
    listed = subprocess.run([*_PIP, "config", "list"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise SystemExit(f"pip cannot read its settings: {listed.stderr.strip()}")
    found = _SOURCE.search(listed.stdout)
    return found[1] if found else None


def _offers_torch(index: str, timeout_s: float) -> bool:
    """Whether the index answers in time and has a torch for this Python. pip asks, with its proxy and certificates."""
    command = [
        *_PIP,
        "index",
        "versions",
        "torch",
        "--index-url",
        index,
        "--retries",
        "0",
        "--timeout",
        f"{timeout_s:g}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s + _PIP_START_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> None:
    """Print the options on stdout, and the reason on stderr."""
    choice = choose(sys.argv[1] if len(sys.argv) > 1 else "")
    print(*choice.options)
    print(f"torch: {choice.reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
