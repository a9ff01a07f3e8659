"""Nothing phones home: every installed engine loads and runs; no file but our own cache, no call to the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oat_runtime.backends import available

BUNDLE = Path(__file__).parents[2] / "bundles" / "cifar10-wrn-16-4"
BACKENDS = available()
RUN = f"""
import time
import numpy as np
from oat_runtime import OATRuntime

for backend in BACKENDS:
    OATRuntime.load({str(BUNDLE)!r}, backend=backend).predict(np.full((64, 64, 3), 120, np.uint8))
time.sleep(WAIT_S)
"""
ROOT = Path(__file__).parents[2]
STRACE = shutil.which("strace")


def _run(backends: tuple[str, ...], *, wait_s: int) -> str:
    return RUN.replace("BACKENDS", repr(backends)).replace("WAIT_S", str(wait_s))


def _environment(home: Path) -> dict[str, str]:
    """A fresh home, and nothing said about telemetry."""
    (home / "tmp").mkdir(parents=True)
    ours = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "TMPDIR": str(home / "tmp"),
        "PYTHONPATH": str(ROOT),
    }
    return {name: value for name, value in os.environ.items() if "TELEMETRY" not in name and "XDG" not in name} | ours


def test_engines_write_nothing_but_our_own_cache(tmp_path: Path) -> None:
    assert BACKENDS
    subprocess.run(
        [sys.executable, "-c", _run(BACKENDS, wait_s=1)], env=_environment(tmp_path), check=True, cwd=tmp_path
    )
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in written if path.parts[:2] != (".cache", "oat")} == set()


@pytest.mark.slow
def test_engines_look_up_and_call_nobody(tmp_path: Path) -> None:
    """ONNX Runtime's look-up came within ten seconds of its import."""
    if STRACE is None or subprocess.run([STRACE, "-f", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace is not installed or not allowed here: network calls of engines are NOT checked")
    trace = tmp_path / "trace"
    command = [
        STRACE,
        "-f",
        "-qq",
        "-e",
        "trace=connect,sendto,sendmsg,sendmmsg",
        "-o",
        str(trace),
        sys.executable,
        "-c",
    ]
    home = tmp_path / "home"
    subprocess.run([*command, _run((*BACKENDS, "auto"), wait_s=12)], env=_environment(home), check=True, cwd=tmp_path)
    calls = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    assert calls == []


def test_who_imported_onnxruntime_first_is_told_that_it_may_have_reported() -> None:
    code = "import sys, types\nsys.modules['onnxruntime'] = types.ModuleType('onnxruntime')\nimport oat_runtime"
    said = {}
    for value in ("", "1"):
        env = {**os.environ, "ORT_DISABLE_TELEMETRY": value}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd=ROOT
        )
        said[value] = done.stderr
    assert "import oat_runtime first" in said[""] and not said["1"]
