"""Laws of the runtime: λ and width are set as one, at once or in the background, and every answer names its point."""

import dataclasses
import gc
import hashlib
import json
import logging
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from oat_runtime import backends
from oat_runtime.bundle import Bundle
from oat_runtime.errors import BackendError, BundleError, InputError, OATError, OperatingPointError
from oat_runtime.image import network_input
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.plans import PlanForm
from oat_runtime.runtime import OATRuntime

P = OperatingPoint
ENGINE = "torch" if "torch" in backends.available() else "onnxruntime"
SOME_POINTS = (P(0.0, 1.0), P(0.35, 0.75), P(1.0, 0.5))


@pytest.fixture
def runtime(tiny_bundle: Path) -> Iterator[OATRuntime]:
    """Folded plans: every point that was never used has to be compiled."""
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, plans="folded", num_threads=1)
    yield runtime
    runtime.close()


def frame(height: int = 32, width: int = 32) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def inputs(num: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(4).random((num, 3, 32, 32), dtype=np.float32)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s in vain"
        time.sleep(0.002)


class Gate:
    """Stands in for a slow or failing compiler: waits until opened, then compiles or raises."""

    def __init__(self, runtime: OATRuntime, *, error: Exception | None = None) -> None:
        self._compile, self._error = runtime._plans._compile, error
        self.entered, self.opened = threading.Event(), threading.Event()
        runtime._plans._compile = self

    def __call__(self, *args: Any, **options: Any) -> backends.Compiled:
        self.entered.set()
        assert self.opened.wait(10.0)
        if self._error is not None:
            raise self._error
        return self._compile(*args, **options)


def test_the_safest_row_is_that_of_the_best_worst_case_and_not_of_the_largest_lambda(foggy_bundle: Path) -> None:
    with closing(OATRuntime.load(foggy_bundle, backend=ENGINE, num_threads=1)) as runtime:
        assert runtime.active == P(0.4, 1.0)


def test_starts_at_the_safest_row_of_the_widest_width(runtime: OATRuntime) -> None:
    widest = [row for row in runtime.bundle.select.rows if row.width == 1.0]
    assert runtime.active.width == 1.0
    assert runtime.bundle.select.row(runtime.active).minimax() == max(row.minimax() for row in widest)
    assert runtime.pending is None


def test_each_knob_keeps_the_other(runtime: OATRuntime) -> None:
    runtime.set_point(lam=0.4, width=0.75)
    assert runtime.set_lambda(0.1) == runtime.active == P(0.1, 0.75)
    assert runtime.set_width(0.5) == runtime.active == P(0.1, 0.5)
    assert runtime.set_point(lam=0.0, width=1.0) == runtime.active == P(0.0, 1.0)


@pytest.mark.parametrize("first", ["lambda", "width"])
def test_two_threads_on_the_two_knobs_lose_no_change(
    runtime: OATRuntime, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    runtime.prepare(P(lam, width) for lam in (0.0, 0.4) for width in (0.5, 1.0))
    runtime.set_point(lam=0.0, width=1.0)
    set_point, entered, opened = runtime.set_point, threading.Event(), threading.Event()

    def slow(**knobs: float) -> OperatingPoint:
        if not entered.is_set():  # the first thread, which has read the other knob
            entered.set()
            assert opened.wait(10.0)
        return set_point(**knobs)

    monkeypatch.setattr(runtime, "set_point", slow)
    turns = [(runtime.set_lambda, 0.4), (runtime.set_width, 0.5)]
    with ThreadPoolExecutor(2) as pool:
        one, other = turns if first == "lambda" else turns[::-1]
        calls = [pool.submit(*one)]
        assert entered.wait(10.0)
        calls.append(pool.submit(*other))
        wait(calls[1:], timeout=0.3)  # it must not come to its end before the first one has
        opened.set()
        for call in calls:
            call.result(10.0)
    assert runtime.active == P(0.4, 0.5)


@pytest.mark.parametrize(("asked", "effective"), [(0.0, 0.0), (1e-9, 0.1), (0.05, 0.1), (0.35, 0.35), (1.0, 1.0)])
def test_the_point_that_really_runs_is_returned(runtime: OATRuntime, asked: float, effective: float) -> None:
    assert runtime.set_lambda(asked) == runtime.active == P(effective, 1.0)
    assert runtime.effective(lam=asked, width=0.5) == P(effective, 0.5)
    assert runtime.predict(frame()).point == P(effective, 1.0)


@pytest.mark.parametrize(
    ("lam", "width", "message"),
    [
        (1.01, 1.0, r"lambda must be in \[0, 1\].*got 1.01"),
        (-0.1, 1.0, "got -0.1"),
        (float("nan"), 1.0, "got nan"),
        (0.5, 0.6, r"width must be one of \[0.5, 0.75, 1.0\], got 0.6"),
        (0.5, 0.0, "got 0.0"),
        (0.5, float("nan"), "got nan"),
    ],
)
@pytest.mark.parametrize("wait", [True, False])
def test_a_point_that_is_not_offered_changes_nothing(
    runtime: OATRuntime, lam: float, width: float, message: str, wait: bool
) -> None:
    before = runtime.set_point(lam=0.2, width=0.75)
    with pytest.raises(OperatingPointError, match=message):
        runtime.set_point(lam=lam, width=width, wait=wait)
    assert (runtime.active, runtime.pending) == (before, None)
    assert runtime.predict(frame()).point == before


@pytest.mark.parametrize("plans", ["folded", "shared"])
def test_every_point_runs_the_network_of_that_point(
    tiny_bundle: Path, plans: PlanForm, plain_logits: Callable[..., npt.NDArray[np.float32]]
) -> None:
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, plans=plans, num_threads=1)
    config, tensors, x_NCHW = runtime.bundle.manifest.model, runtime.bundle.tensors(), inputs()
    for lam in (*config.lambdas, 0.25, 0.7):
        for width in config.widths:
            runtime.set_point(lam=lam, width=width)
            expected = plain_logits(fold(tensors, config, lam=lam, width=width), x_NCHW)
            np.testing.assert_allclose(runtime.infer(x_NCHW), expected, atol=1e-4)
    runtime.close()


def test_a_background_switch_keeps_the_old_point_until_it_is_ready(runtime: OATRuntime) -> None:
    old = runtime.set_point(lam=0.0, width=1.0)
    gate = Gate(runtime)
    new = runtime.set_point(lam=1.0, width=0.5, wait=False)
    assert gate.entered.wait(10.0)
    assert (runtime.active, runtime.pending, runtime.is_prepared(new)) == (old, new, False)
    assert runtime.predict(frame()).point == old
    gate.opened.set()
    wait_until(lambda: runtime.pending is None)
    assert (runtime.active, runtime.is_prepared(new)) == (new, True)
    assert runtime.predict(frame()).point == new


def test_a_knob_set_during_a_switch_keeps_what_was_asked_for(runtime: OATRuntime) -> None:
    runtime.set_point(lam=0.0, width=1.0)
    gate = Gate(runtime)
    runtime.set_point(lam=1.0, width=0.5, wait=False)
    gate.opened.set()
    assert runtime.set_width(0.75) == P(1.0, 0.75)


def test_the_last_request_wins(runtime: OATRuntime) -> None:
    old = runtime.set_point(lam=0.0, width=1.0)
    runtime.set_point(lam=0.2, width=1.0)
    gate = Gate(runtime)
    slow = runtime.set_point(lam=1.0, width=0.5, wait=False)
    assert gate.entered.wait(10.0)
    assert runtime.set_point(lam=old.lam, width=old.width, wait=False) == runtime.active == old
    assert runtime.pending is None
    gate.opened.set()
    wait_until(lambda: runtime.is_prepared(slow))
    runtime.close()
    assert (runtime.active, runtime.pending) == (old, None)


def test_what_was_overtaken_before_its_turn_is_not_compiled(runtime: OATRuntime) -> None:
    """Regression: a λ that was dragged for seconds waited for every value on its way, a fifth of a second each."""
    gate = Gate(runtime)
    runtime.set_point(lam=0.0, width=0.5, wait=False)
    assert gate.entered.wait(10.0)
    overtaken = [runtime.set_point(lam=lam, width=0.5, wait=False) for lam in (0.3, 0.4, 0.5)]
    last = runtime.set_point(lam=0.6, width=0.5, wait=False)
    gate.opened.set()
    wait_until(lambda: runtime.pending is None)
    assert runtime.active == last
    assert not any(map(runtime.is_prepared, overtaken))


def test_a_failure_that_comes_late_says_nothing_of_a_newer_request(runtime: OATRuntime) -> None:
    newer = P(0.2, 1.0)
    runtime.prepare([newer])
    gate = Gate(runtime, error=BackendError("refused"))
    runtime.set_point(lam=0.0, width=0.5, wait=False)
    assert gate.entered.wait(10.0)
    runtime.set_point(lam=newer.lam, width=newer.width, wait=False)
    gate.opened.set()
    runtime.close()  # waits for the one that fails
    assert runtime.failure is None


def test_a_point_is_active_before_it_is_no_longer_pending(runtime: OATRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: between the two, a knob that keeps the other one's value found the old point and set it again."""
    seen: list[OperatingPoint | None] = []
    bind = runtime._bind

    def note(point: OperatingPoint, ready: Any) -> Any:
        seen.append(runtime.pending)
        return bind(point, ready)

    monkeypatch.setattr(runtime, "_bind", note)
    new = runtime.set_point(lam=1.0, width=0.5, wait=False)
    wait_until(lambda: runtime.pending is None)
    assert (seen, runtime.active) == ([new], new)


def test_a_closed_runtime_compiles_nothing_more(runtime: OATRuntime) -> None:
    """Regression: a call that had passed the first check compiled a network into a closed runtime."""
    store = runtime._plans
    runtime.close()
    with pytest.raises(OATError, match="closed: load the bundle again"):
        store.make(P(0.0, 1.0))
    assert not store._folded


def test_a_failing_switch_keeps_the_old_point(runtime: OATRuntime, caplog: pytest.LogCaptureFixture) -> None:
    old = runtime.active
    gate = Gate(runtime, error=BackendError("refused"))
    gate.opened.set()
    with pytest.raises(BackendError, match="refused"):
        runtime.set_point(lam=0.0, width=0.5)
    assert (runtime.active, runtime.pending) == (old, None)
    with caplog.at_level(logging.ERROR):
        runtime.set_point(lam=0.0, width=0.5, wait=False)
        wait_until(lambda: runtime.pending is None and bool(caplog.records))
    assert "the old one stays active" in caplog.text
    assert isinstance(runtime.failure, BackendError)
    assert runtime.predict(frame()).point == runtime.active == old


def test_a_point_that_failed_in_the_background_is_not_tried_again_at_once(
    runtime: OATRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: who asks for it with each frame had it compiled anew with each frame, and a traceback each."""
    bad, tries = P(0.0, 0.5), list[OperatingPoint]()
    make = runtime._plans.make

    def refuse(point: OperatingPoint) -> None:
        tries.append(point)
        raise BackendError("refused")

    monkeypatch.setattr(runtime._plans, "make", refuse)
    for _ in range(50):
        runtime.set_point(lam=bad.lam, width=bad.width, wait=False)
        wait_until(lambda: runtime.pending is None)
        assert str(runtime.failure) == str(runtime.failure_of(bad)) == "refused"
    assert len(tries) == len(caplog.records) == 1
    with pytest.raises(BackendError):
        runtime.set_point(lam=bad.lam, width=bad.width)
    assert len(tries) == 2, "who waits for it has it tried"
    monkeypatch.setattr(runtime._plans, "make", make)
    assert runtime.set_point(lam=bad.lam, width=bad.width) == runtime.active == bad
    assert runtime.failure is None and runtime.failure_of(bad) is None


def test_a_prepared_point_switches_at_once_without_compiling(runtime: OATRuntime) -> None:
    runtime.prepare()
    Gate(runtime, error=BackendError("compiled again"))
    for row in runtime.table.rows:
        assert runtime.is_prepared(row.point)
        runtime.set_point(lam=row.lam, width=row.width, wait=False)
        assert (runtime.active, runtime.pending) == (row.point, None)


@pytest.mark.parametrize("plans", ["folded", "shared"])
def test_every_plan_is_warm_for_the_batch_that_was_prepared(
    tiny_bundle: Path, plans: PlanForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that are made later."""
    warmed: list[int] = []
    with closing(OATRuntime.load(tiny_bundle, backend=ENGINE, plans=plans, num_threads=1)) as runtime:
        monkeypatch.setattr(type(runtime._active.plan), "warm", lambda self, max_batch: warmed.append(max_batch))
        runtime.prepare([P(0.0, 1.0)], max_batch=5)
        runtime.prepare([P(1.0, 1.0)])
        runtime.set_point(lam=0.3, width=0.5)
        assert warmed == [5, 5, 5]
        with pytest.raises(InputError, match="max_batch must be a whole number of at least 1, got 0"):
            runtime.prepare(max_batch=0)


@pytest.mark.parametrize("plans", ["folded", "shared"])
def test_a_prediction_never_mixes_two_points(tiny_bundle: Path, plans: PlanForm) -> None:
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, plans=plans, num_threads=1)
    points = [P(lam, width) for lam in (0.0, 0.3, 1.0) for width in (0.5, 1.0)]
    runtime.prepare(points)
    image = frame()
    expected = {point: runtime.predict(image, at=point) for point in points}
    different = [e.logits_K for e in expected.values()]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(different) for b in different[:i])
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            for point in points:
                runtime.set_point(lam=point.lam, width=point.width, wait=False)

    interval = sys.getswitchinterval()
    threads = [threading.Thread(target=hammer) for _ in range(2)]
    try:
        sys.setswitchinterval(1e-5)
        for thread in threads:
            thread.start()
        seen = [runtime.predict(image) for _ in range(300)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert len({prediction.point for prediction in seen}) > 1
    for prediction in seen:
        np.testing.assert_array_equal(prediction.logits_K, expected[prediction.point].logits_K)
        np.testing.assert_array_equal(prediction.probabilities_K, expected[prediction.point].probabilities_K)
    runtime.close()


@pytest.mark.parametrize("plans", ["folded", "shared"])
def test_the_memory_of_a_network_serves_one_thread_at_a_time(
    tiny_bundle: Path, plans: PlanForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from oat_runtime.backends import torch_backend

    busy, num_calls = threading.Lock(), 0
    call = torch_backend.TorchPlan.__call__

    def touchy(plan: Any, x_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        nonlocal num_calls
        assert busy.acquire(blocking=False), "called from two threads at once"
        num_calls += 1
        time.sleep(0.001)
        logits = call(plan, x_NCHW)
        busy.release()
        return logits

    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, plans=plans, num_threads=1)
    points = [P(0.2, 0.5), P(1.0, 0.5)] if plans == "shared" else [P(0.2, 0.5)]
    runtime.prepare(points)
    image = frame()
    expected = {point: runtime.predict(image, at=point).logits_K for point in points}
    monkeypatch.setattr(torch_backend.TorchPlan, "__call__", touchy)
    asked = points * 10
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda point: runtime.predict(image, at=point).logits_K, asked))
    assert num_calls == len(asked)
    for point, logits_K in zip(asked, got, strict=True):
        np.testing.assert_array_equal(logits_K, expected[point])
    runtime.close()


@pytest.mark.parametrize("point", SOME_POINTS)
def test_probabilities_are_calibrated_and_sum_to_one(runtime: OATRuntime, point: OperatingPoint) -> None:
    runtime.prepare([point])
    got = runtime.predict(frame(48, 64), at=point)
    temperature = runtime.bundle.temperature(point)
    expected_K = np.exp(got.logits_K.astype(np.float64) / temperature)
    expected_K /= expected_K.sum()
    np.testing.assert_allclose(got.probabilities_K, expected_K, atol=1e-6)
    assert got.probabilities_K.dtype == got.logits_K.dtype == np.float32
    assert got.probabilities_K.sum() == pytest.approx(1.0, abs=1e-6)
    assert got.label == got.logits_K.argmax()
    assert got.class_name == runtime.bundle.class_names[got.label]
    assert got.confidence == pytest.approx(expected_K.max(), abs=1e-6)
    assert got.latency_ms > 0
    assert got.preprocess_ms > 0


def test_predict_is_infer_on_the_network_input(runtime: OATRuntime) -> None:
    image = frame(40, 50)
    x_1CHW = network_input(image, runtime.bundle.input)[None]
    np.testing.assert_allclose(runtime.predict(image).logits_K, runtime.infer(x_1CHW)[0], atol=1e-6)


def test_a_probe_below_the_smallest_trained_lambda_names_the_point_that_ran(runtime: OATRuntime) -> None:
    """Regression: it named the λ that was asked for, with a temperature of its own, though another network ran."""
    runtime.prepare([P(0.1, 1.0)])
    asked, ran = runtime.predict(frame(), at=P(0.05, 1.0)), runtime.predict(frame(), at=P(0.1, 1.0))
    assert asked.point == ran.point == P(0.1, 1.0)
    assert asked.confidence == ran.confidence
    assert runtime.is_prepared(P(0.05, 1.0))
    assert not runtime.is_prepared(P(0.05, 0.6))
    with pytest.raises(OperatingPointError, match="width must be one of"):
        runtime.predict(frame(), at=P(0.1, 0.6))


def test_a_probe_at_another_point_does_not_switch(runtime: OATRuntime) -> None:
    active, probe = runtime.active, P(0.0, 0.5)
    with pytest.raises(OperatingPointError, match="not prepared"):
        runtime.predict(frame(), at=probe)
    runtime.prepare([probe])
    assert runtime.predict(frame(), at=probe).point == probe
    assert runtime.active == runtime.predict(frame()).point == active


@pytest.mark.parametrize(
    "x_NCHW",
    [
        inputs().astype(np.float64),
        (255 * inputs()).astype(np.uint8),
        inputs()[0],
        inputs().transpose(0, 2, 3, 1),
        inputs()[:, :1],
        inputs()[:, :, :16],
        inputs()[:0],
    ],
    ids=["float64", "uint8", "no batch", "channels last", "grey", "small", "empty"],
)
def test_infer_refuses_what_the_network_does_not_take(runtime: OATRuntime, x_NCHW: npt.NDArray[Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        runtime.infer(x_NCHW)


def test_a_bad_frame_is_refused_and_the_next_one_runs(runtime: OATRuntime) -> None:
    before = runtime.predict(frame()).logits_K
    for bad in (frame().astype(np.float32), frame()[..., 0], frame()[:0]):
        with pytest.raises(InputError):
            runtime.predict(bad)
    np.testing.assert_array_equal(runtime.predict(frame()).logits_K, before)


def test_inputs_are_left_alone_and_outputs_are_fresh(runtime: OATRuntime) -> None:
    x_NCHW = inputs()
    first = runtime.infer(x_NCHW)
    kept = first.copy()
    runtime.infer(inputs()[::-1])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(x_NCHW, inputs())
    np.testing.assert_allclose(runtime.infer(x_NCHW[::-1]), first[::-1], atol=1e-5)  # any strides


@pytest.mark.parametrize("lam", [0.0, 0.15, 0.4, 0.85])
def test_a_λ_never_used_runs_at_once_where_its_width_is_ready(tiny_bundle: Path, lam: float) -> None:
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, num_threads=1)
    Gate(runtime, error=BackendError("compiled again"))
    started_s = time.monotonic()
    assert runtime.set_point(lam=lam, width=1.0, wait=False) == runtime.active == P(lam, 1.0)
    assert runtime.pending is None
    assert started_s <= runtime.activation.since_s <= time.monotonic()
    assert runtime.predict(frame()).point == P(lam, 1.0)
    runtime.close()


def test_a_budget_lets_go_of_the_folded_plan_used_least_recently(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.load(tiny_bundle)
    one_mb = 4e-6 * fold(bundle.tensors(), bundle.manifest.model, lam=0.0, width=1.0).num_weights
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, plans="folded", num_threads=1, memory_budget_mb=2.5 * one_mb)
    first, second, third = P(0.0, 1.0), P(0.2, 1.0), P(0.4, 1.0)
    for point in (first, second, first):
        runtime.set_point(lam=point.lam, width=point.width)
    with caplog.at_level(logging.WARNING):
        runtime.prepare([third])
    assert [runtime.is_prepared(point) for point in (first, second, third)] == [True, False, True]
    assert "raise memory_budget_mb, or use plans='shared'" in caplog.text
    assert runtime.set_point(lam=second.lam, width=second.width) == runtime.predict(frame()).point == second
    runtime.close()


def test_a_trained_point_is_never_given_up_for_a_λ_between_two(tiny_bundle: Path) -> None:
    """Regression: thirteen λ by hand let go of trained points, and nothing compiled them again."""
    bundle = Bundle.load(tiny_bundle)
    one_mb = 4e-6 * fold(bundle.tensors(), bundle.manifest.model, lam=0.0, width=1.0).num_weights
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, plans="folded", num_threads=1, memory_budget_mb=3.5 * one_mb)
    standing = [P(lam, 1.0) for lam in (0.0, 0.2, 1.0)]
    assert runtime.active in standing
    runtime.prepare(standing)

    def prepared(*points: OperatingPoint) -> list[bool]:
        return [runtime.is_prepared(point) for point in points]

    for lam in (0.15, 0.25, 0.5):
        runtime.set_point(lam=lam, width=1.0)
        assert all(prepared(*standing, P(lam, 1.0))), "the newest one stays, whatever the budget"
    assert prepared(P(0.15, 1.0), P(0.25, 1.0)) == [False, False]
    runtime.prepare([P(0.4, 1.0)])
    assert not runtime.is_prepared(P(0.5, 1.0)), "a λ between two goes first"
    assert all(prepared(P(0.4, 1.0))) and sum(prepared(*standing)) == 2
    runtime.close()


def test_the_time_of_a_switch_is_that_of_its_taking_effect(runtime: OATRuntime) -> None:
    since_s = runtime.activation.since_s
    runtime.set_point(lam=runtime.active.lam, width=runtime.active.width)
    assert runtime.activation.since_s == since_s
    gate = Gate(runtime)
    new = runtime.set_point(lam=0.3, width=0.5, wait=False)
    assert gate.entered.wait(10.0)
    opened_s = time.monotonic()
    gate.opened.set()
    wait_until(lambda: runtime.active == new)
    assert opened_s <= runtime.activation.since_s <= time.monotonic()


def test_a_closed_runtime_says_so(runtime: OATRuntime) -> None:
    runtime.close()
    for call in (
        lambda: runtime.predict(frame()),
        lambda: runtime.infer(inputs()),
        lambda: runtime.set_point(lam=0.0, width=1.0),
        lambda: runtime.set_lambda(1.0),
        lambda: runtime.predict(frame(), at=runtime.active),
        runtime.prepare,
    ):
        with pytest.raises(OATError, match="closed: load the bundle again"):
            call()
    runtime.close()


@pytest.mark.parametrize("plans", get_args(PlanForm))
@pytest.mark.parametrize("engine", get_args(backends.BackendName))
def test_a_closed_runtime_leaves_no_network_behind(
    tiny_bundle: Path, engine: backends.BackendName, plans: PlanForm
) -> None:
    """Regression: a shared network and the plan that it ran last held each other, 35 to 60 MB until gc came by."""
    if engine not in backends.available():
        pytest.skip(f"{engine} is not installed")
    runtime = OATRuntime.load(tiny_bundle, backend=engine, precision="float32", plans=plans, num_threads=1)
    for width in (0.5, 1.0):
        runtime.set_point(lam=0.2, width=width)
        runtime.infer(inputs())
    store = runtime._plans
    networks = [weakref.ref(shared.network) for shared in store._networks.values()]
    networks += [weakref.ref(ready.lock) for ready in store._folded.values()]
    assert networks
    gc.collect()
    gc.disable()
    try:
        runtime.close()
        assert not any(network() for network in networks)
    finally:
        gc.enable()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(runtime: OATRuntime, bad: float) -> None:
    x_NCHW = inputs()
    x_NCHW[1, 2, 31, 31] = bad
    with pytest.raises(InputError, match="finite"):
        runtime.infer(x_NCHW)
    with pytest.raises(InputError, match="finite"):
        runtime.predict_inputs(x_NCHW)
    assert np.isfinite(runtime.infer(inputs())).all()


@pytest.mark.parametrize("scale", [255.0, -1.0, 1e38])
def test_pixels_outside_the_unit_interval_are_refused(runtime: OATRuntime, scale: float) -> None:
    """Regression: bytes that nobody had divided were classified with confidence 1."""
    with pytest.raises(InputError, match=r"in \[0, 1\], got .* to .*: divide bytes by 255"):
        runtime.infer(np.float32(scale) * inputs())
    edges = np.concatenate([np.zeros_like(inputs()), np.ones_like(inputs())])
    assert np.isfinite(runtime.infer(edges)).all()


def test_the_active_point_keeps_its_time_though_many_others_were_asked_for(tiny_bundle: Path) -> None:
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE, num_threads=1)
    runtime.set_point(lam=0.5, width=1.0)
    since_s = runtime.activation.since_s
    for lam in np.linspace(0.1, 1.0, 300):
        runtime.predict(frame(), at=P(float(lam), 1.0))
    runtime.set_point(lam=0.5, width=1.0)
    assert runtime.activation.since_s == since_s
    runtime.close()


