"""Read Fashion-MNIST (Xiao et al. 2017): 28×28 grey images in idx files, plain or gzipped; three equal channels."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.image_set import Split
from oat_runtime.data.sources import Archive, Contents, Location, Source
from oat_runtime.errors import DataError

_NUM: dict[Split, int] = {"train": 60_000, "test": 10_000}
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}


def read_fashion_mnist(folder: Path, split: Split, spec: InputSpec | None) -> Contents:
    """Read images and labels.

    Raises:
        DataError: a file is missing, truncated or damaged.
    """
    grey_NHW = read_idx(folder / f"{_PREFIX[split]}-images-idx3-ubyte", num_axes=3)
    labels_N = read_idx(folder / f"{_PREFIX[split]}-labels-idx1-ubyte", num_axes=1)
    return Contents(labels_N.astype(np.int64), lambda count: np.repeat(grey_NHW[:count, ..., None], 3, axis=3))


def read_idx(path: Path, *, num_axes: int) -> npt.NDArray[np.uint8]:
    """An idx file of bytes, or the same with `.gz`: two zeros, type 8, number of axes, sizes big-endian, values.

    Raises:
        DataError: it is missing, truncated or not such a file.
    """
    zipped = path.with_name(path.name + ".gz")
    try:
        if path.is_file():
            content = path.read_bytes()
        elif zipped.is_file():
            content = gzip.decompress(zipped.read_bytes())
        else:
            raise DataError(f"{path} is missing, and {zipped.name} too: fetch the official files again")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{zipped} cannot be unpacked ({error}): fetch it again") from error
    start = 4 + 4 * num_axes
    if len(content) < start or content[:4] != bytes([0, 0, 8, num_axes]):
        raise DataError(f"{path}: expected an idx file of bytes with {num_axes} axes, got {content[:4].hex()!r}")
    sizes = np.frombuffer(content, dtype=">u4", count=num_axes, offset=4).astype(np.int64)
    if len(content) - start != sizes.prod():
        raise DataError(f"{path}: expected {sizes.prod()} values, got {len(content) - start}: it is truncated or wrong")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)


FASHION_MNIST = Source(
    title="Fashion-MNIST",
    class_names=(
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    locations=(
        Location(
            "official idx files", "fashion-mnist", "fashion-mnist", read_fashion_mnist, _NUM,
            files={
                split: tuple(
                    (f"fashion-mnist/{prefix}-{kind}-ubyte", f"fashion-mnist/{prefix}-{kind}-ubyte.gz")
                    for kind in ("images-idx3", "labels-idx1")
                )
                for split, prefix in _PREFIX.items()
            },
        ),
    ),
    archives=tuple(
        Archive(_URL + name, md5, folder="fashion-mnist", unpack=False)
        for name, md5 in (
            ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        )
    ),
)  # fmt: skip
