"""Data sets as uint8 arrays, by name or from a folder; one reader a file."""

from training.data.cifar import CIFAR10_CLASSES
from training.data.image_set import (
    ImageSet,
    Split,
    augment,
    fingerprint,
    fit_model,
    mixed,
    resized,
    split_validation,
    to_unit,
)
from training.data.registry import SOURCES, load_cifar10, load_dataset, parse_name
from training.data.sources import data_root

__all__ = [
    "CIFAR10_CLASSES",
    "SOURCES",
    "ImageSet",
    "Split",
    "augment",
    "data_root",
    "fingerprint",
    "fit_model",
    "load_cifar10",
    "load_dataset",
    "mixed",
    "parse_name",
    "resized",
    "split_validation",
    "to_unit",
]
