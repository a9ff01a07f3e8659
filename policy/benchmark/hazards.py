"""Trials with an attacker, and with scarce time and energy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import OperatingTable
from policy.benchmark import streams as make
from policy.benchmark.outcomes import CLEAN
from policy.benchmark.players import Play, World, correct_tp, play_policy
from policy.benchmark.stage import Stage, finite
from policy.benchmark.statistics import delay_frames, difference
from policy.benchmark.streams import FRAME_S, Stream
from policy.config import BatteryStep, PolicyConfig
from policy.controller import AdaptivePolicy
from policy.signals import Reading

_FLOORS = (0.0, 0.1, 0.4, 1.0)


def attacked(stage: Stage, attack: str) -> None:
    """Streams with attacks, each player attacked white-box at its own point, at four floors."""
    count = min(stage.num_images, stage.effort.num_attacked)
    streams = [
        make.mixed(
            stage.conditions(),
            num_segments=max(2, stage.effort.num_segments // 2),
            num_images=count,
            seed=100 + seed,
            attack=attack,
        )
        for seed in range(stage.effort.num_seeds)
    ]
    where = [np.array([stream.is_attacked(t) for t in range(len(stream))]) for stream in streams]
    fixed = [correct_tp(stage.world, stream) for stream in streams]
    for name, correct in stage.play_rules(streams).items():
        stage.accuracy_row(f"attacked by {attack}", name, streams, correct, where)
    for floor in _FLOORS:
        lam = min((row for row in stage.world.table.lambdas if row >= floor), default=None)
        if lam is None:
            continue
        plays = stage.play(streams, stage.at_reference(lambda_floor=floor))
        ours = [play.correct_T for play in plays]
        p = int(stage.world.reference[stage.world.table.lambdas.index(lam)])
        static = [right_TP[:, p] for right_TP in fixed]
        name = f"attacked by {attack}"
        stage.accuracy_row(name, f"policy, floor {floor:g}", streams, ours, where)
        stage.accuracy_row(name, f"fixed λ={lam:g}", streams, static, where)
        found = difference(streams, ours, static, where)
        if floor > 0:
            title = f"{name}, floor {floor:g}: attacked segments, policy over fixed floor, low end"
            stage.check(title, 100 * found.low, 0.0, "points", least=True)
        delays = [delay for stream, play in zip(streams, plays, strict=True) for delay in _attack_delays(stream, play)]
        stage.rows.append(
            {
                "trial": name,
                "player": f"policy, floor {floor:g}",
                "attacked_difference": found.value,
                "attacked_difference_low": found.low,
                "median_delay_frames": finite(float(np.median(delays)) if delays else math.inf),
                "missed": float(np.mean(np.isinf(delays))) if delays else None,
                "mean_lambda_under_attack": _mean_lambda(stage.world, plays, where),
                "switches_per_1000": 1000 * sum(p.num_switches for p in plays) / sum(map(len, streams)),
            }
        )


def provocations(stage: Stage) -> None:
    """What an attacker without gradients can do: cheap noise to force λ up, and thrashing at the dwell time."""
    mildest = f"gaussian_noise-{min(stage.effort.severities)}"
    length = 300 * max(2, stage.effort.num_segments // 2)
    images = min(stage.num_images, stage.effort.num_attacked)
    for name, streams in (
        ("cheap noise to force λ", [
            make.stream_of([(CLEAN, 90), (mildest, length)], num_images=images, rng=np.random.default_rng(seed))
            for seed in range(stage.effort.num_seeds)
        ]),
        ("thrash at the dwell time: noise", stage.flicker(mildest)),
        ("thrash at the dwell time: PGD", stage.flicker(f"{make.ATTACK_PREFIX}{stage.effort.attacks[0]}")),
    ):  # fmt: skip
        plays = stage.play(streams, stage.at_reference())
        stage.against_fixed(name, streams, plays)
        everything = [np.ones(len(stream), bool) for stream in streams]
        stage.rows[-1]["mean_lambda"] = _mean_lambda(stage.world, plays, everything)
        seconds = sum(map(len, streams)) * FRAME_S
        allowed = len(streams) * len(stage.world.table.lambdas) + seconds / stage.config.dwell_s
        stage.check(f"{name}: switches over what N0 + T/τ allows",
                    sum(play.num_switches for play in plays) / allowed, 1.0, "share")  # fmt: skip


def budgets(stage: Stage, profiled: OperatingTable, *, capacity_wh: float) -> None:
    """CPU contention under a deadline; a battery that drains, sags and is charged; one that is spoofed."""
    segments = max(2, stage.effort.num_segments // 2)
    base = stage.mixed(stage.conditions(), num_segments=segments)
    world, stage.world = stage.world, stage.world.with_table(profiled)
    slowest = max(row.latency_ms_p50 or 0.0 for row in profiled.rows)
    narrowest = max(row.latency_ms_p50 or 0.0 for row in profiled.rows if row.width == profiled.widths[0])
    deadline_ms = max(1.25 * slowest, 1.35 * 2.2 * narrowest)
    timely = stage.config.model_copy(update={"deadline_ms": deadline_ms, "deadline_probability": 0.999})
    plays = _budget(stage, "CPU contention", [make.contention(stream) for stream in base], timely)
    late = float(np.mean(np.concatenate([play.latency_ms_T for play in plays]) > deadline_ms))
    stage.check("deadline violations under CPU contention", 100 * late, 1.0, "% of frames")
    ladder = (BatteryStep(min_charge=0.5, max_width=1.0), BatteryStep(min_charge=0.0, max_width=profiled.widths[0]))
    mission_s = 30.0 * segments * make.MEAN_SEGMENT * FRAME_S
    frugal = stage.config.model_copy(
        update={"battery_capacity_wh": capacity_wh, "mission_s": mission_s, "min_rate_hz": 5.0}
    )
    for name, streams in (
        ("battery discharge", [make.discharge(stream, seed=seed) for seed, stream in enumerate(base)]),
        ("battery spoofing", [make.spoofed_battery(stream) for stream in base]),
    ):
        plays = _budget(stage, name, streams, frugal)
        over = [_over_power(stage.world, s, p, frugal) for s, p in zip(streams, plays, strict=True)]
        share = 100 * float(np.mean(np.concatenate(over)))
        if name == "battery discharge":
            stage.check("energy violations while the battery drains (simulated energy)", share, 1.0, "% of frames")
        else:
            stage.rows.append({"trial": name, "player": "policy", "energy_violations_percent": share})
        stepped = stage.config.model_copy(update={"battery_ladder": ladder})
        _budget(stage, f"{name}, ladder", streams, stepped)
        stage.check(
            f"{name}: frames whose λ changes with the battery", _moved(stage, streams[0], frugal), 0.0, "frames"
        )
    stage.world = world


def _budget(stage: Stage, name: str, streams: list[Stream], config: PolicyConfig) -> list[Play]:
    plays = stage.play(streams, config)
    stage.against_fixed(name, streams, plays)
    return plays


def _moved(stage: Stage, stream: Stream, config: PolicyConfig) -> float:
    """Frames on which the same inputs with a full battery give another λ."""
    play = play_policy(stage.world, stream, config, stage.constants, keep=True)
    other = AdaptivePolicy(stage.world.table, config, stage.constants)
    full = Reading(1.0, 0.0, "full")
    pairs = zip(play.signals, play.decisions, strict=True)
    return float(sum(other.step(dataclasses.replace(s, battery=full)).point.lam != d.point.lam for s, d in pairs))


def _attack_delays(stream: Stream, play: Play) -> list[float]:
    attacked_T = np.array([stream.is_attacked(t) for t in range(len(stream))])
    begins = np.flatnonzero(attacked_T & ~np.concatenate([[False], attacked_T[:-1]]))
    delays = []
    for begin in begins:
        length = int(np.argmin(np.append(attacked_T[begin:], False)))
        delays.append(delay_frames(play.alarm_T[begin : begin + length], onset=0))
    return delays


def _over_power(world: World, stream: Stream, play: Play, config: PolicyConfig) -> NDArray[np.bool_]:
    """Frames on which the network draws more than the true charge permits."""
    energy_j = np.array([world.table.row(world.points[p]).energy_j or 0.0 for p in play.point_T])
    left_s = np.maximum(60.0, config.mission_s - np.arange(len(stream)) * FRAME_S)
    spare = np.maximum(0.0, stream.charge_T - config.battery_reserve)
    allowed_w = spare * (config.battery_capacity_wh or 0.0) * 3600 * config.perception_share / left_s
    over: NDArray[np.bool_] = energy_j * play.rate_hz_T > 1.001 * allowed_w
    return over


def _lambdas(world: World, play: Play) -> NDArray[np.float64]:
    return np.array([world.points[p].lam for p in play.point_T])


def _mean_lambda(world: World, plays: Sequence[Play], where: Sequence[NDArray[np.bool_]]) -> float:
    return float(np.concatenate([_lambdas(world, p)[w] for p, w in zip(plays, where, strict=True)]).mean())
