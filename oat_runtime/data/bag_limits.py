"""What rosbags leaves unbounded in a bag: how far its parts unpack, and what its database and its metadata may do."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from oat_runtime.files import read_at_most

MAX_UNPACKED: Final = 128 * 2**20
"""Bytes that one message or chunk may unpack to: a raw image of 8192×5000 pixels."""
_MAX_METADATA = 2**20
_MAX_FILE_RATIO = 100
_REFERENCE = re.compile(rb"(?m)(?:^|[\s\[{,:?-])[&*]\w")


def check_files(path: Path) -> None:
    """Check a bag's metadata and databases before rosbags opens them.

    Raises:
        OSError: one of them cannot be read, or the metadata is larger than a mebibyte.
        ValueError: the metadata refers to itself, or a database computes what should lie in it.
        sqlite3.Error: a database is damaged.
    """
    if path.is_dir():
        # A few short lists that refer to each other print as terabytes.
        if _REFERENCE.search(read_at_most(path / "metadata.yaml", _MAX_METADATA)):
            raise ValueError("its metadata.yaml uses references, which no recorder writes")
        databases = sorted(path.glob("*.db3"))
    else:
        databases = [path] if path.suffix == ".db3" else []
    for database in databases:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?immutable=1", uri=True)) as connection:
            # A view or a generated column may go on for ever.
            computed = connection.execute(
                "SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index') OR type = 'table' AND rootpage = 0"
                " UNION SELECT m.name FROM sqlite_master m, pragma_table_xinfo(m.name) WHERE hidden > 1"
            ).fetchall()
        if computed:
            raise ValueError(f"{database.name} computes {computed[0][0]!r}, where a recorder writes plain tables")


def bound_decompression() -> None:
    """Let rosbags unpack no more than a part says it holds, and no more than `MAX_UNPACKED`.

    Its decompressors are given that size, and leave it unread.
    """
    from lz4.frame import LZ4FrameDecompressor
    from rosbags.rosbag2 import reader, storage_mcap

    zstd: Any = vars(reader)["zstd"]  # the module of that name, or its backport
    if isinstance(zstd, _BoundedZstd):
        return
    vars(reader)["zstd"] = _BoundedZstd(zstd)
    storage_mcap.DECOMPRESSORS["zstd"] = lambda data, size: unpack(data, zstd.ZstdDecompressor, size)
    storage_mcap.DECOMPRESSORS["lz4"] = lambda data, size: unpack(data, LZ4FrameDecompressor, size)


class _BoundedZstd:
    """What rosbags uses of a zstd module."""

    def __init__(self, zstd: Any) -> None:
        self._zstd = zstd

    def decompress(self, data: bytes) -> bytes:
        """Unpack one message."""
        return unpack(data, self._zstd.ZstdDecompressor, MAX_UNPACKED)

    def open(self, file: IO[bytes], mode: str) -> _BoundedFile:
        """Open a packed file for reading."""
        num_packed = file.seek(0, 2)
        file.seek(0)
        return _BoundedFile(self._zstd.open(file, mode), max(MAX_UNPACKED, _MAX_FILE_RATIO * num_packed))


class _BoundedFile:
    def __init__(self, file: Any, most: int) -> None:
        self._file, self._left = file, most

    def __enter__(self) -> _BoundedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Read on, up to the bound."""
        data: bytes = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"a file of the bag unpacks to more than {_MAX_FILE_RATIO} times its size")
        return data


def unpack(data: bytes, make: Callable[[], Any], size: int) -> bytes:
    """Unpack one frame behind the other, and stop where there is more than there may be.

    Args:
        data: packed bytes.
        make: makes a decompressor of one frame.
        size: bytes that should come.

    Raises:
        ValueError: more bytes come, or more than `MAX_UNPACKED` should.
    """
    if size > MAX_UNPACKED:
        raise ValueError(f"a part of the bag unpacks to {size} bytes, at most {MAX_UNPACKED} are read")
    unpacked = bytearray()
    while data:
        frame = make()
        unpacked += frame.decompress(data, size + 1 - len(unpacked))
        if len(unpacked) > size:
            raise ValueError(f"a part of the bag unpacks to more than {size} bytes")
        if not frame.eof:
            raise ValueError("a part of the bag is cut off")
        data = frame.unused_data
    return bytes(unpacked)