def test_many_frames_and_regions_are_what_each_would_be_alone(runtime: OATRuntime) -> None:
    frames = [frame(), frame(48, 64), frame(48, 64)[::-1, ::-1]]
    for together, alone in zip(runtime.predict_batch(frames), map(runtime.predict, frames), strict=True):
        np.testing.assert_allclose(together.logits_K, alone.logits_K, atol=1e-5)
        assert (together.label, together.point) == (alone.label, alone.point)
    big, boxes = frame(60, 90), [[0, 0, 32, 32], [10, 20, 90, 60], [89, 59, 90, 60]]
    cut = [big[top:bottom, left:right] for left, top, right, bottom in boxes]
    for together, alone in zip(runtime.predict_regions(big, boxes), map(runtime.predict, cut), strict=True):
        np.testing.assert_allclose(together.logits_K, alone.logits_K, atol=1e-5)
    assert runtime.predict_regions(big, []) == runtime.predict_regions(big, np.empty((0, 4), int)) == []
    x_CHW = network_input(big, runtime.bundle.input)
    np.testing.assert_array_equal(runtime.predict_inputs(x_CHW[None])[0].logits_K, runtime.predict(big).logits_K)


@pytest.mark.parametrize(
    "boxes",
    [[[0, 0, 0, 5]], [[0, 0, 33, 5]], [[-1, 0, 5, 5]], [[5, 5, 4, 9]], [[0.0, 0.0, 5.0, 5.0]], [0, 0, 5, 5]],
)
def test_regions_that_are_none_are_refused(runtime: OATRuntime, boxes: list[Any]) -> None:
    with pytest.raises(InputError, match="box"):
        runtime.predict_regions(frame(), boxes)
    with pytest.raises(InputError, match="at least one frame"):
        runtime.predict_batch([])


