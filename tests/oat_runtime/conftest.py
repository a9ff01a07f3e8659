"""What the tests of the runtime share: quick threads, and networks in which every part matters. None needs torch."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from oat_runtime.architecture import ModelConfig


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
