"""Divide training images from validation images, and hold a run to that division: nothing changes sides unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oat_runtime.bundle import Bundle, DataSummary, Fingerprints, HeldOut
from oat_runtime.compat import Self
from oat_runtime.data import (
    ImageSet,
    fingerprint,
    lasting_name,
    parse_name,
    read_labelled_npz,
    split_validation,
    write_labelled_npz,
)
from oat_runtime.data.image_set import image_digest
from oat_runtime.errors import DataError
from oat_runtime.files import read_model, whole_file, write_whole
from oat_runtime.operating_point import StrictModel
from oat_runtime.text import changed_names, some
from training.config import TrainConfig

HELD_OUT = "validation.npz"
"""File in a run's folder with its validation images."""
RECORD = "data.json"
"""File in a run's folder with its `DataRecord`."""
DIVIDES = ("num_validation", "seed", "split")
"""Settings that say which images are held out."""
_BEFORE_RESIZE: dict[str, int | str] = {"resize": "center_crop"}
"""Of a record from before images were fitted in other ways."""
_MOST_BYTES, _MOST_VALUES = 256 * 2**20, 4_000_000
"""Of a record; one of a folder names each of its images."""


class PartRecord(StrictModel):
    """The images on one side of the division."""

    num_images: int
    sha256: str
    """`oat_runtime.data.fingerprint` of them."""
    files: dict[str, str] | None
    """For images that are files: name to a hash of pixels and class name."""

    @classmethod
    def of(cls, data: ImageSet) -> Self:
        """Record the images of `data`."""
        return cls(num_images=len(data), sha256=fingerprint(data), files=_files(data))


class DataRecord(StrictModel):
    """Which images a run trains on and which it holds out."""

    dataset: str
    asked: dict[str, int | str]
    """The configuration's `num_validation`, `resize`, `seed` and `split`."""
    class_names: tuple[str, ...]
    training: PartRecord
    validation: PartRecord

    @classmethod
    def of(cls, config: TrainConfig, training: ImageSet, validation: ImageSet) -> Self:
        """Record how a run of this configuration divides its data set."""
        return cls(
            dataset=config.dataset,
            asked={
                "num_validation": config.num_validation,
                "resize": config.resize,
                "seed": config.seed,
                "split": config.split,
            },
            class_names=training.class_names,
            training=PartRecord.of(training),
            validation=PartRecord.of(validation),
        )


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """Which images a network was trained on, as far as its run or its bundle says."""

    dataset: str
    asked: Mapping[str, Any]
    """As in `DataRecord`."""
    held_out: str | None
    """`oat_runtime.data.fingerprint` of its validation images; None if it is not known."""
    files: Mapping[str, str] | None
    """Its training images, as in `PartRecord`; a bundle does not name them."""
    class_names: tuple[str, ...]
    """Empty where nobody kept them."""

    @classmethod
    def of_run(cls, run: Path, config: TrainConfig) -> Self:
        """Read it from a run's folder, and from its configuration what a lost record does not say.

        Raises:
            DataError: the record is damaged.
        """
        if not (run / RECORD).is_file():
            return cls(config.dataset, config.model_dump(), None, None, ())
        kept = _read_record(run)
        asked, files = _BEFORE_RESIZE | kept.asked, kept.training.files
        return cls(kept.dataset, asked, kept.validation.sha256, files, kept.class_names)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Self:
        """Read it from a bundle's manifest."""
        made, data = bundle.manifest.provenance, bundle.manifest.data
        held_out = None if data is None else data.fingerprints.validation
        return cls(made.dataset, _BEFORE_RESIZE | made.recipe, held_out, None, bundle.class_names)


def divided(everything: ImageSet, config: TrainConfig) -> tuple[ImageSet, ImageSet]:
    """Return the images to train on and those to hold out, as a run of this configuration divides them.

    Raises:
        DataError: there are too few images.
    """
    return split_validation(
        everything, config.num_validation, seed=config.seed, stratified=config.split == "stratified"
    )


def keep_division(run: Path, record: DataRecord, validation: ImageSet) -> None:
    """Write the record and the validation images into a run's folder."""
    write_whole(run / RECORD, record.model_dump_json() + "\n")
    with whole_file(run / HELD_OUT) as file:
        write_labelled_npz(file, validation)


def summary(config: TrainConfig, training: ImageSet, validation: ImageSet, test_set: ImageSet) -> DataSummary:
    """Return what a bundle says of its images: how validation was held out, and the fingerprint of each part."""
    rule, num = str(config.split) if training.groups_N is None else "groups", config.num_validation
    if training.validation_N is not None:
        rule, num = "folder", len(validation)
    return DataSummary(
        held_out=HeldOut(rule=rule, num_images=num, seed=config.seed),
        fingerprints=Fingerprints(
            train=fingerprint(training), validation=fingerprint(validation), test=fingerprint(test_set)
        ),
    )


