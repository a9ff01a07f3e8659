"""One frame through policy and network, without ROS: what is decided, what ran, and what the next frame is told."""

from __future__ import annotations

import math
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oat_perception.core.perception import CameraFrame, ExternalSignals, FrameResult, PerceptionCore, Received
from oat_perception.core.regions import RotatedBox, cut_out

from oat_runtime.errors import BackendError, InputError, OperatingPointError
from oat_runtime.image import network_input
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime, Prediction
from policy.belief.constants import EstimatorConstants
from policy.config import BatteryStep, PolicyConfig
from policy.image import image_statistics
from policy.signals import Override, Reading, SignalState

ESTIMATOR = Path(__file__).parents[3] / "bundles" / "cifar10-wrn-16-4" / "estimator.json"
FRAME = CameraFrame(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8), received_s=0.0)


@pytest.fixture(scope="module")
def runtime(tiny_bundle: Path, engine) -> OATRuntime:
    runtime = OATRuntime.load(tiny_bundle, backend=engine, num_threads=1)
    runtime.prepare()
    return runtime


@pytest.fixture
def core(runtime: OATRuntime) -> PerceptionCore:
    return PerceptionCore(runtime, PolicyConfig())


def _run(core: PerceptionCore, now_s: float, **external: object) -> FrameResult:
    return core.process(FRAME, external=ExternalSignals(**external), now_s=now_s)  # type: ignore[arg-type]


def test_the_answer_is_the_runtimes_own_at_the_decided_point(core: PerceptionCore, runtime: OATRuntime) -> None:
    for step, point in enumerate([OperatingPoint(0.0, 0.5), OperatingPoint(1.0, 1.0), OperatingPoint(0.3, 0.75)]):
        result = _run(core, float(step), override_lam=Override(point.lam), override_width=Override(point.width))
        assert result.prediction.point == result.decision.point == point
        assert result.note == ""
        direct = runtime.predict(FRAME.image_HWC, at=point)
        np.testing.assert_array_equal(result.prediction.logits_K, direct.logits_K)


def test_the_policy_sees_the_previous_frames_network_at_its_age(core: PerceptionCore) -> None:
    first = _run(core, 10.0)
    assert first.signals.network is None
    second = _run(core, 10.25)
    assert second.signals.network is not None
    assert second.signals.network.age_s == 0.25
    assert second.signals.network.point == first.prediction.point
    assert second.signals.network.confidence == first.prediction.confidence
    assert second.decision.states["network"] is SignalState.OK


def test_the_previous_frame_is_evidence_at_the_lowest_rate_that_a_budget_grants_by_default(
    core: PerceptionCore,
) -> None:
    """Regression: at 1 image/s it was 1.0 s old and a little more, and so always stale."""
    period_s = 1.0 / core.policy.config.min_rate_hz
    states = [_run(core, number * 1.05 * period_s).decision.states["network"] for number in range(3)]
    assert states == [SignalState.MISSING, SignalState.OK, SignalState.OK]
    assert _run(core, 60.0).decision.states["network"] is SignalState.STALE


def test_what_the_network_said_of_a_frame_counts_once_though_the_next_frames_fail(
    core: PerceptionCore, runtime: OATRuntime, monkeypatch
) -> None:
    """Regression: while frames failed, the last answer before them counted again at each, and so did its latency."""
    told: list[float | None] = []
    step = core.policy.step
    monkeypatch.setattr(
        core.policy,
        "step",
        lambda signals: told.append(signals.network and signals.network.confidence) or step(signals),
    )
    answered = _run(core, 0.0).prediction.confidence
    with monkeypatch.context() as broken:
        broken.setattr(runtime, "predict_inputs", lambda x_NCHW: np.linalg.inv(np.zeros((2, 2))))
        for number in range(1, 4):
            with pytest.raises(np.linalg.LinAlgError):
                _run(core, 0.1 * number)
    _run(core, 0.4)
    assert told == [None, answered, None, None, None]


