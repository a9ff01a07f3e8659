"""Play a stream frame by frame: with our policy, and with the rules that it is compared with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import OperatingPoint, OperatingTable
from policy.belief.constants import EstimatorConstants
from policy.bench.recorded_network import ATTACK_PREFIX, RecordedNetwork
from policy.bench.streams import FRAME_S, Stream
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.decision import Decision
from policy.image import UNUSABLE, ImageStatistics
from policy.signals import NetworkSignals, Reading, Signals

Choice = Callable[[float, int], int]
"""A rule: (confidence of the previous frame, active point) to the next point."""
_LATENCY_SPREAD = 0.05
"""Standard deviation of the simulated log latency around the profile's median."""
DOUBT = 0.5
"""Confidence below which the naive rule takes the most robust λ."""
_LOW, _HIGH, _GAIN, _WAIT = 0.55, 0.7, 0.05, 30
"""The smoothed rule's limits for mean confidence, the share of a new frame in that, and frames between two moves."""
_HOLD = 60
"""Frames between two draws of the random rule."""


@dataclass(frozen=True, slots=True)
class Play:
    """What one player did on one stream.

    Attributes:
        point_T: index of the point that classified each frame.
        correct_T: whether that was correct.
        alarm_T: whether the policy believed that something had changed.
        num_probes: frames that were classified a second time.
        step_ms_T: time of each decision.
        latency_ms_T: simulated time of the network.
        rate_hz_T: rate that was granted, at most the camera's.
        decisions: all decisions, if they were asked for.
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
        """How often the operating point changed."""
        return int(np.count_nonzero(np.diff(self.point_T)))


def play_policy(
    network: RecordedNetwork,
    table: OperatingTable,
    stream: Stream,
    config: PolicyConfig,
    constants: EstimatorConstants | None,
    *,
    seed: int = 0,
    keep: bool = False,
) -> Play:
    """Play our policy with the node's inputs: this frame's image, and the network signals of the frame before."""
    policy = AdaptivePolicy(table, config, constants)
    rng = np.random.default_rng(seed)
    total = len(stream)
    point_T, correct_T, alarm_T = np.empty(total, np.int64), np.empty(total, bool), np.empty(total, bool)
    step_ms_T, latency_ms_T, rate_hz_T = np.empty(total), np.full(total, np.nan), np.full(total, 1 / FRAME_S)
    noise_T = np.exp(_LATENCY_SPREAD * rng.normal(size=total))
    median_ms_P = [table.row(point).latency_ms_p50 for point in network.points]
    last: NetworkSignals | None = None
    present = network.index[OperatingPoint(policy.safety_point.lam, network.widest)]
    num_probes = 0
    decisions: list[Decision] = []
    inputs: list[Signals] = []
    for t in range(total):
        found = network.predictions(stream.condition_T[t], present)
        image = int(stream.image_T[t])
        signals = _signals(stream, t, ImageStatistics(*found.stats_NS[image].tolist()), last)
        started = time.perf_counter()
        decision = policy.step(signals)
        step_ms_T[t] = 1e3 * (time.perf_counter() - started)
        present = network.index[decision.point]
        label, confidence = network.answer(found, image, present)
        disagrees = None
        if decision.probe is not None and decision.probe != decision.point:
            disagrees = network.answer(found, image, network.index[decision.probe])[0] != label
            num_probes += 1
        median_ms = median_ms_P[present]
        if median_ms is not None:
            latency_ms_T[t] = median_ms * stream.slowdown_T[t] * noise_T[t]
        if decision.max_rate_hz is not None:
            rate_hz_T[t] = min(1 / FRAME_S, decision.max_rate_hz)
        taken_ms = None if math.isnan(latency_ms_T[t]) else float(latency_ms_T[t])
        last = NetworkSignals(decision.point, min(1.0, confidence), disagrees, taken_ms, FRAME_S)
        point_T[t], correct_T[t] = present, label == network.labels_N[image]
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


def correct_tp(network: RecordedNetwork, stream: Stream) -> NDArray[np.bool_]:
    """Return whether each fixed point is correct on each frame (T, P); under attack, False off the reference width."""
    condition_T = np.array(stream.condition_T)
    correct_TP = np.zeros((len(stream), len(network.points)), bool)
    for condition in set(stream.condition_T):
        frames = np.flatnonzero(condition_T == condition)
        attacked = condition.startswith(ATTACK_PREFIX)
        for p in network.reference.tolist() if attacked else range(len(network.points)):
            correct_TP[frames, p] = network.correct(condition, p, stream.image_T[frames])
    return correct_TP


def oracle_correct(
    network: RecordedNetwork, stream: Stream, correct_TP: NDArray[np.bool_], *, allowed: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether the oracle is correct on each frame (T,). It takes the best allowed point for each condition.

    Points are chosen separately for images of even and odd number, each on the other half. If they were chosen on the
    images that judge them, the best of many points would beat a fixed one by luck: by over a point with 300 images.
    """
    best = {}
    for condition in set(stream.condition_T):
        correct_NP = network.correct_np(condition)[:, allowed]
        best[condition] = [int(allowed[correct_NP[half::2].mean(axis=0).argmax()]) for half in (1, 0)]
    point_T = [best[c][int(i) % 2] for c, i in zip(stream.condition_T, stream.image_T, strict=True)]
    correct_T: NDArray[np.bool_] = correct_TP[np.arange(len(stream)), point_T]
    return correct_T


