"""What tests of engines share: the side of their small images, some of them, and a skip where an engine is missing."""

import numpy as np
import numpy.typing as npt
import pytest

from oat_runtime.backends import BackendName, available

HW = (16, 16)


def images(num: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(2).random((num, 3, *HW), dtype=np.float32)


def need(engine: BackendName) -> None:
    if engine not in available():
        pytest.skip(f"{engine} is not installed")