@pytest.mark.parametrize("shift", [0, 1])
def test_a_probe_runs_on_the_same_frame_and_is_reported_once(
    core: PerceptionCore, runtime: OATRuntime, monkeypatch, shift: int
) -> None:
    probed = OperatingPoint(0.0, 1.0)

    predict = runtime.predict_inputs

    def shifted(x_NCHW: np.ndarray, *, at: OperatingPoint | None = None) -> list[Prediction]:
        (mine,) = predict(x_NCHW)
        return [mine if at is None else replace(mine, point=at, label=(mine.label + shift) % 10)]

    monkeypatch.setattr(runtime, "predict_inputs", shifted)
    step = core.policy.step
    asked = iter([probed, None, None])
    monkeypatch.setattr(core.policy, "step", lambda signals: replace(step(signals), probe=next(asked)))
    first, second, third = (_run(core, now_s) for now_s in (0.0, 0.1, 0.2))
    assert [probe.point for probe in first.probes] == [probed]
    assert first.probe_ms > 0
    assert first.prediction.point != probed
    assert (second.probes, second.probe_ms) == ((), 0.0)
    assert second.signals.network is not None
    assert second.signals.network.disagrees == bool(shift)
    assert third.signals.network is not None
    assert third.signals.network.disagrees is None


def test_a_probe_that_cannot_run_costs_no_frame_and_says_why(
    core: PerceptionCore, runtime: OATRuntime, monkeypatch
) -> None:
    """Regression: where its plan was let go of, every frame with a probe failed."""
    predict = runtime.predict_inputs

    def gone(x_NCHW: np.ndarray, *, at: OperatingPoint | None = None) -> list[Prediction]:
        if at is not None:
            raise OperatingPointError(f"{at} is not prepared")
        return predict(x_NCHW)

    monkeypatch.setattr(runtime, "predict_inputs", gone)
    step = core.policy.step
    monkeypatch.setattr(core.policy, "step", lambda signals: replace(step(signals), probe=OperatingPoint(0.2, 0.75)))
    first, second = (_run(core, now_s) for now_s in (0.0, 0.1))
    assert first.prediction.point == first.decision.point
    assert (first.probes, first.probe_ms) == ((), 0.0)
    assert first.note == "no probe: λ=0.2 width=0.75 is not prepared"
    assert second.signals.network is not None
    assert second.signals.network.disagrees is None


def test_a_point_that_is_not_ready_is_not_claimed(tiny_bundle: Path, engine, monkeypatch) -> None:
    runtime = OATRuntime.load(tiny_bundle, backend=engine, plans="folded", num_threads=1)
    runtime.prepare()
    core = PerceptionCore(runtime, PolicyConfig())
    before = _run(core, 0.0).prediction.point
    ready = threading.Event()
    make = runtime._plans.make
    monkeypatch.setattr(runtime._plans, "make", lambda point: (ready.wait(10), make(point))[1])
    waiting = _run(core, 0.1, override_lam=Override(0.55))
    assert waiting.decision.point.lam == 0.55
    assert waiting.prediction.point == before
    assert "is being prepared" in waiting.note
    ready.set()
    until_s = time.monotonic() + 10
    while runtime.pending is not None and time.monotonic() < until_s:
        time.sleep(0.01)
    assert _run(core, 0.2, override_lam=Override(0.55)).prediction.point.lam == 0.55


