"""Data sets as uint8 arrays, by name or from a folder; one reader a file."""

from oat_runtime.data.catalog import SOURCES, load_cifar10, load_dataset, parse_name
from oat_runtime.data.cifar import CIFAR10_CLASSES
from oat_runtime.data.image_set import (
    ImageSet,
    Split,
    fingerprint,
    mixed,
    resized,
    split_validation,
)
from oat_runtime.data.sources import data_root

__all__ = [
    "CIFAR10_CLASSES",
    "SOURCES",
    "ImageSet",
    "Split",
    "data_root",
    "fingerprint",
    "load_cifar10",
    "load_dataset",
    "mixed",
    "parse_name",
    "resized",
    "split_validation",
]
