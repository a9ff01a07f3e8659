"""Compare alarms on orders of venues, hold ours to its promise, and calibrate it to venues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from oat_runtime.architecture import InputSpec
from oat_runtime.data import LEAST_TO_FIT
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS, corrupt
from policy.belief.constants import EstimatorConstants
from policy.belief.ranks import NormalScores
from policy.bench.days import detectors
from policy.bench.days.trials import Days
from policy.bench.days.world import World
from policy.bench.statistics import delay_frames, runs
from policy.calibrate import MIN_FRAMES, calibrate
from policy.fitting.drives import promise_of
from policy.fitting.frames import STILL_S, region_frames
from policy.fitting.kinds import MeasuredKinds, measure_kinds

_MOST_HALVES = 5
"""How often half of the sessions is drawn; each fit takes seconds."""


def measure(world: World, spec: InputSpec, *, most_corrupted: int) -> MeasuredKinds:
    """Measure the frames of all sessions as `oat-calibrate` does; their session is the place in `world.sessions`."""
    parts = []
    for s, session in enumerate(world.sessions):
        frames = region_frames(session.frames, session.index, spec)
        share = most_corrupted * len(frames) / len(world.session_G)
        parts.append(
            measure_kinds(
                replace(frames, session_F=np.full(len(frames), s)),
                corrupt=corrupt,
                regimes={name: CORRUPTIONS[name].regime for name in FITTING_KINDS},
                rng=np.random.default_rng(s),
                most_corrupted=max(1, round(share)),
            )
        )
    first = np.cumsum([0, *(len(part.clean_FS) for part in parts)])
    return MeasuredKinds(
        np.concatenate([part.clean_FS for part in parts]),
        np.concatenate([part.session_F for part in parts]),
        STILL_S,
        np.concatenate([start + part.at_G for start, part in zip(first[:-1].tolist(), parts, strict=True)]),
        {
            name: (regime, np.concatenate([part.corrupted_GS[name][1] for part in parts]))
            for name, (regime, _) in parts[0].corrupted_GS.items()
        },
    )


def alarms(days: Days, measured: MeasuredKinds, features: tuple[NDArray[np.float32], NDArray[np.int64]] | None) -> None:
    """Compare our alarm with the belief and with others', each as sensitive as ours.

    An alarm in a session of usual light is false. An alarm that stays raised would be counted once, so detectors are as
    sensitive as ours if they spend no larger share of the usual frames in alarm. Delays are counted from the first
    frame of a run of adverse sessions; an alarm that is raised already has a delay of one frame. Ours is shown as the
    bundle ships it, and calibrated on every other session of usual light; the others are set on the frames that judge
    them.
    """
    world, frames = days.world, days.frames
    shipped = [detectors.ours(world.stats_GS[f], days.constants, days.config, frame_s=STILL_S) for f in frames]
    ours = [raised for raised, _ in shipped]
    mine = _calibrated(days, measured, _usual(world)[::2])
    if mine is not None:
        ours = [detectors.ours(world.stats_GS[f], mine, days.config, frame_s=STILL_S)[0] for f in frames]
        days.row("alarms", "ours, calibrated on usual sessions", **_judged(world, frames, ours))
    days.row("alarms", "ours, as shipped", **_judged(world, frames, [raised for raised, _ in shipped]))
    days.row("alarms", "belief, as shipped", **_judged(world, frames, [unusual for _, unusual in shipped]))
    found = _judged(world, frames, ours)
    confidence_G = _median_confidence(world)
    # Finer above 1, where a step of half a decade goes from too many alarms to none at all.
    deltas = 10.0 ** np.concatenate([np.arange(2.0, 0.0, -0.1), np.arange(0.0, -12.0, -0.5)])
    others = {
        "ADWIN on confidence": {
            f"delta {delta:.3g}": [detectors.adwin(confidence_G[f], delta=delta) for f in frames]
            for delta in deltas.tolist()
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
        days.report.check(title, found["mean_delay_frames"], judged[setting]["mean_delay_frames"], "frames")


def promise(days: Days, measured: MeasuredKinds) -> None:
    """Hold the alarm to its promise, on sessions of usual light that are each played as a drive.

    Sessions drawn at random are like those that the calibration drew, so the promise must hold on them. Sessions of a
    venue that the calibration did not see, and those after the bundle's training, show what it is worth elsewhere. The
    promise by frames is tried on frames in random order, where it must hold.
    """
    world, usual = days.world, _usual(days.world)
    num, drive_s = days.config.false_alarm_drives, days.config.mission_s
    rng = np.random.default_rng(0)
    usual_G = np.flatnonzero(~world.adverse_G)
    raised = []
    for _ in days.orders:
        known, played = np.array_split(rng.permutation(usual_G), 2)
        scores_NS = NormalScores(days.constants.ranks)(world.stats_GS[known])
        reference = {"reference": tuple(map(tuple, scores_NS.tolist())), "drives": (), "independence": 1.0}
        constants = days.constants.model_copy(update=reference)
        raised.append(detectors.ours(world.stats_GS[played], constants, days.config, frame_s=STILL_S)[0].any())
    seconds = len(usual_G) / 2 * STILL_S
    _promised(days, "frames in random order, half of them known", seconds / drive_s / num, np.array(raised), hold=True)
    halves = [np.array_split(rng.permutation(usual), 2) for _ in range(min(_MOST_HALVES, len(days.orders)))]
    venues = list(dict.fromkeys(world.sessions[s].venue for s in usual.tolist()))
    here = [np.array([world.sessions[s].venue == venue for s in usual.tolist()]) for venue in venues]
    others = [(usual[~mask], usual[mask]) for mask in here]
    for name, pairs, hold in (
        ("drives, half of the sessions known", halves, True),
        ("drives in a venue that the calibration did not see", others, False),
    ):
        outcomes, promises = [], []
        for known, played in pairs:
            mine = _calibrated(days, measured, known)
            if mine is not None and mine.drives:
                outcomes.append(_drives_in_alarm(days, mine, played))
                promises.append(1 / promise_of(mine).num_drives)
        if outcomes:
            _promised(days, name, float(np.mean(promises)), np.concatenate(outcomes), hold=hold)
    if days.constants.drives:
        shipped = _drives_in_alarm(days, days.constants, usual)
        _promised(days, "drives, as shipped", 1 / promise_of(days.constants).num_drives, shipped, hold=False)


def _promised(days: Days, name: str, promised: float, raised_D: NDArray[np.bool_], *, hold: bool) -> None:
    share = float(raised_D.mean())
    days.row("alarm's promise", name, promised_at_most=promised, drives_in_alarm=share, num_drives=len(raised_D))
    if hold:
        days.report.check(f"alarm's promise: {name}", 100 * share, 100 * promised, "% of drives")


def _drives_in_alarm(days: Days, constants: EstimatorConstants, sessions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return in which of these sessions, each from its start, an alarm is raised."""
    raised = []
    for s in sessions.tolist():
        stats_TS = days.world.stats_GS[days.world.frames([s])]
        raised.append(detectors.ours(stats_TS, constants, days.config, frame_s=STILL_S)[0].any())
    return np.array(raised)


