"""Fits the estimator's constants: a Gaussian for each kind of image, and rates of the network they ship with.

`python -m policy.fit BUNDLE --images validation.npz` writes `estimator.json`.

Shape legend: N images, H height, W width, C channels (RGB), K classes, S statistics.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oat_runtime.bundle import Bundle, attach_file
from oat_runtime.errors import DataError, InputError, OATError
from oat_runtime.layers import LambdaBatch
from oat_runtime.model import OATNet, frozen
from oat_runtime.operating_point import AttackSpec, OperatingPoint, Regime
from oat_runtime.stress.attacks import pgd_linf
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS, corrupt
from policy.estimator import PRIOR, EstimatorConstants, ImageKind, NetworkRates
from policy.image import ImageStatistics, image_statistics
from policy.rates import Corrupt, measure_rates

_Images = NDArray[np.uint8]
_SEVERITIES = {"mild": (1, 2), "medium": (3,), "strong": (4, 5)}
_SHRINKAGE = 0.3
"""Share of the pooled covariance in each kind's own, for kinds that were not fitted."""
_MIN_IMAGES = 100
_OUTLIER_QUANTILE = 0.001
_OUTLIER_SLACK_NATS = 10.0
"""How far under that quantile an image must lie before it counts as unlike everything fitted."""
_ATTACK_BATCH = 250


def fit_network(
    model: OATNet,
    *,
    width: float,
    temperature: Callable[[float], float],
    attack: AttackSpec,
    images_NHWC: _Images,
    labels_N: NDArray[np.int64],
    seed: int,
    fitted_on: str = "",
) -> EstimatorConstants:
    """Fit everything for one network: image kinds, attacked images of both ends of λ, and rates at every λ.

    Args:
        model: the network; left as it was.
        width: width at which it is measured.
        temperature: calibration temperature at a λ.
        attack: white-box PGD; `num_steps` may well be 10 here.
        images_NHWC: uint8 RGB validation images at the network's input size, at least 100.
        labels_N: their classes.
        seed: of corruptions and attack.
        fitted_on: provenance, for people.
    """
    rng = np.random.default_rng(seed)
    regimes = {name: CORRUPTIONS[name].regime for name in FITTING_KINDS}
    network = _CalibratedNetwork(model, width=width, temperature=temperature, attack=attack, seed=seed)
    with frozen(model):
        rates, attacked = measure_rates(
            network,
            lambdas=model.config.lambdas,
            images_NHWC=images_NHWC,
            labels_N=labels_N,
            corrupt=corrupt,
            regimes=regimes,
            rng=rng,
        )
    return fit_estimator(
        images_NHWC,
        corrupt=corrupt,
        regimes=regimes,
        attacked=attacked,
        network=rates,
        rng=rng,
        fitted_on=fitted_on,
    )


class _CalibratedNetwork:
    """An OATNet at one width, in NumPy terms; in batches, so that memory stays small."""

    def __init__(
        self, model: OATNet, *, width: float, temperature: Callable[[float], float], attack: AttackSpec, seed: int
    ) -> None:
        self._model, self._width, self._temperature, self._attack, self._seed = model, width, temperature, attack, seed

    def probabilities(self, lam: float, images_NHWC: _Images) -> NDArray[np.float32]:
        x_NCHW = _planes(images_NHWC)
        with torch.no_grad():
            logits_NK = torch.cat([self._logits(lam, x_NCHW[part]) for part in _parts(len(x_NCHW))])
        probabilities_NK: NDArray[np.float32] = (logits_NK / self._temperature(lam)).softmax(dim=1).numpy()
        return probabilities_NK

    def attacked(self, lam: float, images_NHWC: _Images, labels_N: NDArray[np.int64]) -> _Images:
        generator = torch.Generator().manual_seed(self._seed)
        x_NCHW, y_N = _planes(images_NHWC), torch.from_numpy(labels_N)
        adversarial_NCHW = torch.cat(
            [
                pgd_linf(
                    lambda images: self._logits(lam, images),
                    x_NCHW[part],
                    y_N[part],
                    epsilon=self._attack.epsilon,
                    step_size=self._attack.step_size,
                    num_steps=self._attack.num_steps,
                    generator=generator,
                )
                for part in _parts(len(x_NCHW))
            ]
        )
        adversarial_NHWC: _Images = (adversarial_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return np.ascontiguousarray(adversarial_NHWC)

    def _logits(self, lam: float, x_NCHW: Tensor) -> Tensor:
        batch = LambdaBatch.constant(lam, len(x_NCHW), self._model.config.lambdas)
        logits_NK: Tensor = self._model(x_NCHW, batch, width=self._width)
        return logits_NK.float()


def fit_estimator(
    images_NHWC: _Images,
    *,
    corrupt: Corrupt,
    regimes: Mapping[str, Regime],
    attacked: Mapping[str, _Images] | None = None,
    network: tuple[NetworkRates, ...] = (),
    rng: np.random.Generator,
    fitted_on: str = "",
) -> EstimatorConstants:
    """Fit on clean images, each corruption kind at three strengths, and attacked images where there are some.

    Args:
        images_NHWC: uint8 RGB, clean, at the network's input size; at least 100, never test images.
        corrupt: makes a corrupted copy.
        regimes: the kinds to fit and their regimes (the fitting half only).
        attacked: sets of attacked uint8 images by name. An attack may also leave no trace in the statistics, so one
            adversarial kind always looks like clean images; it is told apart by the network's own signals only.
        network: rates from `policy.rates.measure_rates`, one for each λ.
        rng: draws the corruptions.
        fitted_on: provenance, for people.

    Raises:
        InputError: too few images, or not uint8 RGB.
    """
    clean = _statistics(images_NHWC)
    groups: list[tuple[str, Regime, NDArray[np.float64]]] = [
        ("clean", Regime.CLEAN, clean),
        ("attack-without-trace", Regime.ADVERSARIAL, clean),
    ]
    for name, images in (attacked or {}).items():
        groups.append((name, Regime.ADVERSARIAL, _statistics(images)))
    for name, regime in regimes.items():
        for strength, severities in _SEVERITIES.items():
            drawn = rng.choice(severities, size=len(images_NHWC))
            images = np.stack(
                [
                    corrupt(image, name, int(severity), rng=rng)
                    for image, severity in zip(images_NHWC, drawn, strict=True)
                ]
            )
            groups.append((f"{name}-{strength}", regime, _statistics(images)))
    covariances = [np.cov(stats_NS.T) for _, _, stats_NS in groups]
    pooled = np.mean(covariances, axis=0)
    kinds = tuple(
        ImageKind(
            name=name,
            regime=regime,
            mean=_rounded(stats_NS.mean(axis=0)),
            whitening=_rounded(_whitening((1 - _SHRINKAGE) * covariance + _SHRINKAGE * pooled)),
        )
        for (name, regime, stats_NS), covariance in zip(groups, covariances, strict=True)
    )
    lowest = float(np.quantile(_best_log_density(clean, kinds), _OUTLIER_QUANTILE))
    return EstimatorConstants(
        statistics=ImageStatistics._fields,
        kinds=kinds,
        outlier_log_density=lowest - _OUTLIER_SLACK_NATS,
        prior=PRIOR,
        network=network,
        fitted_on=fitted_on,
    )


def _statistics(images_NHWC: _Images) -> NDArray[np.float64]:
    if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or len(images_NHWC) < _MIN_IMAGES:
        raise InputError(
            f"expected uint8 RGB images (N, H, W, 3) with N >= {_MIN_IMAGES}, "
            f"got {images_NHWC.dtype} {images_NHWC.shape}"
        )
    return np.array([image_statistics(x_CHW) for x_CHW in _planes(images_NHWC).numpy()])


def _planes(images_NHWC: _Images) -> Tensor:
    """What the network sees of these images: float32 NCHW in [0, 1]."""
    planes_NCHW = np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))
    return torch.from_numpy(planes_NCHW.astype(np.float32) / np.float32(255))


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _ATTACK_BATCH) for start in range(0, count, _ATTACK_BATCH)]


