"""Whether bfloat16 works on this CPU. Some virtual machines show AMX but hide its description; engines then crash."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Literal

_TRIALS = {
    # The gradient of a strided convolution is what kills oneDNN 3.12 where CPUID leaf 0x1D reads zero.
    "torch": """
import torch
x = torch.randn(8, 64, 16, 16).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
w = torch.randn(128, 64, 3, 3).bfloat16().requires_grad_()
torch.nn.functional.conv2d(x, w, None, 2, 1).sum().backward()
""",
    "openvino": """
import torch
from oat_runtime.backends.openvino_backend import compile_unchecked
net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3))
compile_unchecked(net.eval(), input_hw=(32, 32), precision="bfloat16", num_threads=1)
""",
}


@functools.cache
def bfloat16_works(engine: Literal["torch", "openvino"]) -> bool:
    """Try bfloat16 in a process of its own, which an illegal instruction may kill; takes a few seconds, once."""
    trial = subprocess.run([sys.executable, "-c", _TRIALS[engine]], capture_output=True, timeout=120, check=False)
    return trial.returncode == 0
