"""Find the frames of a folder with boxes: the text file of each, its session, its split.

```text
FOLDER/data.yaml                  or classes.txt, or obj.names: the names of the classes
FOLDER/.../1.jpg  FOLDER/.../1.txt               a text file beside each image, in any folders
FOLDER/images/.../1.jpg  FOLDER/labels/.../1.txt      or in a folder labels/ in place of images/
```

Folders `train`, `val` and `test` on the way to an image are its split, unless `data.yaml` names the splits. Where
neither does, lists of images may: `train.txt`, `val.txt` and `test.txt` in the folder.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data.boxes.description import (
    BACKGROUND,
    NAMES_FILES,
    CropRules,
    Description,
    check_names_file,
    has_description,
    read_description,
)
from oat_runtime.data.boxes.splits import splits_of
from oat_runtime.data.boxes.texts import has_boxes, read_text
from oat_runtime.data.folders.layout import Part
from oat_runtime.data.folders.left_out import LeftOut, refuse_or_leave_out
from oat_runtime.data.folders.listing import Listing
from oat_runtime.data.folders.pictures import read_picture
from oat_runtime.data.image_files import in_frame_order, is_picture
from oat_runtime.errors import DataError
from oat_runtime.text import some

_IMAGES, _LABELS = "images", "labels"


@dataclass(frozen=True, slots=True, eq=False)
class BoxFrame:
    """A frame and its boxes; the image is read when it is asked for.

    Attributes:
        path: of the image.
        name: below the data set's folder.
        session: the folder that the image lies in, below the data set's folder.
        part: its split; `train` where the folder has no splits.
        labels_N: int64, places in the index's `class_names`.
        shares_N4: float64, centre x, centre y, width and height of each box in shares of the frame.
        lines_N: int64, of the text file, counted from 1.
    """

    path: Path
    name: str
    session: str
    part: Part
    labels_N: npt.NDArray[np.int64]
    shares_N4: npt.NDArray[np.float64]
    lines_N: npt.NDArray[np.int64]

    def read(self) -> npt.NDArray[np.uint8]:
        """Return the image: uint8 RGB (H, W, 3).

        Raises:
            DataError: it cannot be read.
        """
        return read_picture(self.path)

    def boxes(self, height: int, width: int) -> npt.NDArray[np.int64]:
        """Return boxes_N4 in whole pixels of an image of this size: left, top, right and bottom, as regions have them.

        A box takes in each pixel that it touches, as the node does it with detections, and ends at the image's border.
        """
        size_N2 = np.array([width, height], np.float64)
        centre_N2, half_N2 = self.shares_N4[:, :2] * size_N2, self.shares_N4[:, 2:] * size_N2 / 2
        first_N2 = np.clip(np.floor(np.clip(centre_N2 - half_N2, 0, size_N2)), 0, size_N2 - 1)
        end_N2 = np.clip(np.ceil(np.clip(centre_N2 + half_N2, 0, size_N2)), first_N2 + 1, size_N2)
        return np.concatenate((first_N2, end_N2), axis=1).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class BoxIndex:
    """All frames of a folder with their boxes; no image was opened.

    Attributes:
        root: the folder.
        class_names: each class once; `background` last, if the rules make such crops.
        frames: by session, and in the order of frames within it.
        parts: splits that the folder names; empty if it names none.
        rules: which crops are made.
        left_out: what is no frame with boxes.
    """

    root: Path
    class_names: tuple[str, ...]
    frames: tuple[BoxFrame, ...]
    parts: tuple[Part, ...]
    rules: CropRules = field(default_factory=CropRules)
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def background(self) -> int | None:
        """The label of background crops; None if the rules make none."""
        return self.class_names.index(BACKGROUND) if self.rules.backgrounds_per_frame else None


def is_boxes(root: Path) -> bool:
    """Return whether a folder holds frames with boxes rather than a folder of images for each class.

    Raises:
        DataError: it could be both.
    """
    images, texts = _files(Listing(root, LeftOut()))
    if not texts:
        return False
    paired = [text for image in sorted(images) for text in _places(root, image) if text in texts]
    boxes = next((text for text in (*paired, *sorted(texts.difference(paired))) if has_boxes(text)), None)
    if not has_description(root):
        if boxes is not None:
            raise DataError(
                f"{root}: {boxes.relative_to(root)} holds boxes, but no file names their classes: add classes.txt to "
                "read boxes, or move the text files away to read each folder as a class"
            )
        return False
    if not paired and boxes is None:
        return (root / _IMAGES).is_dir() and (root / _LABELS).is_dir()
    names, folders = set(read_description(root).names), {image.parent.name for image in images if image.parent != root}
    if folders and folders <= names:
        raise DataError(
            f"{root}: {some(sorted(folders))} could be folders of one class each, or sessions of frames with boxes: "
            "rename the folders, or move the text files away"
        )
    return True


def index_boxes(root: Path, *, description: Description | None = None, skip_broken: bool = False) -> BoxIndex:
    """Read the names and the text files in a folder of frames with boxes.

    An image without a text file is left out, because nobody said that it shows nothing. Text files that are wrong are
    refused, all of them at once, or left out together with their images.

    Args:
        root: the folder.
        description: class names and crops; None reads them in the folder.
        skip_broken: leave out what is wrong in itself, with a count, instead of refusing the folder.

    Raises:
        DataError: no frames, no names of classes, splits that cannot be told apart, or text files that are wrong.
    """
    description, left_out = description or read_description(root), LeftOut()
    listing = Listing(root, left_out)
    images, texts = _files(listing)
    parts = splits_of(root, images, description, left_out)
    text_of = _pairs(listing, images, texts)
    wrong: dict[str, str] = {}
    for path in in_frame_order(texts - set(text_of.values())):
        if has_boxes(path):
            wrong[listing.name(path)] = f"{path}: boxes without an image: add the image, or remove the file"
        elif not _names_classes(root, path):
            if path.name in NAMES_FILES:
                check_names_file(path, description)
            left_out.add("not an image", listing.name(path))
    labels = np.array(description.labels, np.int64)
    frames = []
    for image in in_frame_order(parts):
        name = listing.name(image)
        if image not in text_of:
            left_out.add("image without a text file", name)
            continue
        try:
            text = read_text(text_of[image], len(labels))
        except DataError as error:
            wrong[listing.name(text_of[image])] = str(error)
            continue
        for line in text.repeated:
            left_out.add("box that occurs twice", f"{name}#{line}")
        session = listing.name(image.parent)
        frames.append(BoxFrame(image, name, session, parts[image], labels[text.indices_N], text.boxes_N4, text.lines_N))
    if len(wrong) == 1 and not skip_broken:
        raise DataError(*wrong.values())
    refusal = f"{root}: {len(wrong)} text files of boxes are wrong: correct or remove them"
    refuse_or_leave_out(wrong, left_out, "wrong text file", refusal=refusal, skip_broken=skip_broken)
    if not frames:
        raise DataError(f"{root}: expected images with a text file of boxes each, got {len(images)} images without")
    named = {part for part in parts.values() if part != "train"}
    order: tuple[Part, ...] = ("train", "validation", "test")
    kept = tuple(part for part in order if part in named or (named and part == "train"))
    return BoxIndex(root, description.class_names, tuple(frames), kept, description.rules, left_out)


def _files(listing: Listing) -> tuple[list[Path], set[Path]]:
    """(images, text files) of a folder; everything else is left out."""
    images, texts = [], set()
    for path in listing.files(listing.root):
        if is_picture(path):
            images.append(path)
        elif path.suffix.lower() == ".txt":
            texts.add(path)
        elif not _names_classes(listing.root, path):
            listing.left_out.add("not an image", listing.name(path))
    return images, texts


def _names_classes(root: Path, path: Path) -> bool:
    return path.parent == root and path.name in NAMES_FILES


def _places(root: Path, image: Path) -> list[Path]:
    """Where the text file of an image may be: in labels/ in place of the last images/, and beside it."""
    beside = image.with_suffix(".txt")
    folders = beside.relative_to(root).parts
    at = [index for index, name in enumerate(folders[:-1]) if name == _IMAGES]
    if not at:
        return [beside]
    return [root.joinpath(*folders[: at[-1]], _LABELS, *folders[at[-1] + 1 :]), beside]


def _pairs(listing: Listing, images: list[Path], texts: set[Path]) -> dict[Path, Path]:
    text_of: dict[Path, Path] = {}
    for image in images:
        found = [text for text in _places(listing.root, image) if text in texts]
        if len(found) > 1:
            raise DataError(f"{image}: both {found[0]} and {found[1].name} beside it hold its boxes: remove one")
        if found:
            text_of[image] = found[0]
    shared = [text for text, num in Counter(text_of.values()).items() if num > 1]
    if shared:
        both = [listing.name(image) for image, text in text_of.items() if text == shared[0]]
        raise DataError(f"{shared[0]} would hold the boxes of {some(both)}: rename or remove one of them")
    return text_of
