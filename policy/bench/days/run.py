"""Play real days from start to finish, and say first what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from oat_runtime.bundle import Bundle
from oat_runtime.data import load_frames
from oat_runtime.data.boxes import frames_of_split
from oat_runtime.report import Report, Row, progress, text_table
from policy.belief.constants import EstimatorConstants
from policy.bench.days import alarms, latency, trials
from policy.bench.days.record import Recorder
from policy.bench.days.sessions import Session, orders_of, sessions_of
from policy.bench.days.world import World
from policy.config import PolicyConfig

_INTERVALS = {
    "accuracy": ("low_95", "high_95"),
    "over_best_fixed": ("over_best_fixed_low", "over_best_fixed_high"),
    "attacked_accuracy": ("attacked_low", "attacked_high"),
}
_SHARES = (
    "frames_all_right", "usual_light", "poor_light", "regret", "usual_in_alarm", "promised_at_most", "drives_in_alarm"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is played; None: all frames."""

    num_orders: int = 20
    num_attacked: int = 4
    most_frames: int | None = None
    latency_seconds: float = 4.0
    most_known: int = 130
    most_corrupted: int = 600


QUICK = Effort(num_orders=2, num_attacked=1, most_frames=3, latency_seconds=0.3, most_known=8, most_corrupted=30)


def play_days(
    report: Report, bundle: Bundle, constants: EstimatorConstants, config: PolicyConfig, *,
    root: Path | None, cache: Path, effort: Effort, num_threads: int,
) -> str:  # fmt: skip
    """Record all sessions, run all trials, and return the finding in one sentence.

    Raises:
        DataError: the bundle's data set has no test frames with boxes.
    """
    dataset = bundle.report.dataset
    sessions = sessions_of(dataset, root=root, most_frames=effort.most_frames)
    recorder = Recorder(cache, bundle, num_attacked=effort.num_attacked, num_threads=num_threads)
    records = [recorder.record(one) for one in progress(sessions, "the network")]
    known = _known(recorder, dataset, root=root, most=effort.most_known)
    world = World(recorder, sessions, records)
    # A robot of these days has no environment confidence.
    config = config.model_copy(update={"confidence_topic": "absent"})
    orders = orders_of(sessions, num=effort.num_orders)
    days = trials.Days(report, world, orders, bundle.select, config, constants)
    for session, record in zip(sessions, records, strict=True):
        days.row("sessions", session.name, venue=session.venue, frames=len(record), regions=len(record.labels_N))
    finding = []
    report.measure("players", lambda: finding.append(trials.players(days)))
    measured = alarms.measure(world, bundle.input, most_corrupted=effort.most_corrupted)
    report.measure("alarms", partial(alarms.alarms, days, measured, known))
    report.measure("alarm's promise", partial(alarms.promise, days, measured))
    report.measure("calibration", partial(alarms.calibration, days, measured))
    report.measure("attacked days", partial(trials.attacked, days))

    def streaming() -> None:
        measured = latency.measure(bundle, seconds=effort.latency_seconds, num_threads=num_threads)
        trials.streaming(days, measured)

    report.measure("streaming", streaming)
    return finding[0] if finding else ""


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the figures for people, a table a trial: shares in percent, and those with intervals in one column."""
    found = []
    for trial in dict.fromkeys(str(row["trial"]).partition(",")[0] for row in rows if "trial" in row):
        of_trial = [_shown(row) for row in rows if str(row.get("trial")).partition(",")[0] == trial]
        columns = list(dict.fromkeys(name for row in of_trial for name in row))
        if all(row["trial"] == trial for row in of_trial):
            columns.remove("trial")
        cells = [[row.get(name) for name in columns] for row in of_trial]
        found.append(text_table(trial, [name.replace("_", " ") for name in columns], cells))
    return found


def _shown(row: Row) -> Row:
    shown = dict(row)
    for name, ends in _INTERVALS.items():
        if name in shown:
            low, high = (100 * shown.pop(end) for end in ends)
            shown[name] = f"{100 * shown[name]:.1f} ({low:.1f} to {high:.1f})"
    shares = [name for name in shown if name in _SHARES or name.endswith((", before", ", after"))]
    return shown | {name: f"{100 * shown[name]:.1f}" for name in shares}


def _known(
    recorder: Recorder, dataset: str, *, root: Path | None, most: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """Return features and classes of validation frames, for the Mahalanobis distance; None without such frames."""
    index = load_frames(dataset, root=root)
    frames = [f for f in frames_of_split(index, "train") if f.part == "validation" and len(f.labels_N)]
    if not frames:
        return None
    spread = [frames[at] for at in np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)]
    return recorder.known(Session("validation", "", False, tuple(spread), index))
