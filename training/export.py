"""`oat-export`: measure a finished checkpoint and write it as a bundle. Run it again to go on after a stop."""

from __future__ import annotations

import logging
import shlex
import sys
from functools import partial
from pathlib import Path

import torch

from oat_runtime.architecture import InputSpec
from oat_runtime.bundle import Bundle, Provenance
from oat_runtime.bundle.writer import check_target, save_bundle
from oat_runtime.commands import Parser, a_count, a_path, command, output_folder
from oat_runtime.data import ImageSet, fingerprint, load_dataset
from oat_runtime.errors import CheckpointError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.report import wide_console
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS
from training.checkpoint import Checkpoint, load_checkpoint, load_weights
from training.distributed import device_argument
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import ATTACKS
from training.evaluation.table import Conditions, accuracies, fit_temperature, measure_table
from training.network import OATNet, probe_of, tensors_of
from training.optimizer import decayed_weights
from training.reporting import LogLines
from training.split import HELD_OUT, DataRecord, check_division, divided, summary

_LOG = logging.getLogger(__name__)
_ATTACK = ATTACKS["pgd-20"]


def export(
    checkpoint: Checkpoint,
    path: Path,
    *,
    training_set: ImageSet,
    test_set: ImageSet,
    num_attacked: int,
    num_corrupted: int,
    device: str,
    run: Path | None = None,
) -> Bundle:
    """Round the weights, measure both tables, and write the bundle.

    Convolution and classifier weights are rounded to float16 before anything is counted. This halves the bundle, and
    the figures are those of the network that ships.

    `select` is counted on the validation part of `training_set` and the kinds of corruption that may be fitted to.
    `report` is counted on `test_set` and all kinds, and decides nothing. If `run`, the run's folder, is given, outcomes
    are stored there, so that a stopped export can go on; the images must be divided as they were when the run began.

    Raises:
        DataError: the data set changed since the run began.
    """
    config = checkpoint.config
    model = OATNet(config.model)
    load_weights(model, checkpoint)
    model.eval().requires_grad_(False)
    with torch.no_grad():
        for weight in decayed_weights(model):
            weight.copy_(weight.half())
    model = model.with_film_tables().to(device)
    training, validation = divided(training_set, config)
    if run is not None:
        check_division(run, DataRecord.of(config, training, validation), validation)
    select_conditions = Conditions(
        clean=validation,
        attacked=validation.first(num_attacked),
        attack=_ATTACK,
        corrupted=validation.first(num_corrupted),
        kinds=FITTING_KINDS,
        severities=(2, 4),
    )
    report_conditions = Conditions(
        clean=test_set,
        attacked=test_set.first(num_attacked),
        attack=_ATTACK,
        corrupted=test_set.first(num_corrupted),
        kinds=tuple(CORRUPTIONS),
        severities=(3,),
    )
    cache = OutcomeCache(None if run is None else run / "measured", model)
    select_rows, _ = measure_table(cache, select_conditions, title="select table")
    report_rows, outcomes = measure_table(cache, report_conditions, title="report table")
    points = [OperatingPoint(lam, width) for lam in config.model.lambdas for width in config.model.widths]
    _, height, width, _ = training_set.images_NHWC.shape
    spec = InputSpec(height=height, width=width, resize=config.resize, region_margin=training_set.region_margin)
    return save_bundle(
        path,
        tensors_of(model),
        config.model,
        probe=probe_of(model, spec),
        name=path.name,
        class_names=training_set.class_names,
        input_spec=spec,
        provenance=Provenance(
            dataset=config.dataset,
            dataset_sha256=fingerprint(training_set),
            recipe=config.model_dump(mode="json"),
            seed=config.seed,
            commit=checkpoint.commit,
            hardware=checkpoint.hardware,
            train_minutes=round(checkpoint.seconds / 60.0, 1),
        ),
        temperatures=tuple(fit_temperature(cache, point, validation) for point in points),
        select=OperatingTable(
            name="select", dataset=config.dataset, split="validation", attack=_ATTACK, rows=select_rows
        ),
        report=OperatingTable(name="report", dataset=config.dataset, split="test", attack=_ATTACK, rows=report_rows),
        outcomes=outcomes,
        data=summary(config, training, validation, test_set),
    )


@command("oat-export")
def main() -> int:
    """Command line of `oat-export`."""
    parser = Parser(prog="oat-export", description=__doc__)
    parser.add_argument("checkpoint", type=a_path, help="a checkpoint.pt of a finished run")
    parser.add_argument("bundle", type=output_folder, help="the folder to make, as in bundles/my-net")
    parser.add_argument("--attacked", type=a_count, default=1000,
                        help="images of each table that are attacked, with PGD-20: projected gradient descent of 20 "
                        "steps (default: %(default)s)")  # fmt: skip
    parser.add_argument("--corrupted", type=a_count, default=500,
                        help="images of each table under each corruption (default: %(default)s)")  # fmt: skip
    parser.add_argument("--unfinished", action="store_true", help="export a run that has not ended")
    parser.add_argument("--device", type=device_argument, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--download", action="store_true", help="fetch the data set if it is not there")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, handlers=[LogLines()])
    checkpoint = load_checkpoint(args.checkpoint)
    if not checkpoint.finished and not args.unfinished:
        raise CheckpointError(f"{args.checkpoint} is of a run that has not ended: run oat-train again to go on")
    config = checkpoint.config
    load = partial(
        load_dataset, config.dataset, download=args.download, resize=config.resize, skip_broken=config.skip_broken
    )
    check_target(args.bundle)  # before an hour of measuring, not after it
    bundle = export(
        checkpoint,
        args.bundle,
        training_set=load("train"),
        test_set=load("test"),
        num_attacked=args.attacked,
        num_corrupted=args.corrupted,
        device=args.device,
        run=args.checkpoint.parent,
    )
    wide_console().print(accuracies(bundle.report))
    print(f"wrote {bundle.path} ({bundle.sha256[:12]})")
    arguments = shlex.join([str(bundle.path), "--images", str(args.checkpoint.with_name(HELD_OUT))])
    print(f"next: python -m policy.fit {arguments}")
    print("      (the policy needs the estimator that this puts into the bundle)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
