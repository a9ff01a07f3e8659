"""Read the crops of frames with boxes as one split of a data set: each frame decoded once, none of them kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.boxes.crops import FrameCrops, cut_out, frame_crops
from oat_runtime.data.boxes.index import BoxFrame, BoxIndex, index_boxes
from oat_runtime.data.folders.doubts import warn_of_black_pictures, warn_of_like_names
from oat_runtime.data.folders.groups import find_groups, is_test
from oat_runtime.data.folders.layout import Entry, FolderIndex
from oat_runtime.data.folders.left_out import refuse_or_leave_out
from oat_runtime.data.folders.near_copies import THUMBNAIL_SHAPE, thumbnail
from oat_runtime.data.image_set import ImageSet, Split, titled
from oat_runtime.data.picked_images import PickedImages
from oat_runtime.errors import DataError
from oat_runtime.text import some

_LOG = logging.getLogger(__name__)
_Bytes = npt.NDArray[np.uint8]


def load_boxes(folder: Path, split: Split, *, spec: InputSpec | None, skip_broken: bool = False) -> ImageSet:
    """Read one split of a folder of frames with boxes, as crops in a fixed random order; see `read_crops`.

    Raises:
        DataError: what `index_boxes` and `read_crops` refuse.
    """
    index = index_boxes(folder, skip_broken=skip_broken)
    warn_of_like_names(folder, index.class_names)
    # A ball may be mirrored, an arrow may not.
    return read_crops(index, split, name=folder.name, spec=spec, mirrors=False, skip_broken=skip_broken)


def read_crops(
    index: BoxIndex, split: Split, *, name: str, spec: InputSpec | None, mirrors: bool, skip_broken: bool = False
) -> ImageSet:
    """Read one split as crops of boxes and of background.

    If training frames lie in several folders, each folder is a session, and the frames of a session are a group, which
    no split divides. Otherwise near copies are a group. If no folder is the test set, the hash of the name of a group's
    first frame decides, as for folders of images.

    Args:
        index: the frames.
        split: `train` or `test`.
        name: of the data set.
        spec: how crops are fitted; the margin comes from the index.
        mirrors: whether a mirror image keeps its class.
        skip_broken: leave out images that cannot be read, with a count, instead of refusing the folder.

    Raises:
        DataError: no `spec`, images that cannot be read, or none of the split.
    """
    if spec is None:
        raise DataError(f"{name}: boxes have many sizes: put the side to fit them to behind the name, as in {name}@64")
    spec = spec.model_copy(update={"region_margin": index.rules.margin})
    frames = _decided(index, split)
    if not frames:
        raise DataError(f"{name}: no {split} frames: add some in a folder {split}/, or read the other split")
    stack = _read(index, frames, spec, skip_broken=skip_broken)
    warn_of_black_pictures(index.root, stack.thumbnails_FHWC)
    group_F, kept_F = _divided(index, stack.frames, lambda: stack.thumbnails_FHWC, split)
    frame_N = np.repeat(np.arange(len(stack.frames)), [len(crops.labels_N) for crops in stack.crops])
    order_N = np.random.default_rng(0).permutation(np.flatnonzero(kept_F[frame_N]))
    if not len(order_N):
        raise DataError(f"{index.root}: no {split} crops: add frames with boxes, or a folder {split}/ beside train/")
    labels_N = np.concatenate([crops.labels_N for crops in stack.crops])
    sides_N = np.concatenate([crops.sides_N for crops in stack.crops])
    names = [name for crops in stack.crops for name in crops.names]
    part_F = np.array([frame.part for frame in stack.frames])
    data = ImageSet(
        PickedImages(stack.images_NHWC, order_N),
        labels_N[order_N],
        index.class_names,
        titled(name, split, spec),
        groups_N=group_F[frame_N[order_N]],
        mirrors=mirrors,
        names=tuple(names[at] for at in order_N.tolist()),
        validation_N=(
            part_F[frame_N[order_N]] == "validation" if split == "train" and "validation" in index.parts else None
        ),
        region_margin=spec.region_margin,
        sides_N=sides_N[order_N],
    )
    _report(index, data, split, [crops for crops, kept in zip(stack.crops, kept_F, strict=True) if kept])
    return data


def frames_of_split(index: BoxIndex, split: Split) -> tuple[BoxFrame, ...]:
    """Return the frames of one split, session by session in their order of time: those whose crops `read_crops` reads.

    If there are neither sessions nor a test set, all images are decoded once to find near copies.

    Raises:
        DataError: an image that has to be decoded cannot be read.
    """
    frames = _decided(index, split)
    _, kept_F = _divided(index, frames, lambda: np.stack([thumbnail(frame.read()) for frame in frames]), split)
    return tuple(frame for frame, kept in zip(frames, kept_F, strict=True) if kept)


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """Crops as they were read, frame by frame."""

    images_NHWC: _Bytes
    thumbnails_FHWC: _Bytes
    frames: list[BoxFrame]
    crops: list[FrameCrops]


def _read(index: BoxIndex, wanted: list[BoxFrame], spec: InputSpec, *, skip_broken: bool) -> _Stack:
    most = sum(len(frame.labels_N) + index.rules.backgrounds_per_frame for frame in wanted)
    try:
        images = np.empty((most, spec.height, spec.width, 3), np.uint8)  # what stays unused takes no memory
    except MemoryError as error:
        raise DataError(
            f"{index.root}: {most} crops of {spec.width}x{spec.height} pixels do not fit into memory: make them "
            "smaller, or read fewer frames"
        ) from error
    thumbnails = np.empty((len(wanted), *THUMBNAIL_SHAPE), np.uint8)
    frames: list[BoxFrame] = []
    crops: list[FrameCrops] = []
    broken: dict[str, str] = {}
    num = 0
    for frame in wanted:
        try:
            image_HWC = frame.read()
        except DataError as error:
            broken[frame.name] = str(error)
            continue
        height, width = image_HWC.shape[:2]
        chosen = frame_crops(frame, index, height=height, width=width, spec=spec)
        for crop_HWC in cut_out(image_HWC, chosen.boxes_N4, spec):
            images[num] = crop_HWC
            num += 1
        thumbnails[len(frames)] = thumbnail(image_HWC)
        frames.append(frame)
        crops.append(chosen)
    refusal = f"{index.root}: {len(broken)} of {len(wanted)} images cannot be read: replace or remove them"
    refuse_or_leave_out(broken, index.left_out, "broken image", refusal=refusal, skip_broken=skip_broken)
    if not frames:
        raise DataError(f"{index.root}: no image can be read: replace them")
    return _Stack(images[:num], thumbnails[: len(frames)], frames, crops)


def _has_sessions(index: BoxIndex) -> bool:
    parts = {frame.part for frame in index.frames}
    return len({frame.session for frame in index.frames if frame.part == "train" or "train" not in parts}) > 1


def _decided(index: BoxIndex, split: Split) -> list[BoxFrame]:
    """Frames of a split as far as names tell; all of them, where only the images do."""
    frames = list(index.frames)
    if "test" in index.parts:
        return [frame for frame in frames if (frame.part == "test") == (split == "test")]
    if not _has_sessions(index):
        return frames
    is_test_F = is_test(*_as_folder(index, frames), _sessions(frames))
    return [frame for frame, held in zip(frames, is_test_F, strict=True) if held == (split == "test")]


def _divided(
    index: BoxIndex, frames: list[BoxFrame], thumbnails: Callable[[], _Bytes], split: Split
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(group, whether it is of the split) of each frame that `_decided` returns."""
    if _has_sessions(index):
        return _sessions(frames), np.ones(len(frames), bool)
    folder, entries = _as_folder(index, frames)
    group_F = find_groups(folder, entries, thumbnails())
    if "test" in index.parts:
        return group_F, np.ones(len(frames), bool)
    return group_F, is_test(folder, entries, group_F) == (split == "test")