def test_a_point_that_cannot_be_compiled_is_named_with_its_reason_and_seldom_tried(
    tiny_bundle: Path, engine, monkeypatch, caplog
) -> None:
    """Regression: it was compiled anew for each image, with a traceback each, and said to be in preparation."""
    runtime = OATRuntime.load(tiny_bundle, backend=engine, plans="folded", num_threads=1)
    runtime.prepare()
    core = PerceptionCore(runtime, PolicyConfig())
    before = _run(core, 0.0).prediction.point
    tries: list[OperatingPoint] = []

    def refuse(point: OperatingPoint) -> None:
        tries.append(point)
        raise BackendError("no such operator")

    make = runtime._plans.make
    monkeypatch.setattr(runtime._plans, "make", refuse)
    for number in range(50):
        result = _run(core, 0.1 * number, override_lam=Override(0.55))
        assert result.prediction.point == before
        until_s = time.monotonic() + 10
        while runtime.pending is not None and time.monotonic() < until_s:
            time.sleep(0.001)
    wanted = OperatingPoint(0.55, before.width)
    assert result.note == f"{before} runs, since {wanted} cannot be prepared: no such operator"
    assert tries == [wanted]
    assert len(caplog.records) == 1, "said once, with a traceback"
    monkeypatch.setattr(runtime, "_failed", {wanted: (BackendError("no such operator"), 0.0)})
    monkeypatch.setattr(runtime._plans, "make", make)
    _run(core, 6.0, override_lam=Override(0.55))
    runtime._preparer.shutdown()
    assert _run(core, 6.1, override_lam=Override(0.55)).prediction.point == wanted, "in the end it is tried again"
    assert runtime.failure_of(wanted) is None


def test_a_lambda_below_the_smallest_trained_one_says_what_it_runs_as(
    core: PerceptionCore, runtime: OATRuntime
) -> None:
    result = _run(core, 0.0, override_lam=Override(0.05))
    assert result.prediction.point.lam == 0.1
    assert "runs as λ=0.1" in result.note


def test_a_bad_frame_decides_nothing(core: PerceptionCore) -> None:
    _run(core, 0.0)
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError):
            core.process(CameraFrame(bad, 1.0), external=ExternalSignals(), now_s=1.0)
    network = _run(core, 2.0).signals.network
    assert network is not None
    assert network.age_s == 2.0


def test_a_policy_that_raises_leads_to_the_safest_point_and_the_operator_is_still_obeyed(
    core: PerceptionCore, monkeypatch, caplog
) -> None:
    _run(core, 0.0)
    monkeypatch.setattr(core.policy, "step", lambda signals: 1 / 0)
    fallback = _run(core, 0.1)
    assert fallback.policy_failed
    assert fallback.prediction.point == core.policy.safety_point
    assert "ZeroDivisionError" in fallback.decision.reason
    _run(core, 0.2)
    assert len(caplog.records) == 1, "said once, with a traceback"
    assert caplog.records[0].exc_info
    operated = _run(core, 0.3, override_lam=Override(0.3), override_width=Override(0.5, expires_s=0.2))
    assert operated.prediction.point == OperatingPoint(0.3, core.policy.safety_point.width)
    locked = _run(core, 0.4, override_lam=Override(0.3), safety_lock=True)
    assert locked.prediction.point == core.policy.safety_point
    monkeypatch.undo()
    assert not _run(core, 0.5).policy_failed


@pytest.mark.parametrize(("floor", "lam"), [(0.0, 0.4), (1.0, 1.0)])
def test_the_fallback_takes_the_safest_lambda_that_is_not_below_the_floor(
    foggy_bundle: Path, engine, monkeypatch, floor: float, lam: float
) -> None:
    """Regression: where another λ than the largest is the safest, it went below the floor."""
    with closing(OATRuntime.load(foggy_bundle, backend=engine, num_threads=1)) as runtime:
        runtime.prepare()
        core = PerceptionCore(runtime, PolicyConfig(lambda_floor=floor))
        monkeypatch.setattr(core.policy, "step", lambda signals: 1 / 0)
        assert _run(core, 0.0).prediction.point == OperatingPoint(lam, 1.0)


@pytest.mark.parametrize("num_before", [0, 1])
def test_a_policy_that_fails_keeps_the_limit_of_the_rate(runtime: OATRuntime, monkeypatch, num_before: int) -> None:
    """Regression: while it failed, every image was classified, however little the battery held."""
    core = PerceptionCore(runtime, PolicyConfig(max_rate_hz=5.0))
    for number in range(num_before):
        _run(core, float(number))
    monkeypatch.setattr(core.policy, "step", lambda signals: 1 / 0)
    for now_s in (2.0, 3.0):
        fallback = _run(core, now_s)
        assert (fallback.decision.max_rate_hz, fallback.rate_cause) == (5.0, "max_rate_hz")


