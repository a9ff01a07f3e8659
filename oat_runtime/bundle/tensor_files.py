"""Read a safetensors file whose names, shapes and types are known before, so that a damaged one costs no memory."""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from oat_runtime.errors import BundleError, one_line, quoted
from oat_runtime.files import parse_json

MAX_HEADER_BYTES: Final = 4 * 2**20
"""Twice the header of the largest architecture that is accepted."""
_TYPES: dict[str, type[np.generic]] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expected:
    """A tensor as it must be.

    Attributes:
        shape: its shape.
        types: the types that it may have.
    """

    shape: tuple[int, ...]
    types: tuple[type[np.generic], ...] = (np.float32,)

    @property
    def num_bytes(self) -> int:
        """Bytes of the largest type."""
        size = max(np.dtype(kind).itemsize for kind in self.types)
        for length in self.shape:
            size *= length
        return size


def most_bytes(expected: Collection[Expected]) -> int:
    """Return how large a file of these tensors may be."""
    return 8 + MAX_HEADER_BYTES + sum(tensor.num_bytes for tensor in expected)


def read_tensors(
    content: bytes, expected: Mapping[str, Expected], *, path: Path, what: str
) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a file that was read, and that holds exactly these.

    Args:
        content: its bytes.
        expected: its tensors by name; nothing else is in it, and nothing is missing.
        path: the file, for the error.
        what: what they should fit, for the error, as in `the manifest's architecture`.

    Raises:
        BundleError: the file is damaged, holds other tensors, or a number that is not finite. It is raised
            before memory is taken for a tensor, but for the last of these.
    """
    check_header(read_header(path, io.BytesIO(content)), expected, path=path, what=what)
    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError):
        raise BundleError(f"{one_line(path)} cannot be read (it is damaged): fetch the bundle again") from None
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"{one_line(path)}: {name} holds a number that is not finite: fetch the bundle again")
    return arrays


@dataclass(frozen=True, slots=True)
class Claimed:
    """A tensor as a file's head claims it: the type by its name in safetensors (`F32`), and the shape."""

    kind: str
    shape: tuple[int, ...]


def check_header(found: Mapping[str, Claimed], expected: Mapping[str, Expected], *, path: Path, what: str) -> None:
    """Hold the tensors that the head of a file claims to those that are expected; see `read_tensors`.

    Raises:
        BundleError: a tensor is missing, too much, or of another shape or type.
    """
    wrong = sorted(
        name
        for name in {*expected, *found}
        if name not in expected or name not in found or found[name].shape != expected[name].shape
    )
    if wrong:
        name = wrong[0]
        raise BundleError(
            f"{one_line(path)} does not fit {what}: expected {one_line(name)} of shape "
            f"{expected[name].shape if name in expected else 'none'}, got "
            f"{quoted(found[name].shape) if name in found else 'none'} (and {len(wrong) - 1} more)"
        )
    for name, tensor in found.items():
        if _TYPES.get(tensor.kind) not in expected[name].types:
            wanted = " or ".join(np.dtype(allowed).name for allowed in expected[name].types)
            got = np.dtype(_TYPES[tensor.kind]).name if tensor.kind in _TYPES else one_line(tensor.kind)
            raise BundleError(f"{one_line(path)}: expected {name} of {wanted}, got {got}: export the bundle again")


def read_header(path: Path, file: BinaryIO) -> dict[str, Claimed]:
    """Read the head of an open file, which says what it holds, and nothing else of it.

    Args:
        path: the file's, for the error.
        file: the file, at its start.

    Raises:
        BundleError: its head is damaged or larger than 4 MiB.
    """
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        head = file.read(min(length, MAX_HEADER_BYTES))
        if len(head) < length:
            raise ValueError(f"its head of {length} bytes is too large")
        document = parse_json(head, max_bytes=MAX_HEADER_BYTES)
        if not isinstance(document, dict):
            raise ValueError("its head is not an object")
        document.pop("__metadata__", None)
        return {name: Claimed(str(entry["dtype"]), tuple(map(int, entry["shape"]))) for name, entry in document.items()}
    except (struct.error, TypeError, KeyError):
        raise BundleError(f"{one_line(path)} cannot be read (its head is damaged): fetch the bundle again") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{one_line(path)} cannot be read ({one_line(error)}): fetch the bundle again") from None