def _sessions(frames: list[BoxFrame]) -> npt.NDArray[np.int64]:
    """The index of the first frame in each frame's session; one that is in two splits counts as two."""
    firsts: dict[tuple[str, str], int] = {}
    return np.array([firsts.setdefault((frame.session, frame.part), at) for at, frame in enumerate(frames)], np.int64)


def _as_folder(index: BoxIndex, frames: list[BoxFrame]) -> tuple[FolderIndex, list[Entry]]:
    """The frames as a folder of images of a single class: groups and test images are found by the same rules."""
    entries = [Entry(frame.path, frame.name, 0, "", frame.part) for frame in frames]
    return FolderIndex(index.root, ("(all frames)",), tuple(entries), index.parts, index.left_out), entries


def _report(index: BoxIndex, data: ImageSet, split: Split, crops: list[FrameCrops]) -> None:
    """Say in one table what was read and what was left out, and warn of classes without crops."""
    for of_frame in crops:
        for name in of_frame.too_small:
            index.left_out.add("box that is too small", name)
        for name in of_frame.without_room:
            index.left_out.add("background crop without room", name)
    count_K = np.bincount(data.labels_N, minlength=len(data.class_names))
    of_class = [f"{name} {num}" for name, num in zip(data.class_names, count_K.tolist(), strict=True)]
    assert data.groups_N is not None
    rules = index.rules
    groups, what = len(np.unique(data.groups_N)), "sessions" if _has_sessions(index) else "near copies"
    rows = [
        f"{len(data):8d} crops read as {split}: {some(of_class, 50)}",
        f"{len(crops):8d} frames in {groups} {'group' if groups == 1 else 'groups'}: {what} are not divided",
        f"         a crop is a box of at least {rules.min_side_px} pixels with {rules.margin:.0%} around it; "
        f"each frame has {rules.backgrounds_per_frame} of background",
    ]
    if data.validation_N is not None:
        rows.append(f"{int(data.validation_N.sum()):8d} of them are held out for validation")
    if "test" not in index.parts:
        rows.append("         test frames are a fifth of the groups, chosen by the hash of their names")
    rows += index.left_out.rows()
    level = logging.WARNING if index.left_out.names else logging.INFO
    _LOG.log(level, "%s:\n%s", data.name, "\n".join(rows))
    missing = [name for name, num in zip(data.class_names, count_K.tolist(), strict=True) if not num]
    if missing:
        _LOG.warning(
            "%s: no crop of class %s: add frames that show it, or take its name away", data.name, some(missing, 10)
        )