def _whitening(covariance_SS: NDArray[np.float64]) -> NDArray[np.float64]:
    lower_SS = np.linalg.inv(np.linalg.cholesky(covariance_SS + 1e-9 * np.eye(len(covariance_SS))))
    triangle: NDArray[np.float64] = lower_SS[np.tril_indices(len(covariance_SS))]
    return triangle


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Six significant digits are plenty, and keep the file small."""
    return tuple(float(f"{value:.6g}") for value in values)


def _best_log_density(stats_NS: NDArray[np.float64], kinds: tuple[ImageKind, ...]) -> NDArray[np.float64]:
    densities = []
    for kind in kinds:
        whitening_SS = kind.whitening_SS()
        white_NS = (stats_NS - np.array(kind.mean)) @ whitening_SS.T
        densities.append(np.log(np.diag(whitening_SS)).sum() - 0.5 * (white_NS**2).sum(axis=1))
    best: NDArray[np.float64] = np.max(densities, axis=0)
    return best


def main(argv: list[str] | None = None) -> int:
    """Command line: fit, and put `estimator.json` into the bundle."""
    parser = argparse.ArgumentParser(prog="python -m policy.fit", description="Fit the estimator of a bundle.")
    parser.add_argument("bundle", type=Path, help="bundle folder; estimator.json is added to it")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="validation images (.npz): uint8 RGB `images` (N, H, W, 3) at the network's input size, `labels` (N,)",
    )
    parser.add_argument("--count", type=int, default=500, help="how many of them to use (default: %(default)s)")
    parser.add_argument("--num-steps", type=int, default=10, help="steps of the PGD attack (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        bundle = Bundle.load(options.bundle)
        images_NHWC, labels_N = _read_images(options.images, options.count)
        width = bundle.select.widths[-1]
        constants = fit_network(
            bundle.model(),
            width=width,
            temperature=lambda lam: bundle.temperature(OperatingPoint(lam, width)),
            attack=bundle.select.attack.model_copy(update={"num_steps": options.num_steps}),
            images_NHWC=images_NHWC,
            labels_N=labels_N,
            seed=options.seed,
            fitted_on=f"{len(images_NHWC)} images of {options.images.name}, seed {options.seed}",
        )
        attach_file(bundle, "estimator.json", (constants.model_dump_json() + "\n").encode())
    except OATError as error:
        print(f"policy.fit: {error}", file=sys.stderr)
        return 2
    summary = {"name": "policy.fit", "num_images": len(images_NHWC), "num_kinds": len(constants.kinds)}
    print(json.dumps(summary | {"rates": [rates.model_dump(mode="json") for rates in constants.network]}))
    return 0


def _read_images(path: Path, count: int) -> tuple[_Images, NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            images_NHWC, labels_N = archive["images"][:count], archive["labels"][:count].astype(np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"expected an .npz with `images` and `labels` at {path}: {error}") from error
    return images_NHWC, labels_N


if __name__ == "__main__":
    sys.exit(main())
