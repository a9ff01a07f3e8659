"""Make streams of frames: the condition and image of each frame, and what the other sensors report meanwhile."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oat_runtime.stress.corruptions import FITTING_KINDS, HELD_OUT_KINDS
from policy.bench.recorded_network import ATTACK_PREFIX, CLEAN

FRAME_S = 1 / 30
MEAN_SEGMENT = 300
_MIN_SEGMENT = 30

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stream:
    """One drive.

    Attributes:
        condition_T: name of the condition of each frame; `attack:NAME` is a white-box attack at the active point.
        image_T: index of each frame's image.
        segment_T: number of each frame's segment.
        environment_T: external environment confidence as received, also if NaN or out of range.
        battery_T: state of charge as reported.
        charge_T: state of charge in truth.
        slowdown_T: latency of the network, as a multiple of the profiled one.
        lost_T: names of inputs that are not delivered with each frame: `image`, `network`, `confidence`, `battery`.
    """

    condition_T: Sequence[str]
    image_T: Ints
    segment_T: Ints
    environment_T: Floats
    battery_T: Floats
    charge_T: Floats
    slowdown_T: Floats
    lost_T: Sequence[frozenset[str]] = ()

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.image_T)

    @property
    def attacked_T(self) -> NDArray[np.bool_]:
        """Whether each frame is under attack."""
        return np.array([condition.startswith(ATTACK_PREFIX) for condition in self.condition_T])


def stream_of(segments: Sequence[tuple[str, int]], *, num_images: int, rng: np.random.Generator) -> Stream:
    """Return a stream of segments (condition, number of frames), with images drawn at random and healthy sensors."""
    conditions = [condition for condition, length in segments for _ in range(length)]
    total = len(conditions)
    ones = np.ones(total)
    return Stream(
        condition_T=conditions,
        image_T=rng.integers(0, num_images, total),
        segment_T=np.repeat(np.arange(len(segments)), [length for _, length in segments]),
        environment_T=ones,
        battery_T=ones,
        charge_T=ones,
        slowdown_T=ones,
    )


def kinds_of(mixture: str) -> tuple[str, ...]:
    """Return the corruption kinds of a mixture: `all` of them, or those `held-out` from fitting."""
    return HELD_OUT_KINDS if mixture == "held-out" else (*FITTING_KINDS, *HELD_OUT_KINDS)


def conditions_of(mixture: str, severities: Sequence[int]) -> list[str]:
    """Return every kind at every severity, and clean."""
    return [CLEAN, *(f"{kind}-{severity}" for kind in kinds_of(mixture) for severity in severities)]


def mixed(
    conditions: Sequence[str], *, num_segments: int, num_images: int, seed: int, attack: str = "",
    attack_share: float = 0.25,
) -> Stream:  # fmt: skip
    """Return segments of 300 frames on average, drawn evenly over the conditions; with `attack`, some are attacks."""
    rng = np.random.default_rng(seed)
    segments = []
    for _ in range(num_segments):
        attacked = bool(attack) and rng.random() < attack_share
        condition = ATTACK_PREFIX + attack if attacked else conditions[int(rng.integers(len(conditions)))]
        segments.append((condition, max(_MIN_SEGMENT, round(rng.exponential(MEAN_SEGMENT)))))
    if attack and not any(condition.startswith(ATTACK_PREFIX) for condition, _ in segments):
        segments[-1] = (ATTACK_PREFIX + attack, segments[-1][1])
    return stream_of(segments, num_images=num_images, rng=rng)


def onset(condition: str, *, num_before: int, num_after: int, num_images: int, seed: int) -> Stream:
    """Return clean frames, then one condition, to measure the delay of detection."""
    rng = np.random.default_rng(seed)
    return stream_of([(CLEAN, num_before), (condition, num_after)], num_images=num_images, rng=rng)


def ramp(kind: str, severities: Sequence[int], *, num_images: int, seed: int) -> Stream:
    """Return a stream from clean up to the worst severity and back, in steps of three seconds."""
    up = [CLEAN, *(f"{kind}-{severity}" for severity in severities)]
    return stream_of([(c, 90) for c in up + up[-2::-1]], num_images=num_images, rng=np.random.default_rng(seed))


def flicker(condition: str, *, period_s: float, num_frames: int, num_images: int, seed: int) -> Stream:
    """Return clean and another condition in turns of `period_s`. At the dwell time, this is a dwell's worst case."""
    turn = max(1, round(period_s / FRAME_S))
    turns = math.ceil(num_frames / turn)
    segments = [((CLEAN, condition)[i % 2], turn) for i in range(turns)]
    return stream_of(segments, num_images=num_images, rng=np.random.default_rng(seed))


def dropout(base: Stream, lost: str, *, seed: int) -> Stream:
    """Return the stream with one input missing in a third of all seconds; with `NAME nan`, it is NaN instead."""
    rng = np.random.default_rng(seed + 1)
    seconds = rng.random(len(base) // 30 + 1) < 1 / 3
    gone_T = np.repeat(seconds, 30)[: len(base)]
    name, _, how = lost.partition(" ")
    nan_T = np.where(gone_T, np.nan, 1.0)
    if how == "nan" and name == "confidence":
        return dataclasses.replace(base, environment_T=nan_T)
    if how == "nan" and name == "battery":
        return dataclasses.replace(base, battery_T=nan_T)
    mark = frozenset([lost])
    return dataclasses.replace(base, lost_T=[mark if gone else frozenset() for gone in gone_T])


def contention(base: Stream) -> Stream:
    """Return a stream on which another program makes the network 2.2 times slower, for ten seconds in every minute."""
    second_T = np.arange(len(base)) * FRAME_S
    return dataclasses.replace(base, slowdown_T=np.where((second_T % 60 >= 15) & (second_T % 60 < 25), 2.2, 1.0))


def discharge(base: Stream, *, seed: int) -> Stream:
    """Return a stream whose battery falls from 90 to 25 %, sags by 8 points under load, and is charged in between."""
    share_T = np.linspace(0.0, 1.0, len(base))
    charge_T = np.interp(share_T, [0.0, 0.45, 0.55, 1.0], [0.9, 0.45, 0.6, 0.25])
    load_T = np.random.default_rng(seed + 2).random(len(base) // 60 + 1).repeat(60)[: len(base)] > 0.7
    return dataclasses.replace(base, charge_T=charge_T, battery_T=np.clip(charge_T - 0.08 * load_T, 0, 1))


def spoofed_battery(base: Stream) -> Stream:
    """Return a stream whose nearly empty battery reads full, empty, 87.0 and NaN by turns, as an attacker wants."""
    values = np.array([1.0, 0.0, 87.0, np.nan])
    return dataclasses.replace(
        base, charge_T=np.full(len(base), 0.3), battery_T=values[(np.arange(len(base)) // 30) % len(values)]
    )
