"""False alarms are as rare as the alarm promises, whatever clean frames look like, and the assumption is needed."""

import math
from itertools import pairwise

import numpy as np
import pytest

from oat_runtime.errors import DataError
from policy.belief.alarm import DEGREES_OF_FREEDOM, Alarm, log_t, promised
from policy.belief.constants import EstimatorConstants
from policy.belief.filter import RegimeFilter
from policy.config import PolicyConfig
from policy.fitting import drives
from policy.fitting.drives import count_alarms, peaks_of, promise_of
from policy.fitting.kinds import MeasuredKinds
from policy.image import ImageStatistics

FRAME_S = 1 / 30
DRIVE_S, LIMIT_S = 3.6, 7.2
"""108 frames, of which one drive in two may raise a false alarm: then a short stream shows what a long drive would."""


def _heavy(rng: np.random.Generator, num: int) -> np.ndarray:
    """Clean frames that stray much further than the fitted density says."""
    return rng.standard_t(2.5, size=(num, 12))


def _alarms(belief: RegimeFilter, stats_NS: np.ndarray) -> tuple[int, int]:
    """(alarms, frames in alarm)"""
    raised = [belief.alarmed()]
    for stats_S in stats_NS:
        belief.update(ImageStatistics(*stats_S.tolist()), None, elapsed_s=FRAME_S)
        raised.append(belief.alarmed())
    return sum(now and not before for before, now in pairwise(raised)), sum(raised)


def _onsets(belief: RegimeFilter, stats_NS: np.ndarray) -> int:
    return _alarms(belief, stats_NS)[0]


def _filter(
    constants: EstimatorConstants, reference_NS: np.ndarray, *, drive_s: float = DRIVE_S, **changes: object
) -> RegimeFilter:
    update = {"reference": tuple(map(tuple, reference_NS.tolist())), **changes}
    return RegimeFilter(constants.model_copy(update=update), PolicyConfig(false_alarm_drives=2, mission_s=drive_s))


@pytest.mark.parametrize("pays", [(0.5, 1.5), (0.0, 3.0), (0.9, 1.1)])
def test_fair_bets_raise_no_more_alarms_than_promised(pays: tuple[float, float]) -> None:
    rng, num, num_frames = np.random.default_rng(0), 0, 100_000
    low, high = pays
    chance = (1 - low) / (high - low)
    alarm, before = Alarm(math.log(LIMIT_S)), False
    for wins in (rng.random(num_frames) < chance).tolist():
        alarm.update(math.log(max(high if wins else low, 1e-12)), elapsed_s=FRAME_S)
        num += alarm.raised and not before
        before = alarm.raised
    assert num <= num_frames * FRAME_S / LIMIT_S


def test_frames_like_the_calibrations_raise_no_more_alarms_than_promised_though_the_fitted_density_is_wrong(
    constants: EstimatorConstants,
) -> None:
    rng, num_frames, num, lasting = np.random.default_rng(1), 1000, 0, 0
    for _ in range(4):
        onsets, in_alarm = _alarms(_filter(constants, _heavy(rng, 200)), _heavy(rng, num_frames))
        num, lasting = num + onsets, lasting + in_alarm
    assert num <= 4 * num_frames * FRAME_S / LIMIT_S
    assert lasting <= 60 * num, "each ends soon; one that never ends would be counted once"


