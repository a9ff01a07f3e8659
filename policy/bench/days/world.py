"""Join the records of all sessions, and play orders of them: the policy, fixed λ, simple rules, an oracle.

Shape legend: G frames of all sessions, N regions, P operating points, L values of λ at full width, S statistics,
T frames of an order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import OperatingPoint, OperatingTable
from policy.belief.constants import EstimatorConstants
from policy.bench.days.record import Recorder, SessionRecord
from policy.bench.days.sessions import Session
from policy.bench.players import DOUBT
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.fitting.frames import STILL_S
from policy.image import ImageStatistics
from policy.signals import Signals, network_signals

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Latency = Callable[[float, int], float]
"""From width and number of regions to milliseconds of the network."""


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """What one player did in one order.

    Attributes:
        frame_T: the frames, in the order in which they were played.
        point_T: index of the point that answered.
        right_T: regions of each frame that were answered correctly.
        regions_T: all regions of each frame.
        step_ms_T: time of each decision; empty for players that decide nothing.
    """

    frame_T: Ints
    point_T: Ints
    right_T: Ints
    regions_T: Ints
    step_ms_T: Floats

    @property
    def num_switches(self) -> int:
        """How often the operating point changed."""
        return int(np.count_nonzero(np.diff(self.point_T)))


class World:
    """All frames with what the network says of their regions."""

    def __init__(self, recorder: Recorder, sessions: Sequence[Session], records: Sequence[SessionRecord]) -> None:
        """Join the records; the frames of a session stay in their order."""
        self.sessions, self.records, self.points = sessions, records, recorder.points
        self.index = {point: p for p, point in enumerate(self.points)}
        self.lambdas, self.widest = recorder.lambdas, recorder.widest
        self.reference = [self.index[OperatingPoint(lam, self.widest)] for lam in self.lambdas]
        self.session_G = np.repeat(np.arange(len(records)), [len(record) for record in records])
        self.within_G = np.concatenate([np.arange(len(record)) for record in records])
        self.stats_GS = np.concatenate([record.stats_FS for record in records])
        self.first_S = np.concatenate(([0], np.cumsum([len(record) for record in records])))
        self.adverse_G = np.array([session.is_adverse for session in sessions])[self.session_G]
        right_GP, regions_G = [], []
        for record in records:
            correct_NP = record.label_NP == record.labels_N[:, None]
            right_GP.append(np.add.reduceat(correct_NP, record.start_F[:-1], axis=0, dtype=np.int64))
            regions_G.append(np.diff(record.start_F))
        self.right_GP, self.regions_G = np.concatenate(right_GP), np.concatenate(regions_G)
        self.renormalized_G = np.concatenate(
            [np.add.reduceat(r.renormalized_N == r.labels_N, r.start_F[:-1], dtype=np.int64) for r in records]
        )

    def frames(self, order: Sequence[int]) -> Ints:
        """Return the frames of sessions in this order."""
        return np.concatenate([np.arange(self.first_S[s], self.first_S[s + 1]) for s in order])

    def attacked(self, order: Sequence[int]) -> NDArray[np.bool_]:
        """Return which frames of an order are attacked: the recorded ones in every third session."""
        hit = []
        for place, s in enumerate(order):
            record = self.records[s]
            num = record.attacked_stats_LFS.shape[1] if place % 3 == 1 else 0
            hit.append(np.arange(len(record)) >= len(record) - num)
        return np.concatenate(hit)

    def answer(self, frame: int, point: int, attacked_at: int | None = None) -> tuple[Ints, Floats, Floats, int]:
        """Return (labels, confidences, statistics, number that are right) of a frame's regions.

        Args:
            frame: the frame.
            point: index of the point that answers.
            attacked_at: place of the λ at which the frame is attacked; None: it is not.
        """
        record, f = self.records[self.session_G[frame]], int(self.within_G[frame])
        at = record.regions(f)
        true_N = record.labels_N[at]
        if attacked_at is None:
            labels_N, confidence_N = record.label_NP[at, point], record.confidence_NP[at, point]
            stats_S = record.stats_FS[f]
        else:
            first = len(record) - record.attacked_stats_LFS.shape[1]
            begin, column = int(record.start_F[first]), self.reference.index(point)
            at = slice(at.start - begin, at.stop - begin)
            labels_N = record.attacked_label_LNL[attacked_at, at, column]
            confidence_N = record.attacked_confidence_LNL[attacked_at, at, column]
            stats_S = record.attacked_stats_LFS[attacked_at, f - first]
        return labels_N.astype(np.int64), confidence_N, stats_S, int(np.count_nonzero(labels_N == true_N))

    def fixed(self, frame_T: Ints, point: int, attacked_T: NDArray[np.bool_] | None = None) -> Played:
        """Play one point throughout; it is attacked at its own λ."""
        right_T = self.right_GP[frame_T, point].copy()
        for t in np.flatnonzero(attacked_T) if attacked_T is not None else ():
            right_T[t] = self.answer(int(frame_T[t]), point, self.reference.index(point))[3]
        return Played(frame_T, np.full(len(frame_T), point), right_T, self.regions_G[frame_T], np.empty(0))

    def chosen(self, frame_T: Ints, point_T: Ints) -> Played:
        """Play a point for each frame."""
        return Played(frame_T, point_T, self.right_GP[frame_T, point_T], self.regions_G[frame_T], np.empty(0))

    def naive(self, frame_T: Ints) -> Played:
        """Play the naive rule: after a frame of low median confidence the largest λ, otherwise the least."""
        point_T, confidence = np.empty(len(frame_T), np.int64), 1.0
        for t, frame in enumerate(frame_T.tolist()):
            point_T[t] = self.reference[-1 if confidence < DOUBT else 0]
            confidence = float(np.median(self.answer(frame, int(point_T[t]))[1]))
        return self.chosen(frame_T, point_T)

    def oracle(self, frame_T: Ints) -> Played:
        """Play the best λ of each session, chosen for its even frames on its odd ones and the other way round."""
        point_T = np.empty(len(frame_T), np.int64)
        for s in range(len(self.records)):
            for half in (0, 1):
                here = self.session_G == s
                judged, other = (here & (self.within_G % 2 == parity) for parity in (half, 1 - half))
                by_lambda = self.right_GP[other if other.any() else here][:, self.reference].sum(axis=0)
                point_T[judged[frame_T]] = self.reference[int(by_lambda.argmax())]
        return self.chosen(frame_T, point_T)

    def policy(
        self,
        frame_T: Ints,
        table: OperatingTable,
        config: PolicyConfig,
        constants: EstimatorConstants,
        *,
        attacked_T: NDArray[np.bool_] | None = None,
        latency: Latency | None = None,
        step_ms: Callable[[], float] | None = None,
    ) -> Played:
        """Play the policy with what the node gives it: statistics of regions, network signals of the frame before."""
        policy = AdaptivePolicy(table, config, constants)
        num, last = len(frame_T), None
        present = self.index[OperatingPoint(policy.safety_point.lam, self.widest)]
        point_T, right_T, step_T = np.empty(num, np.int64), np.empty(num, np.int64), np.empty(num)
        for t, frame in enumerate(frame_T.tolist()):
            hit = attacked_T is not None and bool(attacked_T[t])
            at = self.reference.index(present) if hit else None
            stats_S = self.answer(frame, present, at)[2]
            regions = int(self.regions_G[frame])
            signals = Signals(t * STILL_S, ImageStatistics(*stats_S.tolist()), last, num_regions=regions)
            started = step_ms() if step_ms else 0.0
            decision = policy.step(signals)
            step_T[t] = (step_ms() if step_ms else 0.0) - started
            present = self.index[decision.point]
            labels_N, confidence_N, _, right_T[t] = self.answer(frame, present, at)
            probed = self.answer(frame, self.index[decision.probe], at)[0].tolist() if decision.probe else []
            last = network_signals(
                confidence_N.tolist(),
                labels_N.tolist(),
                probed,
                of_regions=True,
                point=decision.point,
                latency_ms=latency(decision.point.width, regions) if latency else None,
                age_s=STILL_S,
            )
            point_T[t] = present
        return Played(frame_T, point_T, right_T, self.regions_G[frame_T], step_T)
