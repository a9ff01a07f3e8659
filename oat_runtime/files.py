"""Write a file whole or not at all; read a JSON file that must fit a model, or say in one line why it does not.

Whatever is read may be hostile. Its size, depth and numbers are bounded before memory is taken for them. A name that
occurs twice, NaN and infinity are refused, so that two readers never see two meanings in one file.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from oat_runtime.compat import possessive
from oat_runtime.errors import ConfigError, OATError, one_line, quoted

_LOG = logging.getLogger(__name__)
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What an `OSError` says where a disk, a quota or a file's largest size is used up."""
MAX_JSON_BYTES: Final = 8 * 2**20
"""Size of a JSON file: forty times that of a shipped bundle's manifest."""
MAX_JSON_VALUES: Final = 200_000
"""Values in a JSON text; a shipped manifest has 7,000."""
MAX_JSON_DEPTH: Final = 32
"""Lists and objects within each other; a manifest has 8."""
_MAX_DIGITS = 100
_BLOCK_BYTES = 1 << 18
_MOST_REASONS = 3

_STRING = re.compile(possessive(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'), re.DOTALL)
"""A JSON string, or what is left of one that does not end: it matches at every quotation mark, without going back."""
_BRACKET = re.compile(rb"[\[\]{}]")
_DIGITS = re.compile(rb"(?<![0-9])[0-9]{%d}" % (_MAX_DIGITS + 1))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

Model = TypeVar("Model", bound=BaseModel)


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file beside its place and move it there, so that a reader finds the old one or the new one.

    Args:
        path: the file; folders are made as needed.
        content: bytes, or text that is written as UTF-8.

    Raises:
        OSError: it cannot be written; it names the file, and what was there stays.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Give a file to write that takes its place when the block ends, and is gone if the block fails.

    Args:
        path: its place; folders are made as needed. A link stays, and goes on to name the file.

    Raises:
        OSError: it cannot be written; it names the file, and what was there stays.
    """
    target = Path(path)
    try:
        real = Path(os.path.realpath(target))
        real.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=real.parent, prefix=f".{real.name}-", delete=False) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, real)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        if error.errno is None:
            raise
        # The name of the temporary file, or none at all, tells nobody where there was no room.
        raise OSError(error.errno, error.strerror, os.fspath(target)) from error


def remove_unfinished(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of a file beside its place; call it where no other process may write it now."""
    real = Path(os.path.realpath(path))
    for left in real.parent.glob(f".{glob.escape(real.name)}-????????"):
        left.unlink(missing_ok=True)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path whose `~` is the home folder, also where no shell has seen to it.

    Raises:
        ConfigError: `~NAME` of a user who is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{one_line(path)}: expected a path, and there is no such home folder") from error


def user_cache() -> Path | None:
    """Return this project's folder in the user's cache; None for a user who has no home, as in many containers."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "oat"
    try:
        return Path.home() / ".cache" / "oat"
    except RuntimeError:
        return None


@contextmanager
def held(folder: Path, *, by: str, waits: bool = False) -> Iterator[None]:
    """Hold a folder, so that no second process of the same kind works in it; a process that dies lets go of it.

    Args:
        folder: the folder, made as needed; `.lock` in it is the file that is locked, and stays.
        by: what holds it, for the message of who comes second, as in `training`.
        waits: whether who comes second waits for the end of the first, and says so.

    Raises:
        ConfigError: another process holds it, and this one does not wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            # Not `flock`: a child process that outlives this one would still hold that.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(folder / ".lock")) from error
            if not waits:
                raise ConfigError(
                    f"another {by} is at work in {folder}: wait for its end, or name another folder"
                ) from None
            _LOG.info("waiting for another %s, which is at work in %s", by, folder)
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def read_at_most(path: str | os.PathLike[str], num_bytes: int) -> bytes:
    """Read a file that may not be larger than this, whatever it claims of its size.

    Raises:
        OSError: it cannot be read, or is larger (`errno.EFBIG`).
    """
    with open(path, "rb") as file:
        content = file.read(num_bytes + 1)
    if len(content) > num_bytes:
        raise OSError(errno.EFBIG, f"larger than {num_bytes} bytes", os.fspath(path))
    return content


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits. A large file does not fill the memory.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def parse_json(content: bytes | str, *, max_bytes: int = MAX_JSON_BYTES, max_values: int = MAX_JSON_VALUES) -> Any:
    """Return what a JSON text says, within bounds that are checked before a value is made.

    Args:
        content: UTF-8 bytes, or text.
        max_bytes: the largest size.
        max_values: the largest number of values; `MAX_JSON_DEPTH` holds as well.

    Returns:
        Objects as dicts, lists, texts that UTF-8 can write, finite numbers, booleans and None.

    Raises:
        ValueError: in one short line, what is wrong: the text is no JSON, too large, too deep, or says NaN, infinity, a
            number of more than 100 digits, or a name twice.
    """
    try:
        data = content.encode() if isinstance(content, str) else content
        if len(data) > max_bytes:
            raise ValueError(f"it has {len(data)} bytes, at most {max_bytes} are read")
        _check_bounds(data, max_values)
        document = json.loads(
            data.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
        )
        if _SURROGATE.search(data):  # half a character, which no file or terminal takes
            json.dumps(document, ensure_ascii=False).encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"it is not UTF-8 text ({one_line(error.reason)})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"Invalid JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    return document


def _check_bounds(data: bytes, max_values: int) -> None:
    if data.count(b'"') > 4 * max_values:  # a name and a text each have two
        raise ValueError(f"it has more texts than {max_values} values need")
    skeleton = _STRING.sub(b"", data)
    if (num := 1 + sum(map(skeleton.count, (b",", b"[", b"{")))) > max_values:
        raise ValueError(f"it has about {num} values, at most {max_values} are read")
    if _DIGITS.search(skeleton):
        raise ValueError(f"it holds a number of more than {_MAX_DIGITS} digits")
    depth = 0
    for bracket in _BRACKET.findall(skeleton):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"lists and objects lie more than {MAX_JSON_DEPTH} deep in each other")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {quoted(twice)} occurs twice in one object")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"numbers must be finite, got {text}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"numbers must be finite, got {text}")
    return value


