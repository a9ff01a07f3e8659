"""Image files: which ones are images, in which order frames come, and their pixels as uint8 RGB."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.data.decoding import FULL_BITS
from oat_runtime.data.file_pixels import decode_file
from oat_runtime.data.image_headers import MAX_PIXELS, most_bytes
from oat_runtime.errors import DataError, FileReadError, InputError

IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_NOT_READ = frozenset(
    {
        *(".apng", ".avif", ".avifs", ".bpg", ".dib", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif", ".insp"),
        *(".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpm", ".jps", ".jpx", ".jxl", ".jxr", ".mpo", ".wdp"),
        *(".blp", ".bw", ".cur", ".dcx", ".dds", ".emf", ".eps", ".exr", ".flc", ".fli", ".hdr", ".icns", ".ico"),
        *(".pam", ".pbm", ".pcd", ".pcx", ".pfm", ".pnm", ".psb", ".psd", ".qoi", ".ras", ".rgb", ".rgba", ".sgi"),
        *(".svg", ".tga", ".wmf", ".xbm", ".xcf", ".xpm"),
        *(".dcm", ".fit", ".fits"),
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef"),
        *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"),
        ".x3f",
    }
)
"""Suffixes of pictures that are not read. They are named, not passed over: half of a camera's files may be such."""


def is_image(path: Path) -> bool:
    """Tell by its name whether a file is an image. A hidden file is none: those are a system's own notes."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def is_picture(path: Path) -> bool:
    """Tell by its suffix whether a file is a picture, in a format that is read or in another one."""
    return path.suffix.lower() in IMAGE_SUFFIXES or path.suffix.lower() in _NOT_READ


def check_format(path: Path) -> None:
    """Refuse a picture that by its suffix is in a format that is not read.

    Raises:
        DataError: it is.
    """
    if path.suffix.lower() in _NOT_READ:
        raise DataError(f"{path} is a picture in a format that is not read ({path.suffix}): save it as PNG or JPEG")


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
    """List the pictures of a folder, not of those below it, in the order of their frames; hidden files are none.

    Those in a format that is not read are among them: `check_format` tells.

    Raises:
        DataError: it holds none.
    """
    paths = in_frame_order(path for path in folder.iterdir() if is_picture(path) and not path.name.startswith("."))
    if not paths:
        within = next((path.parent for path in folder.rglob("*") if is_image(path)), None)
        if within is not None:
            raise DataError(
                f"{folder} holds no image itself, only in folders below it: name one of those, such as {within}"
            )
        raise DataError(f"{folder} holds no image: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return paths


def read_image(
    path: Path,
    *,
    remedy: str = "replace or remove it",
    max_pixels: int = MAX_PIXELS,
    bits: int = FULL_BITS,
    needed_px: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Read an image file as uint8 RGB (H, W, 3), by the rules of `oat_runtime.data.file_pixels`, here and on a robot.

    Args:
        path: the file.
        remedy: what the error advises.
        max_pixels: pixels that it may have.
        needed_px: the longest side that is needed: a far larger JPEG is decoded smaller; see `decode_rgb`.
        bits: how many bits a value of 16 bits uses, 8 to 16.

    Raises:
        FileReadError: it is missing or cannot be read, or memory ran out.
        DataError: it cannot be decoded whole, has more pixels, or several pictures.
    """
    data = _content(path, remedy, max_pixels)
    try:
        return decode_file(data, max_pixels=max_pixels, bits=bits, needed_px=needed_px)
    except (InputError, MemoryError) as error:
        if isinstance(error, MemoryError) or getattr(error.__cause__, "code", None) == cv2.Error.StsNoMem:
            raise FileReadError(f"{path} cannot be decoded: out of memory: make room, and start again") from error
        joint = ", or " if str(error).count(": ") > 1 else ": "  # it may end in a remedy of its own
        raise DataError(f"{path} cannot be decoded: {error}{joint}{remedy}") from error


def _content(path: Path, remedy: str, max_pixels: int) -> bytes:
    """The file's bytes, no more than an image of so many pixels can have."""
    most = most_bytes(max_pixels)
    try:
        if not path.is_file():
            raise FileReadError(f"{path} is missing: {remedy}")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise FileReadError(f"{path} cannot be read ({error}): {remedy}") from error
    return data
