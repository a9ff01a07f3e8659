"""Write a file whole or not at all; read a JSON file that must fit a model, or say in one line why it does not."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from oat_runtime.errors import ConfigError, OATError

_MOST_REASONS = 3

Model = TypeVar("Model", bound=BaseModel)


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file beside its place and move it there, so that a reader finds the old one or the new one.

    Args:
        path: the file; folders are made as needed.
        content: bytes, or text that is written as UTF-8.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    target, data = Path(path), content.encode() if isinstance(content, str) else content
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise


def read_model(
    model: type[Model],
    path: str | os.PathLike[str],
    *,
    what: str,
    remedy: str = "",
    error: type[OATError] = ConfigError,
) -> Model:
    """Read a JSON file as a pydantic model.

    Args:
        model: the model.
        path: the file.
        what: what the file should be, for the error, as in `a device profile`.
        remedy: what to do where it is not.
        error: what to raise.

    Raises:
        OATError: the file is missing, or does not fit the model; of the type `error`.
    """
    then = f": {remedy}" if remedy else ""
    try:
        return model.model_validate_json(Path(path).read_bytes())
    except OSError as reason:
        raise error(f"{path} cannot be read as {what} ({reason.strerror or reason}){then}") from reason
    except ValidationError as reason:
        raise error(f"{path} is not {what} ({reason_of(reason)}){then}") from reason


def reason_of(error: ValidationError) -> str:
    """Return in one line which fields do not fit, and why; the first three, and how many more there are."""
    errors = error.errors()
    reasons = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in errors[:_MOST_REASONS]]
    more = f"; and {len(errors) - _MOST_REASONS} more" if len(errors) > _MOST_REASONS else ""
    return "; ".join(reasons) + more