def read_model(
    model: type[Model],
    path: str | os.PathLike[str],
    *,
    what: str,
    remedy: str = "",
    error: type[OATError] = ConfigError,
    max_bytes: int = MAX_JSON_BYTES,
    max_values: int = MAX_JSON_VALUES,
    content: bytes | None = None,
) -> Model:
    """Read a JSON file as a pydantic model, within the bounds of `parse_json`.

    Args:
        model: the model.
        path: the file.
        what: what the file should be, for the error, as in `a device profile`.
        remedy: what to do where it is not.
        error: what to raise.
        max_bytes: the largest size of the file.
        max_values: the largest number of values in it.
        content: its bytes, where they were read already; None: they are read.

    Raises:
        OATError: the file is missing, too large, or does not fit the model; of the type `error`.
    """
    then = f": {remedy}" if remedy else ""
    try:
        content = read_at_most(path, max_bytes) if content is None else content
        return model.model_validate(parse_json(content, max_bytes=max_bytes, max_values=max_values))
    except OSError as reason:
        raise error(
            f"{one_line(path)} cannot be read as {what} ({reason.strerror or one_line(reason)}){then}"
        ) from None
    except ValidationError as reason:
        raise error(f"{one_line(path)} is not {what} ({reason_of(reason)}){then}") from None
    except ValueError as reason:  # a ValidationError is one too
        raise error(f"{one_line(path)} is not {what} ({one_line(reason)}){then}") from None


def reason_of(error: ValidationError) -> str:
    """Return in one line which fields do not fit, and why; the first three, and how many more there are."""
    errors = error.errors(include_url=False, include_context=False)
    reasons = []
    for e in errors[:_MOST_REASONS]:
        where, what = ".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")
        if e["type"] == "tuple_type":  # which is no word of JSON or YAML
            what = f"expected a list, as in [{quoted(e['input'])}]"
        reasons.append(f"{one_line(where)}: {one_line(what)}".removeprefix(": "))
    more = f"; and {len(errors) - _MOST_REASONS} more" if len(errors) > _MOST_REASONS else ""
    return "; ".join(reasons) + more
