"""Who chooses the operating point: our policy, and what it is compared with. Each plays a stream frame by frame."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import OperatingPoint, OperatingTable
from policy.benchmark.outcomes import OutcomeCache, Outcomes
from policy.benchmark.streams import ATTACK_PREFIX, FRAME_S, Stream
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.decision import Decision
from policy.estimator import EstimatorConstants
from policy.image import UNUSABLE, ImageStatistics
from policy.signals import NetworkSignals, Reading, Signals

Choice = Callable[[float, int], int]
"""A rule without memory of ours: (confidence of the previous frame, present point) to the next point."""
_LATENCY_SPREAD = 0.05
"""Standard deviation of the simulated log latency around the profile's median."""


@dataclass(frozen=True, slots=True)
class Play:
    """What happened on one stream.

    Attributes:
        point_T: index of the point that classified each frame.
        correct_T: whether it was right.
        alarm_T: whether the policy believed that something had changed.
        num_probes: frames that were classified a second time.
        step_ms_T: time of each decision; empty for baselines.
        latency_ms_T: simulated time of the network.
        rate_hz_T: rate that was granted, at most the camera's.
        decisions: all of them where asked for.
        signals: their inputs.
    """

    point_T: NDArray[np.int64]
    correct_T: NDArray[np.bool_]
    alarm_T: NDArray[np.bool_]
    num_probes: int
    step_ms_T: NDArray[np.float64]
    latency_ms_T: NDArray[np.float64]
    rate_hz_T: NDArray[np.float64]
    decisions: tuple[Decision, ...] = ()
    signals: tuple[Signals, ...] = ()

    @property
    def num_switches(self) -> int:
        """Changes of the point."""
        return int(np.count_nonzero(np.diff(self.point_T)))


class World:
    """The network's answers, looked up."""

    def __init__(self, cache: OutcomeCache, table: OperatingTable) -> None:
        """Answers come from `cache`; latencies and energies from `table`."""
        self.cache, self.table = cache, table
        self.points = cache.points
        self.index = {point: p for p, point in enumerate(self.points)}
        self.reference = np.array([self.index[point] for point in cache.reference])
        self._column = {int(p): column for column, p in enumerate(self.reference)}
        self.labels_N = cache.data.labels_N
        self._known: dict[str, Outcomes] = {}

    def with_table(self, table: OperatingTable) -> World:
        """The same answers with other latencies and energies."""
        other = World(self.cache, table)
        other._known = self._known
        return other

    def know(self, condition: str, found: Outcomes) -> None:
        """Add a condition of one's own."""
        self._known[condition] = found

    def outcomes(self, condition: str, present: int) -> Outcomes:
        """Answers under a condition; an attack is one on the point in force."""
        attack = condition.removeprefix(ATTACK_PREFIX)
        key = f"{attack}@{self.points[present].lam:g}" if attack != condition else condition
        if key not in self._known:
            self._known[key] = (
                self.cache.attacked(attack, self.points[present].lam)
                if attack != condition
                else self.cache.corrupted(condition)
            )
        return self._known[key]

    def column(self, found: Outcomes, point: int) -> int:
        """Column of a point in these answers; some were taken at the reference width only."""
        return point if found.label_NP.shape[1] == len(self.points) else self._column[point]

    def answer(self, found: Outcomes, image: int, point: int) -> tuple[int, float]:
        """Class and confidence."""
        column = self.column(found, point)
        return int(found.label_NP[image, column]), float(found.confidence_NP[image, column])

    def accuracy_P(self, condition: str) -> NDArray[np.float64]:
        """Accuracy of every point on all images of a condition."""
        found = self.outcomes(condition, 0)
        correct_NP = found.label_NP == self.labels_N[: len(found.label_NP), None]
        accuracy: NDArray[np.float64] = correct_NP.mean(axis=0)
        return accuracy


def play_policy(
    world: World,
    stream: Stream,
    config: PolicyConfig,
    constants: EstimatorConstants | None,
    *,
    seed: int = 0,
    keep: bool = False,
) -> Play:
    """Our policy, fed as the node feeds it: image of this frame, network signals of the frame before."""
    policy = AdaptivePolicy(world.table, config, constants)
    rng = np.random.default_rng(seed)
    total = len(stream)
    point_T, correct_T, alarm_T = np.empty(total, np.int64), np.empty(total, bool), np.empty(total, bool)
    step_ms_T, latency_ms_T, rate_hz_T = np.empty(total), np.full(total, np.nan), np.full(total, 1 / FRAME_S)
    noise_T = np.exp(_LATENCY_SPREAD * rng.normal(size=total))
    median_ms_P = [world.table.row(point).latency_ms_p50 for point in world.points]
    last: NetworkSignals | None = None
    present = world.index[OperatingPoint(policy.safety_point.lam, world.points[world.reference[0]].width)]
    num_probes = 0
    decisions: list[Decision] = []
    inputs: list[Signals] = []
    for t in range(total):
        found = world.outcomes(stream.condition_T[t], present)
        image = int(stream.image_T[t])
        signals = _signals(stream, t, ImageStatistics(*found.stats_NS[image].tolist()), last)
        started = time.perf_counter()
        decision = policy.step(signals)
        step_ms_T[t] = 1e3 * (time.perf_counter() - started)
        present = world.index[decision.point]
        label, confidence = world.answer(found, image, present)
        disagrees = None
        if decision.probe is not None and decision.probe != decision.point:
            disagrees = world.answer(found, image, world.index[decision.probe])[0] != label
            num_probes += 1
        median_ms = median_ms_P[present]
        if median_ms is not None:
            latency_ms_T[t] = median_ms * stream.slowdown_T[t] * noise_T[t]
        if decision.max_rate_hz is not None:
            rate_hz_T[t] = min(1 / FRAME_S, decision.max_rate_hz)
        taken_ms = None if math.isnan(latency_ms_T[t]) else float(latency_ms_T[t])
        last = NetworkSignals(decision.point, min(1.0, confidence), disagrees, taken_ms, FRAME_S)
        point_T[t], correct_T[t] = present, label == world.labels_N[image]
        alarm_T[t] = policy.alarmed
        if keep:
            decisions.append(decision)
            inputs.append(signals)
    return Play(
        point_T, correct_T, alarm_T, num_probes, step_ms_T, latency_ms_T, rate_hz_T, tuple(decisions), tuple(inputs)
    )


