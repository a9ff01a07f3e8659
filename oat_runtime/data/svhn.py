"""Read SVHN, cropped digits (Netzer et al. 2011), from the official MATLAB files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from oat_runtime.architecture import InputSpec
from oat_runtime.data.image_set import Split
from oat_runtime.data.sources import Archive, Contents, Location, Source
from oat_runtime.errors import DataError
from oat_runtime.extras import require

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, struct.error, zlib.error)


def read_svhn(folder: Path, split: Split, spec: InputSpec | None) -> Contents:
    """`X` is (32, 32, 3, N) uint8; `y` is (N, 1) in 1..10, where 10 stands for the digit 0.

    Raises:
        DataError: a file is missing or damaged.
        ConfigError: scipy is not installed.
    """
    require("scipy", extra="data", by="reading SVHN's MATLAB files")
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = folder / f"{split}_32x32.mat"
    if not path.is_file():
        raise DataError(f"{path} is missing: fetch the official file again")
    try:
        content = loadmat(path, variable_names=["X", "y"])
        pixels, digits = content["X"], content["y"].ravel()
    except (*_UNREADABLE, MatReadError) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): fetch the official file again") from error
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(digits)):
        raise DataError(
            f"{path}: expected X of uint8 (32, 32, 3, {len(digits)}), got {pixels.dtype} {pixels.shape}: a wrong file"
        )
    if len(digits) and not 1 <= digits.min() <= digits.max() <= 10:
        raise DataError(f"{path}: expected y in 1..10, got {digits.min()}..{digits.max()}: the labels are damaged")
    return Contents(
        digits.astype(np.int64) % 10, lambda count: np.ascontiguousarray(pixels[..., :count].transpose(3, 0, 1, 2))
    )


SVHN = Source(
    title="SVHN",
    class_names=tuple("0123456789"),
    locations=(
        Location(
            "official MATLAB files", "svhn", "svhn", read_svhn, {"train": 73_257, "test": 26_032},
            files={"train": (("svhn/train_32x32.mat",),), "test": (("svhn/test_32x32.mat",),)},
        ),
    ),
    archives=(
        Archive(
            "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            "e26dedcc434d2e4c54c9b2d4a06d8373", folder="svhn", unpack=False,
        ),
        Archive(
            "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            "eb5a983be6a315427106f1b164d9cef3", folder="svhn", unpack=False,
        ),
    ),
    mirrors=False,
)  # fmt: skip