def test_a_policy_that_fails_keeps_the_lower_rate_of_its_last_decision(runtime: OATRuntime, monkeypatch) -> None:
    ladder = (BatteryStep(min_charge=0.0, max_width=1.0, max_rate_hz=2.0),)
    core = PerceptionCore(runtime, PolicyConfig(max_rate_hz=5.0, battery_ladder=ladder))
    cause = _run(core, 0.0, battery=Reading(0.5)).rate_cause
    assert "battery_ladder" in cause
    monkeypatch.setattr(core.policy, "step", lambda signals: 1 / 0)
    fallback = _run(core, 0.1)
    assert (fallback.decision.max_rate_hz, fallback.rate_cause) == (2.0, cause)


def test_regions_are_classified_as_images_of_their_own_at_the_frames_point(
    core: PerceptionCore, runtime: OATRuntime
) -> None:
    frame = replace(FRAME, boxes=((0, 0, 32, 32), None, (10, 5, 50, 48)))
    external = ExternalSignals(override_lam=Override(0.3), override_width=Override(0.5))
    result = core.process(frame, external=external, now_s=0.0)
    first, nothing, last = result.regions
    assert nothing is None
    np.testing.assert_allclose(
        result.prediction.probabilities_K,
        runtime.predict(FRAME.image_HWC, at=result.prediction.point).probabilities_K,
        atol=1e-6,
    )
    for seen, crop_HWC in ((first, FRAME.image_HWC[:32, :32]), (last, FRAME.image_HWC[5:48, 10:50])):
        assert seen is not None
        assert seen.point == result.prediction.point
        alone = runtime.predict(crop_HWC, at=seen.point)
        np.testing.assert_allclose(seen.probabilities_K, alone.probabilities_K, atol=1e-6)


def test_a_rotated_region_is_classified_as_it_stands_upright(core: PerceptionCore, runtime: OATRuntime) -> None:
    box = RotatedBox(32.0, 24.0, 20.0, 12.0, math.pi / 2)
    result = core.process(replace(FRAME, boxes=(box,)), external=ExternalSignals(), now_s=0.0)
    (seen,) = result.regions
    assert seen is not None
    upright_HWC = np.rot90(FRAME.image_HWC[14:34, 26:38])
    alone = runtime.predict(upright_HWC, at=seen.point)
    np.testing.assert_allclose(seen.probabilities_K, alone.probabilities_K, atol=1e-6)


def test_the_cause_of_a_limited_rate_comes_with_the_result(core: PerceptionCore, runtime: OATRuntime) -> None:
    assert _run(core, 0.0).rate_cause == ""
    limited = PerceptionCore(runtime, PolicyConfig(max_rate_hz=5.0))
    assert _run(limited, 0.0).rate_cause == "max_rate_hz"


def test_the_alarm_comes_with_the_result_of_the_frame_that_raises_it(runtime: OATRuntime) -> None:
    """Regression: nothing on the robot read it."""
    constants = EstimatorConstants.model_validate_json(ESTIMATOR.read_text())
    core = PerceptionCore(runtime, PolicyConfig(), constants=constants)
    told = []
    for number in range(60):
        told.append(_run(core, 0.1 * number).alarmed)
        assert told[-1] == core.policy.alarmed
    assert (told[0], told[-1]) == (False, True), "noise is unlike the calibration, and one frame is no proof"


def test_the_deadline_is_for_the_image_and_its_regions_together(core: PerceptionCore) -> None:
    with_regions = core.process(replace(FRAME, boxes=((0, 0, 32, 32),) * 8), external=ExternalSignals(), now_s=0.0)
    after = _run(core, 0.1)
    assert after.signals.network is not None
    assert after.signals.network.latency_ms == with_regions.prediction.latency_ms


