"""Count the outcomes of a network's operating points once: they are kept on disk, and a stopped count goes on."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from oat_runtime.data import ImageSet, fingerprint
from oat_runtime.data.npz import read_arrays
from oat_runtime.errors import DataError
from oat_runtime.files import write_whole
from oat_runtime.operating_point import AttackSpec, OperatingPoint, Precision
from training.evaluation.counting import Bools, outcomes_of
from training.evaluation.judged import sha256_of_weights
from training.network import OATNet, Rounding, folded
from training.origin import commit_of_code, is_committed

_LOG = logging.getLogger(__name__)


class OutcomeCache:
    """Outcomes of one network, counted by one committed state of the code, one torch and one kind of device.

    What another one counted is counted anew, because a document names all of them.

    Args:
        root: folder that networks share; None keeps nothing, and neither does code with uncommitted changes.
        model: the network, whose weights are part of the key.
        rounding: counts in int8, which is part of the key too; None: in float32.

    Attributes:
        model: the network.
        precision: what is counted in.
        about: the same for people, with the engine.
        plain: returns the folded network of a point, as it is deployed; in int8 see `training.network.RoundedNet`.
        cached_s: how long it took, at the time, to count what has been taken from the disk since.
    """

    def __init__(self, root: Path | None, model: OATNet, rounding: Rounding | None = None) -> None:
        self.model, self.cached_s = model, 0.0
        self.precision: Precision = "float32" if rounding is None else "int8"
        self.about = "float32" if rounding is None else str(rounding)
        # A table asks for one point after another, a suite again and again for all λ of a width.
        self.plain: Callable[[OperatingPoint], nn.Module] = lru_cache(maxsize=8)(
            lambda point: rounding.net(model, point) if rounding else folded(model, lam=point.lam, width=point.width)
        )
        commit = commit_of_code()
        if root is None or not is_committed(commit):
            self._folder = None
            return
        engine = f"torch {torch.__version__} {model.code_KD.device.type}"
        digest = hashlib.sha256(f"{commit} {sha256_of_weights(model)} {engine}".encode())
        if rounding is not None:
            digest.update(rounding.digest)
        self._folder = root / digest.hexdigest()[:16]

    def outcomes(self, point: OperatingPoint, data: ImageSet, *, attack: AttackSpec | None = None) -> Bools:
        """Return whether the folded network of a point classifies each image correctly."""
        key = f"{point.lam:g} {point.width:g} {'clean' if attack is None else attack.model_dump_json()}"
        device = self.model.code_KD.device
        return self.get(key, data, lambda: outcomes_of(self.plain(point), data, attack=attack, device=device))

    def get(self, key: str, data: ImageSet, count: Callable[[], Bools]) -> Bools:
        """Return the outcomes of `key` on `data` if they are on disk; else those of `count()`, kept from now on.

        Args:
            key: all that decides the outcomes beside network, images and code: operating point, attack, seed.
            data: the images.
            count: counts them.
        """
        file = self.file(key, data, ".npz")
        if file is None:
            return count()
        if (kept := _read(file, num=len(data))) is not None:
            self.cached_s += kept[1]
            return kept[0]
        started = time.monotonic()
        correct_N = count()
        archive_bytes = io.BytesIO()
        np.savez(archive_bytes, correct_N=correct_N, seconds=time.monotonic() - started)
        write_whole(file, archive_bytes.getvalue())
        return correct_N

    def file(self, key: str, data: ImageSet, ending: str) -> Path | None:
        """Return where what belongs to `key` and `data` is stored; None where nothing is."""
        if self._folder is None:
            return None
        return self._folder / f"{hashlib.sha256(f'{key} {fingerprint(data)}'.encode()).hexdigest()[:16]}{ending}"


def _read(file: Path, *, num: int) -> tuple[Bools, float] | None:
    """Return outcomes of `num` images and the seconds they took; None where there are none that can be used."""
    if not file.is_file():
        return None
    try:
        arrays = read_arrays(file, ("correct_N", "seconds"))
        correct_N, seconds = arrays["correct_N"], float(arrays["seconds"])
        if correct_N.dtype != np.bool_ or correct_N.shape != (num,) or not 0.0 <= seconds < math.inf:
            raise DataError(f"{file}: expected outcomes of {num} images")
    except (DataError, TypeError) as error:
        _LOG.warning("counting again, since what was kept is damaged: %s", error)
        return None
    return correct_N, seconds