def check_division(run: Path, found: DataRecord, validation: ImageSet) -> None:
    """Compare a division with the one that a run began with.

    Nothing is compared where another division was asked for: that is another configuration, which the checkpoint
    refuses.

    Raises:
        DataError: they differ, by name: classes, added, missing or changed images, or images that changed sides; or
            nobody kept what the pictures of a folder were.
    """
    if (run / RECORD).is_file():
        kept = _read_record(run)
        asked = _BEFORE_RESIZE | kept.asked
        if (lasting_name(kept.dataset), asked) != (lasting_name(found.dataset), found.asked):
            return
        differences = _differences(kept, found)
    elif (run / HELD_OUT).is_file():  # a run that was begun before there were records
        differences = _other_validation(run / HELD_OUT, validation)
    elif found.training.files is None:
        return  # the pictures of a folder change, official data sets do not
    else:
        raise DataError(
            f"{run} holds no {RECORD}, which says the run's images and classes: copy the whole folder of the run, not "
            "its checkpoint alone, or train anew in another folder"
        )
    if differences:
        raise DataError(
            f"{found.dataset}: the data set changed since the run in {run} began: {'; '.join(differences)}; "
            "bring it back as it was, or train anew in another folder"
        )


def seen_before(found: DataRecord, by: TrainedOn) -> str | None:
    """Say that weights were trained on validation images of the run that starts from them; None if nothing says so.

    Accuracy on such images says nothing of others, and no later step can tell.

    Args:
        found: the images of the run.
        by: those of the network whose weights it takes.
    """
    same_pictures, what = _place(found.dataset) == _place(by.dataset), ""
    if by.files is not None and found.validation.files is not None:
        digests = set(by.files.values())
        seen = [
            name
            for name, digest in found.validation.files.items()
            if digest in digests or (same_pictures and name in by.files)
        ]
        if seen:
            what = f"were trained on {len(seen)} of the {found.validation.num_images} validation images ({some(seen)})"
    elif same_pictures and not _divided_alike(found, by):
        what = "come from another division of the same data, so they may know most of the validation images"
    if not what:
        return None
    return (
        f"the weights that this run starts from {what}. Figures on validation images would then be too good, and so "
        "would what oat-export and policy.fit measure on them. Take the seed, num_validation and split of the run that "
        "made these weights, with the same pictures; or hold out pictures that are new, in a validation folder"
    )


def _divided_alike(found: DataRecord, by: TrainedOn) -> bool:
    same_pixels = parse_name(found.dataset)[1] == parse_name(by.dataset)[1]
    if same_pixels and found.asked["resize"] == by.asked["resize"] and by.held_out is not None:
        return found.validation.sha256 == by.held_out
    return all(found.asked[key] == by.asked.get(key) for key in DIVIDES)


def _place(dataset: str) -> str:
    return parse_name(lasting_name(dataset))[0]


def _read_record(run: Path) -> DataRecord:
    what = "the record of a run's images"
    return read_model(
        DataRecord, run / RECORD, what=what, error=DataError, max_bytes=_MOST_BYTES, max_values=_MOST_VALUES
    )


def _differences(kept: DataRecord, found: DataRecord) -> list[str]:
    differences = []
    if found.class_names != kept.class_names:
        differences.append(f"classes: {changed_names(kept.class_names, found.class_names)}")
    for side, before, now in (
        ("training", kept.training, found.training),
        ("validation", kept.validation, found.validation),
    ):
        if before.sha256 == now.sha256:
            continue
        if before.files is None or now.files is None:
            differences.append(
                f"expected the {before.num_images} {side} images that it had, got {now.num_images} others"
            )
            continue
        added, missing = now.files.keys() - before.files.keys(), before.files.keys() - now.files.keys()
        changed = {name for name in now.files.keys() & before.files.keys() if now.files[name] != before.files[name]}
        for names, what in ((added, "new"), (missing, "missing"), (changed, "changed")):
            if names:
                differences.append(f"{len(names)} {what} among the {side} images ({some(sorted(names))})")
        if not (added or missing or changed):
            differences.append(f"another order of the {side} images")
    return differences


def _other_validation(path: Path, validation: ImageSet) -> list[str]:
    kept = read_labelled_npz(path)
    same = np.array_equal(kept.images_NHWC[:], validation.images_NHWC[:]) and np.array_equal(
        kept.labels_N, validation.labels_N
    )
    return [] if same else [f"expected the {len(kept)} validation images in {path}, got others"]


def _files(data: ImageSet) -> dict[str, str] | None:
    if data.names is None:
        return None
    digests = data.digests_N
    if digests is None:
        pairs = zip(data.images_NHWC, data.labels_N, strict=True)
        digests = np.array([image_digest(image_HWC, data.class_names[label]) for image_HWC, label in pairs], np.uint64)
    return {name: f"{digest:016x}" for name, digest in zip(data.names, digests.tolist(), strict=True)}