def test_what_is_not_there_is_refused_by_name(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"must be one of .*got 'tflite'"):
        OATRuntime.load(tiny_bundle, backend="tflite")
    with pytest.raises(InputError, match=r"device must be one of \['cpu', 'cuda'\], got 'tpu'"):
        OATRuntime.load(tiny_bundle, device="tpu")
    with pytest.raises(InputError, match="plans must be one of"):
        OATRuntime.load(tiny_bundle, plans="cached")
    with pytest.raises(InputError, match="precision must be one of"):
        OATRuntime.load(tiny_bundle, precision="int4")
    with pytest.raises(BundleError, match="no bundle at"):
        OATRuntime.load(tmp_path / "nowhere")


def test_loading_verifies_the_bundle(tiny_bundle: Path) -> None:
    assert OATRuntime.load(tiny_bundle, backend=ENGINE).table == Bundle.load(tiny_bundle).select


def with_other_weights(path: Path, to: Path, change: Callable[[dict[str, npt.NDArray[Any]]], None]) -> Path:
    """A copy of a bundle with other weights, and every hash computed anew but that of the probe."""
    folder = Path(shutil.copytree(path, to))
    arrays = safetensors.numpy.load_file(folder / "weights.safetensors")
    change(arrays)
    content = safetensors.numpy.save(arrays)
    (folder / "weights.safetensors").write_bytes(content)
    document = json.loads((folder / "manifest.json").read_bytes())
    document["files"]["weights.safetensors"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_bytes": len(content),
    }
    manifest = json.dumps(document).encode()
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n")
    return folder


