"""False alarms are as rare as the alarm promises, whatever clean frames look like, and the assumption is needed."""

from itertools import pairwise

import numpy as np
import pytest

from oat_runtime.errors import DataError
from policy.belief.alarm import Alarm
from policy.belief.constants import EstimatorConstants
from policy.belief.filter import RegimeFilter
from policy.config import PolicyConfig
from policy.image import ImageStatistics

FRAME_S = 1 / 30
HOURS = 0.002
"""216 frames: then a short stream shows what a long drive would."""


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
    constants: EstimatorConstants, reference_NS: np.ndarray, *, hours: float = HOURS, **changes: object
) -> RegimeFilter:
    update = {"reference": tuple(map(tuple, reference_NS.tolist())), **changes}
    return RegimeFilter(constants.model_copy(update=update), PolicyConfig(false_alarm_hours=hours))


@pytest.mark.parametrize("pays", [(0.5, 1.5), (0.0, 3.0), (0.9, 1.1)])
def test_fair_bets_raise_no_more_alarms_than_promised(pays: tuple[float, float]) -> None:
    rng, num, num_frames = np.random.default_rng(0), 0, 100_000
    low, high = pays
    chance = (1 - low) / (high - low)
    alarm, before = Alarm(HOURS), False
    for wins in (rng.random(num_frames) < chance).tolist():
        alarm.update(high if wins else low, elapsed_s=FRAME_S)
        num += alarm.raised and not before
        before = alarm.raised
    assert num <= num_frames * FRAME_S / 3600 / HOURS


def test_frames_like_the_calibrations_raise_no_more_alarms_than_promised_though_the_fitted_density_is_wrong(
    constants: EstimatorConstants,
) -> None:
    rng, num_frames, num, lasting = np.random.default_rng(1), 1000, 0, 0
    for _ in range(4):
        onsets, in_alarm = _alarms(_filter(constants, _heavy(rng, 200)), _heavy(rng, num_frames))
        num, lasting = num + onsets, lasting + in_alarm
    assert num <= 4 * num_frames * FRAME_S / 3600 / HOURS
    assert lasting <= 60 * num, "each ends soon; one that never ends would be counted once"


def test_frames_that_repeat_themselves_need_the_measured_independence(constants: EstimatorConstants) -> None:
    """The promise is for frames that do not depend on the ones before."""
    rng, num_frames, repeats = np.random.default_rng(2), 1500, 10
    reference_NS = rng.normal(size=(200, 12))
    lingering_NS = np.repeat(rng.normal(size=(num_frames // repeats, 12)), repeats, axis=0)
    promised = num_frames * FRAME_S / 3600 / HOURS
    assert _onsets(_filter(constants, reference_NS), lingering_NS) > promised
    assert _onsets(_filter(constants, reference_NS, independence=1 / repeats), lingering_NS) <= promised


def test_an_alarm_comes_soon_and_ends_when_frames_are_usual_again(constants: EstimatorConstants) -> None:
    rng = np.random.default_rng(3)
    belief = _filter(constants, rng.normal(size=(200, 12)), hours=0.1)
    assert _onsets(belief, rng.normal(size=(300, 12))) == 0
    assert _onsets(belief, rng.normal(size=(8, 12)) + 2.0) == 1
    _onsets(belief, rng.normal(size=(60, 12)))
    assert not belief.alarmed()


def test_a_pause_is_no_evidence() -> None:
    alarm = Alarm(HOURS)
    alarm.update(2.0, elapsed_s=1e6)
    assert not alarm.raised


def test_logs_of_versions_without_this_alarm_are_restored(constants: EstimatorConstants) -> None:
    belief = _filter(constants, np.empty((0, 12)))
    saved = belief.snapshot()
    assert set(saved.pop("alarm")) == {"evidence_h", "raised"}
    belief.restore(saved)
    with pytest.raises(DataError):
        belief.restore({})
