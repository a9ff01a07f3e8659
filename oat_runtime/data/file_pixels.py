"""Turn the bytes of an image file into uint8 RGB, by stated rules where a file holds other than 8 bits a channel.

| a file holds | it becomes |
| -- | -- |
| 16 bits a channel | the nearest of 256 levels: value / 257; a PGM or PPM by the largest value that it states |
| `bits` of 16 bits | the nearest of 256 levels, with the largest value of these bits as white |
| floats (TIFF) | value x 255, if all values lie within 0 and 1; else it is refused |
| transparency | its colour over mid grey, `BACKGROUND` |
| grey, a palette, CMYK, white stored as 0 | the RGB that it stands for |
| an orientation (EXIF, TIFF) | turned |
| several pictures (animation, pages) | refused: which one is meant is not known |

Training and robot read files with this one function. Camera messages go by `oat_runtime.data.decoding` alone.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from oat_runtime.data.decoding import FULL_BITS, decode_rgb
from oat_runtime.data.image_headers import MAX_PARTS, MAX_PIXELS, PNM_HEAD_BYTES, Header, read_header
from oat_runtime.errors import InputError

BACKGROUND = 128
"""Grey level, of 0 to 255, that shows through where an image is transparent."""
_PNM_MAXIMUM = re.compile(rb"P[2356](?:\s+(?:#[^\r\n]*[\r\n]\s*)*[0-9]+){2}\s+(?:#[^\r\n]*[\r\n]\s*)*([0-9]{1,5})\s")
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _EXTRA_SAMPLES = 258, 262, 274, 277, 338
_PIXEL_BYTES = 8
"""Of the largest pixel that an image of the most pixels may have: four channels of 16 bits."""
_WHITE_IS_ZERO = 0
_ROWS = 256
_Image = npt.NDArray[np.integer[Any] | np.floating[Any]]


def decode_file(
    data: bytes, *, max_pixels: int = MAX_PIXELS, bits: int = FULL_BITS, needed_px: int | None = None
) -> npt.NDArray[np.uint8]:
    """Decode a whole image file.

    Args:
        data: its bytes, of one of `oat_runtime.data.image_headers.FORMATS`.
        max_pixels: pixels that it may have.
        needed_px: the longest side that is needed: a far larger JPEG is decoded smaller; see `decode_rgb`.
        bits: how many bits a value of 16 bits uses, 8 to 16: the largest of them is white.

    Returns:
        image_HWC: uint8 RGB, upright.

    Raises:
        InputError: it is damaged, too large, holds several pictures, or values that no rule above covers.
    """
    header = read_header(data, max_pixels=max_pixels)
    if header.format in ("JPEG", "BMP"):
        return decode_rgb(data, max_pixels=max_pixels, needed_px=needed_px)
    chunks = _chunks(data, header.format)
    if b"acTL" in chunks:
        raise InputError("animated: expected a still image, got a PNG animation: take one frame of it")
    tags = _tiff_tags(data) if header.format == "TIFF" else {}
    pixel_bytes = tags.get(_SAMPLES, 1) * tags.get(_BITS, 1) // 8
    if pixel_bytes * header.height * header.width > _PIXEL_BYTES * max_pixels:
        raise InputError(
            f"bad size: expected at most {_PIXEL_BYTES * max_pixels} bytes of pixels, got "
            f"{header.width}x{header.height} of {pixel_bytes} bytes: make it smaller, or save it with 16 bits"
        )
    stored = _stored(header)
    channels = 1 if stored.ndim == 2 else stored.shape[2]
    if tags and ((stored.dtype != np.uint8 and channels not in (1, 3)) or (channels == 1 and _EXTRA_SAMPLES in tags)):
        raise InputError("unknown values: a TIFF image of this kind with transparency or CMYK: save it as PNG")
    maximum = _maximum(header, stored, bits)
    is_inverted = stored.dtype != np.uint8 and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # libtiff inverts 8 bits itself
    clear = _clear_grey(chunks)
    image = np.empty((*stored.shape[:2], 3), np.uint8)
    for top in range(0, len(stored), _ROWS):  # an 8K image as a whole would take half a gigabyte more
        strip = _eight_bits(stored[top : top + _ROWS], maximum)
        if is_inverted:
            strip = 255 - strip
        if clear is not None and channels == 1:
            strip = np.where(stored[top : top + _ROWS] == clear, np.uint8(BACKGROUND), strip)
        image[top : top + _ROWS] = _rgb(strip, is_multiplied=header.format == "TIFF")  # by libtiff
    if header.format == "TIFF":  # OpenCV has turned it
        return image
    return np.ascontiguousarray(_upright(image, _orientation(chunks)))


def _stored(header: Header) -> _Image:
    try:
        stored = cv2.imdecode(np.frombuffer(header.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"undecodable: {error.err}") from error
    if stored is None:
        raise InputError(f"undecodable: {len(header.data)} bytes of {header.format} data are damaged")
    return stored


def _maximum(header: Header, stored: _Image, bits: int) -> float:
    """The value that stands for white."""
    if header.format == "PNM" and (found := _PNM_MAXIMUM.match(bytes(header.data[:PNM_HEAD_BYTES]))) is not None:
        maximum = float(found[1])
        is_text = bytes(header.data[:2]) in (b"P2", b"P3")
        return 255.0 if is_text and maximum <= 255 else maximum  # OpenCV has scaled those
    return {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 2.0**bits - 1}.get(stored.dtype, 1.0)


def _eight_bits(stored: _Image, maximum: float) -> npt.NDArray[np.uint8]:
    if stored.dtype == np.uint8 and maximum == 255.0:
        return np.asarray(stored, np.uint8)
    if stored.dtype.kind == "f":
        least, most = float(np.min(stored)), float(np.max(stored))  # NaN in, NaN out
        if not (least >= 0.0 and most <= 1.0):
            raise InputError(
                f"unknown values: expected floats within 0 and 1, got {least:.6g} to {most:.6g}: scale them"
            )
    elif stored.dtype not in (np.uint8, np.uint16):
        raise InputError(f"unknown values: expected 8 or 16 bits, or floats, got {stored.dtype}: convert it")
    elif not (most := int(np.max(stored))) <= maximum <= 65535 or not maximum:
        raise InputError(f"damaged: expected values up to {maximum:.0f}, as the image or image_bits states, got {most}")
    scaled: npt.NDArray[np.uint8] = np.asarray(cv2.convertScaleAbs(stored, alpha=255.0 / maximum), np.uint8)
    return scaled.reshape(stored.shape)


def _rgb(image: npt.NDArray[np.uint8], *, is_multiplied: bool) -> npt.NDArray[np.uint8]:
    """RGB of what OpenCV returns: grey, BGR, or BGR and alpha, by which the colour may be multiplied already."""
    if image.ndim == 2:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
    if image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    color, alpha = image[..., 2::-1].astype(np.float32), image[..., 3:].astype(np.float32) / 255.0
    if not is_multiplied:
        color *= alpha
    return np.asarray(np.clip(np.rint(color + BACKGROUND * (1.0 - alpha)), 0, 255).astype(np.uint8))


def _clear_grey(chunks: dict[bytes, bytes]) -> int | None:
    """The grey value that a PNG declares transparent, which OpenCV leaves out; scaled as OpenCV returns it."""
    head, clear = chunks.get(b"IHDR", b""), chunks.get(b"tRNS", b"")
    if len(head) != 13 or len(clear) != 2 or head[9] != 0:
        return None
    bits, value = head[8], int.from_bytes(clear, "big")
    return value if bits >= 8 else value * 255 // (2**bits - 1)


def _upright(image: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo an orientation as EXIF counts them: 1 is upright, 6 needs a quarter turn clockwise."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    down = orientation in (3, 4, 7, 8)
    across = orientation in (2, 3, 6, 7)
    return image[:: -1 if down else 1, :: -1 if across else 1]


def _orientation(chunks: dict[bytes, bytes]) -> int:
    block = chunks.get(b"eXIf", b"") or chunks.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    try:
        orientation = _tiff_tags(block, pages=False).get(_ORIENTATION, 1)
    except InputError:
        return 1  # a camera's notes that cannot be read turn nothing
    return orientation if 1 <= orientation <= 8 else 1


def _chunks(data: bytes, form: str) -> dict[bytes, bytes]:
    """Everything in a PNG or WebP file but its pixels, up to a PNG's end: the first chunk of each name."""
    if form not in ("PNG", "WebP"):
        return {}
    at, order, beside = (8, ">I4s", 12) if form == "PNG" else (12, "<4sI", 8)
    chunks: dict[bytes, bytes] = {}
    num, name = 0, b""
    while at + 8 <= len(data) and name != b"IEND":
        num += 1
        if num > MAX_PARTS:
            raise InputError(f"too many chunks: expected at most {MAX_PARTS} in a {form} image: encode it again")
        first, second = struct.unpack_from(order, data, at)
        name, length = (second, first) if form == "PNG" else (first, second + (second & 1))
        if name not in (b"IDAT", b"fdAT", b"VP8 ", b"VP8L", b"ALPH"):
            chunks.setdefault(name, data[at + 8 : at + 8 + length])
        at += beside + length
    return chunks


def _tiff_tags(data: bytes, *, pages: bool = True) -> dict[int, int]:
    """The first number of each of the first picture's short tags; only one picture may be there."""
    order = "<" if data[0] == 0x49 else ">"
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (num,) = struct.unpack_from(order + "H", data, at)
        entries = [struct.unpack_from(order + "HHIH", data, at + 2 + 12 * index) for index in range(num)]
        (following,) = struct.unpack_from(order + "I", data, at + 2 + 12 * num)
        tags = {tag: value for tag, kind, count, value in entries if kind == 3 and count in (1, 2)}
        for place, (tag, kind, count, _) in enumerate(entries):
            if kind == 3 and count > 2:  # these stand elsewhere
                (elsewhere,) = struct.unpack_from(order + "I", data, at + 10 + 12 * place)
                (tags[tag],) = struct.unpack_from(order + "H", data, elsewhere)
    except struct.error as error:
        raise InputError("truncated: TIFF data end within the header") from error
    if pages and following:
        raise InputError("several pages: expected a TIFF file of one picture: save the page that is meant")
    return tags
