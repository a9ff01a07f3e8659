"""Trials without an attacker: mixtures, detection, false alarms, disturbances, replay."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from oat_runtime.stress.corruptions import CORRUPTIONS
from policy.benchmark import streams as make
from policy.benchmark.outcomes import ALL_CLEAN, CLEAN
from policy.benchmark.players import correct_tp, oracle_correct, oracle_points, play_policy
from policy.benchmark.stage import Stage, finite
from policy.benchmark.statistics import delay_frames, difference, false_alarms
from policy.benchmark.streams import FRAME_S, Stream
from policy.controller import AdaptivePolicy
from policy.record import header_line, plain_decision, policy_of, signals_of, step_line

_WORTH_ADAPTING = 0.01
"""Where the dynamic oracle gains less than this over the best fixed point, there is nothing to adapt to."""


def mixture(stage: Stage, mixture: str) -> None:
    """Streams without attack: against every fixed point, the naive rules and both oracles."""
    conditions = stage.conditions(mixture)
    streams = stage.mixed(conditions, num_segments=stage.effort.num_segments)
    plays = stage.play(streams, stage.config)
    ours = [play.correct_T for play in plays]
    fixed = [correct_tp(stage.world, stream) for stream in streams]
    mean_P = np.concatenate(fixed).mean(axis=0)
    best = int(mean_P.argmax())
    static = [right_TP[:, best] for right_TP in fixed]
    everywhere = np.arange(len(stage.world.points))
    chosen = oracle_points(stage.world, conditions, everywhere)
    oracle = [oracle_correct(stage.world, stream, chosen) for stream in streams]
    # With fewer points to choose from, the same images choose better: this one misses less of what could be gained.
    chosen = oracle_points(stage.world, conditions, stage.world.reference)
    widest = [oracle_correct(stage.world, stream, chosen) for stream in streams]
    naive = stage.play_rules(streams)
    oracles = {"oracle dynamic": oracle, "oracle dynamic, full width": widest}
    for name, correct in (("policy", ours), *oracles.items(), *naive.items()):
        stage.accuracy_row(f"mixture {mixture}", name, streams, correct)
    for p, point in enumerate(stage.world.points):
        name = f"fixed {point}" + (" (oracle static)" if p == best else "")
        stage.accuracy_row(f"mixture {mixture}", name, streams, [right_TP[:, p] for right_TP in fixed])
    gain, loss = difference(streams, oracle, static), difference(streams, oracle, ours)
    against_best = difference(streams, ours, static)
    title = f"mixture {mixture}: policy over best fixed ({stage.world.points[best]})"
    if gain.value >= _WORTH_ADAPTING:
        stage.check(f"{title}, low end", 100 * against_best.low, 0.0, "points", least=True, strict=True)
        stage.check(f"mixture {mixture}: regret over the best fixed point's", loss.value / gain.value, 0.25, "share")
    else:
        reason = f" (the oracle gains only {100 * gain.value:.2f} points)"
        stage.check(title + reason, 100 * against_best.value, -0.3, "points", least=True)
    for name, correct in oracles.items():
        gained, missed = difference(streams, correct, static).value, difference(streams, correct, ours).value
        stage.rows.append(
            {"trial": f"mixture {mixture}", "player": f"policy against {name}", "oracle_gain": gained,
             "policy_gain": against_best.value, "policy_gain_low": against_best.low,
             "policy_gain_high": against_best.high, "regret_share": missed / gained if gained > 0 else None}
        )  # fmt: skip
    over_naive = difference(streams, ours, naive["confidence threshold"])
    stage.check(
        f"mixture {mixture}: policy over confidence threshold, low end", 100 * over_naive.low, 0.0, "points",
        least=True, strict=True,
    )  # fmt: skip
    nothing = difference(streams, naive["confidence threshold"], static)
    stage.check(
        f"mixture {mixture}: confidence threshold loses to the best fixed point, high end", 100 * nothing.high, 0.0,
        "points", strict=True,
    )  # fmt: skip
    num_frames = sum(map(len, streams))
    per_1000 = 1000 * sum(play.num_switches for play in plays) / num_frames
    stage.check(f"mixture {mixture}: switches", per_1000, 6.0, "per 1,000 frames")
    probes = sum(play.num_probes for play in plays) / num_frames
    stage.rows.append({"trial": f"mixture {mixture}", "player": "policy", "probes_per_frame": probes})


def detection(stage: Stage) -> None:
    """Delay from a clean stream to each kind of corruption at severity 3 to 5."""
    column = int(stage.world.reference[0])
    clean = stage.world.accuracy_P(CLEAN)[column]
    hard = [severity for severity in stage.effort.severities if severity >= 3]
    for kind in CORRUPTIONS:
        cost = clean - float(np.mean([stage.world.accuracy_P(f"{kind}-{s}")[column] for s in hard]))
        delays = []
        for severity in hard:
            for seed in range(stage.effort.num_onsets):
                stream = make.onset(
                    f"{kind}-{severity}", num_before=90, num_after=90, num_images=stage.num_images, seed=seed
                )
                play = stage.play([stream], stage.config)[0]
                delays.append(delay_frames(play.alarm_T, onset=90))
        median = float(np.median(delays))
        stage.rows.append(
            {"trial": "detection", "player": kind, "cost_of_lambda_0": cost, "median_delay_frames": finite(median),
             "missed": float(np.mean(np.isinf(delays)))}
        )  # fmt: skip
        if cost >= 0.05:
            stage.check(f"detection of {kind} (costs λ=0 {100 * cost:.1f} points)", finite(median), 10.0, "frames")


def no_false_alarms(stage: Stage) -> None:
    """One long stream of clean test images."""
    total = stage.effort.num_false_alarm_frames
    found = stage.world.cache.all_clean(min(len(stage.world.labels_N), total))
    stage.world.know(ALL_CLEAN, found)
    rng = np.random.default_rng(0)
    rounds = math.ceil(total / len(found.label_NP))
    stream = make.stream_of([(ALL_CLEAN, total)], num_images=len(found.label_NP), rng=rng)
    each_once = np.concatenate([rng.permutation(len(found.label_NP)) for _ in range(rounds)])[:total]
    stream = dataclasses.replace(stream, image_T=each_once)
    play = stage.play([stream], stage.at_reference())[0]
    # The first second is the start: nothing has been seen yet, and nothing can be false.
    count = false_alarms(play.alarm_T[30:])
    stage.check(f"false alarms in {total} clean test frames", float(count), 0.0, "alarms")
    hours = total * FRAME_S / 3600
    stage.rows.append(
        {"trial": "clean", "player": "policy", "num_frames": total, "false_alarms": count,
         "mean_hours_between": hours / count if count else None, "num_switches": play.num_switches}
    )  # fmt: skip


def disturbances(stage: Stage) -> None:
    """Ramps, flicker and inputs that go missing: against the best fixed point of the same stream."""
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
        plays = stage.play(streams, stage.config)
        stage.against_fixed(name, streams, plays)


def replays(stage: Stage) -> None:
    """Recorded decisions, replayed from their text."""
    stream = stage.mixed(stage.conditions(), num_segments=4)[0]
    play = play_policy(stage.world, stream, stage.config, stage.constants, keep=True)
    head = header_line(AdaptivePolicy(stage.world.table, stage.config, stage.constants))
    again = policy_of(head)
    equal = 0
    for signals, decision in zip(play.signals, play.decisions, strict=True):
        read, recorded = signals_of(step_line(signals, decision))
        equal += plain_decision(again.step(read)) == recorded
    stage.check("replayed decisions that are equal", 100 * equal / len(play.decisions), 100.0, "%", least=True)


def decision_time(stage: Stage) -> None:
    """99th percentile over every decision of every trial."""
    p50, p99 = np.percentile(np.concatenate(stage.step_ms), (50, 99))
    stage.rows.append({"trial": "decision", "player": "policy", "p50_ms": float(p50), "p99_ms": float(p99)})
    stage.check("decision p99", float(p99), 1.0, "ms")