def calibration(days: Days, measured: MeasuredKinds) -> None:
    """Calibrate on every other session of a venue, and count frames in alarm on its other ones and on the next venue.

    Venues with fewer regions or frames than `oat-calibrate` asks for are listed with their numbers.
    """
    world = days.world
    venues = list(dict.fromkeys(sorted(session.venue for session in world.sessions)))
    for place, venue in enumerate(venues):
        members = sorted((s for s, one in enumerate(world.sessions) if one.venue == venue),
                         key=lambda s: world.sessions[s].name)  # fmt: skip
        fitted, judged = members[::2], members[1::2]
        figures: dict[str, object] = {
            "sessions": len(members), "frames": sum(len(world.records[s]) for s in members),
            "regions": sum(len(world.records[s].labels_N) for s in members),
        }  # fmt: skip
        num = sum(len(world.records[s].labels_N) for s in fitted)
        mine = _calibrated(days, measured, np.array(fitted)) if num >= MIN_FRAMES and judged else None
        if mine is None:
            days.row("calibration", venue, **figures, enough=False)
            continue
        following = [s for s, one in enumerate(world.sessions) if one.venue == venues[(place + 1) % len(venues)]]
        for where, chosen in (("its other sessions", judged), ("the next venue", following)):
            frame_T = world.frames(chosen)
            for when, constants in (("before", days.constants), ("after", mine)):
                raised, _ = detectors.ours(world.stats_GS[frame_T], constants, days.config, frame_s=STILL_S)
                figures[f"{where}, {when}"] = float(raised.mean())
        days.row("calibration", venue, **figures, enough=True, promised_drives=promise_of(mine).num_drives)


def _usual(world: World) -> NDArray[np.int64]:
    return np.array([s for s, session in enumerate(world.sessions) if not session.is_adverse])


def _calibrated(days: Days, measured: MeasuredKinds, sessions: NDArray[np.int64]) -> EstimatorConstants | None:
    """Return what `oat-calibrate` makes of these sessions; None if they hold too few frames."""
    mine = measured.of_sessions(sessions)
    return calibrate(mine, days.constants) if len(mine.clean_FS) >= LEAST_TO_FIT else None


def _judged(world: World, frames: Sequence[NDArray[np.int64]], raised: Sequence[NDArray[np.bool_]]) -> dict[str, float]:
    """Count false alarms, and delays to the alarm in each run of adverse sessions; a missed run counts its length."""
    num_false, num_usual, in_alarm, delays = 0, 0, 0, []
    for frame_T, raised_T in zip(frames, raised, strict=True):
        adverse_T = world.adverse_G[frame_T]
        num_false += sum(not adverse_T[run.start] for run in runs(raised_T))
        num_usual += int((~adverse_T).sum())
        in_alarm += int((raised_T & ~adverse_T).sum())
        for run in runs(adverse_T):
            if run.start:  # the beginning of all is no change
                delays.append(min(delay_frames(raised_T[run], onset=0), float(run.stop - run.start)))
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
