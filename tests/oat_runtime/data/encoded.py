"""Encoded images by hand: what no encoder writes, and what hostile ones could."""

import struct
import zlib


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, beside: bytes = b"", bits: int = 8, color: int = 2, pixel_bytes: int = 3) -> bytes:
    """A PNG of zeros; `beside` are chunks before the pixels."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + pixel_bytes * width)) for _ in range(height)) + rows.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + beside + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def frame_header(width: int, height: int, *, marker: int = 0xC0) -> bytes:
    return segment(marker, struct.pack(">BHHB", 8, height, width, 3) + b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3)))


def progressive_jpeg(width: int, height: int, *, scans: int) -> bytes:
    """A legal progressive JPEG of zeros. Each of its 1 to 127 scans passes over every block in a few bytes."""
    num_blocks = -(-width // 8) * -(-height // 8)
    parts = [b"\xff\xd8", segment(0xDB, bytes([0] + [1] * 64)), frame_header(width, height, marker=0xC2)]
    parts += [segment(0xC4, bytes([0, 1] + [0] * 15 + [0]))]
    parts += [segment(0xC4, bytes([0x10, 0, 0, 0, 15] + [0] * 12) + bytes(i << 4 for i in range(15)))]
    parts += [segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 0, 0])), _entropy("0" * (3 * num_blocks))]
    nothing, left = "", num_blocks
    while left:  # runs of blocks without a coefficient, of up to 2^15 - 1
        bits = min(left.bit_length() - 1, 14)
        run = min(left, 2 ** (bits + 1) - 1)
        nothing += f"{bits:04b}" + (f"{run - 2**bits:0{bits}b}" if bits else "")
        left -= run
    bands = ((1, 21), (22, 42), (43, 63))
    levels = [(level, part, band) for level in range(13, -1, -1) for part in (1, 2, 3) for band in bands]
    for level, part, (first, last) in levels[: scans - 1]:
        high = 0 if level == 13 else level + 1
        parts += [segment(0xDA, bytes([1, part, 0, first, last, high << 4 | level])), _entropy(nothing)]
    return b"".join(parts) + b"\xff\xd9"


def _entropy(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
