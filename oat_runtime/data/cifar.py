"""Read CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their official binary version, which needs no unpickling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.image_set import Split
from oat_runtime.data.packs import read_pack
from oat_runtime.data.sources import Archive, Contents, Location, Source, whole_file

_NUM: dict[Split, int] = {"train": 50_000, "test": 10_000}
_PIXELS = 3 * 32 * 32
_BINARY = "official binary file"

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
"""The fine labels, alphabetical, as in the official `fine_label_names.txt`."""


def read_cifar10(folder: Path, split: Split, spec: InputSpec | None) -> Contents:
    """Six files of 10,000 records: a label byte, then the red, green and blue planes, row by row."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    return _records(folder, names, _NUM[split] // len(names), num_labels=1)


def read_cifar100(folder: Path, split: Split, spec: InputSpec | None) -> Contents:
    """One file a split of records with a coarse and a fine label byte; the fine one is the class."""
    return _records(folder, [f"{split}.bin"], _NUM[split], num_labels=2)


def _records(folder: Path, names: list[str], num_records: int, *, num_labels: int) -> Contents:
    size = num_labels + _PIXELS
    table = np.concatenate([whole_file(folder / name, num_records * size).reshape(-1, size) for name in names])

    def first_images(count: int) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(table[:count, num_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

    return Contents(table[:, num_labels - 1].astype(np.int64), first_images)


CIFAR10 = Source(
    title="CIFAR-10",
    class_names=CIFAR10_CLASSES,
    locations=(
        Location("lossless pack", "cifar10/labels.npz", "cifar10", read_pack, _NUM),
        Location(
            _BINARY,
            "cifar-10-batches-bin/test_batch.bin",
            "cifar-10-batches-bin",
            read_cifar10,
            _NUM,
            files={"train": tuple((f"cifar-10-batches-bin/data_batch_{i}.bin",) for i in range(1, 6))},
        ),
    ),
    archives=(Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
)

CIFAR100 = Source(
    title="CIFAR-100",
    class_names=CIFAR100_CLASSES,
    locations=(
        Location(
            _BINARY,
            "cifar-100-binary",
            "cifar-100-binary",
            read_cifar100,
            _NUM,
            files={split: ((f"cifar-100-binary/{split}.bin",),) for split in _NUM},
        ),
    ),
    archives=(Archive("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
)
