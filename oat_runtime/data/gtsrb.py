"""Read GTSRB, German traffic signs (Stallkamp et al. 2012), from a pack or from the official folders of PPM files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.image_files import read_image
from oat_runtime.data.image_set import Split
from oat_runtime.data.packs import read_pack, track_groups
from oat_runtime.data.sources import Archive, Contents, Location, Source
from oat_runtime.errors import DataError
from oat_runtime.image import fit_frame

_SIDE = 32
_URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"


def read_gtsrb(folder: Path, split: Split, spec: InputSpec | None) -> Contents:
    """The official tree below `GTSRB/`, every image fitted to `spec` (32 x 32 if None), training images with tracks.

    Training: `Final_Training/Images/00007/GT-00007.csv` beside files named `TRACK_FRAME.ppm`. Test:
    `Final_Test/Images/*.ppm`, labelled by `GT-final_test.csv`, which comes in an archive of its own.

    Raises:
        DataError: a file is missing or damaged.
    """
    if split == "test":
        images = folder / "Final_Test" / "Images"
        places = (folder.parent / "GT-final_test.csv", folder / "GT-final_test.csv", images / "GT-final_test.csv")
        table = next((path for path in places if path.is_file()), None)
        if table is None:
            raise DataError(f"{places[0]} is missing: unpack the official GTSRB_Final_Test_GT.zip there")
        rows = _rows(table)
        paths = [images / name for name, _ in rows]
        return Contents(_labels(rows), lambda count: _images(paths[:count], spec))
    paths, rows = [], []
    for table in sorted((folder / "Final_Training" / "Images").glob("*/GT-*.csv")):
        of_class = _rows(table)
        rows += of_class
        paths += [table.parent / name for name, _ in of_class]
    if not paths:
        raise DataError(f"no GT-*.csv under {folder / 'Final_Training' / 'Images'}: unpack the official archive again")
    try:
        tracks_N = np.array([int(path.stem.split("_")[0]) for path in paths], dtype=np.int64)
    except ValueError as error:
        raise DataError(f"{folder}: expected files named TRACK_FRAME.ppm, got another name ({error})") from error
    labels_N = _labels(rows)
    return Contents(labels_N, lambda count: _images(paths[:count], spec), track_groups(labels_N, tracks_N))


def _rows(table: Path) -> list[tuple[str, int]]:
    """(file name, class) of every line of an annotation file."""
    try:
        with table.open(newline="") as file:
            return [(row["Filename"], int(row["ClassId"])) for row in csv.DictReader(file, delimiter=";")]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        what = error.strerror if isinstance(error, OSError) else "expected Filename and ClassId"
        raise DataError(f"{table} is damaged ({what}): unpack the official archive again") from error


def _labels(rows: list[tuple[str, int]]) -> npt.NDArray[np.int64]:
    return np.array([label for _, label in rows], dtype=np.int64)


def _images(paths: list[Path], spec: InputSpec | None) -> npt.NDArray[np.uint8]:
    fitted = spec or InputSpec(height=_SIDE, width=_SIDE)
    images = np.empty((len(paths), fitted.height, fitted.width, 3), np.uint8)
    for index, path in enumerate(paths):
        images[index] = fit_frame(read_image(path, remedy="unpack the official archive again"), fitted)
    return images


_SPEEDS = [f"speed limit {kmh}" for kmh in (20, 30, 50, 60, 70, 80)]

GTSRB = Source(
    title="GTSRB",
    class_names=(
        *_SPEEDS, "end of speed limit 80", "speed limit 100", "speed limit 120", "no passing",
        "no passing for trucks", "right of way at the next crossing", "priority road", "give way", "stop",
        "no vehicles", "no trucks", "no entry", "danger", "bend to the left", "bend to the right", "double bend",
        "uneven road", "slippery road", "road narrows on the right", "road works", "traffic signals", "pedestrians",
        "children", "bicycles", "ice or snow", "wild animals", "end of all limits", "turn right ahead",
        "turn left ahead", "ahead only", "straight on or right", "straight on or left", "keep right", "keep left",
        "roundabout", "end of no passing", "end of no passing for trucks",
    ),
    locations=(
        Location("lossless pack", "gtsrb/labels.npz", "gtsrb", read_pack, {"train": 13_070, "test": 12_630}),
        Location(
            "official PPM files", "GTSRB", "GTSRB", read_gtsrb, {"train": 39_209, "test": 12_630},
            files={
                "train": tuple((f"GTSRB/Final_Training/Images/{at:05d}/GT-{at:05d}.csv",) for at in range(43)),
                "test": (tuple(f"{at}GT-final_test.csv" for at in ("", "GTSRB/", "GTSRB/Final_Test/Images/")),),
            },
        ),
    ),
    archives=(
        Archive(_URL + "GTSRB_Final_Training_Images.zip", "f33fd80ac59bff73c82d25ab499e03a3"),
        Archive(_URL + "GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
        Archive(_URL + "GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
    ),
    mirrors=False,
    side=_SIDE,
)  # fmt: skip
"""The pack holds every third frame of each training track."""
