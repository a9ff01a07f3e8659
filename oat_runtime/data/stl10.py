"""Read STL-10 (Coates et al. 2011): 96×96 images, labelled part only, from the official binary files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oat_runtime.architecture import InputSpec
from oat_runtime.data.image_set import Split
from oat_runtime.data.sources import Archive, Contents, Location, Source, whole_file
from oat_runtime.errors import DataError

_NUM: dict[Split, int] = {"train": 5_000, "test": 8_000}
_SIDE = 96


def read_stl10(folder: Path, split: Split, spec: InputSpec | None) -> Contents:
    """`SPLIT_X.bin` holds red, green and blue planes, each column by column; `SPLIT_y.bin` labels in 1..10.

    Raises:
        DataError: a file is missing, truncated or damaged.
    """
    num = _NUM[split]
    pixels = whole_file(folder / f"{split}_X.bin", num * 3 * _SIDE * _SIDE)
    labels_N = whole_file(folder / f"{split}_y.bin", num).astype(np.int64)
    if not 1 <= labels_N.min() <= labels_N.max() <= 10:
        raise DataError(f"{folder / f'{split}_y.bin'}: expected labels in 1..10: the file is damaged")
    images_NHWC = pixels.reshape(num, 3, _SIDE, _SIDE).transpose(0, 3, 2, 1)
    return Contents(labels_N - 1, lambda count: np.ascontiguousarray(images_NHWC[:count]))


STL10 = Source(
    title="STL-10",
    class_names=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    locations=(
        Location(
            "official binary files", "stl10_binary", "stl10_binary", read_stl10, _NUM,
            files={split: tuple((f"stl10_binary/{split}_{kind}.bin",) for kind in "Xy") for split in _NUM},
        ),
    ),
    archives=(
        Archive("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"),
    ),
)  # fmt: skip