def test_frames_that_repeat_themselves_need_the_measured_independence(constants: EstimatorConstants) -> None:
    """The promise is for frames that do not depend on the ones before."""
    rng, num_frames, repeats = np.random.default_rng(2), 1500, 10
    reference_NS = rng.normal(size=(200, 12))
    lingering_NS = np.repeat(rng.normal(size=(num_frames // repeats, 12)), repeats, axis=0)
    promised = num_frames * FRAME_S / LIMIT_S
    assert _onsets(_filter(constants, reference_NS), lingering_NS) > promised
    assert _onsets(_filter(constants, reference_NS, independence=1 / repeats), lingering_NS) <= promised


@pytest.mark.parametrize("num_drives", [2, 7, 20])
@pytest.mark.parametrize("known", [1, 5, 19, 20, 46, 399])
def test_one_more_drive_exceeds_the_limit_in_as_few_of_all_orders_as_promised(known: int, num_drives: int) -> None:
    """A new drive is as probably at each place among those of the calibration; no other limit of theirs is lower."""
    peaks = [float(place) for place in range(known)]
    promise = promised(peaks, num_drives=num_drives, drive_s=1.0)
    exceeding = sum(place - 0.5 > promise.log_limit for place in range(known + 1)) / (known + 1)
    assert exceeding <= 1 / promise.num_drives
    assert promise.num_drives == min(num_drives, known + 1), "fewer drives than asked for promise less, and say so"
    lower = sum(place - 0.5 > promise.log_limit - 1 for place in range(known + 1)) / (known + 1)
    assert promise.log_limit == 0.0 or lower > 1 / promise.num_drives
    assert f"one drive in {promise.num_drives} raises" in str(promise) and f"{known} drives" in str(promise)


def _drives(rng: np.random.Generator, num: int) -> list[np.ndarray]:
    """Drives of 25 frames that each have a mean of their own."""
    return [rng.normal(size=(25, 12)) * 0.8 + rng.normal(size=12) * 0.6 for _ in range(num)]


def test_drives_with_a_mean_of_their_own_need_a_calibration_by_drives(constants: EstimatorConstants) -> None:
    """Measured on real days: priced by frames, 48 alarms came where 0.6 were promised."""
    rng, num = np.random.default_rng(4), 100
    reference = tuple(map(tuple, np.concatenate(_drives(rng, 40)).tolist()))
    by_frames = constants.model_copy(update={"reference": reference})
    peaks = sorted(peaks_of(by_frames, _drives(rng, 39), frame_s=1.0))
    by_drives = by_frames.model_copy(update={"drives": tuple(peaks)})
    assert promise_of(by_drives).num_drives == 20
    in_alarm = {
        name: sum(count_alarms(known, stats_FS, frame_s=1.0) > 0 for stats_FS in _drives(rng, num))
        for name, known in (("frames", by_frames), ("drives", by_drives))
    }
    assert in_alarm["frames"] > 4 * num / 20
    assert in_alarm["drives"] <= num / 20 + 3 * math.sqrt(num / 20)
    noisy = [stats_FS + np.array([2.5] * 4 + [0.0] * 8) for stats_FS in _drives(rng, 20)]
    assert sum(count_alarms(by_drives, stats_FS, frame_s=1.0) > 0 for stats_FS in noisy) >= 18


def test_a_drive_is_judged_by_constants_that_did_not_see_it(
    constants: EstimatorConstants, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    sizes = [30, 25, 40, 35, 20]
    session_F = np.repeat(np.arange(5), sizes)
    clean_FS = rng.normal(size=(150, 12))
    clean_FS[:, 0] = session_F  # each frame tells its session
    measured = MeasuredKinds(clean_FS, session_F, 1.0, np.arange(150), {})
    judged: list[float] = []

    def fit(of: MeasuredKinds) -> EstimatorConstants:
        return constants.model_copy(update={"fitted_on": ",".join(str(s) for s in np.unique(of.session_F))})

    def peaks(by: EstimatorConstants, streams: list[np.ndarray], *, frame_s: float) -> list[float]:
        own = [float(stats_FS[0, 0]) for stats_FS in streams]
        assert not {str(int(s)) for s in own} & set(by.fitted_on.split(","))
        judged.extend(own)
        return own

    monkeypatch.setattr(drives, "peaks_of", peaks)
    assert drives.fit_drives(measured, fit).drives == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert sorted(judged) == [0, 1, 2, 3, 4]
    assert not drives.fit_drives(measured.in_blocks(1), fit).drives, "frames of one drive tell nothing of others"


def test_a_fit_of_a_few_corrupted_frames_judges_no_drive(constants: EstimatorConstants) -> None:
    """Regression: a long drive was judged by two corrupted frames of a short one, and set a limit beyond any alarm."""
    session_F = np.repeat([0, 1], [950, 50])
    clean_FS = np.random.default_rng(0).normal(size=(1000, 12))
    for num_copies, num_judged in ((40, 0), (400, 1), (1000, 2)):  # one in twenty is of the short drive
        at_G = np.linspace(0, 999, num_copies).astype(np.int64)
        measured = MeasuredKinds(clean_FS, session_F, 1.0, at_G, {})
        assert len(drives.fit_drives(measured, lambda _: constants).drives) == num_judged


def test_drives_that_drift_by_themselves_are_not_believed_to_have_changed(constants: EstimatorConstants) -> None:
    rng = np.random.default_rng(6)
    seen, others = ([stats_FS for stats_FS in _drives(rng, 12)] for _ in range(2))
    session_F = np.repeat(np.arange(12), 25)
    measured = MeasuredKinds(np.concatenate(seen), session_F, 1.0, np.arange(300), {})
    fitted = drives.fit_drives(measured, lambda _: constants)
    shares = {
        name: np.mean([belief.unusual() for one in others for belief in drives.stream(known, one, frame_s=1.0)])
        for name, known in (("frames", constants), ("drives", fitted))
    }
    assert shares["drives"] < 0.5 * shares["frames"]


def test_an_alarm_comes_soon_and_ends_when_frames_are_usual_again(constants: EstimatorConstants) -> None:
    rng = np.random.default_rng(3)
    belief = _filter(constants, rng.normal(size=(200, 12)), drive_s=180.0)
    assert _onsets(belief, rng.normal(size=(300, 12))) == 0
    assert _onsets(belief, rng.normal(size=(8, 12)) + 2.0) == 1
    _onsets(belief, rng.normal(size=(60, 12)))
    assert not belief.alarmed()


def test_a_pause_is_no_evidence() -> None:
    alarm = Alarm(math.log(LIMIT_S))
    alarm.update(math.log(2.0), elapsed_s=1e6)
    assert not alarm.raised


def test_logs_of_versions_without_this_alarm_are_restored(constants: EstimatorConstants) -> None:
    belief = _filter(constants, np.empty((0, 12)))
    saved = belief.snapshot()
    assert set(saved.pop("alarm")) == {"evidence", "raised"}
    belief.restore(saved)
    with pytest.raises(DataError):
        belief.restore({})


def test_a_density_keeps_its_bits_of_one_number_and_of_many() -> None:
    """Recorded decisions are replayed to the bit, and the two logarithms differ in the last one."""
    square_N = np.random.default_rng(0).gamma(2.0, 3.0, 2000)
    factor = -0.5 * (DEGREES_OF_FREEDOM + 12)
    assert [log_t(x, 12) for x in square_N.tolist()] == [
        factor * math.log1p(x / DEGREES_OF_FREEDOM) for x in square_N.tolist()
    ]
    assert np.array_equal(log_t(square_N, 12), factor * np.log1p(square_N / DEGREES_OF_FREEDOM))
