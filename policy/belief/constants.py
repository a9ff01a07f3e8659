"""The constants of the estimator, as a bundle ships them: densities of image statistics, and rates of the network."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from oat_runtime.compat import Self
from oat_runtime.errors import ConfigError, DataError, one_line
from oat_runtime.files import read_model, reason_of
from oat_runtime.operating_point import MEASURED_REGIMES, Regime, StrictModel
from policy.belief.ranks import Ranks
from policy.image import ImageStatistics

if TYPE_CHECKING:
    from oat_runtime.bundle import Bundle

_LOG = logging.getLogger(__name__)
_Vector = NDArray[np.float64]
NUM_STATISTICS = len(ImageStatistics._fields)
LOW_CONFIDENCE = 0.5
"""Calibrated confidence below which the network is unsure."""
DRIFT_GAIN = 0.2
"""Weight of the newest frame in the running mean of drift."""
DRIFT_NOISE = NUM_STATISTICS * DRIFT_GAIN / (2.0 - DRIFT_GAIN)
"""Expected squared length of the running mean of independent clean frames, whitened."""
STRENGTHS = {"mild": (1, 2), "medium": (3,), "strong": (4, 5)}
"""Severities of a corruption that make up one kind of image, with a name like `fog-mild`."""
PRIOR = {
    Regime.CLEAN: 0.5,
    Regime.HIGH_FREQUENCY: 0.22,
    Regime.LOW_FREQUENCY: 0.22,
    Regime.ADVERSARIAL: 0.04,
    Regime.UNKNOWN: 0.02,
}
"""Belief before any frame. Forgetting moves the belief back to it. After a few frames it hardly matters."""


class ImageKind(StrictModel):
    """Gaussian over the statistics of one kind of image."""

    name: str
    regime: Regime
    mean: tuple[float, ...] = Field(min_length=NUM_STATISTICS, max_length=NUM_STATISTICS)
    whitening: tuple[float, ...] = Field(min_length=NUM_STATISTICS * (NUM_STATISTICS + 1) // 2)
    """Lower triangle, row by row, of the W with W·(s − mean) ~ N(0, I)."""

    @model_validator(mode="after")
    def _is_a_density(self) -> Self:
        if self.regime is Regime.UNKNOWN:
            raise ValueError(f"{self.name}: a kind of image belongs to a measurable regime, not to 'unknown'")
        if len(self.whitening) != NUM_STATISTICS * (NUM_STATISTICS + 1) // 2:
            raise ValueError(f"{self.name}: whitening must be a lower triangle of {NUM_STATISTICS} rows")
        if not np.all(np.diag(self.whitening_SS()) > 0):
            raise ValueError(f"{self.name}: the diagonal of whitening must be positive")
        return self

    @property
    def severities(self) -> tuple[int, ...]:
        """Severities of its corruption; empty if it is not a corruption."""
        return STRENGTHS.get(self.name.rpartition("-")[2], ())

    def whitening_SS(self) -> _Vector:
        """The whitening as a square matrix."""
        square = np.zeros((NUM_STATISTICS, NUM_STATISTICS))
        square[np.tril_indices(NUM_STATISTICS)] = self.whitening
        return square


class NetworkRates(StrictModel):
    """How often the network at one λ has low confidence, and disagrees with the opposite λ, in each regime."""

    lam: float = Field(ge=0, le=1)
    low_confidence: dict[Regime, float]
    """Share of frames with calibrated confidence under `EstimatorConstants.low_confidence_below`."""
    disagreement: dict[Regime, float]
    """Share of frames on which the probed opposite λ gives another label."""

    @model_validator(mode="after")
    def _rates_are_open(self) -> Self:
        for rates in (self.low_confidence, self.disagreement):
            if set(rates) != set(MEASURED_REGIMES) or not all(0 < rate < 1 for rate in rates.values()):
                raise ValueError(f"λ={self.lam:g}: expected one rate in (0, 1) for each measurable regime, got {rates}")
        return self


class FittedFor(StrictModel):
    """The network that constants belong to."""

    bundle: str
    """Name of its bundle, for people."""
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """`Bundle.weights_sha256`; the bundle's own hash changes when an estimator or int8 is attached."""

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Name a bundle's network."""
        return cls(bundle=bundle.manifest.name, weights_sha256=bundle.weights_sha256)

    def __str__(self) -> str:
        return f"{one_line(self.bundle)} (weights {self.weights_sha256[:12]})"


