"""Run trials without an attacker: mixtures, detection, false alarms, disturbances, replay."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from oat_runtime.errors import DataError
from oat_runtime.stress.corruptions import CORRUPTIONS
from oat_runtime.timing import p50_p99
from policy.bench import streams as make
from policy.bench.players import correct_tp, oracle_correct, play_policy
from policy.bench.recorded_network import ALL_CLEAN, CLEAN
from policy.bench.stage import Stage, switches_per_1000
from policy.bench.statistics import delay_frames, difference, runs
from policy.bench.streams import FRAME_S, Stream
from policy.controller import AdaptivePolicy
from policy.records.record import header_line, plain_decision, policy_of, signals_of, step_line

_WORTH_ADAPTING = 0.01
"""Gain of the oracle over the best fixed point, below which there is nothing to adapt to."""


def mixture(stage: Stage, mixture: str) -> None:
    """Compare on streams without attack: with every fixed point, the naive rules, and both oracles where possible."""
    network, trial = stage.network, f"mixture {mixture}"
    streams = stage.mixed(stage.conditions(mixture), num_segments=stage.effort.num_segments)
    plays = stage.play(streams, stage.config)
    ours = [play.correct_T for play in plays]
    fixed = [correct_tp(network, stream) for stream in streams]
    best = int(np.concatenate(fixed).mean(axis=0).argmax())
    static = [right_TP[:, best] for right_TP in fixed]
    # With fewer points to choose from, the same images choose better: the second one misses less of what could be
    # gained. Neither chooses by images that are too few to tell two points apart.
    allowed = {"oracle dynamic": np.arange(len(network.points)), "oracle dynamic, full width": network.reference}
    oracles = {}
    for name, points in allowed.items() if stage.decides else ():
        pairs = zip(streams, fixed, strict=True)
        oracles[name] = [oracle_correct(network, stream, right_TP, allowed=points) for stream, right_TP in pairs]
    naive = stage.play_rules(streams)
    for name, correct in (("policy", ours), *oracles.items(), *naive.items()):
        stage.accuracy_row(trial, name, streams, correct)
    for p, point in enumerate(network.points):
        name = f"fixed {point}" + (" (oracle static)" if p == best else "")
        stage.accuracy_row(trial, name, streams, [right_TP[:, p] for right_TP in fixed])
    over_best = difference(streams, ours, static)
    gains = {name: difference(streams, correct, static).value for name, correct in oracles.items()}
    losses = {name: difference(streams, correct, ours).value for name, correct in oracles.items()}
    gain, loss = (found.get("oracle dynamic", math.nan) for found in (gains, losses))
    title = f"{trial}: policy over best fixed ({network.points[best]})"
    if gain < _WORTH_ADAPTING:
        title += f" (the oracle gains only {100 * gain:.2f} points)"
        stage.check(title, 100 * over_best.value, -0.3, "points", least=True, sampled=True)
    else:
        low = 100 * over_best.low
        stage.check(f"{title}, low end", low, 0.0, "points", least=True, strict=True, sampled=True)
        stage.check(f"{trial}: regret over the best fixed point's", loss / gain, 0.25, "share", sampled=True)
    for name, gained in gains.items():
        stage.row(
            trial,
            f"policy against {name}",
            oracle_gain=gained,
            policy_gain=over_best.value,
            policy_gain_low=over_best.low,
            policy_gain_high=over_best.high,
            regret_share=losses[name] / gained if gained > 0 else None,
        )
    rule = naive["confidence threshold"]
    low, high = (100 * end for end in (difference(streams, ours, rule).low, difference(streams, rule, static).high))
    title = f"{trial}: policy over confidence threshold, low end"
    stage.check(title, low, 0.0, "points", least=True, strict=True, sampled=True)
    title = f"{trial}: confidence threshold loses to the best fixed point, high end"
    stage.check(title, high, 0.0, "points", strict=True, sampled=True)
    stage.check(f"{trial}: switches", switches_per_1000(plays), 6.0, "per 1,000 frames", sampled=True)
    stage.row(trial, probes_per_frame=sum(play.num_probes for play in plays) / sum(map(len, streams)))


def detection(stage: Stage) -> None:
    """Measure how soon each kind of corruption, at severity 3 to 5, is noticed after clean frames."""
    column = int(stage.network.reference[0])

    def accuracy(condition: str) -> float:
        return float(stage.network.correct_np(condition)[:, column].mean())

    hard = [severity for severity in stage.effort.severities if severity >= 3]
    for kind in CORRUPTIONS:
        cost = accuracy(CLEAN) - float(np.mean([accuracy(f"{kind}-{severity}") for severity in hard]))
        delays = []
        for severity in hard:
            for seed in range(stage.effort.num_onsets):
                stream = make.onset(
                    f"{kind}-{severity}", num_before=90, num_after=90, num_images=stage.num_images, seed=seed
                )
                delays.append(delay_frames(stage.play([stream], stage.config)[0].alarm_T, onset=90))
        median, missed = float(np.median(delays)), float(np.mean(np.isinf(delays)))
        stage.row("detection", kind, cost_of_lambda_0=cost, median_delay_frames=median, missed=missed)
        if cost >= 0.05:
            title = f"detection of {kind} (costs λ=0 {100 * cost:.1f} points)"
            stage.check(title, median, 10.0, "frames", sampled=True)


def no_false_alarms(stage: Stage) -> None:
    """Count the false alarms on one long stream of clean test images."""
    total, num_images = stage.effort.num_clean_frames, stage.network.num_clean
    rng = np.random.default_rng(0)
    stream = make.stream_of([(ALL_CLEAN, total)], num_images=num_images, rng=rng)
    rounds = math.ceil(total / num_images)
    each_once = np.concatenate([rng.permutation(num_images) for _ in range(rounds)])[:total]
    play = stage.play([dataclasses.replace(stream, image_T=each_once)], stage.at_reference())[0]
    # The first second is the start: nothing has been seen yet, and nothing can be false.
    count = len(runs(play.alarm_T[30:]))
    stage.check(f"false alarms in {total} clean test frames", float(count), 0.0, "alarms", sampled=True)
    hours = total * FRAME_S / 3600 / count if count else None
    stage.row("clean", num_frames=total, false_alarms=count, mean_hours_between=hours, num_switches=play.num_switches)


def disturbances(stage: Stage) -> None:
    """Play ramps, flicker and missing inputs, against the best fixed point of the same stream."""
    base = stage.mixed(stage.conditions(), num_segments=max(2, stage.effort.num_segments // 3))
    seeds, images, severities = range(stage.effort.num_seeds), stage.num_images, stage.effort.severities
    trials: dict[str, list[Stream]] = {
        f"ramp {kind}": [make.ramp(kind, severities, num_images=images, seed=seed) for seed in seeds]
        for kind in ("gaussian_noise", "fog")
    }
    trials["flicker at the dwell time"] = stage.flicker(f"gaussian_noise-{max(severities)}")
    for lost in ("image", "image nan", "network", "network nan", "confidence", "confidence nan", "battery nan"):
        trials[f"dropout of {lost}"] = [make.dropout(stream, lost, seed=seed) for seed, stream in enumerate(base)]
    for name, streams in trials.items():
        stage.against_fixed(name, streams, stage.play(streams, stage.config))


def replays(stage: Stage) -> None:
    """Replay recorded decisions from their text."""
    stream = stage.mixed(stage.conditions(), num_segments=4)[0]
    play = play_policy(stage.network, stage.table, stream, stage.config, stage.constants, keep=True)
    again = policy_of(header_line(AdaptivePolicy(stage.table, stage.config, stage.constants)))
    equal = 0
    for signals, decision in zip(play.signals, play.decisions, strict=True):
        read, recorded = signals_of(step_line(signals, decision))
        equal += plain_decision(again.step(read)) == recorded
    stage.check("replayed decisions that are equal", 100 * equal / len(play.decisions), 100.0, "%", least=True)


def decision_time(stage: Stage) -> None:
    """Check the 99th percentile of the time of all decisions."""
    if not stage.step_ms:
        raise DataError("nothing was played: no decision was timed")
    p50, p99 = p50_p99(np.concatenate(stage.step_ms))
    stage.row("decision", p50_ms=p50, p99_ms=p99)
    stage.check("decision p99", p99, 1.0, "ms")
