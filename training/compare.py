"""Train recipes with several seeds and compare their frontiers, image by image: `python -m training.compare`.

After a stop it goes on where it was: runs and outcomes (of committed code) are stored in the run folder.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from oat_runtime.commands import Parser, a_count, a_seed, command, output_folder
from oat_runtime.data import ImageSet, load_dataset
from oat_runtime.errors import CheckpointError, ConfigError
from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.report import Check, Report, Row, progress, text_table
from training.checkpoint import load_checkpoint, load_weights
from training.config import TrainConfig
from training.distributed import World, device_argument
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import Bools
from training.network import OATNet
from training.origin import machine
from training.recipes import pgd
from training.reporting import LogLines
from training.settings import read_recipe, run_name, with_changes
from training.train import train

_LOG = logging.getLogger(__name__)
LIMITS = {"sa": -0.010, "ra": -0.015}
"""How much worse than the first recipe another one may be: the 95 % bound of the mean over λ, at each width."""
_Z95 = 1.645

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RecipeHits:
    """The outcomes of all seeds of one recipe, clean and attacked: 1 if an image was classified correctly.

    Attributes:
        config: the recipe.
        sa: clean, (seeds, λ, widths, images).
        ra: attacked, (seeds, λ, widths, images).
    """

    config: TrainConfig
    sa: Floats
    ra: Floats


def measure(
    config: TrainConfig, run: Path, *, test_set: ImageSet, attack: AttackSpec, world: World, download: bool
) -> tuple[Bools, Bools]:
    """Train one run, or read it from its folder; return (clean, attacked) outcomes, each (λ, widths, images)."""
    train(config, run, world=world, download=download)
    checkpoint = load_checkpoint(run / "checkpoint.pt", device=world.device)
    if not checkpoint.finished:
        raise CheckpointError(f"{run} has not ended: run the same command again")
    model = OATNet(checkpoint.config.model).to(world.device)
    load_weights(model, checkpoint)
    cache = OutcomeCache(run / "measured", model)
    knots, widths = model.config.lambdas, model.config.widths
    shape = (len(knots), len(widths), len(test_set))
    clean, attacked = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    points = [(k, w, OperatingPoint(lam, width)) for k, lam in enumerate(knots) for w, width in enumerate(widths)]
    for k, w, point in progress(points, run.name):
        clean[k, w] = cache.outcomes(point, test_set)
        attacked[k, w] = cache.outcomes(point, test_set, attack=attack)
    return clean, attacked


def lower_bound(difference_N: Floats) -> tuple[float, float]:
    """Return (mean, its one-sided lower 95 % bound) of a paired difference; one value for each image.

    The images are the sample. The seeds are averaged first, so the scatter of seeds shows only in their own rows.
    """
    mean = float(difference_N.mean())
    return mean, mean - _Z95 * float(difference_N.std(ddof=1)) / float(np.sqrt(len(difference_N)))


def compare(name: str, other: RecipeHits, reference: RecipeHits) -> list[Check]:
    """Return the checks of one recipe against the reference: the mean over λ at each width, SA and RA."""
    checks = []
    for index, width in enumerate(reference.config.model.widths):
        for kind, limit in LIMITS.items():
            difference = (getattr(other, kind) - getattr(reference, kind))[:, :, index]
            mean, bound = lower_bound(difference.mean(axis=(0, 1)))
            title = f"{name} {kind} at width {width:g}, mean over lambda, less reference: 95 % bound"
            check = Check.at_least(title, [bound], limit, "share of images, at least")
            details = {"mean": mean, "by_seed": difference.mean(axis=(1, 2)).tolist()}
            checks.append(replace(check, details=details))
    return checks


def rows_of(name: str, hits: RecipeHits) -> list[Row]:
    """Return a row for every operating point: the accuracy over all seeds, and of each seed."""
    model = hits.config.model
    return [
        {"recipe": name, "lambda": lam, "width": width}
        | {kind: float(getattr(hits, kind)[:, k, w].mean()) for kind in LIMITS}
        | {f"{kind}_by_seed": getattr(hits, kind)[:, k, w].mean(axis=1).tolist() for kind in LIMITS}
        for w, width in enumerate(model.widths)
        for k, lam in enumerate(model.lambdas)
    ]


def dual_check(name: str, one: RecipeHits, dual: RecipeHits) -> Check:
    """Check the paper's finding on dual batch norm: without it, SA at λ=0 and the range that λ covers fall."""
    _, bound = lower_bound((dual.sa - one.sa)[:, 0].mean(axis=(0, 1)))
    title = f"SA at lambda 0, dual batch norm less {name}: 95 % bound"
    return Check.at_least(title, [bound], 0.0, "share of images, more than", strict=True)


