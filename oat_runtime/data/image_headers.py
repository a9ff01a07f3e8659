"""What an encoded image claims to be, read before memory is taken for it: its format, its size, its many parts.

Every format is read by the rules of the library that decodes it, or by a stricter subset of them; what another reader
could see otherwise is refused. Formats that are not in `FORMATS` are refused, though OpenCV would decode some of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import simplejpeg

from oat_runtime.compat import possessive
from oat_runtime.errors import InputError
from oat_runtime.image import MAX_SIDE_PX

MAX_PIXELS = 7680 * 4320
"""Pixels that an image may have unless somebody says otherwise: 8K."""
MAX_SCANS = 64
"""Scans of a JPEG. Encoders write 1 to about 20. A legal file has up to 2,700, in which each passes over all pixels."""
MAX_PARTS = 2**16
"""Chunks of a PNG or WebP, segments of a JPEG. Encoders write up to some thousands, for the largest images."""
_BYTES_A_PIXEL, _BYTES_BESIDE = 8, 2**20
"""The largest pixel (16 bits, four channels) uncompressed, and room for what comes beside the pixels."""

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_JPEG_HUFFMAN = (0xC0, 0xC1, 0xC2)
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)
# A marker may have any number of FF before it. Patterns that take all of them would start again at each.
NEXT_MARKER = re.compile(rb"\xff([^\x00\xff])")
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")
PNM_HEAD_BYTES = 4096
"""Bytes from the start of a PNM image within which its size must stand, whatever comments it has."""
_PNM_GAP = possessive(rb"(?:#[^\r\n]*+[\r\n]|[ \t\n\v\f\r])*+")
# OpenCV swallows whatever comes behind a number, so a space must. The last digit must be seen to be the last.
_PNM = re.compile(rb"P[1-6]" + _PNM_GAP + rb"([0-9]{1,9})[ \t\n\v\f\r]" + _PNM_GAP + rb"([0-9]{1,9})[^0-9]")


@dataclass(frozen=True, slots=True)
class Header:
    """What an encoded image claims.

    Attributes:
        format: one of `FORMATS`.
        height: of the image, in pixels.
        width: of the image, in pixels.
        data: what the decoder gets: the bytes themselves, or a PNG without the chunks that say nothing about pixels.
        color: how a JPEG stores colour, in simplejpeg's words, as in `YCbCr`; else empty.
        has_exif: whether a JPEG carries EXIF, in which an orientation may stand.
    """

    format: str
    height: int
    width: int
    data: bytes | memoryview
    color: str = ""
    has_exif: bool = False


def read_header(data: bytes | memoryview, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header of an encoded image. It takes no memory that the header asks for.

    Args:
        data: the whole file or message.
        max_pixels: pixels that it may have.

    Raises:
        InputError: an unknown format, data cut off or contradictory, an animation, or too many pixels or bytes.
    """
    view = memoryview(data).cast("B")
    most = most_bytes(max_pixels)
    if len(view) > most:
        raise InputError(f"oversize: {max_pixels} pixels take at most {most} bytes, got {len(view)}: make it smaller")
    name = image_format(view)
    try:
        header = _READERS[name][1](view)
    except (struct.error, IndexError) as error:
        raise InputError(f"truncated: {len(view)} bytes of {name} data end within the header") from error
    check_size(header.height, header.width, max_pixels=max_pixels)
    return header


def image_format(data: bytes | memoryview) -> str:
    """Return which of `FORMATS` data begin as. Only the first bytes are read.

    Raises:
        InputError: none of them, or no data.
    """
    start = bytes(data[:32])
    if not start:
        raise InputError("empty: an image without data")
    for name, (signature, _) in _READERS.items():
        if signature.match(start):
            return name
    raise InputError(f"unknown format: expected {', '.join(FORMATS)} data, got bytes {start[:8].hex(' ')}: convert it")


def most_bytes(max_pixels: int) -> int:
    """Return how many bytes an encoded image of so many pixels may have: uncompressed, 16 bits and four channels."""
    return _BYTES_A_PIXEL * max_pixels + _BYTES_BESIDE


