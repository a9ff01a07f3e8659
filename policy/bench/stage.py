"""Give all trials the recorded network, the players that are compared, and the report that they add to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import OperatingTable
from oat_runtime.report import Report
from oat_runtime.stress.corruptions import SEVERITIES
from policy.belief.constants import EstimatorConstants
from policy.bench import streams as make
from policy.bench.attacks import ATTACKS
from policy.bench.players import RULES, Play, correct_tp, play_policy, play_rule
from policy.bench.recorded_network import RecordedNetwork
from policy.bench.statistics import accuracy, difference, worst_segment
from policy.bench.streams import Stream
from policy.config import PolicyConfig

Correct = Sequence[NDArray[np.bool_]]
"""Whether each frame of each stream was classified correctly."""
_MIN_IMAGES, _MIN_SEGMENTS = 100, 50
"""A sample that decides about accuracy, delays and rates of rare events.

The limits leave margins of 1 to 2 points. With 250 images and 200 segments a difference of accuracy has a standard
error of 0.3 points, with 100 images 0.4. With 16 images it is more than a point by the images alone, and four segments
show four of 76 conditions.
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is played."""

    num_seeds: int
    num_segments: int
    num_clean_frames: int
    num_onsets: int
    num_attacked: int
    severities: tuple[int, ...] = SEVERITIES
    attacks: tuple[str, ...] = tuple(ATTACKS)


class Stage:
    """Play the policy and its rivals on streams of a recorded network.

    `decides` says whether this many images and segments can decide a check of a sampled figure.
    """

    def __init__(
        self,
        report: Report,
        network: RecordedNetwork,
        constants: EstimatorConstants,
        config: PolicyConfig,
        effort: Effort,
    ) -> None:
        """Set up. Nothing is played yet."""
        self.report, self.network, self.table = report, network, network.bundle.select
        self.constants, self.config, self.effort = constants, config, effort
        self.step_ms: list[NDArray[np.float64]] = []
        self.num_images, self.num_attacked = network.count, min(network.count, effort.num_attacked)
        self.few_segments = max(2, effort.num_segments // 2)
        num_segments = effort.num_seeds * effort.num_segments
        self.decides = self.num_attacked >= _MIN_IMAGES and num_segments >= _MIN_SEGMENTS

    def conditions(self, mixture: str = "all") -> list[str]:
        """Return the names of a mixture's conditions."""
        return make.conditions_of(mixture, self.effort.severities)

    def mixed(self, conditions: Sequence[str], *, num_segments: int) -> list[Stream]:
        """Return one mixed stream for each seed."""
        return [
            make.mixed(conditions, num_segments=num_segments, num_images=self.num_images, seed=seed)
            for seed in range(self.effort.num_seeds)
        ]

    def flicker(self, condition: str) -> list[Stream]:
        """Return streams that alternate clean and this condition at the dwell time, one for each seed."""
        frames, period_s, images = 150 * self.few_segments, self.config.dwell_s, self.num_attacked
        return [
            make.flicker(condition, period_s=period_s, num_frames=frames, num_images=images, seed=seed)
            for seed in range(self.effort.num_seeds)
        ]

    def at_reference(self, *, lambda_floor: float = 0.0) -> PolicyConfig:
        """Return the configuration limited to the reference width, at which attacks were recorded."""
        return self.config.model_copy(update={"lambda_floor": lambda_floor, "width_min": self.network.widest})

    def play(
        self, streams: Sequence[Stream], config: PolicyConfig, *, table: OperatingTable | None = None
    ) -> list[Play]:
        """Play our policy on each stream, with the bundle's table or with another one."""
        plays = [
            play_policy(self.network, table or self.table, stream, config, self.constants, seed=seed)
            for seed, stream in enumerate(streams)
        ]
        self.step_ms += [play.step_ms_T for play in plays]
        return plays

    def play_rules(self, streams: Sequence[Stream]) -> dict[str, Correct]:
        """Play the rules that use only confidence, or chance."""
        return {
            name: [play_rule(self.network, stream, rule(self.network, seed)) for seed, stream in enumerate(streams)]
            for name, rule in RULES.items()
        }

    def row(self, trial: str, player: str = "policy", /, **figures: object) -> None:
        """Add figures of one player in one trial."""
        self.report.rows.append({"trial": trial, "player": player, **figures})

    def against_fixed(self, trial: str, streams: Sequence[Stream], plays: Sequence[Play], **figures: object) -> None:
        """Add a row that compares the policy with the best fixed point on the same streams."""
        fixed = [correct_tp(self.network, stream) for stream in streams]
        best = int(np.concatenate(fixed).mean(axis=0).argmax())
        ours = [play.correct_T for play in plays]
        found = difference(streams, ours, [right_TP[:, best] for right_TP in fixed])
        self.row(
            trial,
            accuracy=accuracy(streams, ours).value,
            over_best_fixed=found.value,
            over_best_fixed_low=found.low,
            over_best_fixed_high=found.high,
            best_fixed=str(self.network.points[best]),
            switches_per_1000=switches_per_1000(plays),
            **figures,
        )

    def accuracy_row(
        self, trial: str, player: str, streams: Sequence[Stream], correct: Correct, where: Correct | None = None
    ) -> None:
        """Add a row with one player's accuracy; with `where`, also its accuracy under attack."""
        found = accuracy(streams, correct)
        figures = {"accuracy": found.value, "low_95": found.low, "high_95": found.high}
        figures["worst_segment"] = worst_segment(streams, correct)
        if where is not None:
            figures["attacked_accuracy"] = accuracy(streams, correct, where).value
        self.row(trial, player, **figures)

    def check(
        self,
        name: str,
        value: float | None,
        limit: float,
        unit: str,
        *,
        least: bool = False,
        strict: bool = False,
        sampled: bool = False,
    ) -> None:
        """Check a figure against its limit. If this sample is too small for a `sampled` figure, leave it unchecked."""
        if sampled and not self.decides:
            self.report.num_left_out += 1
            return
        self.report.check(name, value, limit, unit, least=least, strict=strict)


def switches_per_1000(plays: Sequence[Play]) -> float:
    """Return how many switches there were in 1,000 frames."""
    return 1000 * sum(play.num_switches for play in plays) / sum(len(play.point_T) for play in plays)
