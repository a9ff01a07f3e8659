"""Compare alarms on orders of venues, hold ours to its promise, and calibrate it to venues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oat_runtime.architecture import InputSpec
from oat_runtime.data.boxes.description import BACKGROUND
from policy.bench.days import detectors
from policy.bench.days.trials import Days
from policy.bench.days.world import FRAME_S, World
from policy.bench.statistics import delay_frames
from policy.calibrate import MIN_FRAMES, calibrate, regions_of
from policy.estimator import EstimatorConstants
from policy.ranks import NormalScores


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


def promise(days: Days) -> None:
    """Hold the alarm to its promise on frames of usual light, priced by the other half of them or of their sessions.

    Frames drawn at random from all sessions are like the calibration's, so the promise must hold. Sessions that the
    price has not seen, in their order of time, show what it is worth where its assumption does not hold.
    """
    world, hours = days.world, days.config.false_alarm_hours
    usual_G = np.flatnonzero(~world.adverse_G)
    normal = NormalScores(days.constants.ranks)
    for name in ("frames in random order", "sessions in their order"):
        num_alarms, num_frames = 0, 0
        for seed in range(len(days.orders)):
            rng = np.random.default_rng(seed)
            if name.startswith("frames"):
                shuffled = rng.permutation(usual_G)
                known, played = np.array_split(shuffled, 2)
            else:
                sessions = np.unique(world.session_G[usual_G])
                is_known_G = np.isin(world.session_G, rng.permutation(sessions)[::2])
                known, played = usual_G[is_known_G[usual_G]], usual_G[~is_known_G[usual_G]]
            reference = tuple(map(tuple, normal(world.stats_GS[known]).tolist()))
            constants = days.constants.model_copy(update={"reference": reference})
            raised, _ = detectors.ours(world.stats_GS[played], constants, hours=hours, frame_s=FRAME_S)
            num_alarms += int(detectors.begins(raised).sum())
            num_frames += len(played)
        promised = num_frames * FRAME_S / 3600 / hours
        days.row("alarm's promise", name, promised_false_alarms=promised, false_alarms=float(num_alarms))
        if name.startswith("frames"):
            days.check(f"alarm's promise: false alarms, {name}", float(num_alarms), promised, "alarms")


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