def _signals(stream: Stream, t: int, image: ImageStatistics, last: NetworkSignals | None) -> Signals:
    lost = stream.lost_T[t] if stream.lost_T else frozenset()
    if "network nan" in lost and last is not None:
        last = NetworkSignals(last.point, math.nan, last.disagrees, math.nan, last.age_s)
    return Signals(
        now_s=t * FRAME_S,
        image=UNUSABLE if "image nan" in lost else None if "image" in lost else image,
        network=None if "network" in lost else last,
        confidence=Reading() if "confidence" in lost else Reading(float(stream.environment_T[t]), 0.0, "stream"),
        battery=Reading() if "battery" in lost else Reading(float(stream.battery_T[t]), 0.0, "stream"),
    )


def correct_tp(world: World, stream: Stream) -> NDArray[np.bool_]:
    """Whether each point, held throughout, is right on each frame (T, P); under attack only the reference width is."""
    conditions, index_T = np.unique(np.array(stream.condition_T), return_inverse=True)
    right_TP = np.zeros((len(stream), len(world.points)), bool)
    for number, condition in enumerate(conditions.tolist()):
        frames = np.flatnonzero(index_T == number)
        images = stream.image_T[frames]
        attacked = condition.startswith(ATTACK_PREFIX)
        for p in world.reference.tolist() if attacked else range(len(world.points)):
            found = world.outcomes(condition, p)
            right_TP[frames, p] = found.label_NP[images, world.column(found, p)] == world.labels_N[images]
    return right_TP


def oracle_correct(world: World, stream: Stream, best: dict[str, tuple[int, int]]) -> NDArray[np.bool_]:
    """Right answers (T,) of who knows the condition of every frame; see `oracle_points`."""
    right_TP = correct_tp(world, stream)
    point_T = [best[c][int(i) % 2] for c, i in zip(stream.condition_T, stream.image_T, strict=True)]
    right_T: NDArray[np.bool_] = right_TP[np.arange(len(stream)), point_T]
    return right_T


def play_rule(world: World, stream: Stream, *, start: int, choose: Choice) -> Play:
    """A rule that sees nothing but the confidence of the previous frame."""
    total, present = len(stream), start
    point_T, correct_T = np.empty(total, np.int64), np.empty(total, bool)
    confidence = 1.0
    for t in range(total):
        found = world.outcomes(stream.condition_T[t], present)
        present = choose(confidence, present) if t else start
        label, confidence = world.answer(found, int(stream.image_T[t]), present)
        point_T[t], correct_T[t] = present, label == world.labels_N[stream.image_T[t]]
    empty = np.empty(0)
    return Play(point_T, correct_T, np.zeros(total, bool), 0, empty, empty, empty)


def confidence_threshold(world: World, *, below: float = 0.5) -> Choice:
    """The naive rule: a frame of low confidence, so the most robust λ for the next one; else the most accurate."""
    accurate, robust = int(world.reference[0]), int(world.reference[-1])
    return lambda confidence, present: robust if confidence < below else accurate


def ewma_hysteresis(world: World, *, low: float = 0.55, high: float = 0.7, gain: float = 0.05) -> Choice:
    """The naive rule, smoothed: one λ up while the mean confidence is under `low`, one down while over `high`."""
    order = [int(p) for p in world.reference]
    mean, wait = 1.0, 0

    def choose(confidence: float, present: int) -> int:
        nonlocal mean, wait
        mean += gain * (confidence - mean)
        wait = max(0, wait - 1)
        rank = order.index(present)
        if not wait and mean < low and rank + 1 < len(order):
            wait = 30
            return order[rank + 1]
        if not wait and mean > high and rank > 0:
            wait = 30
            return order[rank - 1]
        return present

    return choose


def random_choice(points: NDArray[np.int64], *, seed: int, hold: int = 60) -> Choice:
    """Another point at random every two seconds."""
    rng = np.random.default_rng(seed)
    count = 0

    def choose(confidence: float, present: int) -> int:
        nonlocal count
        count += 1
        return int(rng.choice(points)) if count % hold == 0 else present

    return choose


def oracle_points(world: World, conditions: list[str], allowed: NDArray[np.int64]) -> dict[str, tuple[int, int]]:
    """The best allowed point of each condition for images of even and of odd number.

    Each half's choice is made on the other half. Chosen on the very images it is judged on, the best of many points
    beats a fixed one by luck alone: by more than a point with 300 images.
    """
    best = {}
    for condition in conditions:
        found = world.outcomes(condition, 0)
        correct_NP = (found.label_NP == world.labels_N[: len(found.label_NP), None])[:, allowed]
        by_half = [int(allowed[correct_NP[half::2].mean(axis=0).argmax()]) for half in (1, 0)]
        best[condition] = (by_half[0], by_half[1])
    return best
