"""The benchmark's stage: the world, the players that are compared, and what was found so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oat_runtime.stress.corruptions import SEVERITIES
from policy.benchmark import streams as make
from policy.benchmark.attacks import ATTACKS
from policy.benchmark.players import (
    Play,
    World,
    confidence_threshold,
    correct_tp,
    ewma_hysteresis,
    play_policy,
    play_rule,
    random_choice,
)
from policy.benchmark.statistics import accuracy, difference, worst_segment
from policy.benchmark.streams import Stream
from policy.config import PolicyConfig
from policy.estimator import EstimatorConstants

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is played."""

    num_seeds: int
    num_segments: int
    num_false_alarm_frames: int
    num_onsets: int
    num_attacked: int
    severities: tuple[int, ...] = SEVERITIES
    attacks: tuple[str, ...] = tuple(ATTACKS)


class Stage:
    """Everything that the trials share. `rows` and `checks` grow as they are played."""

    def __init__(self, world: World, constants: EstimatorConstants, config: PolicyConfig, effort: Effort) -> None:
        """Nothing is played yet."""
        self.world, self.constants, self.config, self.effort = world, constants, config, effort
        self.rows: list[Row] = []
        self.checks: list[Row] = []
        self.step_ms: list[NDArray[np.float64]] = []
        self.num_images = world.cache.count

    def conditions(self, mixture: str = "all") -> list[str]:
        """Names of a mixture's conditions."""
        return make.conditions_of(mixture, self.effort.severities)

    def mixed(self, conditions: Sequence[str], *, num_segments: int) -> list[Stream]:
        """One mixed stream a seed."""
        return [
            make.mixed(conditions, num_segments=num_segments, num_images=self.num_images, seed=seed)
            for seed in range(self.effort.num_seeds)
        ]

    def flicker(self, condition: str) -> list[Stream]:
        """Clean and this condition in turns of the dwell time, one stream a seed."""
        images = min(self.num_images, self.effort.num_attacked)
        num_frames = 150 * max(2, self.effort.num_segments // 2)
        return [
            make.flicker(condition, period_s=self.config.dwell_s, num_frames=num_frames, num_images=images, seed=seed)
            for seed in range(self.effort.num_seeds)
        ]

    def at_reference(self, *, lambda_floor: float = 0.0) -> PolicyConfig:
        """The configuration at the one width at which attacks and all clean images were run."""
        widest = self.world.points[self.world.reference[0]].width
        return self.config.model_copy(update={"lambda_floor": lambda_floor, "width_min": widest})

    def play(self, streams: Sequence[Stream], config: PolicyConfig) -> list[Play]:
        """Our policy on each stream."""
        plays = [
            play_policy(self.world, stream, config, self.constants, seed=seed) for seed, stream in enumerate(streams)
        ]
        self.step_ms += [play.step_ms_T for play in plays]
        return plays

    def play_rules(self, streams: Sequence[Stream]) -> dict[str, list[NDArray[np.bool_]]]:
        """Right answers of the rules that know nothing but confidence, and of chance."""
        first = int(self.world.reference[0])
        rules: dict[str, list[NDArray[np.bool_]]] = {
            "confidence threshold": [],
            "ewma with hysteresis": [],
            "random": [],
        }
        for seed, stream in enumerate(streams):
            for name, choose in (
                ("confidence threshold", confidence_threshold(self.world)),
                ("ewma with hysteresis", ewma_hysteresis(self.world)),
                ("random", random_choice(self.world.reference, seed=seed)),
            ):
                rules[name].append(play_rule(self.world, stream, start=first, choose=choose).correct_T)
        return rules

    def against_fixed(self, name: str, streams: list[Stream], plays: list[Play]) -> None:
        """A row that compares with the best fixed point of the same streams."""
        fixed = [correct_tp(self.world, stream) for stream in streams]
        best = int(np.concatenate(fixed).mean(axis=0).argmax())
        found = difference(streams, [play.correct_T for play in plays], [right_TP[:, best] for right_TP in fixed])
        self.rows.append(
            {
                "trial": name,
                "player": "policy",
                "accuracy": accuracy(streams, [play.correct_T for play in plays]).value,
                "over_best_fixed": found.value,
                "over_best_fixed_low": found.low,
                "over_best_fixed_high": found.high,
                "best_fixed": str(self.world.points[best]),
                "switches_per_1000": 1000 * sum(play.num_switches for play in plays) / sum(map(len, streams)),
            }
        )

    def accuracy_row(
        self,
        trial: str,
        player: str,
        streams: Sequence[Stream],
        correct: Sequence[NDArray[np.bool_]],
        where: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        """A row with one player's accuracy (`where`: under attack, too)."""
        found = accuracy(streams, correct)
        row: Row = {"trial": trial, "player": player, "accuracy": found.value}
        row |= {"low_95": found.low, "high_95": found.high, "worst_segment": worst_segment(streams, correct)}
        if where is not None:
            row["attacked_accuracy"] = accuracy(streams, correct, where).value
        self.rows.append(row)

    def check(
        self, name: str, value: float | None, limit: float, unit: str, *, least: bool = False, strict: bool = False
    ) -> None:
        """A figure that must hold; one that was not measured does not."""
        value = None if value is None or math.isnan(value) else value
        ok = value is not None and (value >= limit if least else value <= limit) and not (strict and value == limit)
        word = "at least" if least else "at most"
        self.checks.append({"name": name, "value": value, "limit": limit, "unit": f"{unit}, {word}", "ok": bool(ok)})


def finite(value: float) -> float | None:
    """The value, or None where it is infinite: what never came has no number."""
    return value if math.isfinite(value) else None
