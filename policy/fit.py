"""Fits the estimator's constants: a density for each kind of image, and rates of the network they ship with.

`python -m policy.fit BUNDLE --images validation.npz` writes `estimator.json`.

Shape legend: N images, H height, W width, C channels (RGB), K classes, S statistics.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oat_runtime.bundle import Bundle, attach_file
from oat_runtime.data import read_labelled_npz
from oat_runtime.errors import OATError
from oat_runtime.fold import fold
from oat_runtime.model import OATNet
from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.stress.attacks import pgd_linf
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS, corrupt
from policy.estimator import EstimatorConstants
from policy.kinds import Images, fit_estimator
from policy.rates import measure_rates

_ATTACK_BATCH = 250


def fit_network(
    model: OATNet,
    *,
    width: float,
    temperature: Callable[[float], float],
    attack: AttackSpec,
    images_NHWC: Images,
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
    """An OATNet at one width, folded as it is deployed, in NumPy terms; in batches, so that memory stays small."""

    def __init__(
        self, model: OATNet, *, width: float, temperature: Callable[[float], float], attack: AttackSpec, seed: int
    ) -> None:
        self._nets = {lam: fold(model, lam=lam, width=width) for lam in model.config.lambdas}
        self._temperature, self._attack, self._seed = temperature, attack, seed

    def probabilities(self, lam: float, images_NHWC: Images) -> NDArray[np.float32]:
        x_NCHW = _planes(images_NHWC)
        with torch.no_grad():
            logits_NK = torch.cat([self._nets[lam](x_NCHW[part]) for part in _parts(len(x_NCHW))])
        probabilities_NK: NDArray[np.float32] = (logits_NK / self._temperature(lam)).softmax(dim=1).numpy()
        return probabilities_NK

    def attacked(self, lam: float, images_NHWC: Images, labels_N: NDArray[np.int64]) -> Images:
        generator = torch.Generator().manual_seed(self._seed)
        x_NCHW, y_N = _planes(images_NHWC), torch.from_numpy(labels_N)
        adversarial_NCHW = torch.cat(
            [
                pgd_linf(
                    self._nets[lam],
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
        adversarial_NHWC: Images = (adversarial_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return np.ascontiguousarray(adversarial_NHWC)


def _planes(images_NHWC: Images) -> Tensor:
    """What the network sees of these images: float32 NCHW in [0, 1]."""
    planes_NCHW = np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))
    return torch.from_numpy(planes_NCHW.astype(np.float32) / np.float32(255))


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _ATTACK_BATCH) for start in range(0, count, _ATTACK_BATCH)]


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
    parser.add_argument("--count", type=int, default=1000, help="how many of them to use (default: %(default)s)")
    parser.add_argument("--num-steps", type=int, default=10, help="steps of the PGD attack (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        bundle = Bundle.load(options.bundle)
        data = read_labelled_npz(options.images, limit=options.count)
        width = bundle.select.widths[-1]
        constants = fit_network(
            bundle.model(),
            width=width,
            temperature=lambda lam: bundle.temperature(OperatingPoint(lam, width)),
            attack=bundle.select.attack.model_copy(update={"num_steps": options.num_steps}),
            images_NHWC=data.images_NHWC,
            labels_N=data.labels_N,
            seed=options.seed,
            fitted_on=f"{len(data)} images of {options.images.name}, seed {options.seed}",
        )
        attach_file(bundle, "estimator.json", (constants.model_dump_json() + "\n").encode())
    except OATError as error:
        print(f"policy.fit: {error}", file=sys.stderr)
        return 2
    summary = {"name": "policy.fit", "num_images": len(data), "num_kinds": len(constants.kinds)}
    print(json.dumps(summary | {"rates": [rates.model_dump(mode="json") for rates in constants.network]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
