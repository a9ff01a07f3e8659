"""Compare players and alarms on orders of venues, with intervals over sessions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oat_runtime.architecture import InputSpec
from oat_runtime.data.boxes.description import BACKGROUND
from oat_runtime.operating_point import OperatingTable
from oat_runtime.report import Check, Report
from oat_runtime.timing import p50_p99
from policy.bench.days import detectors
from policy.bench.days.latency import HERTZ, Latencies
from policy.bench.days.world import FRAME_S, Played, World
from policy.bench.statistics import Estimate, delay_frames
from policy.calibrate import MIN_FRAMES, calibrate, regions_of
from policy.config import PolicyConfig
from policy.estimator import EstimatorConstants

_NUM_RESAMPLES = 1000
_WORTH_SWITCHING = 0.005
"""Gain of the oracle over the best fixed λ below which no λ is worth switching to."""
_MOST_LOST = 0.5
_FLOORS = (0.0, 0.1, 0.4, 1.0)
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

    def check(self, name: str, value: float, limit: float, unit: str, *, least: bool = False) -> None:
        """Check a figure against its limit."""
        hold, word = (Check.at_least, "at least") if least else (Check.at_most, "at most")
        self.report.checks.append(hold(name, [value], limit, f"{unit}, {word}"))

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
        world.policy(f, days.table, days.config, days.constants, step_ms=lambda: 1e3 * time.perf_counter())
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
    days.check(title, 100 * ours.value, -_MOST_LOST, "points", least=True)
    p50, p99 = p50_p99(np.concatenate([play.step_ms_T for play in policy]))
    days.row("real days", "policy", decision_p50_ms=p50, decision_p99_ms=p99)
    compared = f"the oracle gains {100 * gain.value:.2f} points over λ={best:g} on these days, the policy "
    compared += f"{100 * ours.value:+.2f} ({100 * ours.low:+.2f} to {100 * ours.high:+.2f})"
    worth = "No λ is worth switching to" if gain.value < _WORTH_SWITCHING else "Switching λ is worth something"
    return f"{worth}: {compared}."


def alarms(days: Days, features: tuple[NDArray[np.float32], NDArray[np.int64]] | None) -> None:
    """Compare our alarm with the belief and with others', each as sensitive as gives no more false alarms than ours.

    An alarm that begins in a session of usual light is false. Delays are counted from the first frame of a run of
    adverse sessions; an alarm that is raised already has a delay of one frame.
    """
    world, frames, hours = days.world, days.frames, days.config.false_alarm_hours
    scores: dict[str, tuple[str, list[float], list[list[NDArray[np.bool_]]]]] = {}
    confidence_G = _median_confidence(world)
    grid = [10.0**-power for power in np.arange(1.0, 12.0, 0.5)]
    scores["ADWIN on confidence"] = "delta", grid, [
        [detectors.adwin(confidence_G[f], delta=delta) for f in frames] for delta in grid
    ]  # fmt: skip
    if features is not None:
        distance_G = _mean_distance(world, *features)
        limits = np.quantile(distance_G, np.linspace(0.5, 0.999, 40)).tolist()[::-1]
        scores["Mahalanobis distance"] = "limit", limits[::-1], [
            [detectors.above_mean(distance_G[f], limit=limit) for f in frames] for limit in limits[::-1]
        ]  # fmt: skip
    both = [detectors.ours(world.stats_GS[f], days.constants, hours=hours, frame_s=FRAME_S) for f in frames]
    kinds = {"our alarm": [raised for raised, _ in both], "belief below 0.4": [unusual for _, unusual in both]}
    found = {
        name: _judged(world, frames, [detectors.begins(r) for r in raised], raised) for name, raised in kinds.items()
    }
    usual = sum(int((~world.adverse_G[f]).sum()) for f in frames)
    promised = usual * FRAME_S / 3600 / hours
    days.row("alarms", "our alarm", setting=f"{hours:g} hours", promised_false_alarms=promised, **found["our alarm"])
    days.row("alarms", "belief below 0.4", **found["belief below 0.4"])
    most = found["our alarm"]["false_alarms"]
    for name, (setting, values, begins) in scores.items():
        judged = [_judged(world, frames, of_value, of_value) for of_value in begins]
        fitting = [at for at, figures in enumerate(judged) if figures["false_alarms"] <= most]
        at = min(fitting, key=lambda at: judged[at]["mean_delay_frames"], default=len(values) - 1)
        days.row("alarms", name, setting=f"{setting} {values[at]:.3g}", **judged[at])
        title = f"alarms: delay of ours beside {name}, at no more false alarms"
        days.check(title, found["our alarm"]["mean_delay_frames"], judged[at]["mean_delay_frames"], "frames")


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
                    energy += float(millis_T.sum()) * measured.watts / 1e3
                estimate, num = over_sessions(world, values), sum(len(play.frame_T) for play in plays)
                days.row(
                    f"streaming, {hertz} Hz, {load}", name, accuracy=estimate.value, low_95=estimate.low,
                    high_95=estimate.high, late_percent=100 * late / num, simulated_j_per_frame=energy / num,
                )  # fmt: skip


def attacked(days: Days) -> None:
    """Attack the last frames of every third session at the active point, at four floors."""
    world, frames = days.world, days.frames
    where = [world.attacked(order) for order in days.orders]
    for floor in _FLOORS:
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
            title = f"attacked days, floor {floor:g}: attacked frames, policy over fixed floor, high end"
            days.check(title, 100 * difference(world, ours, static, where).high, 0.0, "points", least=True)


def calibration(days: Days, shipped: EstimatorConstants, spec: InputSpec, *, most: int) -> None:
    """Calibrate on every other session of a venue, and count frames in alarm on its other ones and on the next venue.

    Venues with fewer regions than `oat-calibrate` asks for are listed with their number.
    """
    world = days.world
    venues = list(dict.fromkeys(sorted(session.venue for session in world.sessions)))
    for place, venue in enumerate(venues):
        members = sorted((s for s, one in enumerate(world.sessions) if one.venue == venue),
                         key=lambda s: world.sessions[s].name)  # fmt: skip
        fitted, judged = members[::2], members[1::2]
        num = sum(len(world.records[s].labels_N) for s in fitted)
        figures: dict[str, object] = {
            "sessions": len(members), "frames": sum(len(world.records[s]) for s in members),
            "regions": sum(len(world.records[s].labels_N) for s in members),
        }  # fmt: skip
        if num < MIN_FRAMES or not judged:
            days.row("calibration", venue, **figures, enough=False)
            continue
        index = world.sessions[fitted[0]].index
        background = index.class_names.index(BACKGROUND) if index.rules.backgrounds_per_frame else None
        frames = [frame for s in fitted for frame in world.sessions[s].frames]
        regions = regions_of(frames, index.rules, spec, background=background, limit=10**6)
        spread = np.linspace(0, len(regions) - 1, min(most, len(regions))).astype(int)
        mine = calibrate(regions[spread], shipped)
        following = [s for s, one in enumerate(world.sessions) if one.venue == venues[(place + 1) % len(venues)]]
        for where, chosen in (("its other sessions", judged), ("the next venue", following)):
            frame_T = world.frames(chosen)
            for when, constants in (("before", shipped), ("after", mine)):
                raised, _ = detectors.ours(
                    world.stats_GS[frame_T], constants, hours=days.config.false_alarm_hours, frame_s=FRAME_S
                )
                figures[f"{where}, {when}"] = float(raised.mean())
        days.row("calibration", venue, **figures, enough=True, fitted_regions=len(spread))


def _judged(
    world: World, frames: Sequence[NDArray[np.int64]], begins: Sequence[NDArray[np.bool_]],
    raised: Sequence[NDArray[np.bool_]],
) -> dict[str, float]:  # fmt: skip
    """Count false alarms, and delays to the first alarm of each run of adverse sessions."""
    num_false, delays = 0, []
    for frame_T, begins_T, raised_T in zip(frames, begins, raised, strict=True):
        adverse_T = world.adverse_G[frame_T]
        num_false += int((begins_T & ~adverse_T).sum())
        for start in np.flatnonzero(detectors.begins(adverse_T)):
            length = int(np.argmin(np.append(adverse_T[start:], False)))
            # Before a change that is noticed late there is the start of all, which is none.
            if start:
                delays.append(min(delay_frames(raised_T[start : start + length], onset=0), float(length)))
    usual = sum(int((~world.adverse_G[frame_T]).sum()) for frame_T in frames)
    return {
        "false_alarms": float(num_false),
        "false_per_1000_frames": 1000 * num_false / max(1, usual),
        "median_delay_frames": float(np.median(delays)) if delays else float("nan"),
        "mean_delay_frames": float(np.mean(delays)) if delays else float("nan"),
        "num_changes": float(len(delays)),
    }


def _median_confidence(world: World) -> NDArray[np.float64]:
    at = world.reference[0]
    return np.array([float(np.median(world.answer(g, at)[1])) for g in range(len(world.session_G))])


def _mean_distance(world: World, train_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    means = []
    for record in world.records:
        distance_N = detectors.mahalanobis(train_NC, labels_N, record.feature_NC)
        means.append(np.add.reduceat(distance_N, record.start_F[:-1]) / np.diff(record.start_F))
    return np.concatenate(means)
