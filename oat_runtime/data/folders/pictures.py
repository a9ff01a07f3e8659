"""Turn one picture's file into an image of a network's input size, with what near copies and records need of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.architecture import InputSpec
from oat_runtime.data.folders.near_copies import thumbnail
from oat_runtime.data.image_files import check_format, read_image
from oat_runtime.data.image_set import image_digest
from oat_runtime.errors import DataError, FileReadError
from oat_runtime.extras import require
from oat_runtime.image import fit_frame


@dataclass(frozen=True, slots=True)
class Picture:
    """A file of a data set.

    Attributes:
        path: of the file.
        name: below the data set's folder.
        class_name: what it shows.
    """

    path: Path
    name: str
    class_name: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture, ready to be kept: its image at the final size, its thumbnail and its `image_digest`.

    `was_small` says that both of its sides were shorter than those of the image, so that it was enlarged.
    """

    image_HWC: npt.NDArray[np.uint8]
    thumbnail_HWC: npt.NDArray[np.uint8]
    digest: int
    was_small: bool


def decode(picture: Picture, spec: InputSpec | None) -> Decoded:
    """Decode a picture, and fit it to `spec`, if there is one.

    A JPEG that is far larger than `spec` is decoded smaller (`oat_runtime.data.decoding.DRAFT_TIMES`).

    Raises:
        FileReadError: the picture's bytes could not be had, or memory ran out.
        DataError: they cannot be decoded.
        ConfigError: it is a TIFF image, and Pillow is not installed to check it.
    """
    pixels_HWC = read_picture(picture.path, needed_px=None if spec is None else max(spec.height, spec.width))
    image_HWC = pixels_HWC if spec is None else fit_frame(pixels_HWC, spec)
    was_small = all(side < fitted for side, fitted in zip(pixels_HWC.shape[:2], image_HWC.shape[:2], strict=True))
    return Decoded(image_HWC, thumbnail(pixels_HWC), image_digest(image_HWC, picture.class_name), was_small)


def read_picture(path: Path, *, needed_px: int | None = None) -> npt.NDArray[np.uint8]:
    """Read a picture of a data set: `read_image`, but a TIFF file with holes is refused.

    Raises:
        FileReadError: its bytes could not be had, or memory ran out.
        DataError: they cannot be decoded.
        ConfigError: it is a TIFF image, and Pillow is not installed to check it.
    """
    check_format(path)
    pixels_HWC = read_image(path, needed_px=needed_px)
    try:
        with path.open("rb") as file:
            is_tiff = file.read(4) in (b"II*\0", b"MM\0*")
            data = path.read_bytes() if is_tiff else b""
    except OSError as error:
        raise FileReadError(f"{path} cannot be read ({error}): replace or remove it") from error
    if is_tiff:
        _check_tiff(path, data)
    return pixels_HWC


def _check_tiff(path: Path, data: bytes) -> None:
    """Refuse a TIFF file with holes in compressed pixels. OpenCV fills them; Pillow does not, if it knows the kind."""
    require("PIL", extra="data", by="a folder with TIFF images")
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            image.load()
    except UnidentifiedImageError:
        return  # floats of three channels and the like
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded: {error}: replace or remove it") from error
