"""Compare players on orders of venues, with intervals over sessions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import OperatingTable
from oat_runtime.report import Report
from oat_runtime.timing import p50_p99
from policy.belief.constants import EstimatorConstants
from policy.bench.attacks import FLOORS
from policy.bench.days.latency import HERTZ, Latencies
from policy.bench.days.world import Played, World
from policy.bench.profiles import SIMULATED_WATTS
from policy.bench.statistics import Estimate
from policy.config import PolicyConfig

_NUM_RESAMPLES = 1000
_WORTH_SWITCHING = 0.005
"""Gain of the oracle over the best fixed λ below which no λ is worth switching to."""
_MOST_LOST = 0.5
_MOST_DECISION_MS = 1.0
Plays = Sequence[Played]


@dataclass(frozen=True, slots=True)
class Days:
    """What all trials share."""

    report: Report
    world: World
    orders: list[list[int]]
    table: OperatingTable
    config: PolicyConfig
    constants: EstimatorConstants

    def row(self, trial: str, player: str, **figures: object) -> None:
        """Add figures of one player in one trial."""
        self.report.rows.append({"trial": trial, "player": player, **figures})

    @property
    def frames(self) -> list[NDArray[np.int64]]:
        """The frames of each order."""
        return [self.world.frames(order) for order in self.orders]


def over_sessions(world: World, values: Sequence[tuple[NDArray[np.int64], NDArray, NDArray]]) -> Estimate:  # type: ignore[type-arg]
    """Return a ratio of sums, of (frames, numerators, denominators) of all orders; its interval is over sessions."""
    num = len(world.sessions)
    top_S, bottom_S = np.zeros(num), np.zeros(num)
    for frame_T, top_T, bottom_T in values:
        session_T = world.session_G[frame_T]
        top_S += np.bincount(session_T, top_T, num)
        bottom_S += np.bincount(session_T, bottom_T, num)
    if not bottom_S.any():
        return Estimate(float("nan"), float("nan"), float("nan"))
    draws = np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), size=_NUM_RESAMPLES)
    low, high = np.quantile((draws @ top_S) / np.maximum(draws @ bottom_S, 1e-9), (0.025, 0.975))
    return Estimate(float(top_S.sum() / bottom_S.sum()), float(low), float(high))


def accuracy(world: World, plays: Plays, where: Sequence[NDArray[np.bool_]] | None = None) -> Estimate:
    """Return the share of regions that were answered correctly."""
    masks = where or [np.ones(len(play.frame_T), bool) for play in plays]
    return over_sessions(
        world,
        [(p.frame_T[at], p.right_T[at], p.regions_T[at]) for p, at in zip(plays, masks, strict=True)],
    )


def difference(world: World, ours: Plays, theirs: Plays, where: Sequence[NDArray[np.bool_]] | None = None) -> Estimate:
    """Return the paired difference of accuracy in regions, ours minus theirs."""
    masks = where or [np.ones(len(play.frame_T), bool) for play in ours]
    return over_sessions(
        world,
        [
            (a.frame_T[at], (a.right_T - b.right_T)[at], a.regions_T[at])
            for a, b, at in zip(ours, theirs, masks, strict=True)
        ],
    )


def players(days: Days) -> str:
    """Compare the policy with every fixed λ, a naive rule, an oracle and adapted statistics; return the finding."""
    world, frames = days.world, days.frames
    fixed = {lam: [world.fixed(f, p) for f in frames] for lam, p in zip(world.lambdas, world.reference, strict=True)}
    best = max(fixed, key=lambda lam: accuracy(world, fixed[lam]).value)
    policy = [
        world.policy(f, days.table, days.config, days.constants, step_ms=lambda: 1e3 * time.thread_time())
        for f in frames
    ]
    oracle = [world.oracle(f) for f in frames]
    renormalized = [
        Played(f, np.full(len(f), world.reference[0]), world.renormalized_G[f], world.regions_G[f], np.empty(0))
        for f in frames
    ]
    everyone: dict[str, Plays] = {
        "policy": policy,
        **{f"fixed λ={lam:g}" + (" (best)" if lam == best else ""): plays for lam, plays in fixed.items()},
        "naive rule": [world.naive(f) for f in frames],
        "oracle per session": oracle,
        f"batch norm re-estimated, λ={world.lambdas[0]:g}": renormalized,
    }
    adverse = [world.adverse_G[f] for f in frames]
    for name, plays in everyone.items():
        found, over = accuracy(world, plays), difference(world, plays, fixed[best])
        whole = over_sessions(world, [(p.frame_T, p.right_T == p.regions_T, np.ones(len(p.frame_T))) for p in plays])
        switches = 1000 * sum(p.num_switches for p in plays) / sum(len(p.frame_T) for p in plays)
        days.row(
            "real days",
            name,
            accuracy=found.value,
            low_95=found.low,
            high_95=found.high,
            frames_all_right=whole.value,
            usual_light=accuracy(world, plays, [~mask for mask in adverse]).value,
            poor_light=accuracy(world, plays, adverse).value,
            over_best_fixed=over.value,
            over_best_fixed_low=over.low,
            over_best_fixed_high=over.high,
            regret=difference(world, oracle, plays).value,
            switches_per_1000=switches,
        )
    gain, ours = difference(world, oracle, fixed[best]), difference(world, policy, fixed[best])
    title = f"real days: policy over the best fixed λ={best:g}"
    days.report.check(title, 100 * ours.value, -_MOST_LOST, "points", least=True)
    p50, p99 = p50_p99(np.concatenate([play.step_ms_T for play in policy]))
    days.row("decision time", "policy, CPU time of its thread", p50_ms=p50, p99_ms=p99)
    days.report.check("real days: decision with region signals, p99", p99, _MOST_DECISION_MS, "ms of CPU time")
    compared = f"the oracle gains {100 * gain.value:.2f} points over λ={best:g} on these days, the policy "
    compared += f"{100 * ours.value:+.2f} ({100 * ours.low:+.2f} to {100 * ours.high:+.2f})"
    worth = "No λ is worth switching to" if gain.value < _WORTH_SWITCHING else "Switching λ is worth something"
    point_T = np.concatenate([play.point_T for play in policy])
    most, num = Counter(point_T.tolist()).most_common(1)[0]
    where = f"The policy runs at {world.points[most]} on {100 * num / len(point_T):.0f} % of the frames"
    return f"{worth}: {compared}. {where}."


def streaming(days: Days, latencies: dict[str, Latencies]) -> None:
    """Count an answer that comes later than the next frame as wrong; simulated from measured latencies."""
    world, frames = days.world, days.frames
    width_P = np.array([point.width for point in world.points])
    best = max(world.reference, key=lambda p: world.right_GP[:, p].sum())
    for load, measured in latencies.items():
        for hertz in HERTZ:
            deadline_ms = 1e3 / hertz
            config = days.config.model_copy(update={"deadline_ms": deadline_ms, "deadline_probability": 0.99})
            profiled = measured.profiled(days.table)
            players = {
                "policy": [world.policy(f, profiled, config, days.constants, latency=measured) for f in frames],
                f"fixed {world.points[best]}": [world.fixed(f, best) for f in frames],
            }
            for name, plays in players.items():
                values, late, energy = [], 0, 0.0
                for play in plays:
                    millis_T = measured.of(width_P[play.point_T], play.regions_T)
                    in_time_T = millis_T <= deadline_ms
                    values.append((play.frame_T, play.right_T * in_time_T, play.regions_T))
                    late += int((~in_time_T).sum())
                    energy += float(millis_T.sum()) * SIMULATED_WATTS / 1e3
                estimate, num = over_sessions(world, values), sum(len(play.frame_T) for play in plays)
                days.row(
                    f"streaming, {hertz} Hz, {load}", name, accuracy=estimate.value, low_95=estimate.low,
                    high_95=estimate.high, late_percent=100 * late / num, simulated_j_per_frame=energy / num,
                )  # fmt: skip


def attacked(days: Days) -> None:
    """Attack the last frames of every third session at the active point, at four floors."""
    world, frames = days.world, days.frames
    where = [world.attacked(order) for order in days.orders]
    for floor in FLOORS:
        lam = min((row for row in world.lambdas if row >= floor), default=None)
        if lam is None:
            continue
        p = world.reference[world.lambdas.index(lam)]
        config = days.config.model_copy(update={"lambda_floor": floor, "width_min": world.widest})
        ours = [
            world.policy(f, days.table, config, days.constants, attacked_T=at)
            for f, at in zip(frames, where, strict=True)
        ]
        static = [world.fixed(f, p, at) for f, at in zip(frames, where, strict=True)]
        for name, plays in ((f"policy, floor {floor:g}", ours), (f"fixed λ={lam:g}", static)):
            found, hit = accuracy(world, plays), accuracy(world, plays, where)
            days.row("attacked days", name, accuracy=found.value, low_95=found.low, high_95=found.high,
                     attacked_accuracy=hit.value, attacked_low=hit.low, attacked_high=hit.high)  # fmt: skip
        if floor > 0:
            title = f"attacked days, floor {floor:g}: attacked frames, policy over fixed floor, low end"
            days.report.check(title, 100 * difference(world, ours, static, where).low, 0.0, "points", least=True)
