"""Fit the estimator's constants: a density for each kind of image, and the rates of the network they ship with.

`python -m policy.fit BUNDLE --images validation.npz` writes `estimator.json`.

Shape legend: N images, H height, W width, C channels (RGB), K classes, S statistics.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from oat_runtime.architecture import ModelConfig
from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import attach_file
from oat_runtime.commands import Parser, a_count, a_path, a_seed, command
from oat_runtime.data import read_labelled_npz
from oat_runtime.extras import require
from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.plain_net import Tensors
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS, corrupt
from policy.estimator import EstimatorConstants
from policy.image import Images
from policy.kinds import fit_estimator
from policy.rates import measure_rates


def fit_network(
    tensors: Tensors,
    config: ModelConfig,
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
        tensors: the weights.
        config: their architecture.
        width: width at which it is measured.
        temperature: calibration temperature at a λ.
        attack: white-box PGD; 10 steps are enough here.
        images_NHWC: uint8 RGB validation images at the network's input size, at least 100.
        labels_N: their classes.
        seed: of corruptions and attack.
        fitted_on: provenance, for people.
    """
    from policy.attackable import AttackableNetwork  # needs torch

    rng = np.random.default_rng(seed)
    regimes = {name: CORRUPTIONS[name].regime for name in FITTING_KINDS}
    network = AttackableNetwork(tensors, config, width=width, temperature=temperature, attack=attack, seed=seed)
    rates, attacked = measure_rates(
        network,
        lambdas=config.lambdas,
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


@command("policy.fit")
def main(argv: list[str] | None = None) -> int:
    """Run from the command line: fit, and put `estimator.json` into the bundle."""
    parser = Parser(prog="python -m policy.fit", description="Fit the estimator of a bundle.")
    parser.add_argument("bundle", type=a_path, help="bundle folder; estimator.json is added to it")
    parser.add_argument(
        "--images",
        type=a_path,
        required=True,
        help="validation images (.npz): uint8 RGB `images` (N, H, W, 3) at the network's input size, `labels` (N,)",
    )
    parser.add_argument("--count", type=a_count, default=1000, help="how many of them to use (default: %(default)s)")
    parser.add_argument("--num-steps", type=a_count, default=10, help="steps of the PGD attack (default: %(default)s)")
    parser.add_argument("--seed", type=a_seed, default=0)
    options = parser.parse_args(argv)
    require("torch", extra="torch", by="policy.fit")
    bundle = Bundle.load(options.bundle)
    data = read_labelled_npz(options.images, limit=options.count)
    width = bundle.select.widths[-1]
    constants = fit_network(
        bundle.tensors(),
        bundle.manifest.model,
        width=width,
        temperature=lambda lam: bundle.temperature(OperatingPoint(lam, width)),
        attack=bundle.select.attack.model_copy(update={"num_steps": options.num_steps}),
        images_NHWC=data.images_NHWC[:],
        labels_N=data.labels_N,
        seed=options.seed,
        fitted_on=f"{len(data)} images of {options.images.name}, seed {options.seed}",
    )
    attach_file(bundle, "estimator.json", (constants.model_dump_json() + "\n").encode())
    summary = {"name": "policy.fit", "num_images": len(data), "num_kinds": len(constants.kinds)}
    print(json.dumps(summary | {"rates": [rates.model_dump(mode="json") for rates in constants.network]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
