"""Outcomes kept on disk, so that counting that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.data import ImageSet, fingerprint
from training.network import OATNet
from training.origin import commit_of_code, is_committed

Hits = npt.NDArray[np.bool_]
"""Whether each image was classified right, in the order of its set."""


class Kept:
    """What was counted of one network by one committed state of the code; what another made is counted anew.

    Args:
        root: folder that networks share; None keeps nothing, and neither does code with uncommitted changes.
        model: the network, whose weights are part of the key.

    Attributes:
        spared_s: how long it took, at the time, to count what has been taken from the disk since.
    """

    def __init__(self, root: Path | None, model: OATNet) -> None:
        self.spared_s = 0.0
        commit = commit_of_code()
        if root is None or not is_committed(commit):
            self._folder = None
            return
        digest = hashlib.sha256(commit.encode())
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        self._folder = root / digest.hexdigest()[:16]

    def get(self, what: str, data: ImageSet, count: Callable[[], Hits]) -> Hits:
        """The outcomes of `what` on `data` if they are kept; else `count()`, kept from now on.

        Args:
            what: all that decides the outcomes beside network, images and code: operating point, attack, seed.
            data: the images.
            count: counts them.
        """
        if self._folder is None:
            return count()
        file = self._folder / f"{hashlib.sha256(f'{what} {fingerprint(data)}'.encode()).hexdigest()[:16]}.npz"
        if file.is_file():
            with np.load(file, allow_pickle=False) as archive:
                self.spared_s += float(archive["seconds"])
                kept: Hits = archive["hits"]
            return kept
        started = time.monotonic()
        hits = count()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, hits=hits, seconds=time.monotonic() - started)
        partial.replace(file)
        return hits