class EstimatorConstants(StrictModel):
    """All that `policy.fit` fits, as a bundle ships it (`estimator.json`)."""

    schema_version: int = Field(default=1, ge=1, le=1)
    statistics: tuple[str, ...]
    """Names of the statistics in order; refused if they differ from this version's."""
    kinds: tuple[ImageKind, ...] = Field(min_length=1)
    ranks: tuple[Ranks, ...] = ()
    """Ranks of each statistic; densities are over its normal scores. Empty: over the statistics themselves."""
    outlier_log_density: float
    """Gaussian log density below which an image is unlike anything fitted."""
    drift_noise: float = Field(default=DRIFT_NOISE, gt=0)
    """Squared length of the running mean of whitened clean frames; only what exceeds it is drift. It is larger for a
    camera that lingers on a scene than for independent images, and `oat-calibrate` measures it."""
    prior: dict[Regime, float]
    network: tuple[NetworkRates, ...] = ()
    """Empty: the network's own signals are not used as evidence."""
    low_confidence_below: float = Field(default=LOW_CONFIDENCE, gt=0, lt=1)
    spread: dict[Regime, float] = Field(default_factory=dict)
    """How much the values of λ differ on one image: the sum over λ of the variance, from image to image, of being
    correct at this λ, less the mean over all λ. So it tells how much of a λ's lead in the table is chance. Empty: all
    leads count in full."""
    reference: tuple[tuple[float, ...], ...] = ()
    """Normal scores of clean frames, by which the alarm prices its bets. Empty: it follows the belief."""
    drives: tuple[float, ...] = ()
    """Largest evidence that each drive of the calibration gave the alarm, judged by constants that did not see it: its
    log, in seconds; ascending. Empty: the calibration knows no drives, and the alarm trusts single frames."""
    independence: float = Field(default=1.0, gt=0, le=1)
    """Share of a frame's evidence that is new after the frames before it: 1 for independent images."""
    fitted_on: str = ""
    fitted_for: FittedFor | None = None
    """None: constants of an earlier version, or within a bundle, whose manifest binds them to its network."""

    @model_validator(mode="after")
    def _fits_this_version(self) -> Self:
        if self.statistics != ImageStatistics._fields:
            raise ValueError(f"constants of another version: expected {ImageStatistics._fields}, got {self.statistics}")
        if len(self.ranks) not in (0, NUM_STATISTICS):
            raise ValueError(f"ranks must be of all {NUM_STATISTICS} statistics or of none, got {len(self.ranks)}")
        if len({len(values) for values in self.ranks}) > 1:
            raise ValueError("ranks of all statistics must be equally many")
        if any(len(scores) != NUM_STATISTICS for scores in self.reference):
            raise ValueError(f"reference must hold {NUM_STATISTICS} scores for each frame")
        if list(self.drives) != sorted(self.drives):
            raise ValueError("drives must ascend")
        missing = set(MEASURED_REGIMES) - {kind.regime for kind in self.kinds}
        if missing:
            raise ValueError(f"no kind of image for {sorted(missing)}: fit at least one for each measurable regime")
        if self.spread and (set(self.spread) != set(MEASURED_REGIMES) or min(self.spread.values()) <= 0):
            raise ValueError(f"spread must be positive for each measurable regime, or empty, got {self.spread}")
        if set(self.prior) != set(Regime) or not all(p > 0 for p in self.prior.values()):
            raise ValueError(f"prior must be positive for each regime, got {self.prior}")
        return self


def constants_of(document: object, *, where: str | os.PathLike[str]) -> EstimatorConstants:
    """Return the constants that a bundle's `estimator.json` holds.

    Args:
        document: what the file says, as plain values.
        where: the bundle's folder, for the error.

    Raises:
        DataError: they are of another version, or damaged.
    """
    try:
        return EstimatorConstants.model_validate(document)
    except ValidationError as error:
        raise DataError(
            f"{one_line(where)}: estimator.json cannot be read ({reason_of(error)}): run `python -m policy.fit` again"
        ) from None


def read_estimator(file: str | os.PathLike[str], *, network: FittedFor | None) -> EstimatorConstants:
    """Read a file that `oat-calibrate` wrote, and warn where it cannot be told whether it belongs to the network.

    Args:
        file: the file.
        network: the one in use; None: it is not known.

    Raises:
        ConfigError: the file is missing, is no estimator of this version, or was fitted for another network.
    """
    what = "an estimator of this version, a file that oat-calibrate wrote"
    constants = read_model(EstimatorConstants, file, what=what, remedy="run oat-calibrate")
    given = constants.fitted_for
    if given is None or network is None:
        silent, remedy = ("the recording", "name its bundle (--bundle)")
        if given is None:
            silent, remedy = "the file", "run oat-calibrate again"
        _LOG.warning(
            "the estimator %s may be of another network, since %s names none: %s if in doubt",
            one_line(file), silent, remedy,
        )  # fmt: skip
    elif given.weights_sha256 != network.weights_sha256:
        raise ConfigError(
            f"the estimator {one_line(file)} was fitted for another network: expected {network}, got {given}: run "
            f"oat-calibrate on {one_line(network.bundle)}"
        )
    return constants
