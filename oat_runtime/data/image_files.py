"""Image files: which ones are images, in which order frames come, and their pixels as uint8 RGB."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_image(path: Path) -> bool:
    """Tell by its name whether a file is an image. A hidden file is none: those are a system's own notes."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def in_frame_order(paths: Iterable[Path]) -> list[Path]:
    """Sort files as a person counts: frame2 before frame10.

    Numbers in names compare by value, everything else character by character. Names that this leaves equal, such as
    frame02 and frame2, come in the order of their characters.
    """
    return sorted(paths, key=lambda path: [(_natural(part), part) for part in path.parts])


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Characters as their codes; a number stands where a digit does, and takes its value with it, however long."""
    parts = re.findall(r"[0-9]+|[^0-9]", name)
    numbers = [part.lstrip("0") if part[0] in "0123456789" else None for part in parts]
    return [
        (ord(part), 0, "") if number is None else (ord("0"), len(number), number)
        for part, number in zip(parts, numbers, strict=True)
    ]


def frame_files(folder: Path) -> list[Path]:
    """List the images of a folder, not of those below it, in the order of their frames.

    Raises:
        DataError: it holds none.
    """
    paths = in_frame_order(path for path in folder.iterdir() if is_image(path))
    if not paths:
        raise DataError(f"{folder} holds no image: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return paths


def read_image(path: Path, *, remedy: str = "replace or remove it") -> npt.NDArray[np.uint8]:
    """Read an image file as uint8 RGB (H, W, 3).

    Args:
        path: the file.
        remedy: what the error advises.

    Raises:
        DataError: it is missing or cannot be decoded.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if bgr is None:
        what = "cannot be decoded: expected an image file such as PNG, JPEG or WebP" if path.is_file() else "is missing"
        raise DataError(f"{path} {what}: {remedy}")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_photo(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file with Pillow, which refuses a truncated one where OpenCV fills it with grey.

    Raises:
        DataError: it cannot be decoded, or Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps  # an extra: only folders of photos need it
    except ImportError as error:
        raise DataError("folders of images need Pillow: pip install 'oat-robot[data]'") from error
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reports broken PNG files as SyntaxError
        raise DataError(f"{path} cannot be decoded ({error}): replace or remove it") from error
