"""Measure what a switch costs, alone and under a stream of frames, for `oat_runtime.bench`."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import numpy as np

from oat_runtime.operating_point import OperatingPoint
from oat_runtime.prediction import Prediction
from oat_runtime.report import Row
from oat_runtime.runtime import OATRuntime
from oat_runtime.timing import p50_p99

_NEVER_USED_SHARE = 0.25
_FRAME_RATE_HZ = 30.0


def switches(runtime: OATRuntime, *, num_switches: int) -> list[Row]:
    """Time `set_point` between prepared points, and the first inference after it against later ones.

    Each turn: switch, one inference (the first), two more, of which the last counts as steady. Their 99th percentiles
    are compared, each inference in medians of its width.
    """
    order = random.Random(0)
    points = [row.point for row in runtime.table.rows]
    runtime.prepare()
    x_NCHW = np.zeros((1, 3, runtime.bundle.input.height, runtime.bundle.input.width), np.float32)
    switch_ms: list[float] = []
    first: list[tuple[float, float]] = []
    steady: list[tuple[float, float]] = []
    for turn in range(num_switches + 2 * len(points)):
        point = points[turn] if turn < len(points) else order.choice(points)
        times = [time.perf_counter()]
        runtime.set_point(lam=point.lam, width=point.width)
        times.append(time.perf_counter())
        for _ in range(3):
            runtime.infer(x_NCHW)
            times.append(time.perf_counter())
        if turn >= 2 * len(points):  # the first rounds warm up
            spent = 1e3 * np.diff(times)
            switch_ms.append(spent[0])
            first.append((point.width, spent[1]))
            steady.append((point.width, spent[3]))
    usual = {width: float(np.median([ms for w, ms in steady if w == width])) for width, _ in steady}
    (p50, p99), (_, steady_p99) = (p50_p99([ms / usual[width] for width, ms in turns]) for turns in (first, steady))
    switch_p50_ms, switch_p99_ms = p50_p99(switch_ms)
    return [
        {
            "comparison": "switch_prepared_p99",
            "num_calls": len(switch_ms),
            "p50_us": 1e3 * switch_p50_ms,
            "value": 1e3 * switch_p99_ms,
        },
        {
            "comparison": "first_inference_after_switch_p99",
            "num_calls": len(first),
            "p50_over_steady_p50": p50,
            "p99_over_steady_p50": p99,
            "value": p99 / steady_p99,
        },
    ]


def stream(runtime: OATRuntime, *, num_switches: int) -> list[Row]:
    """Play 30 frames a second, first without switches, then with one a frame on average at random times.

    Another thread switches; a quarter of its points have a λ that was never used. A frame is lost where `predict` gives
    nothing, and mixed where its logits are not those of the point that it names.
    """
    draw = random.Random(1)
    runtime.prepare()
    spec = runtime.bundle.input
    frames = np.random.default_rng(1).integers(0, 256, (8, 2 * spec.height, 2 * spec.width, 3), dtype=np.uint8)
    table, lambdas, widths = runtime.table.rows, runtime.table.lambdas, runtime.table.widths
    points: list[OperatingPoint] = []
    for _ in range(num_switches):
        if len(lambdas) > 1 and draw.random() < _NEVER_USED_SHARE:
            points.append(OperatingPoint(round(draw.uniform(lambdas[1], lambdas[-1]), 6), draw.choice(widths)))
        else:
            points.append(draw.choice(table).point)
    runtime.set_point(lam=lambdas[-1], width=widths[-1])
    start_s = time.monotonic()
    quiet_ms = [_frame(runtime, frames, number, start_s)[1] for number in range(num_switches + 30)]

    def switch() -> None:
        for point in points:
            time.sleep(draw.uniform(0.0, 2.0 / _FRAME_RATE_HZ))
            runtime.set_point(lam=point.lam, width=point.width, wait=False)

    answers: list[tuple[Prediction, float]] = []
    switcher, start_s = threading.Thread(target=switch), time.monotonic()
    switcher.start()
    while switcher.is_alive() or not answers:
        answers.append(_frame(runtime, frames, len(answers), start_s))
    switcher.join()
    mixed = sum(
        not np.array_equal(answer.logits_K, _alone(runtime, frames[n % len(frames)], answer.point))
        for n, (answer, _) in enumerate(answers)
    )
    taken_ms = [taken for _, taken in answers]
    (quiet_p50, quiet_p99), (_, p99) = p50_p99(quiet_ms), p50_p99(taken_ms)
    return [
        {
            "comparison": "stream_frames_lost_or_mixed",
            "num_calls": len(answers),
            "num_switches": len(points),
            "num_points_seen": len({answer.point for answer, _ in answers}),
            "num_late": sum(taken > 1e3 / _FRAME_RATE_HZ for taken in taken_ms),
            "value": float(mixed),
        },
        {
            "comparison": "stream_p99_over_quiet_median",
            "num_calls": len(answers),
            "p99_ms": p99,
            "quiet_p50_ms": quiet_p50,
            "quiet_p99_ms": quiet_p99,
            "value": p99 / quiet_p50,
        },
    ]


def _frame(runtime: OATRuntime, frames: np.ndarray[Any, Any], number: int, start_s: float) -> tuple[Prediction, float]:
    """Wait for the frame's time, classify it, and return (prediction, milliseconds)."""
    time.sleep(max(0.0, start_s + number / _FRAME_RATE_HZ - time.monotonic()))
    started_s = time.perf_counter()
    prediction = runtime.predict(frames[number % len(frames)])
    return prediction, 1e3 * (time.perf_counter() - started_s)


def _alone(runtime: OATRuntime, frame_HWC: np.ndarray[Any, Any], point: OperatingPoint) -> Any:
    """Return the logits of that frame at that point, with nothing else running."""
    if not runtime.is_prepared(point):
        runtime.prepare([point])
    return runtime.predict(frame_HWC, at=point).logits_K
