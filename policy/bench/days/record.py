"""Record what a network says of every region of every session at every point, once, and keep it.

Shape legend: F frames, N regions, P operating points, L values of λ at full width, S statistics, C features.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.bundle import Bundle
from oat_runtime.data.boxes.crops import cut_out, frame_crops
from oat_runtime.data.npz import read_arrays
from oat_runtime.errors import DataError
from oat_runtime.files import write_whole
from oat_runtime.image import unit_planes
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.runtime import OATRuntime
from oat_runtime.stress.attacks import as_bytes
from policy.bench.attacks import ATTACKS, attack
from policy.bench.days.renormalized import renormalized
from policy.bench.days.sessions import Session
from policy.bench.recorded_network import answers, float32_runtime, network_id
from policy.image import mean_statistics
from policy.signals import opposite

_LOG = logging.getLogger(__name__)

_BATCH = 100
_SCHEMA = 1
_RENORMALIZED_FRAMES = 4
"""Frames, the present one among them, by whose regions batch-norm statistics are re-estimated."""
_ATTACK = "pgd-10"


@dataclass(frozen=True, slots=True, eq=False)
class SessionRecord:
    """What a network says of one session.

    Attributes:
        start_F: int64, (F + 1,): the regions of frame f are start_F[f] to start_F[f + 1].
        labels_N: int64, true classes.
        stats_FS: mean statistics of each frame's regions, as the node takes them.
        label_NP: uint8, predicted classes.
        confidence_NP: calibrated confidences.
        feature_NC: what the classifier sees, at the least λ and full width.
        renormalized_N: uint8, predicted classes there with batch-norm statistics of the last frames.
        attacked_stats_LFS: statistics of the first frames, attacked at each λ.
        attacked_label_LNL: uint8, classes at each λ (last) of regions that are attacked at each λ (first).
        attacked_confidence_LNL: their calibrated confidences.
    """

    start_F: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    stats_FS: NDArray[np.float64]
    label_NP: NDArray[np.uint8]
    confidence_NP: NDArray[np.float32]
    feature_NC: NDArray[np.float32]
    renormalized_N: NDArray[np.uint8]
    attacked_stats_LFS: NDArray[np.float64]
    attacked_label_LNL: NDArray[np.uint8]
    attacked_confidence_LNL: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.start_F) - 1

    def regions(self, frame: int) -> slice:
        """Return where the regions of a frame are."""
        return slice(int(self.start_F[frame]), int(self.start_F[frame + 1]))


class Recorder:
    """Record sessions, each in a file of its own, so that an interrupted run goes on where it stopped."""

    def __init__(self, folder: Path, bundle: Bundle, *, num_attacked: int, num_threads: int) -> None:
        """Prepare; nothing is computed yet.

        Args:
            folder: for the files, in a folder for each network.
            bundle: network and input.
            num_attacked: frames of each session that are attacked, its last ones.
            num_threads: threads of both engines.
        """
        self.bundle, self.num_attacked, self._num_threads = bundle, num_attacked, num_threads
        self.points = tuple(row.point for row in bundle.select.rows)
        self.widest = bundle.select.widths[-1]
        self.lambdas = bundle.select.lambdas
        self._folder = folder / f"{network_id(bundle)}-days-v{_SCHEMA}"
        self._runtime: OATRuntime | None = None
        self._nets: dict[float, TorchNet] = {}

    def record(self, session: Session) -> SessionRecord:
        """Return what the network says of a session, from its file or by running it."""
        names = hashlib.sha256("\n".join(frame.name for frame in session.frames).encode()).hexdigest()[:8]
        file = session.name.replace("/", "_")
        path = self._folder / f"{file}-{names}-a{self.num_attacked}.npz"
        names_of = tuple(one.name for one in fields(SessionRecord))
        if path.is_file():
            try:
                return SessionRecord(**read_arrays(path, names_of))
            except DataError as error:
                _LOG.warning("recording again, since what was kept is damaged: %s", error)
        record, content = self._measure(session), io.BytesIO()
        np.savez_compressed(content, **{name: getattr(record, name) for name in names_of})
        write_whole(path, content.getvalue())
        return record

    def known(self, session: Session) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return features and classes of the regions of frames that the network was selected on; they are not kept."""
        inputs, labels = zip(*self._crops(session), strict=True)
        return self._features(np.concatenate(inputs)), np.concatenate(labels)

    def _measure(self, session: Session) -> SessionRecord:
        torch.set_num_threads(self._num_threads)
        crops, labels = [], []
        for images, of_frame in self._crops(session):
            crops.append(images)
            labels.append(of_frame)
        start_F = np.concatenate(([0], np.cumsum([len(images) for images in crops])))
        x_NCHW, labels_N = np.concatenate(crops), np.concatenate(labels)
        first = max(0, len(crops) - self.num_attacked)
        attacked = slice(int(start_F[first]), int(start_F[-1]))
        bounds = start_F[first:] - start_F[first]
        hostile_LNCHW = [self._attacked(lam, x_NCHW[attacked], labels_N[attacked]) for lam in self.lambdas]
        at_lambda = tuple(OperatingPoint(lam, self.widest) for lam in self.lambdas)
        label_NP, confidence_NP = self._answers(x_NCHW, self.points)
        attacked_answers = [self._answers(hostile_NCHW, at_lambda) for hostile_NCHW in hostile_LNCHW]
        return SessionRecord(
            start_F=start_F,
            labels_N=labels_N,
            stats_FS=_statistics(x_NCHW, start_F),
            label_NP=label_NP,
            confidence_NP=confidence_NP,
            feature_NC=self._features(x_NCHW),
            renormalized_N=self._renormalized(x_NCHW, start_F),
            attacked_stats_LFS=np.stack([_statistics(hostile_NCHW, bounds) for hostile_NCHW in hostile_LNCHW]),
            attacked_label_LNL=np.stack([labels for labels, _ in attacked_answers]),
            attacked_confidence_LNL=np.stack([confidences for _, confidences in attacked_answers]),
        )

    def _crops(self, session: Session) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """(inputs, labels) of each frame that has regions: its boxes, and background as a detector's false alarms."""
        index, spec = session.index, self.bundle.input
        of_network = np.array([_class(self.bundle, name) for name in index.class_names])
        for frame in session.frames:
            image_HWC = frame.read()
            height, width = image_HWC.shape[:2]
            chosen = frame_crops(frame, index, height=height, width=width, spec=spec)
            if len(chosen.labels_N):
                yield unit_planes(np.stack(cut_out(image_HWC, chosen.boxes_N4, spec))), of_network[chosen.labels_N]

    def _answers(
        self, x_NCHW: NDArray[np.float32], points: tuple[OperatingPoint, ...]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if self._runtime is None:
            self._runtime = float32_runtime(self.bundle, num_threads=self._num_threads)
            self._runtime.prepare()
        return answers(self._runtime, x_NCHW, points)

    def _net(self, lam: float) -> TorchNet:
        if lam not in self._nets:
            tensors, config = self.bundle.tensors(), self.bundle.manifest.model
            self._nets[lam] = TorchNet(fold(tensors, config, lam=lam, width=self.widest))
        return self._nets[lam]

    def _features(self, x_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        net, seen = self._net(self.lambdas[0]), []
        hook = net.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            for part in torch.split(torch.from_numpy(x_NCHW), _BATCH):
                net(part)
        hook.remove()
        features_NC: NDArray[np.float32] = torch.cat(seen).numpy()
        return features_NC

    def _renormalized(self, x_NCHW: NDArray[np.float32], start_F: NDArray[np.int64]) -> NDArray[np.uint8]:
        net = renormalized(self.bundle.tensors(), self.bundle.manifest.model, lam=self.lambdas[0], width=self.widest)
        label_N = np.empty(len(x_NCHW), np.uint8)
        with torch.no_grad():
            for frame in range(len(start_F) - 1):
                begin, end = start_F[max(0, frame + 1 - _RENORMALIZED_FRAMES)], start_F[frame + 1]
                logits_NK = net(torch.from_numpy(x_NCHW[begin:end]))
                label_N[start_F[frame] : end] = logits_NK[start_F[frame] - begin :].argmax(dim=1).numpy()
        return label_N

    def _attacked(self, lam: float, x_NCHW: NDArray[np.float32], labels_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the regions under a white-box attack at one λ, in bytes as a camera delivers them."""
        net, other = self._net(lam), self._net(opposite(lam, self.lambdas))
        generator = torch.Generator().manual_seed(0)
        pairs = zip(
            torch.split(torch.from_numpy(x_NCHW), _BATCH), torch.split(torch.from_numpy(labels_N), _BATCH), strict=True
        )
        adversarial = [attack(ATTACKS[_ATTACK], net, other, x, y, generator=generator) for x, y in pairs if len(x)]
        return unit_planes(as_bytes(torch.cat(adversarial))) if adversarial else x_NCHW


def _statistics(x_NCHW: NDArray[np.float32], start_F: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([mean_statistics(x_NCHW[start_F[f] : start_F[f + 1]]) for f in range(len(start_F) - 1)])


def _class(bundle: Bundle, name: str) -> int:
    if name not in bundle.class_names:
        raise DataError(f"{bundle.path} knows no class {name!r}: play a bundle that was trained on this data set")
    return bundle.class_names.index(name)
