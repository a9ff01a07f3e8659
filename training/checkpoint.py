"""Write training checkpoints atomically, and read them without unpickling anything but tensors and plain values."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from oat_runtime.errors import CheckpointError
from training.config import TrainConfig
from training.origin import UNKNOWN

_FORMAT = 3
_READABLE = (1, 2, 3)
"""Format 1 had no average, and format 2 had no origin."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a run after `step` optimizer steps. Random draws depend on (seed, step), so no generator is stored."""

    config: TrainConfig
    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    seconds: float
    """Time spent training so far."""
    finished: bool = False
    average: dict[str, torch.Tensor] | None = None
    """Running average of the weights, if the run has one."""
    commit: str = UNKNOWN
    hardware: str = UNKNOWN
    """Code and hardware of the process that wrote this, also if the run began elsewhere."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write to a temporary file beside `path`, flush it, then rename it, so that a kill leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        payload = {
            "format": _FORMAT,
            "config": checkpoint.config.model_dump_json(),
            "step": checkpoint.step,
            "model": checkpoint.model,
            "optimizer": checkpoint.optimizer,
            "seconds": checkpoint.seconds,
            "finished": checkpoint.finished,
            "average": checkpoint.average,
            "commit": checkpoint.commit,
            "hardware": checkpoint.hardware,
        }
        torch.save(payload, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: no such file, a damaged one, or one of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: give the path of a checkpoint.pt that oat-train wrote")
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, but does not compare them
            if (spoiled := archive.testzip()) is not None:
                raise ValueError(f"{spoiled} fails its checksum")
        payload = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(payload, dict):
            raise TypeError(f"expected a dict, got {type(payload).__name__}")
        if payload["format"] not in _READABLE:
            raise CheckpointError(f"{path}: expected checkpoint format {_FORMAT}, got {payload['format']}")
        return Checkpoint(
            config=TrainConfig.model_validate_json(payload["config"]),
            step=payload["step"],
            model=payload["model"],
            optimizer=payload["optimizer"],
            seconds=payload["seconds"],
            finished=payload["finished"],
            average=payload["average"] if payload["format"] > 1 else None,
            commit=payload["commit"] if payload["format"] > 2 else UNKNOWN,
            hardware=payload["hardware"] if payload["format"] > 2 else UNKNOWN,
        )
    except (
        OSError, KeyError, TypeError, ValueError, RuntimeError, EOFError,
        pickle.UnpicklingError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({error}): use an older one") from error
