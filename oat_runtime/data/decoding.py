"""Decode a compressed image to uint8 RGB: the one place, for camera messages and files. Limits come before memory."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from oat_runtime.data.image_headers import MAX_PIXELS, NEXT_MARKER, Header, read_header
from oat_runtime.errors import InputError

REDUCED_ABOVE_PX = 3840 * 2160
"""A JPEG frame with more pixels than 4K may be decoded at half, a quarter or an eighth of its sides."""
DRAFT_TIMES = 4
"""A JPEG may be decoded at a half, a quarter or an eighth of its sides if its shorter side stays so many times as long
as the longest side that is needed. Fitted to that, pixels differ by 0.1 to 0.8 of 255 levels on average from those of
the whole image (docs/log/own-pictures.md)."""
FULL_BITS = 16
"""Bits that a value of a 16-bit image uses unless somebody says otherwise."""
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: ([1-8]) extraneous bytes before marker 0xd9")
"""All pixels are there; some webcams write a few bytes too many before the end."""
_HEADER_QUIRK = re.compile(r"Invalid SOS parameters for sequential JPEG|Warning: unknown JFIF revision number .*")
"""Numbers in the header that cameras get wrong and nobody needs."""


def decode_rgb(
    data: bytes | memoryview,
    *,
    max_pixels: int = MAX_PIXELS,
    oriented: bool = True,
    reduced: bool = False,
    needed_px: int | None = None,
    bits: int = FULL_BITS,
) -> npt.NDArray[np.uint8]:
    """Decode an image, whole or not at all: libjpeg's fillings of missing data count as damage.

    Args:
        data: of one of `oat_runtime.data.image_headers.FORMATS`.
        max_pixels: pixels that it may have.
        oriented: turn it as its EXIF data say; else it comes as stored.
        reduced: halve the sides of a JPEG of more than `REDUCED_ABOVE_PX` pixels until it has no more than those. That
            is for a network whose input is far smaller.
        needed_px: the longest side that is needed of a JPEG: its sides are halved by the rule of `DRAFT_TIMES`.
        bits: how many bits a value of a 16-bit PNG uses, 8 to 16.

    Returns:
        image_HWC: uint8 RGB. Values of 16 bits give the upper 8 of their `bits`.

    Raises:
        InputError: it cannot be decoded, is larger than allowed, or a value is larger than `bits` allow.
    """
    header = read_header(data, max_pixels=max_pixels)
    if header.format != "JPEG":
        return _by_opencv(header, oriented=oriented, bits=bits)
    halvings = max(_halvings(header) if reduced else 0, 0 if needed_px is None else _draft_halvings(header, needed_px))
    image_HWC = _jpeg(header, halvings=halvings)
    if image_HWC.shape[2] == 4 or (oriented and header.has_exif):
        del image_HWC  # that was the check; OpenCV knows CMYK and orientations
        return _by_opencv(header, oriented=oriented, halvings=halvings)
    return image_HWC


def upper_eight(values: npt.NDArray[np.uint16], bits: int) -> npt.NDArray[np.uint8]:
    """Return the upper 8 of the bits that 16-bit values use.

    Args:
        values: of any shape and byte order.
        bits: how many of the lower bits are used, 8 to 16.

    Raises:
        InputError: a value needs more.
    """
    if (most := int(values.max())) >> bits:
        raise InputError(
            f"more than {bits} bits: expected values up to {2**bits - 1}, got {most}: set image_bits to "
            f"{most.bit_length()}, or to 16 where the driver shifts its values up"
        )
    upper = np.empty(values.shape, np.uint8)
    np.right_shift(values, bits - 8, out=upper, casting="unsafe")  # no second image of 16 bits
    return upper


def _halvings(header: Header) -> int:
    pixels, halvings = header.height * header.width, 0
    while pixels >> 2 * halvings > REDUCED_ABOVE_PX and halvings < 3:
        halvings += 1
    return halvings


def _draft_halvings(header: Header, needed_px: int) -> int:
    side, halvings = min(header.height, header.width), 0
    while side >> halvings + 1 >= DRAFT_TIMES * needed_px and halvings < 3:
        halvings += 1
    return halvings


def _jpeg(header: Header, *, halvings: int) -> npt.NDArray[np.uint8]:
    options: dict[str, Any] = {"colorspace": "CMYK" if header.color in ("CMYK", "YCCK") else "RGB"}
    if halvings:
        part = 1 << halvings
        options |= {"min_height": -(-header.height // part), "min_width": -(-header.width // part), "min_factor": part}
    try:
        try:
            image_HWC = simplejpeg.decode_jpeg(header.data, strict=True, **options)
        except ValueError as error:
            if _EXTRANEOUS.fullmatch(str(error)):
                image_HWC = simplejpeg.decode_jpeg(header.data, strict=False, **options)
            elif _HEADER_QUIRK.fullmatch(str(error)) and (mended := _mended(header.data)) != header.data:
                return _jpeg(replace(header, data=mended), halvings=halvings)  # else it would hide what comes behind it
            else:
                raise
    except ValueError as error:
        raise InputError(f"undecodable: {error}") from error
    return np.asarray(image_HWC, np.uint8)


def _mended(data: bytes | memoryview) -> memoryview:
    """Write the only legal numbers into the header of a JPEG of one scan: its JFIF revision, and which frequencies."""
    mended, at = bytearray(data), 2
    while (found := NEXT_MARKER.search(mended, at)) is not None:
        marker, at = found[1][0], found.end()
        length = int.from_bytes(mended[at : at + 2], "big")
        if marker == 0xE0 and mended[at + 2 : at + 7] == b"JFIF\0":
            mended[at + 7] = 1
        elif marker == 0xDA:
            mended[at + length - 3 : at + length] = b"\x00\x3f\x00"
            break
        if marker != 0x01 and not 0xD0 <= marker <= 0xD7:
            at += length
    return memoryview(mended)


def _by_opencv(header: Header, *, oriented: bool, halvings: int = 0, bits: int = FULL_BITS) -> npt.NDArray[np.uint8]:
    flags = cv2.IMREAD_COLOR_RGB if oriented else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if halvings:
        flags |= cv2.IMREAD_REDUCED_GRAYSCALE_2 << halvings - 1  # the part that says how much, not that it is grey
    if bits < FULL_BITS:
        flags |= cv2.IMREAD_ANYDEPTH
    try:
        image_HWC = cv2.imdecode(np.frombuffer(header.data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"undecodable: {error.err}") from error
    if image_HWC is None:
        raise InputError(f"undecodable: {len(header.data)} bytes of {header.format} data are damaged")
    if image_HWC.dtype == np.uint16:
        return upper_eight(np.asarray(image_HWC, np.uint16), bits)
    return np.asarray(image_HWC, np.uint8)
