"""Belief over regimes: adds up, survives anything, and does not jump at one frame."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from oat_runtime.errors import InputError
from oat_runtime.operating_point import OperatingPoint, Regime
from policy.belief.constants import EstimatorConstants
from policy.belief.filter import RegimeFilter
from policy.belief.ranks import NormalScores
from policy.config import PolicyConfig
from policy.fitting.drives import independence, with_drift_noise
from policy.fitting.frames import Frames, statistics_of
from policy.fitting.kinds import fit_kinds, measure_kinds
from policy.fitting.rates import Corrupt, measure_rates, network_rates, spread_of
from policy.image import ImageStatistics, image_statistics
from policy.signals import NetworkSignals

FRAME_S = 1 / 30
Typical = dict[Regime, ImageStatistics]
Scenes = Callable[..., np.ndarray]


def _fit(images: np.ndarray, corrupt: Corrupt, regimes: dict[str, Regime]) -> EstimatorConstants:
    frames = Frames.of_images(images)
    return fit_kinds(measure_kinds(frames, corrupt=corrupt, regimes=regimes, rng=np.random.default_rng(0)))


def _top(belief: RegimeFilter) -> Regime:
    return max(belief.posterior().items(), key=lambda item: item[1])[0]


@pytest.mark.parametrize("regime", [Regime.CLEAN, Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY])
def test_repeated_frames_settle_on_their_regime(
    constants: EstimatorConstants, typical: Typical, regime: Regime
) -> None:
    belief = RegimeFilter(constants, PolicyConfig())
    for _ in range(30):
        belief.update(typical[regime], None, elapsed_s=FRAME_S)
    assert _top(belief) is regime
    assert belief.posterior()[regime] > 0.9


def test_one_odd_frame_does_not_flip_a_settled_belief(constants: EstimatorConstants, typical: Typical) -> None:
    belief = RegimeFilter(constants, PolicyConfig())
    for _ in range(100):
        belief.update(typical[Regime.CLEAN], None, elapsed_s=FRAME_S)
    belief.update(typical[Regime.HIGH_FREQUENCY], None, elapsed_s=FRAME_S)
    assert belief.posterior()[Regime.HIGH_FREQUENCY] < PolicyConfig().credible_mass
    for _ in range(10):
        belief.update(typical[Regime.HIGH_FREQUENCY], None, elapsed_s=FRAME_S)
    assert _top(belief) is Regime.HIGH_FREQUENCY


@settings(max_examples=60)
@given(frames=st.lists(st.lists(st.floats(-50, 50), min_size=12, max_size=12), min_size=1, max_size=8))
def test_belief_is_a_distribution_and_one_frame_moves_odds_by_the_cap(
    constants: EstimatorConstants, frames: list[list[float]]
) -> None:
    config = PolicyConfig()
    belief = RegimeFilter(constants, config)
    for frame in frames:
        before = belief.posterior()
        belief.update(ImageStatistics(*frame), None, elapsed_s=0.0)
        after = belief.posterior()
        assert sum(after.values()) == pytest.approx(1.0)
        assert all(mass > 0 for mass in after.values())
        odds = math.log(after[Regime.CLEAN] / after[Regime.HIGH_FREQUENCY])
        odds_before = math.log(before[Regime.CLEAN] / before[Regime.HIGH_FREQUENCY])
        assert abs(odds - odds_before) <= config.evidence_cap_nats + 0.2  # forgetting adds a little


def test_a_drift_that_nobody_fitted_is_noticed_and_one_odd_frame_is_not_one(constants: EstimatorConstants) -> None:
    """Frames lean by three standard deviations in a direction of their own, yet clean is the likeliest fitted kind."""
    rng = np.random.default_rng(0)
    lean = np.zeros(12)
    lean[5] = -3.0
    belief = RegimeFilter(constants, PolicyConfig())
    for _ in range(200):
        belief.update(ImageStatistics(*rng.normal(size=12)), None, elapsed_s=FRAME_S)
        assert not belief.alarmed()
    belief.update(ImageStatistics(*lean * 3), None, elapsed_s=FRAME_S)
    for _ in range(20):
        belief.update(ImageStatistics(*rng.normal(size=12)), None, elapsed_s=FRAME_S)
    assert belief.posterior()[Regime.CLEAN] > 0.9
    for _ in range(15):
        belief.update(ImageStatistics(*(rng.normal(size=12) + lean)), None, elapsed_s=FRAME_S)
    posterior = belief.posterior()
    assert belief.alarmed()
    assert posterior[Regime.HIGH_FREQUENCY] + posterior[Regime.LOW_FREQUENCY] > 0.9


def test_mild_haze_is_usual_and_strong_haze_or_mild_noise_is_not(
    constants: EstimatorConstants, typical: Typical
) -> None:
    for regime, strength, unusual in (
        (Regime.LOW_FREQUENCY, "mild", False),
        (Regime.LOW_FREQUENCY, "strong", True),
        (Regime.HIGH_FREQUENCY, "mild", True),
    ):
        kinds = tuple(
            kind.model_copy(update={"name": f"it-{strength}"}) if kind.regime is regime else kind
            for kind in constants.kinds
        )
        belief = RegimeFilter(constants.model_copy(update={"kinds": kinds}), PolicyConfig())
        for _ in range(30):
            belief.update(typical[regime], None, elapsed_s=FRAME_S)
        assert _top(belief) is regime
        assert belief.unusual() is unusual


def test_drift_counts_as_the_corrupted_kind_in_whose_direction_it_strays(
    constants: EstimatorConstants, typical: Typical
) -> None:
    """Frames lie far beyond a fitted kind, so they are not of that kind, but in its direction."""
    rng = np.random.default_rng(0)
    for regime in (Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY):
        belief = RegimeFilter(constants, PolicyConfig())
        for _ in range(40):
            belief.update(ImageStatistics(*rng.normal(size=12)), None, elapsed_s=FRAME_S)
        for _ in range(40):
            frame_S = rng.normal(size=12) + 3.0 * np.array(typical[regime])
            belief.update(ImageStatistics(*frame_S.tolist()), None, elapsed_s=FRAME_S)
        names = [kind.regime for kind in constants.kinds]
        assert belief.kinds()[names.index(regime)] > 0.95
        assert belief.kinds().sum() + belief.posterior()[Regime.UNKNOWN] == pytest.approx(1.0)


def test_drift_noise_is_raised_until_a_lingering_camera_raises_no_alarm(constants: EstimatorConstants) -> None:
    rng = np.random.default_rng(0)
    alone = rng.normal(size=(300, 12))
    lingering = np.repeat(rng.normal(size=(10, 12)), 30, axis=0) + 0.1 * rng.normal(size=(300, 12))
    assert with_drift_noise(constants, alone, frame_s=FRAME_S).drift_noise == constants.drift_noise
    assert with_drift_noise(constants, lingering, frame_s=FRAME_S).drift_noise > constants.drift_noise
    assert independence([alone]) > 0.8
    assert independence([lingering]) < 0.1
    drives = [alone[:150], alone[150:] + 2.0]
    assert independence(drives) < 0.5, "what frames of a drive have in common is repeated"


def test_what_looks_like_nothing_fitted_becomes_unknown(constants: EstimatorConstants) -> None:
    belief = RegimeFilter(constants, PolicyConfig())
    for _ in range(30):
        belief.update(ImageStatistics(*[40.0] * 12), None, elapsed_s=FRAME_S)
    assert _top(belief) is Regime.UNKNOWN


def test_a_long_silence_forgets(constants: EstimatorConstants, typical: Typical) -> None:
    belief = RegimeFilter(constants, PolicyConfig())
    prior = belief.posterior()
    for _ in range(30):
        belief.update(typical[Regime.LOW_FREQUENCY], None, elapsed_s=FRAME_S)
    belief.update(None, None, elapsed_s=1e6)
    assert belief.posterior() == pytest.approx(prior)


def test_disagreeing_probes_and_nothing_else_point_to_an_attack(
    constants: EstimatorConstants, typical: Typical
) -> None:
    beliefs = {}
    for disagrees in (True, False):
        belief = RegimeFilter(constants, PolicyConfig())
        probe = NetworkSignals(OperatingPoint(0.0, 1.0), confidence=0.99, disagrees=disagrees)
        for _ in range(12):
            belief.update(typical[Regime.CLEAN], probe, elapsed_s=FRAME_S)
        beliefs[disagrees] = _top(belief)
    assert beliefs == {True: Regime.ADVERSARIAL, False: Regime.CLEAN}


def test_without_fitted_rates_the_network_is_no_evidence(constants: EstimatorConstants) -> None:
    silent = RegimeFilter(constants.model_copy(update={"network": ()}), PolicyConfig())
    before = silent.posterior()
    silent.update(None, NetworkSignals(OperatingPoint(0.0, 1.0), confidence=0.1, disagrees=True), elapsed_s=0.0)
    assert silent.posterior() == pytest.approx(before)


def test_constants_survive_json_and_refuse_another_version(constants: EstimatorConstants) -> None:
    assert EstimatorConstants.model_validate_json(constants.model_dump_json()) == constants
    plain = constants.model_dump(mode="json")
    with pytest.raises(ValidationError, match="constants of another version"):
        EstimatorConstants.model_validate({**plain, "statistics": ["sharpness"]})
    with pytest.raises(ValidationError, match="no kind of image for"):
        EstimatorConstants.model_validate({**plain, "kinds": [plain["kinds"][0]]})
    with pytest.raises(ValidationError, match="of all 12 statistics or of none, got 1"):
        EstimatorConstants.model_validate({**plain, "ranks": [[0.0, 1.0]]})
    with pytest.raises(ValidationError, match="two ascending values or more"):
        EstimatorConstants.model_validate({**plain, "ranks": [[0.0, 0.0]] * 12})


def test_fitted_constants_tell_noise_from_haze_on_newscenes(scenes: Scenes, corrupt_scene: Corrupt) -> None:
    regimes = {"noise": Regime.HIGH_FREQUENCY, "haze": Regime.LOW_FREQUENCY}
    fitted = _fit(scenes(120, seed=0), corrupt_scene, regimes)
    rng = np.random.default_rng(7)
    for name, regime in {**regimes, "": Regime.CLEAN}.items():
        belief = RegimeFilter(fitted, PolicyConfig())
        for image in scenes(15, seed=99):
            shown = corrupt_scene(image, name, 4, rng=rng) if name else image
            x_CHW = np.ascontiguousarray(shown.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
            belief.update(image_statistics(x_CHW), None, elapsed_s=FRAME_S)
        assert _top(belief) is regime, name


def test_scores_are_normal_on_what_they_were_fitted_on_and_keep_its_order(
    scenes: Scenes, corrupt_scene: Corrupt
) -> None:
    """Even where a statistic piles up, as one that is constant does; and nothing is ever farther out than the bound."""
    images = scenes(150, seed=0)
    images[:40] = 128
    regimes = {"noise": Regime.HIGH_FREQUENCY, "haze": Regime.LOW_FREQUENCY}
    fitted = _fit(images, corrupt_scene, regimes)
    normal, stats_NS = NormalScores(fitted.ranks), statistics_of(images)
    scores_NS = normal(stats_NS)
    varied_NS = scores_NS[40:]
    for own_N, scored_N in zip(stats_NS[40:].T, varied_NS.T, strict=True):
        order = np.argsort(own_N, kind="stable")
        assert np.all(np.diff(scored_N[order]) >= 0)
    assert np.all(np.abs(np.median(scores_NS, axis=0)) < 0.7)
    far_NS = normal(np.stack([stats_NS.min(axis=0) - 1e6, stats_NS.max(axis=0) + 1e6]))
    assert np.all(np.isfinite(far_NS))
    assert np.all(np.abs(far_NS) < 20)
    assert np.all(far_NS[0] < scores_NS.min(axis=0))
    assert np.all(far_NS[1] > scores_NS.max(axis=0))


def test_normal_statistics_are_their_own_scores(constants: EstimatorConstants) -> None:
    """With the ranks of a standard normal the filter believes exactly what it does without."""
    at_Q = tuple(NormalDist().inv_cdf((rank + 0.5) / 33) for rank in range(33))
    frames = np.random.default_rng(0).normal(0, 1.5, (40, 12))
    plain, ranked = (
        RegimeFilter(constants.model_copy(update={"ranks": ranks}), PolicyConfig()) for ranks in ((), (at_Q,) * 12)
    )
    for frame_S in frames:
        for belief in (plain, ranked):
            belief.update(ImageStatistics(*frame_S.tolist()), None, elapsed_s=FRAME_S)
    assert ranked.posterior() == pytest.approx(plain.posterior())


def test_one_more_kind_lies_amid_the_weather(scenes: Scenes, corrupt_scene: Corrupt) -> None:
    regimes = {"noise": Regime.HIGH_FREQUENCY, "haze": Regime.LOW_FREQUENCY, "mist": Regime.LOW_FREQUENCY}
    fitted = _fit(scenes(120, seed=0), corrupt_scene, regimes)
    by_name = {kind.name: kind for kind in fitted.kinds}
    middle = by_name["low_frequency-medium"]
    assert middle.regime is Regime.LOW_FREQUENCY
    ends = np.array([by_name["haze-medium"].mean, by_name["mist-medium"].mean])
    assert middle.mean == pytest.approx(ends.mean(axis=0), abs=1e-4)


def test_fit_refuses_too_few_images(scenes: Scenes, corrupt_scene: Corrupt) -> None:
    with pytest.raises(InputError, match="N >= 100"):
        _fit(scenes(5, seed=0), corrupt_scene, {})


def test_rates_are_never_certain() -> None:
    none = {regime: np.zeros(8, bool) for regime in Regime}
    sure = {regime: np.ones(8) for regime in Regime}
    rates = network_rates(0.4, confidence=sure, disagrees=none)
    assert set(rates.disagreement.values()) == {0.1}
    assert set(rates.low_confidence.values()) == {0.1}


class _BrightnessNetwork:
    """Two classes by brightness; λ moves the threshold, and an attack moves the image just across it."""

    def probabilities(self, lam: float, images_NHWC: np.ndarray) -> np.ndarray:
        bright_N = images_NHWC.mean(axis=(1, 2, 3)) > 100 + 20 * lam
        return np.where(np.stack([~bright_N, bright_N], axis=1), 0.9, 0.1).astype(np.float32)

    def attacked(self, lam: float, images_NHWC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        return np.full_like(images_NHWC, int(101 + 20 * lam))


def test_measured_rates_count_disagreement_with_the_opposite_lambda(scenes: Scenes, corrupt_scene: Corrupt) -> None:
    images = scenes(40, seed=0)
    rates, spread, attacked = measure_rates(
        _BrightnessNetwork(),
        lambdas=(0.0, 0.4, 1.0),
        images_NHWC=images,
        labels_N=np.zeros(40, np.int64),
        corrupt=corrupt_scene,
        regimes={"noise": Regime.HIGH_FREQUENCY, "haze": Regime.LOW_FREQUENCY},
        rng=np.random.default_rng(0),
    )
    assert [rate.lam for rate in rates] == [0.0, 0.4, 1.0]
    means = images.mean(axis=(1, 2, 3))
    between = int(((means > 100) & (means <= 120)).sum())
    assert rates[0].disagreement[Regime.CLEAN] == rates[2].disagreement[Regime.CLEAN] == (between + 1) / 42
    assert rates[0].disagreement[Regime.ADVERSARIAL] == 41 / 42
    assert rates[2].low_confidence[Regime.CLEAN] == 1 / 42
    assert sorted(attacked) == ["attack-at-0", "attack-at-1"]
    assert spread[Regime.ADVERSARIAL] == pytest.approx((40 * 0 + 1) / 39), "all are wrong or right together"
    assert spread[Regime.CLEAN] > spread[Regime.ADVERSARIAL]


def test_spread_is_the_noise_of_a_lead() -> None:
    """Chance alone gives a table of N images leads whose squares sum up to spread / N."""
    rng = np.random.default_rng(0)

    def answers(num: int) -> np.ndarray:
        """Six λ that are correct equally often, mostly on the same images."""
        return np.where(rng.random((6, num)) < 0.8, rng.random(num) < 0.9, rng.random((6, num)) < 0.9)

    leads = [answers(500).mean(axis=1) for _ in range(300)]
    chance = np.mean([((lead - lead.mean()) ** 2).sum() for lead in leads])
    assert spread_of(answers(5000)) / 500 == pytest.approx(chance, rel=0.15)
    assert spread_of(np.ones((6, 100), bool)) == 1 / 99, "never 0"