def test_age_counts_from_receipt() -> None:
    assert Received().reading(5.0).state(low=0, high=1, max_age_s=1) is SignalState.MISSING
    received = Received(0.5, received_s=5.0, source="tower")
    assert received.reading(5.5).age_s == 0.5
    assert received.reading(7.0).state(low=0, high=1, max_age_s=1) is SignalState.STALE
    just_then = received.reading(4.999)
    assert just_then.age_s == 0.0, "it came after the time was taken, on a clock that does not run backwards"
    assert just_then.state(low=0, high=1, max_age_s=1) is SignalState.OK


def test_only_the_policys_first_decision_says_how_the_policy_was_built(core: PerceptionCore, monkeypatch) -> None:
    step = core.policy.step
    monkeypatch.setattr(core.policy, "step", lambda signals: 1 / 0)
    assert not _run(core, 0.0).record_header, "a decision that is not recorded cannot carry it"
    monkeypatch.setattr(core.policy, "step", step)
    assert [bool(_run(core, now_s).record_header) for now_s in (0.1, 0.2, 0.3)] == [True, False, False]


def test_the_policy_is_told_of_the_regions_where_the_network_judges_regions(
    core: PerceptionCore, runtime: OATRuntime, monkeypatch
) -> None:
    """The whole image says nothing to a network that was trained on boxes."""
    boxes = ((0, 0, 20, 20), None, (10, 5, 50, 48), (20, 0, 64, 40))
    step = core.policy.step
    asked = iter([OperatingPoint(0.0, 0.5), None])
    monkeypatch.setattr(core.policy, "step", lambda signals: replace(step(signals), probe=next(asked)))
    first = core.process(replace(FRAME, boxes=boxes), external=ExternalSignals(), now_s=0.0)
    seen = [answer for answer in first.regions if answer is not None]
    assert len(first.probes) == len(seen) == 3
    told = _run(core, 0.1).signals.network
    assert told is not None
    assert told.confidence == sorted(answer.confidence for answer in seen)[1]
    assert told.disagrees == sum(a.label != b.label for a, b in zip(seen, first.probes, strict=True)) / 3


def test_a_box_trained_networks_images_are_its_regions_and_without_any_the_belief_holds(
    runtime: OATRuntime, monkeypatch
) -> None:
    spec = runtime.bundle.input.model_copy(update={"region_margin": 0.0})
    manifest = runtime.bundle.manifest.model_copy(update={"input": spec})
    monkeypatch.setattr(runtime, "bundle", replace(runtime.bundle, manifest=manifest))
    core = PerceptionCore(runtime, PolicyConfig(confidence_topic="absent"))
    silent = _run(core, 0.0)
    assert silent.decision.states["image"] is SignalState.MISSING, "a silent detector is no empty scene"
    empty = core.process(replace(FRAME, boxes=()), external=ExternalSignals(), now_s=0.05)
    assert (empty.signals.image, empty.signals.num_regions) == (None, 0)
    assert empty.decision.states["image"] is SignalState.NOTHING
    broken = core.process(replace(FRAME, boxes=(None, None)), external=ExternalSignals(), now_s=0.07)
    assert broken.signals.num_regions == 2
    assert broken.decision.states["image"] is SignalState.MISSING, "boxes that cannot be used are no empty scene"
    boxes = ((0, 0, 40, 40), (10, 5, 50, 48))
    judged = core.process(replace(FRAME, boxes=boxes), external=ExternalSignals(), now_s=0.1)
    assert judged.signals.num_regions == len(boxes)
    statistics = [image_statistics(network_input(cut_out(FRAME.image_HWC, box, spec), spec)) for box in boxes]
    np.testing.assert_allclose(judged.signals.image, np.mean(statistics, axis=0))
    after = _run(core, 0.2)
    assert after.signals.network is not None
    assert after.signals.network.confidence is not None
    later = _run(core, 0.3)
    assert later.signals.network is not None
    assert (later.signals.network.confidence, later.probes) == (None, ())
    assert later.decision.states["network"] is SignalState.MISSING
