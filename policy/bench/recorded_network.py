"""Record a network's predictions on every image, under every condition, at every operating point.

Shape legend: N images, P operating points, S statistics, K classes, H height, W width, C channels (RGB).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oat_runtime.backends import BackendName, available
from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.bundle import Bundle
from oat_runtime.data import ImageSet
from oat_runtime.data.npz import read_arrays
from oat_runtime.errors import DataError
from oat_runtime.files import write_whole
from oat_runtime.image import network_input, unit_planes
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.runtime import OATRuntime
from oat_runtime.stress.attacks import as_bytes
from oat_runtime.stress.corruptions import corrupt_batch
from policy.bench.attacks import ATTACKS, Goal, attack
from policy.image import image_statistics
from policy.signals import opposite

_LOG = logging.getLogger(__name__)
CLEAN, ALL_CLEAN = "clean", "clean-all"
ATTACK_PREFIX = "attack:"
_BATCH = 100
_ATTACK_BATCH = 50
_SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Predictions:
    """The network's predictions for the images of one condition.

    Attributes:
        stats_NS: image statistics, float32.
        label_NP: predicted classes, uint8.
        confidence_NP: calibrated confidences, float32.
    """

    stats_NS: NDArray[np.float32]
    label_NP: NDArray[np.uint8]
    confidence_NP: NDArray[np.float32]


def answers(
    runtime: OATRuntime, x_NCHW: NDArray[np.float32], points: Sequence[OperatingPoint]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return labels and calibrated confidences (N, P) of network inputs at several points."""
    label_NP = np.empty((len(x_NCHW), len(points)), np.uint8)
    confidence_NP = np.empty((len(x_NCHW), len(points)), np.float32)
    for p, point in enumerate(points):
        runtime.set_point(lam=point.lam, width=point.width)
        for start in range(0, len(x_NCHW), _BATCH):
            part = slice(start, start + _BATCH)
            logits_NK = runtime.infer(x_NCHW[part]) / runtime.bundle.temperature(point)
            exp_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
            label_NP[part, p] = logits_NK.argmax(axis=1)
            confidence_NP[part, p] = exp_NK.max(axis=1) / exp_NK.sum(axis=1)
    return label_NP, confidence_NP


def float32_runtime(bundle: Bundle, *, num_threads: int) -> OATRuntime:
    """Return the engine to measure with: the same one everywhere if it is there, in the precision of the tables."""
    engine: BackendName = "openvino" if "openvino" in available() else "torch"
    return OATRuntime(bundle, backend=engine, precision="float32", num_threads=num_threads)


