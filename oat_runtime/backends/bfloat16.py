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
    "torch-inference": """
import torch
x = torch.randn(1, 64, 16, 16).bfloat16().to(memory_format=torch.channels_last)
for stride, size in ((1, 3), (2, 3), (2, 1)):
    torch.nn.functional.conv2d(x, torch.randn(128, 64, size, size).bfloat16(), None, stride, size // 2)
""",
    "openvino": """
import torch
from oat_runtime.backends.openvino_backend import compile_unchecked
from oat_runtime.backends.plan import Settings
net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3)).eval()
compile_unchecked(lambda: net, Settings((32, 32), "bfloat16")).request(1).infer()
""",
}


@functools.cache
def bfloat16_works(engine: Literal["torch", "torch-inference", "openvino"]) -> bool:
    """Try bfloat16 in a process of its own, which an illegal instruction may kill; takes a few seconds, once."""
    command = [sys.executable, "-c", _TRIALS[engine]]
    try:
        return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
