"""Run trials with an attacker, and with scarce time and energy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import OperatingTable
from policy.bench import streams as make
from policy.bench.attacks import FLOORS
from policy.bench.players import Play, correct_tp, play_policy
from policy.bench.recorded_network import ATTACK_PREFIX, CLEAN
from policy.bench.stage import Correct, Stage, switches_per_1000
from policy.bench.statistics import delay_frames, difference, runs
from policy.bench.streams import FRAME_S, Stream
from policy.config import BatteryStep, PolicyConfig
from policy.controller import AdaptivePolicy
from policy.signals import Reading


def attacked(stage: Stage, attack: str) -> None:
    """Play streams with attacks at four floors. Each player is attacked white-box at its own point."""
    network, trial = stage.network, f"attacked by {attack}"
    lambdas = stage.table.lambdas
    streams = [
        make.mixed(
            stage.conditions(),
            num_segments=stage.few_segments,
            num_images=stage.num_attacked,
            seed=100 + seed,
            attack=attack,
        )
        for seed in range(stage.effort.num_seeds)
    ]
    where = [stream.attacked_T for stream in streams]
    fixed = [correct_tp(network, stream) for stream in streams]
    for name, correct in stage.play_rules(streams).items():
        stage.accuracy_row(trial, name, streams, correct, where)
    for floor in FLOORS:
        lam = min((row for row in lambdas if row >= floor), default=None)
        if lam is None:
            continue
        plays = stage.play(streams, stage.at_reference(lambda_floor=floor))
        ours = [play.correct_T for play in plays]
        p = int(network.reference[lambdas.index(lam)])
        static = [right_TP[:, p] for right_TP in fixed]
        player = f"policy, floor {floor:g}"
        stage.accuracy_row(trial, player, streams, ours, where)
        stage.accuracy_row(trial, f"fixed λ={lam:g}", streams, static, where)
        found = difference(streams, ours, static, where)
        if floor > 0:
            title = f"{trial}, floor {floor:g}: attacked segments, policy over fixed floor, low end"
            # At the largest λ both are the same by construction, and one frame that differs decides.
            stage.check(title, 100 * found.low, 0.0, "points", least=True, sampled=lam < lambdas[-1])
        delays = [delay for stream, play in zip(streams, plays, strict=True) for delay in _attack_delays(stream, play)]
        stage.row(
            trial,
            player,
            attacked_difference=found.value,
            attacked_difference_low=found.low,
            median_delay_frames=float(np.median(delays)) if delays else None,
            missed=float(np.mean(np.isinf(delays))) if delays else None,
            mean_lambda_under_attack=_mean_lambda(stage, plays, where),
            switches_per_1000=switches_per_1000(plays),
        )


def provocations(stage: Stage) -> None:
    """Play what an attacker without gradients can do: noise that forces λ up, and noise at the dwell time."""
    mildest = f"gaussian_noise-{min(stage.effort.severities)}"
    noise, images = [(CLEAN, 90), (mildest, 300 * stage.few_segments)], stage.num_attacked
    trials = {
        "cheap noise to force λ": [
            make.stream_of(noise, num_images=images, rng=np.random.default_rng(seed))
            for seed in range(stage.effort.num_seeds)
        ],
        "thrash at the dwell time: noise": stage.flicker(mildest),
        "thrash at the dwell time: PGD": stage.flicker(ATTACK_PREFIX + stage.effort.attacks[0]),
    }
    for name, streams in trials.items():
        plays = stage.play(streams, stage.at_reference())
        everything = [np.ones(len(stream), bool) for stream in streams]
        stage.against_fixed(name, streams, plays, mean_lambda=_mean_lambda(stage, plays, everything))
        seconds = sum(map(len, streams)) * FRAME_S
        allowed = len(streams) * len(stage.table.lambdas) + seconds / stage.config.dwell_s
        share = sum(play.num_switches for play in plays) / allowed
        stage.check(f"{name}: switches over what N0 + T/τ allows", share, 1.0, "share")


def budgets(stage: Stage, profiled: OperatingTable) -> None:
    """Play CPU contention under a deadline, a battery that drains, sags and is charged, and a spoofed battery."""

    def play(name: str, streams: list[Stream], **settings: object) -> tuple[list[Play], PolicyConfig]:
        config = stage.config.model_copy(update=settings)
        plays = stage.play(streams, config, table=profiled)
        stage.against_fixed(name, streams, plays)
        return plays, config

    base = stage.mixed(stage.conditions(), num_segments=stage.few_segments)
    slowest = max(row.latency_ms_p50 or 0.0 for row in profiled.rows)
    narrowest = max(row.latency_ms_p50 or 0.0 for row in profiled.rows if row.width == profiled.widths[0])
    deadline_ms = max(1.25 * slowest, 1.35 * 2.2 * narrowest)
    busy = [make.contention(stream) for stream in base]
    plays, _ = play("CPU contention", busy, deadline_ms=deadline_ms, deadline_probability=0.999)
    late = float(np.mean(np.concatenate([play.latency_ms_T for play in plays]) > deadline_ms))
    stage.check("deadline violations under CPU contention", 100 * late, 1.0, "% of frames")
    ladder = (BatteryStep(min_charge=0.5, max_width=1.0), BatteryStep(min_charge=0.0, max_width=profiled.widths[0]))
    mission_s = 30.0 * stage.few_segments * make.MEAN_SEGMENT * FRAME_S
    # Enough at the start for twice the full network at the camera's rate; see `streams.discharge` for how it falls.
    widest_j = max(row.energy_j or 0.0 for row in profiled.rows)
    capacity_wh = 2.0 * widest_j / FRAME_S * mission_s / (0.7 * 3600 * stage.config.perception_share)
    for name, streams in (
        ("battery discharge", [make.discharge(stream, seed=seed) for seed, stream in enumerate(base)]),
        ("battery spoofing", [make.spoofed_battery(stream) for stream in base]),
    ):
        plays, frugal = play(name, streams, battery_capacity_wh=capacity_wh, mission_s=mission_s, min_rate_hz=5.0)
        over = [_over_power(stage, profiled, s, p, frugal) for s, p in zip(streams, plays, strict=True)]
        share = 100 * float(np.mean(np.concatenate(over)))
        if name == "battery discharge":
            stage.check("energy violations while the battery drains (simulated energy)", share, 1.0, "% of frames")
        else:
            stage.row(name, energy_violations_percent=share)
        play(f"{name}, ladder", streams, battery_ladder=ladder)
        moved = _moved(stage, profiled, streams[0], frugal)
        stage.check(f"{name}: frames whose λ changes with the battery", moved, 0.0, "frames")


def _moved(stage: Stage, table: OperatingTable, stream: Stream, config: PolicyConfig) -> float:
    """Count the frames on which the same inputs with a full battery give another λ."""
    play = play_policy(stage.network, table, stream, config, stage.constants, keep=True)
    other = AdaptivePolicy(table, config, stage.constants)
    full = Reading(1.0, 0.0, "full")
    pairs = zip(play.signals, play.decisions, strict=True)
    return float(sum(other.step(dataclasses.replace(s, battery=full)).point.lam != d.point.lam for s, d in pairs))


def _attack_delays(stream: Stream, play: Play) -> list[float]:
    return [delay_frames(play.alarm_T[run], onset=0) for run in runs(stream.attacked_T)]


def _over_power(
    stage: Stage, table: OperatingTable, stream: Stream, play: Play, config: PolicyConfig
) -> NDArray[np.bool_]:
    """Count the frames on which the network draws more power than the true charge permits."""
    energy_j = np.array([table.row(stage.network.points[p]).energy_j or 0.0 for p in play.point_T])
    left_s = np.maximum(60.0, config.mission_s - np.arange(len(stream)) * FRAME_S)
    spare = np.maximum(0.0, stream.charge_T - config.battery_reserve)
    allowed_w = spare * (config.battery_capacity_wh or 0.0) * 3600 * config.perception_share / left_s
    over: NDArray[np.bool_] = energy_j * play.rate_hz_T > 1.001 * allowed_w
    return over


def _mean_lambda(stage: Stage, plays: Sequence[Play], where: Correct) -> float:
    """Mean λ of the frames that count."""
    lam_P = np.array([point.lam for point in stage.network.points])
    return float(np.concatenate([lam_P[play.point_T[at]] for play, at in zip(plays, where, strict=True)]).mean())