def _check(configs: Mapping[str, TrainConfig], *, with_lambda_0: bool) -> None:
    """Refuse recipes whose networks cannot be compared image by image and point by point, before one is trained."""
    first, reference = next(iter(configs.items()))
    for name, config in configs.items():
        for what in ("dataset", "resize", "model.lambdas", "model.widths"):
            ours, theirs = (attrgetter(what)(c) for c in (reference, config))
            if ours != theirs:
                raise ConfigError(f"expected recipes of one {what} to compare: {first} has {ours}, {name} {theirs}")
    if with_lambda_0 and reference.model.lambdas[0] != 0.0:
        raise ConfigError(f"dual batch norm is judged at λ=0, which {first} does not train: add --no-one-bn")


def _frontiers(rows: list[Row]) -> Table:
    def cells(row: Row) -> tuple[object, ...]:
        by_seed = [", ".join(f"{100 * value:.1f}" for value in row[f"{kind}_by_seed"]) for kind in LIMITS]
        return row["recipe"], row["width"], row["lambda"], *(100 * row[kind] for kind in LIMITS), *by_seed

    columns = ("recipe", "width", "λ", "SA %", "RA %", "SA by seed", "RA by seed")
    return text_table("Frontiers", columns, list(map(cells, rows)))


@command("training.compare")
def main() -> int:
    """Run the comparison; the first recipe is the reference."""
    parser = Parser(prog="python -m training.compare", description=__doc__)
    parser.add_argument("recipes", nargs="*", default=["compare-paper", "compare-fast"])
    parser.add_argument("--one-bn", default="compare-one-bn", help="like the last recipe, with ordinary batch norm")
    parser.add_argument("--no-one-bn", dest="one_bn", action="store_const", const=None)
    parser.add_argument("--seeds", type=a_seed, nargs="+", default=[0, 1])
    parser.add_argument("--count", type=a_count, default=5000, help="test images, from the first on")
    parser.add_argument("--steps", type=a_count, default=20, help="steps of the PGD attack")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--run", type=output_folder, default=Path("runs/compare"))
    parser.add_argument("--device", type=device_argument, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--download", action="store_true")
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts, to see that it runs; no figure means anything"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, handlers=[LogLines()])
    quick = ["epochs=1", "num_validation=49000", "num_recalibration=1"] if args.quick else []
    count, steps = (20, 2) if args.quick else (args.count, args.steps)
    attack = pgd(steps).model_copy(update={"step_size": 2 / 255})
    world = World(device=torch.device(args.device))
    if any(change.partition("=")[0].strip() == "seed" for change in args.changes):
        raise ConfigError("expected no --set seed, which --seeds would replace: name the seeds by --seeds")
    names = [*args.recipes, *([args.one_bn] if args.one_bn else [])]
    configs = {name: with_changes(with_changes(read_recipe(name), quick), args.changes) for name in names}
    first = configs[names[0]]
    _check(configs, with_lambda_0=args.one_bn is not None)
    test_set = load_dataset(
        first.dataset, "test",
        download=args.download, limit=count, resize=first.resize, skip_broken=first.skip_broken,
    )  # fmt: skip
    # Seed by seed, so that a comparison that is cut short has whole seeds.
    pairs_of: dict[str, list[tuple[Bools, Bools]]] = {name: [] for name in names}
    for seed in args.seeds:
        for name, config in configs.items():
            seeded, run = config.model_copy(update={"seed": seed}), args.run / f"{run_name(name)}-{seed}"
            pairs_of[name].append(
                measure(seeded, run, test_set=test_set, attack=attack, world=world, download=args.download)
            )
    outcomes = {
        name: RecipeHits(configs[name], *(np.stack([pair[i] for pair in pairs]).astype(np.float64) for i in (0, 1)))
        for name, pairs in pairs_of.items()
    }
    reference, *others = args.recipes
    report = Report("training.compare")
    report.rows = [row for name in names for row in rows_of(name, outcomes[name])]
    checks = [c for name in others for c in compare(name, outcomes[name], outcomes[reference])]
    if args.one_bn:
        checks.append(dual_check(args.one_bn, outcomes[args.one_bn], outcomes[args.recipes[-1]]))
    if args.quick:
        report.num_left_out = len(checks)  # one of 20 images is five points
    else:
        report.checks = checks
    setting = {"attack": attack.model_dump(), "seeds": args.seeds, "num_images": len(test_set)}
    return report.finish(machine(args.device) | setting, _frontiers(report.rows))


if __name__ == "__main__":
    sys.exit(main())
