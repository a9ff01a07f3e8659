"""Compare alarms on orders of venues, hold ours to its promise, and calibrate it to venues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oat_runtime.architecture import InputSpec
from oat_runtime.data.boxes.description import BACKGROUND
from policy.belief.constants import EstimatorConstants
from policy.belief.ranks import NormalScores
from policy.bench.days import detectors
from policy.bench.days.trials import Days
from policy.bench.days.world import FRAME_S, World
from policy.bench.statistics import delay_frames
from policy.calibrate import MIN_FRAMES, calibrate, regions_of


def alarms(days: Days, features: tuple[NDArray[np.float32], NDArray[np.int64]] | None) -> None:
    """Compare our alarm with the belief and with others', each as sensitive as ours.

    An alarm in a session of usual light is false. An alarm that stays raised would be counted once, so detectors are as
    sensitive as ours if they spend no larger share of the usual frames in alarm. Delays are counted from the first
    frame of a run of adverse sessions; an alarm that is raised already has a delay of one frame. Ours is shown as the
    bundle ships it, and priced by every other frame of usual light; the others are set on the frames that judge them.
    """
    world, frames, hours = days.world, days.frames, days.config.false_alarm_hours
    known = np.flatnonzero(~world.adverse_G)[::2]
    priced = _priced(days, known)
    shipped = [detectors.ours(world.stats_GS[f], days.constants, hours=hours, frame_s=FRAME_S) for f in frames]
    ours = [detectors.ours(world.stats_GS[f], priced, hours=hours, frame_s=FRAME_S)[0] for f in frames]
    found = _judged(world, frames, ours)
    setting = f"{hours:g} hours"
    days.row("alarms", "ours, priced by usual frames", setting=setting, **found)
    days.row("alarms", "ours, as shipped", setting=setting, **_judged(world, frames, [raised for raised, _ in shipped]))
    days.row("alarms", "belief, as shipped", **_judged(world, frames, [unusual for _, unusual in shipped]))
    confidence_G = _median_confidence(world)
    deltas = [10.0**power for power in np.arange(2.0, -12.0, -0.5)]
    others = {
        "ADWIN on confidence": {
            f"delta {delta:.3g}": [detectors.adwin(confidence_G[f], delta=delta) for f in frames] for delta in deltas
        }
    }
    if features is not None:
        distance_G = _mean_distance(world, *features)
        limits = np.quantile(distance_G, np.linspace(0.02, 0.999, 50)).tolist()
        others["Mahalanobis distance"] = {
            f"limit {limit:.3g}": [detectors.above_mean(distance_G[f], limit=limit) for f in frames] for limit in limits
        }
    for name, by_setting in others.items():
        judged = {setting: _judged(world, frames, raised) for setting, raised in by_setting.items()}
        fitting = [setting for setting in judged if judged[setting]["usual_in_alarm"] <= found["usual_in_alarm"]]
        if not fitting:
            days.row("alarms", name, setting="none is as quiet as ours")
            continue
        setting = min(fitting, key=lambda setting: judged[setting]["mean_delay_frames"])
        days.row("alarms", name, setting=setting, **judged[setting])
        title = f"alarms: mean delay of ours beside {name}, as rarely in alarm"
        days.check(title, found["mean_delay_frames"], judged[setting]["mean_delay_frames"], "frames")


def promise(days: Days) -> None:
    """Hold the alarm to its promise on frames of usual light, priced by the other half of them or of their sessions.

    Frames drawn at random from all sessions are like the calibration's, so the promise must hold. Sessions that the
    price has not seen, in their order of time, show what it is worth where its assumption does not hold.
    """
    world, hours = days.world, days.config.false_alarm_hours
    usual_G = np.flatnonzero(~world.adverse_G)
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
            constants = _priced(days, known)
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


def _priced(days: Days, known: NDArray[np.int64]) -> EstimatorConstants:
    """Return the constants with the alarm priced by these frames."""
    scores_NS = NormalScores(days.constants.ranks)(days.world.stats_GS[known])
    return days.constants.model_copy(update={"reference": tuple(map(tuple, scores_NS.tolist()))})


def _judged(world: World, frames: Sequence[NDArray[np.int64]], raised: Sequence[NDArray[np.bool_]]) -> dict[str, float]:
    """Count false alarms, and delays to the alarm in each run of adverse sessions; a missed run counts its length."""
    num_false, num_usual, in_alarm, delays = 0, 0, 0, []
    for frame_T, raised_T in zip(frames, raised, strict=True):
        adverse_T = world.adverse_G[frame_T]
        num_false += int((detectors.begins(raised_T) & ~adverse_T).sum())
        num_usual += int((~adverse_T).sum())
        in_alarm += int((raised_T & ~adverse_T).sum())
        for start in np.flatnonzero(detectors.begins(adverse_T)).tolist():
            if start:  # the beginning of all is no change
                length = int(np.argmin(np.append(adverse_T[start:], False)))
                delays.append(min(delay_frames(raised_T[start : start + length], onset=0), float(length)))
    return {
        "false_alarms": float(num_false),
        "usual_in_alarm": in_alarm / max(1, num_usual),
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