def play_rule(network: RecordedNetwork, stream: Stream, choose: Choice) -> NDArray[np.bool_]:
    """Return whether a rule is correct on each frame (T,). It sees the last frame's confidence, and starts at λ = 0."""
    correct_T, present, confidence = np.empty(len(stream), bool), int(network.reference[0]), 1.0
    for t, (condition, image) in enumerate(zip(stream.condition_T, stream.image_T.tolist(), strict=True)):
        found = network.predictions(condition, present)
        present = choose(confidence, present) if t else present
        label, confidence = network.answer(found, image, present)
        correct_T[t] = label == network.labels_N[image]
    return correct_T


def confidence_threshold(network: RecordedNetwork) -> Choice:
    """Return the naive rule: after a frame of low confidence the most robust λ, otherwise the most accurate one."""
    accurate, robust = int(network.reference[0]), int(network.reference[-1])
    return lambda confidence, present: robust if confidence < DOUBT else accurate


def ewma_hysteresis(network: RecordedNetwork) -> Choice:
    """Return the smoothed naive rule: one λ up while mean confidence is low, one down while it is high."""
    order = [int(p) for p in network.reference]
    mean, wait = 1.0, 0

    def choose(confidence: float, present: int) -> int:
        nonlocal mean, wait
        mean += _GAIN * (confidence - mean)
        wait = max(0, wait - 1)
        rank = order.index(present)
        if not wait and mean < _LOW and rank + 1 < len(order):
            wait = _WAIT
            return order[rank + 1]
        if not wait and mean > _HIGH and rank > 0:
            wait = _WAIT
            return order[rank - 1]
        return present

    return choose


def random_choice(points: NDArray[np.int64], *, seed: int) -> Choice:
    """Return the rule that draws a new point at random every two seconds."""
    rng = np.random.default_rng(seed)
    count = 0

    def choose(confidence: float, present: int) -> int:
        nonlocal count
        count += 1
        return int(rng.choice(points)) if count % _HOLD == 0 else present

    return choose


RULES: dict[str, Callable[[RecordedNetwork, int], Choice]] = {
    "confidence threshold": lambda network, seed: confidence_threshold(network),
    "ewma with hysteresis": lambda network, seed: ewma_hysteresis(network),
    "random": lambda network, seed: random_choice(network.reference, seed=seed),
}
"""Rules that use only confidence, or chance: (network, seed of the stream) to a fresh rule."""
