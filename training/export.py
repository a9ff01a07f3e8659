"""`oat-export`: measure a finished checkpoint and write it as a bundle, or count a bundle in int8.

Run it again to go on after a stop.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from oat_runtime.architecture import InputSpec
from oat_runtime.backends import int8_engines
from oat_runtime.bundle import Bundle, Provenance
from oat_runtime.bundle.writer import check_target, save_bundle
from oat_runtime.commands import Parser, a_count, a_path, command, output_folder
from oat_runtime.data import ImageSet, fingerprint, load_dataset
from oat_runtime.devices import keep_freed_memory
from oat_runtime.errors import CheckpointError, ConfigError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.report import print_json, wide_console
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS
from training.checkpoint import Checkpoint, load_checkpoint, network_in
from training.distributed import device_argument
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import ATTACKS, first_of
from training.evaluation.documents import check_text
from training.evaluation.judged import load_judged
from training.evaluation.paired import differences, differences_checks, differences_table
from training.evaluation.table import Conditions, accuracies, fit_temperature, measure_table
from training.export_int8 import export_int8
from training.network import probe_of, tensors_of
from training.optimizer import decayed_weights
from training.origin import machine
from training.reporting import LogLines
from training.split import HELD_OUT, DataRecord, check_division, divided, summary

_LOG = logging.getLogger(__name__)
_ATTACK = ATTACKS["pgd-20"]
_NUM_ATTACKED, _NUM_CORRUPTED = 1000, 500
_KEPT = "measured"
"""Folder in a run's folder with the outcomes that were counted."""


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
    model = network_in(checkpoint).eval().requires_grad_(False)
    with torch.no_grad():
        for weight in decayed_weights(model):
            weight.copy_(weight.half())
    model = model.with_film_tables().to(device)
    training, validation = divided(training_set, config)
    if run is not None:
        check_division(run, DataRecord.of(config, training, validation), validation)
    select_conditions = Conditions(
        clean=validation,
        attacked=first_of(validation, num_attacked, "--attacked"),
        attack=_ATTACK,
        corrupted=first_of(validation, num_corrupted, "--corrupted"),
        kinds=FITTING_KINDS,
        severities=(2, 4),
    )
    report_conditions = Conditions(
        clean=test_set,
        attacked=first_of(test_set, num_attacked, "--attacked"),
        attack=_ATTACK,
        corrupted=first_of(test_set, num_corrupted, "--corrupted"),
        kinds=tuple(CORRUPTIONS),
        severities=(3,),
    )
    cache = OutcomeCache(None if run is None else run / _KEPT, model)
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
    parser.add_argument("source", type=a_path,
                        help="a checkpoint.pt of a finished run; with --precision int8, also a bundle")  # fmt: skip
    parser.add_argument("bundle", type=output_folder, nargs="?",
                        help="the folder to make of a checkpoint, as in bundles/my-net")  # fmt: skip
    parser.add_argument("--precision", choices=["float32", "int8"], default="float32",
                        help="int8: also measure activation ranges and count both tables in int8")  # fmt: skip
    parser.add_argument("--attacked", type=a_count,
                        help="images of each table that are attacked, with PGD-20: projected gradient descent of 20 "
                        f"steps (default: {_NUM_ATTACKED}; of a bundle, no more than in float32)")  # fmt: skip
    parser.add_argument("--corrupted", type=a_count,
                        help="images of each table under each corruption "
                        f"(default: {_NUM_CORRUPTED}; of a bundle, no more than in float32)")  # fmt: skip
    parser.add_argument("--unfinished", action="store_true", help="export a run that has not ended")
    parser.add_argument("--device", type=device_argument, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--download", action="store_true", help="fetch the data set if it is not there")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, handlers=[LogLines()])
    keep_freed_memory()
    if args.source.is_dir() and (args.bundle is not None or args.precision != "int8"):
        raise ConfigError(
            f"{args.source} is a folder: a new bundle is made of a run's checkpoint.pt, so name that; or add int8 to a "
            "finished bundle, as in oat-export bundles/my-net --precision int8"
        )
    if args.bundle is None:
        if args.precision != "int8" or args.source.is_file():
            raise ConfigError("expected the bundle's folder too, as in oat-export CHECKPOINT bundles/my-net")
        bundle = Bundle.load(args.source)
        kept = Path("out") / "export" / bundle.path.name
        return _count_int8(args, bundle, kept, num_attacked=args.attacked, num_corrupted=args.corrupted)
    bundle = _export_checkpoint(args)
    if args.precision == "int8":
        return _count_int8(args, bundle, args.source.parent / _KEPT)  # as many images as in float32
    print(f"for int8, then: {shlex.join(['oat-export', str(bundle.path), '--precision', 'int8'])}")
    return 0


def _export_checkpoint(args: argparse.Namespace) -> Bundle:
    """Export in float32, and say what comes next."""
    checkpoint = load_checkpoint(args.source)
    if not checkpoint.finished and not args.unfinished:
        raise CheckpointError(
            f"{args.source} is of a run that has not ended: run oat-train again to go on, or take it as it is with "
            "--unfinished"
        )
    config = checkpoint.config
    load = partial(
        load_dataset, config.dataset, download=args.download, resize=config.resize, skip_broken=config.skip_broken
    )
    check_target(args.bundle)  # before an hour of measuring, not after it
    if args.precision == "int8":
        int8_engines()
    bundle = export(
        checkpoint,
        args.bundle,
        training_set=load("train"),
        test_set=load("test"),
        num_attacked=args.attacked or _NUM_ATTACKED,
        num_corrupted=args.corrupted or _NUM_CORRUPTED,
        device=args.device,
        run=args.source.parent,
    )
    wide_console().print(accuracies(bundle.report))
    print(f"wrote {bundle.path} ({bundle.sha256[:12]})")
    if not checkpoint.finished:
        print(f"      of a run that was stopped after step {checkpoint.step}, which the bundle itself does not tell")
    arguments = shlex.join([str(bundle.path), "--images", str(args.source.with_name(HELD_OUT))])
    print(f"next: python -m policy.fit {arguments}")
    print("      (the policy needs the estimator that this puts into the bundle)")
    return bundle


def _count_int8(
    args: argparse.Namespace,
    bundle: Bundle,
    kept: Path,
    *,
    num_attacked: int | None = None,
    num_corrupted: int | None = None,
) -> int:
    """Count a bundle in int8 and print what that gains and loses; return 1 if it loses more than it should."""
    started = time.process_time()
    judged = load_judged(bundle.path, device=args.device)
    bundle = export_int8(
        judged, num_attacked=num_attacked, num_corrupted=num_corrupted, kept=kept, download=args.download
    )
    found = differences(bundle)
    checks = differences_checks(found)
    wide_console().print(differences_table(found), *map(check_text, checks), sep="\n")
    print(f"counted in int8 in {(time.process_time() - started) / 60.0:.1f} minutes of CPU time")
    print(f"wrote {bundle.path} ({bundle.sha256[:12]}); device profiles of it must be measured again")
    rows = [
        {"lambda": point.lam, "width": point.width, "sa": asdict(clean), "ra": asdict(attacked)}
        for point, (clean, attacked) in found.items()
    ]
    print_json("oat-export", machine=machine(args.device), rows=rows, checks=checks)
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