def check_size(height: int, width: int, *, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse an image without pixels or with too many.

    Raises:
        InputError: it is one.
    """
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX and height * width <= max_pixels):
        raise InputError(
            f"bad size: expected 1 to {MAX_SIDE_PX} pixels a side and at most {max_pixels} in all, got "
            f"{width}x{height}: send it smaller, or raise max_pixels"
        )


def _read_jpeg(data: memoryview) -> Header:
    """Walk over all markers as libjpeg does, and let libjpeg itself read the size."""
    at, segments, scans, size_hw, exif = 2, 0, 0, None, False
    while (found := NEXT_MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        segments += 1
        if segments > MAX_PARTS:
            raise InputError(f"too many segments: expected at most {MAX_PARTS} in a JPEG image: encode it again")
        if marker == 0xD9:
            break
        if marker == 0xD8:
            raise InputError("damaged: a second JPEG image begins within the first")
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these two have no length and no content
            continue
        (length,) = struct.unpack_from(">H", data, at)
        body = bytes(data[at + 2 : at + min(length, 16)])
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            if marker not in _JPEG_HUFFMAN:
                raise InputError(
                    f"unknown format: expected a baseline or progressive JPEG, got frame marker {marker:02x}"
                )
            size_hw = struct.unpack_from(">HH", body, 1)
        exif |= marker == 0xE1 and body.startswith(b"Exif\0\0")
        at += length
        if marker == 0xDA:
            scans += 1
            if scans > MAX_SCANS:
                raise InputError(f"too many scans: expected at most {MAX_SCANS} in a JPEG image: encode it again")
            end = _END_OF_SCAN.search(data, at)
            at = len(data) if end is None else end.start()
    else:
        raise InputError(f"truncated: {len(data)} bytes of JPEG data have no end marker")
    if not scans or size_hw is None:
        raise InputError("truncated: JPEG data without pixels")
    check_size(*size_hw, max_pixels=MAX_SIDE_PX**2)
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError) as error:  # a KeyError: chroma in a share that no camera sends
        raise InputError(f"undecodable: {error}") from error
    if size_hw != (height, width):
        raise InputError(f"damaged: a JPEG image of {width}x{height} that also says {size_hw[1]}x{size_hw[0]}")
    return Header("JPEG", height, width, data, color, exif)


def _read_png(data: memoryview) -> Header:
    """Walk over the chunks, and leave out what says nothing about pixels: texts and profiles unpack to any size."""
    at, kept, num, kind, size = len(_PNG), [data[: len(_PNG)]], 0, b"", b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise InputError(f"truncated: {len(data)} bytes of PNG data end within chunk {num}")
        if (kind == b"IHDR") != (num == 0) or (kind == b"IHDR" and length != 13):
            raise InputError("damaged: PNG data must begin with one header of 13 bytes")
        num += 1
        if num > MAX_PARTS:
            raise InputError(f"too many chunks: expected at most {MAX_PARTS} in a PNG image: encode it again")
        if kind == b"IHDR":
            size = bytes(data[at + 8 : at + 16])
        if kind in _PNG_KEPT:
            kept.append(data[at:end])
        at = end
    width, height = struct.unpack(">II", size)
    return Header("PNG", height, width, data if len(kept) == num + 1 else b"".join(kept))


def _read_webp(data: memoryview) -> Header:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        if data[20] & 2:
            raise InputError("unknown format: expected a still WebP image, got an animation: take one frame of it")
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        _ = data[29]
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return Header("WebP", height, width, data)


def _read_bmp(data: memoryview) -> Header:
    (kind,) = struct.unpack_from("<I", data, 14)
    if kind == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    elif kind >= 36:
        width, height = struct.unpack_from("<ii", data, 18)
    else:
        raise InputError(f"unknown format: a BMP header of {kind} bytes")
    return Header("BMP", abs(height), width, data)


def _read_pnm(data: memoryview) -> Header:
    found = _PNM.match(data[:PNM_HEAD_BYTES])
    if found is None:
        raise InputError(f"truncated: PNM data without a size in the first {PNM_HEAD_BYTES} bytes")
    return Header("PNM", int(found[2]), int(found[1]), data)


def _read_tiff(data: memoryview) -> Header:
    """The first image's size. Its tags must come once each and in order, as the standard says."""
    order = "<" if data[0] == 0x49 else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (num,) = struct.unpack_from(order + "H", data, at)
    values, last = {}, 0
    for index in range(num):
        place = at + 2 + 12 * index
        tag, kind, count = struct.unpack_from(order + "HHI", data, place)
        if tag <= last:
            raise InputError("damaged: the tags of a TIFF image must come once each and in order")
        last = tag
        if tag in _TIFF_SIDES:
            if count != 1 or kind not in (3, 4):
                raise InputError(f"damaged: TIFF tag {tag} must be one whole number")
            (values[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place + 8)
    width, height, *tile = (values.get(tag, 0) for tag in _TIFF_SIDES)
    if max(tile) > MAX_SIDE_PX or tile[0] * tile[1] > _TIFF_TILE_PX:
        raise InputError(f"bad size: expected TIFF tiles of at most {_TIFF_TILE_PX} pixels, got {tile[0]}x{tile[1]}")
    return Header("TIFF", height, width, data)


_TIFF_SIDES = (256, 257, 322, 323)
_TIFF_TILE_PX = 2**20
_READERS: dict[str, tuple[re.Pattern[bytes], Callable[[memoryview], Header]]] = {
    "JPEG": (re.compile(re.escape(_JPEG) + b"\xff"), _read_jpeg),
    "PNG": (re.compile(re.escape(_PNG)), _read_png),
    "WebP": (re.compile(rb"RIFF....WEBPVP8[ LX]", re.DOTALL), _read_webp),
    "BMP": (re.compile(rb"BM"), _read_bmp),
    "PNM": (re.compile(rb"P[1-6]\s"), _read_pnm),
    "TIFF": (re.compile(rb"II\*\0|MM\0\*"), _read_tiff),
}
FORMATS = tuple(_READERS)
"""Formats that are decoded, whatever a file is called."""