def negate(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["classifier.weight"] = -arrays["classifier.weight"]


def shift_width(arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Of width 0.5 alone, all λ but 0."""
    arrays["final_norm.norms.0.1.bias"] = arrays["final_norm.norms.0.1.bias"] + np.float32(1.0)


@pytest.mark.parametrize("plans", get_args(PlanForm))
@pytest.mark.parametrize("engine", get_args(backends.BackendName))
def test_weights_that_are_not_the_probes_are_refused_on_every_engine(
    tiny_bundle: Path, tmp_path: Path, engine: backends.BackendName, plans: PlanForm
) -> None:
    """Regression: a bundle with a negated classifier and hashes that fit it loaded and gave the worst label."""
    if engine not in backends.available():
        pytest.skip(f"{engine} is not installed")
    other = with_other_weights(tiny_bundle, tmp_path / "other", negate)
    with pytest.raises(BundleError, match=r"probe of .* differs by .* allowed 0\.002 in float32"):
        OATRuntime.load(other, backend=engine, precision="float32", plans=plans)
    unchecked = OATRuntime.load(other, backend=engine, precision="float32", plans=plans, check_probe=False)
    assert np.isfinite(unchecked.infer(inputs())).all()
    unchecked.close()


@pytest.mark.parametrize("plans", get_args(PlanForm))
def test_another_width_is_held_to_the_probe_when_it_is_first_made(
    tiny_bundle: Path, tmp_path: Path, plans: PlanForm
) -> None:
    other = with_other_weights(tiny_bundle, tmp_path / "other", shift_width)
    runtime = OATRuntime.load(other, backend=ENGINE, plans=plans)
    start, bad = runtime.active, OperatingPoint(1.0, 0.5)
    with pytest.raises(BundleError, match="probe"):
        runtime.set_point(lam=bad.lam, width=bad.width)
    with pytest.raises(BundleError, match="probe"):
        runtime.prepare([bad])
    runtime.set_point(lam=bad.lam, width=bad.width, wait=False)
    wait_until(lambda: runtime.failure is not None)
    assert isinstance(runtime.failure, BundleError)
    assert (runtime.active, runtime.is_prepared(bad)) == (start, False)
    runtime.set_point(lam=0.2, width=0.75)
    runtime.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_logits_that_are_not_finite_are_an_error_and_never_an_answer(
    runtime: OATRuntime, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Regression: weights of NaN gave label 0 with a confidence of NaN."""

    def broken(x_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.array([[0.0] * 9 + [value]] * len(x_NCHW), np.float32)

    active = dataclasses.replace(runtime._active, plan=broken)  # type: ignore[arg-type]
    monkeypatch.setattr(runtime, "_active", active)
    for call in (
        lambda: runtime.infer(inputs()),
        lambda: runtime.predict(frame()),
        lambda: runtime.predict_batch([frame(), frame()]),
        lambda: runtime.predict_regions(frame(), [(0, 0, 9, 9)]),
        lambda: runtime.predict_inputs(inputs()),
    ):
        with pytest.raises(BackendError, match="not finite"):
            call()


def test_the_table_says_what_it_was_counted_in(tiny_bundle: Path) -> None:
    runtime = OATRuntime.load(tiny_bundle, backend=ENGINE)
    assert (runtime.precision, runtime.table_precision) == ("float32", "float32")
    runtime.close()


@pytest.mark.parametrize("number", [float, np.float32, np.float64])
def test_a_point_is_the_same_whatever_type_its_numbers_have(
    runtime: OATRuntime, number: Callable[[float], Any]
) -> None:
    """Regression: a float32 of 0.4 was another point, which had to be compiled and was no row of the table."""
    runtime.prepare()
    for point in (row.point for row in runtime.table.rows):
        assert runtime.is_prepared(P(number(point.lam), number(point.width)))
        got = runtime.set_point(lam=number(point.lam), width=number(point.width))
        assert repr(got) == repr(point) == repr(runtime.active)
        assert repr(runtime.predict(frame(), at=P(number(point.lam), number(point.width))).point) == repr(point)


@pytest.mark.parametrize("wrong", ["0.4", None, [0.4], np.array(0.4), 0.4 + 0j, 10**400, float("nan")], ids=repr)
def test_what_is_no_number_is_refused_as_a_point(runtime: OATRuntime, wrong: Any) -> None:
    before = runtime.active
    for switch in (runtime.set_lambda, runtime.set_width):
        with pytest.raises(OperatingPointError, match="must be"):
            switch(wrong)
    assert runtime.active == before and runtime.pending is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_threads", value) for value in (-1, 1.5, "2", 100_000, float("nan"))]
    + [("memory_budget_mb", value) for value in (-1.0, "5", float("nan"))],
)
def test_a_number_of_threads_or_megabytes_that_is_none_is_refused(tiny_bundle: Path, setting: str, value: Any) -> None:
    """Regression: engines took it. A hundred thousand threads stopped the machine, and a budget of NaN held nothing."""
    with pytest.raises(InputError, match=f"{setting} must be .* got"):
        OATRuntime.load(tiny_bundle, backend=ENGINE, **{setting: value})


@pytest.mark.parametrize("num_threads", [None, 0])
def test_without_a_number_the_network_has_the_threads_that_a_quota_pays_for(
    tiny_bundle: Path, num_threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it had one for each CPU of the machine, also in a container with a part of one."""
    monkeypatch.setattr("oat_runtime.runtime.usable_cpus", lambda: 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    with closing(OATRuntime.load(tiny_bundle, backend=ENGINE, num_threads=num_threads)) as runtime:
        assert runtime.num_threads == 1


@pytest.mark.parametrize("max_batch", [0, 2.5, "3", float("nan")])
def test_a_largest_batch_that_is_none_is_refused(runtime: OATRuntime, max_batch: Any) -> None:
    with pytest.raises(InputError, match="max_batch must be a whole number of at least 1"):
        runtime.prepare(max_batch=max_batch)
