"""Fit the estimator's constants: a density for each kind of image, and the rates of the network they ship with.

`python -m policy.fit BUNDLE --images validation.npz` writes `estimator.json`.

Shape legend: N images, H height, W width, C channels (RGB), K classes, S statistics.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oat_runtime.architecture import ModelConfig
from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import attach_file, check_changeable
from oat_runtime.commands import Parser, a_count, a_path, a_seed, command
from oat_runtime.data import LEAST_TO_FIT, ImageSet, Skipped, check_fingerprint, load_frames, read_labelled_npz
from oat_runtime.data.boxes import frames_of_split
from oat_runtime.errors import DataError, one_line
from oat_runtime.extras import require
from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.plain_net import Tensors
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS, corrupt
from policy.belief.constants import EstimatorConstants, FittedFor
from policy.fitting.drives import fit_drives, promise_of
from policy.fitting.frames import Frames, Statistics, region_frames, statistics_of
from policy.fitting.kinds import MOST_CORRUPTED, MeasuredKinds, fit_kinds, measure_kinds
from policy.fitting.rates import measure_rates
from policy.image import Images


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
    frames: Frames | None = None,
    fitted_on: str = "",
) -> EstimatorConstants:
    """Fit everything for one network: image kinds, attacked images of both ends of λ, and rates at every λ.

    Args:
        tensors: the weights.
        config: their architecture.
        width: width at which it is measured.
        temperature: calibration temperature at a λ.
        attack: white-box PGD; 10 steps are enough here.
        images_NHWC: uint8 RGB validation images at the network's input size, at least `LEAST_TO_FIT`.
        labels_N: their classes.
        seed: of corruptions and attack.
        frames: for a network that was trained on boxes, the regions of frames, drive by drive; None: each image is one.
        fitted_on: provenance, for people.
    """
    from policy.fitting.attackable import AttackableNetwork  # needs torch

    rng = np.random.default_rng(seed)
    regimes = {name: CORRUPTIONS[name].regime for name in FITTING_KINDS}
    network = AttackableNetwork(tensors, config, width=width, temperature=temperature, attack=attack, seed=seed)
    rates, spread, attacked = measure_rates(
        network,
        lambdas=config.lambdas,
        images_NHWC=images_NHWC,
        labels_N=labels_N,
        corrupt=corrupt,
        regimes=regimes,
        rng=rng,
    )
    attacked_NS = {name: statistics_of(of_NHWC) for name, of_NHWC in attacked.items()}
    seen = Frames.of_images(images_NHWC) if frames is None else frames
    measured = measure_kinds(
        seen, corrupt=corrupt, regimes=regimes, rng=rng, most_corrupted=None if frames is None else MOST_CORRUPTED
    )
    if frames is None:
        return fit_kinds(measured, attacked=attacked_NS, network=rates, spread=spread, fitted_on=fitted_on)
    clean_NS, num_inputs = statistics_of(images_NHWC), round(float(frames.num_inputs_F.mean()))
    shift_NS = {name: of_NS - clean_NS for name, of_NS in attacked_NS.items()}

    def fit(of: MeasuredKinds) -> EstimatorConstants:
        moved = {name: _moved(of.clean_FS, one_NS, num_inputs, seed=seed) for name, one_NS in shift_NS.items()}
        return fit_kinds(of, attacked=moved, network=rates, spread=spread, fitted_on=fitted_on)

    return fit_drives(measured, fit)


def _moved(clean_FS: Statistics, shift_NS: Statistics, num_inputs: int, *, seed: int) -> Statistics:
    """Return statistics of frames as an attack on all their regions leaves them: a mean of shifts of single regions."""
    drawn_FR = np.random.default_rng(seed).integers(len(shift_NS), size=(len(clean_FS), num_inputs))
    moved_FS: Statistics = clean_FS + shift_NS[drawn_FR].mean(axis=1)
    return moved_FS


def _say(line: str) -> None:
    print(f"policy.fit: {line}", file=sys.stderr)


def _frames_of(bundle: Bundle, name: str) -> Frames | None:
    """Return the frames that a box-trained bundle was trained and validated on; None, said aloud, if they are too few.

    Raises:
        DataError: they are not at hand.
    """
    skipped = Skipped(_say)
    try:
        # What training left out is left out here.
        index = load_frames(name, skip_broken=bundle.manifest.provenance.recipe.get("skip_broken") is True)
        training = frames_of_split(index, "train")
        if not training:
            raise DataError(f"{name} holds no training frames")
    except DataError as error:
        raise DataError(f"{error}: name the frames that the bundle was trained on by --frames") from None
    frames = region_frames(training, index, bundle.input, skipped)
    if skipped.num:
        _say(f"frames left out: {skipped.num} of {len(training)}")
    if len(frames) >= LEAST_TO_FIT:
        return frames
    _say(
        f"{len(frames)} training frames with regions are too few for a fit to frames, which needs {LEAST_TO_FIT}: each "
        "region counts as a frame, and the alarm knows no drives"
    )
    return None


def check_images(data: ImageSet, bundle: Bundle, source: Path) -> None:
    """Refuse images that the estimator cannot be fitted to, before minutes are spent on them.

    Raises:
        DataError: there are too few, of another size than the network's input, or of classes that it does not know.
    """
    if len(data) < LEAST_TO_FIT:
        raise DataError(
            f"expected at least {LEAST_TO_FIT} validation images, got {len(data)} of {one_line(source)}: hold out more "
            f"when you train (--set num_validation={LEAST_TO_FIT}), or allow more (--count)"
        )
    height, width = data.images_NHWC.shape[1:3]
    if (height, width) != (bundle.input.height, bundle.input.width):
        raise DataError(
            f"expected images of {bundle.input.width}x{bundle.input.height} pixels, got {width}x{height} in "
            f"{one_line(source)}: name the validation.npz of the run that the bundle comes from"
        )
    if int(data.labels_N.max()) >= len(bundle.class_names):
        raise DataError(
            f"expected labels below {len(bundle.class_names)}, got {int(data.labels_N.max())} in {one_line(source)}: "
            "name the validation.npz of the run that the bundle comes from"
        )


@command("policy.fit")
def main(argv: list[str] | None = None) -> int:
    """Run from the command line: fit, and put `estimator.json` into the bundle."""
    parser = Parser(
        prog="python -m policy.fit",
        description="Fit the estimator of a bundle, by which the policy tells clean, corrupted and attacked frames.",
    )
    parser.add_argument("bundle", type=a_path, help="bundle folder; estimator.json is added to it")
    parser.add_argument(
        "--images",
        type=a_path,
        required=True,
        help=f"validation.npz of the bundle's run, at least {LEAST_TO_FIT} images: uint8 RGB `images` (N, H, W, 3) at "
        "the network's input size, `labels` (N,)",
    )
    parser.add_argument("--frames", metavar="NAME",
                        help="for a bundle that was trained on boxes: data set or folder of its frames "
                        "(default: the one that the bundle names)")  # fmt: skip
    parser.add_argument("--count", type=a_count, default=1000, help="how many of them to use (default: %(default)s)")
    parser.add_argument("--num-steps", type=a_count, default=10,
                        help="steps of the attack by projected gradient descent (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=a_seed, default=0)
    options = parser.parse_args(argv)
    require("torch", extra="torch", by="policy.fit")
    bundle = Bundle.load(options.bundle)
    check_changeable(bundle)
    everything = read_labelled_npz(options.images)
    data = everything.first(options.count)
    check_images(data, bundle, options.images)
    check_fingerprint(everything, bundle.fingerprints.validation, whose=f"{bundle.path.name}, held out for validation")
    frames = None
    if bundle.input.region_margin is not None:
        frames = _frames_of(bundle, options.frames or bundle.report.dataset)
    elif options.frames:
        raise DataError(f"--frames is for bundles that were trained on boxes, and {bundle.path.name} was not")
    fitted_on = f"{len(data)} images of {options.images.name}, seed {options.seed}"
    if frames is not None:
        fitted_on = f"{len(frames)} frames of {int(frames.session_F[-1]) + 1} drives, and {fitted_on}"
    width = bundle.select.widths[-1]
    constants = fit_network(
        bundle.tensors(),
        bundle.manifest.model,
        width=width,
        temperature=lambda lam: bundle.temperature(OperatingPoint(lam, width)),
        attack=bundle.select.attack.model_copy(
            update={"name": f"pgd-{options.num_steps}", "num_steps": options.num_steps}
        ),
        images_NHWC=data.images_NHWC[:],
        labels_N=data.labels_N,
        seed=options.seed,
        frames=frames,
        fitted_on=fitted_on,
    )
    constants = constants.model_copy(update={"fitted_for": FittedFor.of(bundle)})
    attach_file(bundle, "estimator.json", (constants.model_dump_json() + "\n").encode())
    estimator = bundle.path / "estimator.json"
    also = "" if frames is None else f" and {len(frames)} frames"
    print(
        f"fitted to {len(data)} images{also}: {len(constants.kinds)} kinds of image, and how often the network is "
        f"unsure at {len(constants.network)} λ"
    )
    print(f"the alarm's promise: {promise_of(constants)}")
    print(f"wrote {estimator}: the bundle is complete")
    summary = {"num_images": len(data), "num_kinds": len(constants.kinds), "num_drives": len(constants.drives),
               "written": str(estimator)}  # fmt: skip
    print(json.dumps({"name": "policy.fit"} | summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
