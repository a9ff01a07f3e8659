"""Find out whether bfloat16 and int8 work on this CPU: engines crash where a virtual machine half shows AMX.

A trial runs in a process of its own, which an illegal instruction may kill. It takes a few seconds, once a process.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Literal

from oat_runtime.errors import BackendError, one_line

_TIMEOUT_S = 120
_BFLOAT16 = {
    # The gradient of a strided convolution is what kills oneDNN 3.12 where CPUID leaf 0x1D reads zero.
    "torch": """
import torch
x = torch.randn(8, 64, 16, 16).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
w = torch.randn(128, 64, 3, 3).bfloat16().requires_grad_()
torch.nn.functional.conv2d(x, w, None, 2, 1).sum().backward()
""",
    "torch-inference": """
import torch
x = torch.randn(1, 64, 16, 16).bfloat16().to(memory_format=torch.channels_last)
for stride, size in ((1, 3), (2, 3), (2, 1)):
    torch.nn.functional.conv2d(x, torch.randn(128, 64, size, size).bfloat16(), None, stride, size // 2)
""",
    "openvino": """
from oat_runtime.architecture import ModelConfig
from oat_runtime.backends.openvino_backend import compile_unchecked
from oat_runtime.backends.plan import Settings
from oat_runtime.untrained import static_net
compile_unchecked(lambda: static_net(ModelConfig(depth=10, widen_factor=4), 1.0), Settings((32, 32), "bfloat16"))\\
    .request(1).infer()
""",
}
_INT8 = """
from oat_runtime.architecture import ModelConfig
from oat_runtime.backends.openvino_backend import compile_unchecked
from oat_runtime.backends.plan import Settings
from oat_runtime.untrained import untrained_int8_net
net = untrained_int8_net(ModelConfig(depth=10, widen_factor=4), 1.0)
compile_unchecked(lambda: net, Settings((32, 32), "int8")).request(1).infer()
"""

_APART = f"""
import sys
sys.path[:] = [*filter(None, sys.path), {str(Path(__file__).resolve().parents[2])!r}]
"""
"""Takes the current folder, which may be anybody's, out of the path, as `-P` does from Python 3.11 on. Last on the path
is this package's folder, since that may have been found in the current one."""


@functools.cache
def bfloat16_works(engine: Literal["torch", "torch-inference", "openvino"]) -> bool:
    """Return whether bfloat16 works in an engine.

    Raises:
        BackendError: that could not be tried.
    """
    return _ends_well(_BFLOAT16[engine], f"bfloat16 works with {engine}")


@functools.cache
def int8_works() -> bool:
    """Return whether int8 works in OpenVINO, which takes AMX for it. ONNX Runtime does not.

    Raises:
        BackendError: that could not be tried.
    """
    return not shows("amx_int8") or _ends_well(_INT8, "int8 works with openvino")


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions for products in bfloat16: AMX or AVX512-BF16.

    Without them, torch takes 10 to 20 times as long for a convolution in bfloat16 as in float32 (EPYC with AVX2).
    """
    return shows("amx_bf16") or shows("avx512_bf16")


def shows(feature: str) -> bool:
    """Return whether the CPU says that it has a feature, by its name in `/proc/cpuinfo`, as in `amx_bf16`."""
    try:
        return feature in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _ends_well(script: str, what: str) -> bool:
    """Run a script, without what lies in the current folder; return False if a signal ended it or it did not end.

    Raises:
        BackendError: the trial could not be made, or ended with another error.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _APART + script], capture_output=True, timeout=_TIMEOUT_S, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        return False
    except OSError as error:  # a program that Python is built into names no interpreter
        raise BackendError(f"whether {what} could not be tried: {one_line(error)}") from None
    if done.returncode > 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise BackendError(f"whether {what} could not be tried: {last[0]}")
    return done.returncode == 0
