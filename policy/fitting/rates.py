"""Measure how often a network has low confidence, and disagrees with itself at the opposite λ, in each regime.

Shape legend: N images, H height, W width, C channels (RGB), K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oat_runtime.operating_point import MEASURED_REGIMES, Regime
from oat_runtime.report import progress
from policy.belief.constants import LOW_CONFIDENCE, NetworkRates
from policy.signals import opposite

if TYPE_CHECKING:  # loads torch
    from policy.fitting.attackable import AttackableNetwork

_Images = NDArray[np.uint8]
_STRONG = 4
"""Severity at which a corruption is measured; weaker ones look more like clean images."""


class Corrupt(Protocol):
    """Signature of `oat_runtime.stress.corruptions.corrupt`."""

    def __call__(self, image_HWC: _Images, name: str, severity: int, *, rng: np.random.Generator) -> _Images:
        """Return a corrupted copy of the same shape; severity is 1..5."""


def measure_rates(
    network: AttackableNetwork,
    *,
    lambdas: tuple[float, ...],
    images_NHWC: _Images,
    labels_N: NDArray[np.int64],
    corrupt: Corrupt,
    regimes: Mapping[str, Regime],
    rng: np.random.Generator,
) -> tuple[tuple[NetworkRates, ...], dict[Regime, float], dict[str, _Images]]:
    """Return the rates at every λ, the `spread` of λ, and the attacked images of the least and greatest λ.

    Args:
        network: the network to measure.
        lambdas: trained λ, ascending.
        images_NHWC: uint8 RGB at the network's input size, never test images.
        labels_N: their classes; the attack needs them.
        corrupt: makes a corrupted copy.
        regimes: corruption kinds and their regimes; the images of a regime are dealt out to its kinds in turn.
        rng: draws the corruptions.
    """
    shown = {Regime.CLEAN: images_NHWC}
    for regime in (Regime.HIGH_FREQUENCY, Regime.LOW_FREQUENCY):
        kinds = [name for name, of in regimes.items() if of is regime]
        shown[regime] = np.stack(
            [corrupt(image, kinds[i % len(kinds)], _STRONG, rng=rng) for i, image in enumerate(images_NHWC)]
        )
    attacked, rates = {}, []
    correct: dict[Regime, list[NDArray[np.bool_]]] = {regime: [] for regime in MEASURED_REGIMES}
    for lam in progress(lambdas, "the network, a λ at a time"):
        shown[Regime.ADVERSARIAL] = network.attacked(lam, images_NHWC, labels_N)
        if lam in (lambdas[0], lambdas[-1]):
            attacked[f"attack-at-{lam:g}"] = shown[Regime.ADVERSARIAL]
        own = {regime: network.probabilities(lam, images) for regime, images in shown.items()}
        for regime, values in own.items():
            correct[regime].append(values.argmax(axis=1) == labels_N)
        probed = {
            regime: network.probabilities(opposite(lam, lambdas), images).argmax(axis=1)
            for regime, images in shown.items()
        }
        rates.append(
            network_rates(
                lam,
                confidence={regime: values.max(axis=1) for regime, values in own.items()},
                disagrees={regime: values.argmax(axis=1) != probed[regime] for regime, values in own.items()},
            )
        )
    return tuple(rates), {regime: spread_of(np.stack(correct_LN)) for regime, correct_LN in correct.items()}, attacked


def spread_of(correct_LN: NDArray[np.bool_]) -> float:
    """Return how much the values of λ differ on one image (`EstimatorConstants.spread`), from what each got right.

    One image more is counted on which they differ, so that it is never 0.
    """
    lead_LN: NDArray[np.float64] = correct_LN - correct_LN.mean(axis=0)
    apart_LN = lead_LN - lead_LN.mean(axis=1, keepdims=True)
    total = float((apart_LN**2).sum()) + 1
    return total / (len(correct_LN.T) - 1)


def network_rates(
    lam: float, *, confidence: Mapping[Regime, NDArray[Any]], disagrees: Mapping[Regime, NDArray[Any]]
) -> NetworkRates:
    """Return the rates of one λ, from calibrated confidences (float, N) and disagreements with the probe (bool, N).

    Rates are (hits + 1) / (N + 2), so that none is ever 0 or 1 (Laplace's rule of succession).
    """

    def rate(hits: NDArray[Any]) -> float:
        return (int(np.count_nonzero(hits)) + 1) / (len(hits) + 2)

    return NetworkRates(
        lam=lam,
        low_confidence={regime: rate(confidence[regime] < LOW_CONFIDENCE) for regime in MEASURED_REGIMES},
        disagreement={regime: rate(disagrees[regime]) for regime in MEASURED_REGIMES},
    )