def network_id(bundle: Bundle) -> str:
    """Return a hash, in 16 digits, of all that predictions depend on. The estimator is not part of it."""
    manifest = bundle.manifest
    parts = manifest.model_dump(
        mode="json", include={"model": True, "input": True, "figures": {"float32": {"temperatures"}}}
    )
    parts["weights"] = manifest.files["weights.safetensors"].sha256
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class RecordedNetwork:
    """Run the network on each condition once and store its predictions; an interrupted run goes on where it stopped.

    Attributes:
        points: all operating points; streams and players name a point by its index.
        reference: indices of the points at the full width, by λ. Attacks and `clean-all` are recorded for these alone.
        labels_N: true classes.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        data: ImageSet,
        *,
        count: int,
        num_attacked: int,
        num_clean: int,
        num_threads: int,
    ) -> None:
        """Set up. Nothing is computed before it is asked for.

        Args:
            folder: where predictions are stored, in one subfolder for this network and these images.
            bundle: the network.
            data: test images in their official order.
            count: images under each corruption (the first ones, or all where there are fewer).
            num_attacked: images under each attack, likewise.
            num_clean: images of `clean-all`, likewise.
            num_threads: threads of both engines.
        """
        self.bundle, self.data = bundle, data
        self.count, self.num_attacked, self.num_clean = (min(n, len(data)) for n in (count, num_attacked, num_clean))
        self.lambdas, self.widest = bundle.select.lambdas, bundle.select.widths[-1]
        self.points = tuple(row.point for row in bundle.select.rows)
        self.index = {point: p for p, point in enumerate(self.points)}
        self._at_reference = tuple(OperatingPoint(lam, self.widest) for lam in self.lambdas)
        self.reference = np.array([self.index[point] for point in self._at_reference])
        self.labels_N = data.labels_N
        self._column = {int(p): column for column, p in enumerate(self.reference)}
        images_id = f"{zlib.crc32(data.images_NHWC[:].tobytes()):08x}"
        self.folder = folder / f"{network_id(bundle)}-{images_id}-v{_SCHEMA}"
        self._num_threads = num_threads
        self._runtime: OATRuntime | None = None
        self._nets: dict[float, Callable[[Tensor], Tensor]] = {}
        self._known: dict[str, Predictions] = {}

    def predictions(self, condition: str, present: int = 0) -> Predictions:
        """Return what the network says under a condition, from memory, from its file, or by running it.

        Args:
            condition: `clean`, `clean-all`, a kind with its severity as in `fog-3`, or `attack:NAME`.
            present: index of the active point. A white-box attack is made at its λ, at the reference width.
        """
        if condition.startswith(ATTACK_PREFIX):
            name, lam = condition.removeprefix(ATTACK_PREFIX), self.points[present].lam
            file = f"{name}-at-{lam:g}-n{self.num_attacked}"
            return self._recorded(file, lambda: self._attack(ATTACKS[name], lam), self._at_reference)
        if condition == ALL_CLEAN:
            images_NHWC = self.data.images_NHWC[: self.num_clean]
            return self._recorded(f"{ALL_CLEAN}-n{self.num_clean}", lambda: images_NHWC, self._at_reference)
        return self._recorded(f"{condition}-n{self.count}", lambda: self._corrupt(condition), self.points)

    def answer(self, found: Predictions, image: int, point: int) -> tuple[int, float]:
        """Return class and confidence of one image at one point."""
        column = self._column_of(found, point)
        return int(found.label_NP[image, column]), float(found.confidence_NP[image, column])

    def correct(self, condition: str, point: int, image_T: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether one point is correct on each of these images."""
        found = self.predictions(condition, point)
        right_T: NDArray[np.bool_] = found.label_NP[image_T, self._column_of(found, point)] == self.labels_N[image_T]
        return right_T

    def correct_np(self, condition: str) -> NDArray[np.bool_]:
        """Return whether each point is correct on each image of a corruption, (N, P)."""
        label_NP = self.predictions(condition).label_NP
        right_NP: NDArray[np.bool_] = label_NP == self.labels_N[: len(label_NP), None]
        return right_NP

    def _column_of(self, found: Predictions, point: int) -> int:
        return point if found.label_NP.shape[1] == len(self.points) else self._column[point]

    def _recorded(
        self, name: str, images: Callable[[], NDArray[np.uint8]], points: Sequence[OperatingPoint]
    ) -> Predictions:
        if name not in self._known:
            path = self.folder / f"{name}.npz"
            if path.is_file() and (kept := self._read(path, len(points))) is not None:
                self._known[name] = kept
            else:
                found, content = self._measure(images(), points), io.BytesIO()
                confidence_NP = found.confidence_NP.astype(np.float16)
                np.savez_compressed(content, stats=found.stats_NS, label=found.label_NP, confidence=confidence_NP)
                write_whole(path, content.getvalue())
                self._known[name] = Predictions(found.stats_NS, found.label_NP, confidence_NP.astype(np.float32))
        return self._known[name]

    @staticmethod
    def _read(path: Path, num_points: int) -> Predictions | None:
        """Return what was kept; None where it is damaged, so that it is measured anew."""
        try:
            arrays = read_arrays(path, ("stats", "label", "confidence"))
        except DataError as error:
            _LOG.warning("measuring again, since what was kept is damaged: %s", error)
            return None
        stats_NS, label_NP, confidence_NP = (arrays[name] for name in ("stats", "label", "confidence"))
        shape = (len(stats_NS), num_points) if stats_NS.ndim == 2 else None
        if label_NP.shape != shape or confidence_NP.shape != shape or label_NP.dtype != np.uint8:
            _LOG.warning("measuring again, since what was kept in %s is of another form", path)
            return None
        return Predictions(stats_NS, label_NP, confidence_NP.astype(np.float32))

    def _corrupt(self, condition: str) -> NDArray[np.uint8]:
        images = self.data.images_NHWC[: self.count]
        if condition == CLEAN:
            return images
        kind, _, severity = condition.rpartition("-")
        return corrupt_batch(images, kind, int(severity), rng=np.random.default_rng(zlib.crc32(condition.encode())))

    def _attack(self, goal: Goal, lam: float) -> NDArray[np.uint8]:
        # Small float32 backward passes of two threads break the heap on some machines (docs/log/training-on-a-cpu.md).
        torch.set_num_threads(self._num_threads if self.num_attacked >= _ATTACK_BATCH else 1)
        if not self._nets:
            tensors, config = self.bundle.tensors(), self.bundle.manifest.model
            self._nets = {each: TorchNet(fold(tensors, config, lam=each, width=self.widest)) for each in self.lambdas}
        data = self.data.first(self.num_attacked)
        x_NCHW, y_N = torch.from_numpy(unit_planes(data.images_NHWC[:])), torch.from_numpy(data.labels_N)
        other = self._nets[opposite(lam, self.lambdas)]
        generator = torch.Generator().manual_seed(0)
        parts = zip(torch.split(x_NCHW, _ATTACK_BATCH), torch.split(y_N, _ATTACK_BATCH), strict=True)
        adversarial = [attack(goal, self._nets[lam], other, x, y, generator=generator) for x, y in parts]
        return as_bytes(torch.cat(adversarial))

    def _measure(self, images_NHWC: NDArray[np.uint8], points: Sequence[OperatingPoint]) -> Predictions:
        if self._runtime is None:
            self._runtime = float32_runtime(self.bundle, num_threads=self._num_threads)
            self._runtime.prepare()
        x_NCHW = np.stack([network_input(image, self.bundle.input) for image in images_NHWC])
        stats_NS = np.array([image_statistics(x_CHW) for x_CHW in x_NCHW], np.float32)
        return Predictions(stats_NS, *answers(self._runtime, x_NCHW, points))
