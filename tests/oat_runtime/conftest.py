"""What the tests of the runtime share: quick threads, and networks in which every part matters. None needs torch."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from oat_runtime.architecture import ModelConfig
from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import attach_quantization
from oat_runtime.quantization import Quantization


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch, where a test loaded it, on one thread."""
    torch = sys.modules.get("torch")
    num_threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def make_tensors(shaken_tensors: Callable[..., Any]) -> Callable[..., dict[str, npt.NDArray[np.float32]]]:
    return shaken_tensors


@pytest.fixture
def small() -> ModelConfig:
    """The smallest network with all the parts."""
    return ModelConfig(depth=10, widen_factor=1)


@pytest.fixture(scope="session")
def int8_bundle(
    tiny_bundle: Path, quantization_of: Callable[..., Quantization], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny bundle with ranges, which hold for its probe."""
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("int8") / "tiny"))
    x_NCHW = next(iter(bundle.probes().values())).x_NCHW
    quantization = quantization_of(bundle.tensors(), bundle.manifest.model, x_NCHW)
    return attach_quantization(bundle, quantization, probe_atol=50.0).path
