"""What rosbags leaves unbounded in a bag: how far its parts unpack, and what its database and its metadata may do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Final

from oat_runtime.files import read_at_most

MAX_UNPACKED: Final = 128 * 2**20
"""Bytes that one message or chunk may unpack to: a raw image of 8192×5000 pixels."""
_MAX_HELD = 2 * MAX_UNPACKED
"""Bytes of chunks with messages of the same time, which are unpacked together; a recorder's chunk has 1 to 4 MiB."""
_MAX_YAML_BYTES = 512 * 2**10
_MAX_YAML_EVENTS = 60_000
"""Three hundred topics with a publisher each have 230 kB and 16,000 events, which are parsed in a tenth of a second."""
_MAX_YAML_DEPTH = 16
_MAX_RATIO = 200
_CHUNK_HEADER = 49


def check_files(path: Path) -> None:
    """Check a bag's files before rosbags opens them.

    Raises:
        OSError: there is none, its folder cannot be read, or its metadata is larger than 512 KiB.
        ValueError: something in it is neither file nor folder: a pipe or a device, which may never end.
    """
    if not path.exists():
        raise FileNotFoundError("there is no such file")
    for file in (path, *(path.iterdir() if path.is_dir() else ())):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ValueError(f"{file.name} is no file")
    if path.is_dir():
        read_at_most(path / "metadata.yaml", _MAX_YAML_BYTES)


def bound_rosbags() -> None:
    """Let rosbags take no more than the bounds of this module, for all bags that it reads in this process.

    Its decompressors are given the size that a part says it has, and leave it unread.
    """
    import apsw
    from lz4.frame import LZ4FrameDecompressor
    from rosbags.rosbag2 import metadata, reader, storage_mcap, storage_sqlite3

    zstd: Any = vars(reader)["zstd"]  # the module of that name, or its backport
    if isinstance(zstd, _BoundedZstd):
        return
    vars(reader)["zstd"] = _BoundedZstd(zstd)
    storage_mcap.DECOMPRESSORS["zstd"] = lambda data, size: unpack(data, zstd.ZstdDecompressor, size)
    storage_mcap.DECOMPRESSORS["lz4"] = lambda data, size: unpack(data, LZ4FrameDecompressor, size)
    vars(reader)["YAML"] = vars(metadata)["YAML"] = _BoundedYAML

    read_exact = storage_mcap.read_exact

    def read_bounded(bio: Any, size: int) -> bytes:
        if size > MAX_UNPACKED:
            raise ValueError(f"a part of the bag has {size} bytes, at most {MAX_UNPACKED} are read")
        return read_exact(bio, size)

    class BoundedMcap(storage_mcap.McapReader):
        def read_index(self) -> None:
            super().read_index()
            assert self.bio is not None
            check_chunks(self.chunks, os.fstat(self.bio.fileno()).st_size)

    class BoundedConnection(apsw.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_UNPACKED)
            # A view or a generated column may go on for ever.
            for (name,) in self.execute(
                "SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index') OR type = 'table' AND rootpage = 0"
                " UNION SELECT m.name FROM sqlite_master m, pragma_table_xinfo(m.name) WHERE hidden > 1"
            ):
                raise ValueError(f"its database computes {name!r}, where a recorder writes plain tables")

    vars(storage_mcap)["read_exact"] = read_bounded
    vars(storage_mcap)["McapReader"] = vars(reader)["McapReader"] = BoundedMcap
    for plugins, name in ((reader.Reader.STORAGE_PLUGINS, ".mcap"), (reader.DirectoryReader.STORAGE_PLUGINS, "mcap")):
        plugins[name] = BoundedMcap  # type: ignore[index]
    vars(storage_sqlite3)["apsw"] = SimpleNamespace(**(vars(apsw) | {"Connection": BoundedConnection}))


def check_chunks(chunks: Iterable[Any], num_bytes: int) -> None:
    """Check what the index of an MCAP file says of its chunks, before one is unpacked.

    Args:
        chunks: the index, as rosbags reads it.
        num_bytes: size of the file.

    Raises:
        ValueError: chunks share bytes of the file, one of them or all unpack to too much, or too much of them at once.
    """
    end, total, changes = 0, 0, list[tuple[int, int, int]]()
    for chunk in sorted(chunks, key=lambda chunk: chunk.chunk_start_offset):
        size = chunk.uncompressed_size
        if chunk.chunk_start_offset < end:
            raise ValueError("its index names a part of the file twice")
        if size > MAX_UNPACKED:
            raise ValueError(f"a chunk unpacks to {size} bytes, at most {MAX_UNPACKED} are read")
        end = chunk.chunk_start_offset + _CHUNK_HEADER + chunk.compressed_size
        total += size
        first, last = chunk.message_start_time, chunk.message_end_time
        changes += [(first, 0, size), (max(first, last), 1, -size)]
    if total > max(MAX_UNPACKED, _MAX_RATIO * num_bytes):
        raise ValueError(f"its chunks unpack to {total} bytes, more than {_MAX_RATIO} times the size of the file")
    if (held := max(accumulate(size for *_, size in sorted(changes)), default=0)) > _MAX_HELD:
        raise ValueError(f"chunks of the same time unpack to {held} bytes, at most {_MAX_HELD} are held at once")


class _BoundedYAML:
    """What rosbags uses of a YAML parser, for the metadata and for each topic's quality of service."""

    def __init__(self, *, typ: str) -> None:
        assert typ == "safe"

    def load(self, text: str) -> Any:
        """Return what a text says, in the types of YAML 1.2.

        Raises:
            ValueError: it is too large, too deep, or refers to itself.
            yaml.YAMLError: it is no YAML.
        """
        import yaml

        if len(text) > _MAX_YAML_BYTES:
            raise ValueError(f"its metadata has {len(text)} characters, at most {_MAX_YAML_BYTES} are read")
        depth = 0
        for number, event in enumerate(yaml.parse(text, yaml.CSafeLoader)):
            # A few short lists that refer to each other print as terabytes, and a number of base 60 takes for ever.
            if any(getattr(event, name, None) is not None for name in ("anchor", "tag")):
                raise ValueError("its metadata uses references or tags, which no recorder writes")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if number >= _MAX_YAML_EVENTS or depth > _MAX_YAML_DEPTH:
                raise ValueError(
                    f"its metadata has more than {_MAX_YAML_EVENTS} parts, or they lie more than {_MAX_YAML_DEPTH} deep"
                )

        return yaml.load(text, _loader())


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.CSafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    for kind, pattern, starts in _PLAIN:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", pattern, starts)
    return Loader


_PLAIN = (
    ("bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("null", re.compile("(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("int", re.compile("[-+]?(?:0|[1-9][0-9]{0,18})$"), list("-+0123456789")),
    ("float", re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?$"), list("-+0123456789")),
)
"""The texts without quotation marks that are no strings: kind, pattern, first characters."""


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
        return _BoundedFile(self._zstd.open(file, mode), max(MAX_UNPACKED, _MAX_RATIO * num_packed))


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
            raise ValueError(f"a file of the bag unpacks to more than {_MAX_RATIO} times its size")
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
