"""`oat-train`: train a recipe, with progress, checkpoints and a time budget. Run it again to go on after a stop."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends.trials import bfloat16_works, multiplies_bfloat16
from oat_runtime.commands import Parser, command, held_back, output_folder, real
from oat_runtime.data import ImageSet, lasting_name, load_dataset
from oat_runtime.devices import keep_freed_memory
from oat_runtime.errors import ConfigError, quoted
from oat_runtime.extras import require
from oat_runtime.files import held, remove_unfinished, write_whole
from oat_runtime.report import progress_bar
from training.checkpoint import going_on, load_checkpoint, read_source
from training.config import TrainConfig
from training.distributed import World, device_argument
from training.network.transplant import Source, begin_from, check_name
from training.optimizer import change_of_lengths
from training.recipes import YOUR_IMAGES
from training.reporting import (
    LogLines,
    Pace,
    RunLog,
    list_recipes,
    print_sweep,
    say_what_there_is,
    say_what_was_reached,
    summary,
)
from training.settings import read_recipe, run_name, with_changes
from training.split import HELD_OUT, DataRecord, check_division, divided, keep_division, seen_before
from training.trainer import StepMetrics, Trainer
from training.validation import NUM_IMAGES, quick_validation, score, warn

_LOG = logging.getLogger(__name__)
_SAVE_EVERY_S = 120.0
_CHANGE_OF_LENGTHS = 1.5
"""Factor, above what averaging of weights takes off their lengths."""


def prepare_device(config: TrainConfig, device: torch.device) -> None:
    """Make the process-wide settings of a run; on a CPU, call this before the first convolution."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        return
    keep_freed_memory()
    if config.precision == "float32":
        return
    if not multiplies_bfloat16():
        if config.precision == "bfloat16":
            _LOG.warning(
                "WARNING: this CPU has no instructions for bfloat16 (AMX or AVX512-BF16), so a step takes about ten "
                "times as long as in float32: train another run with --run NEW --set precision=auto"
            )
    elif not bfloat16_works("torch"):
        # oneDNN must keep off AMX where that would kill the process.
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
        _LOG.warning("bfloat16 with AMX crashes on this CPU: training goes on without AMX, several times slower")


def fit_model(config: ModelConfig, data: ImageSet) -> ModelConfig:
    """Return `config` with the number of classes and the pixel statistics of `data` (training images)."""
    mean, std = data.statistics()
    return ModelConfig(**(dict(config) | {"num_classes": len(data.class_names), "mean": mean, "std": std}))


def load_data(config: TrainConfig, *, download: bool) -> tuple[TrainConfig, ImageSet, ImageSet]:
    """Return (configuration, training images, validation images).

    The configuration names a folder of images by its full path, and is fitted to the data if it asks for that.

    Raises:
        ConfigError: the data set has another number of classes than the network, which is not fitted to it.
    """
    config = config.model_copy(update={"dataset": lasting_name(config.dataset)})
    everything = load_dataset(
        config.dataset, "train", download=download, resize=config.resize, skip_broken=config.skip_broken
    )
    training, validation = divided(everything, config)
    if config.fit_to_data:
        config = config.model_copy(update={"model": fit_model(config.model, training)})
    elif len(training.class_names) != config.model.num_classes:
        raise ConfigError(
            f"the recipe's network tells {config.model.num_classes} classes apart, and {config.dataset} has "
            f"{len(training.class_names)}: add --set fit_to_data=true"
        )
    return config, training, validation


def train(
    config: TrainConfig,
    run: Path,
    *,
    world: World,
    max_minutes: float | None = None,
    download: bool = False,
    tensorboard: bool = False,
    start: str | None = None,
) -> dict[str, float] | None:
    """Train into the folder `run`; if it has a checkpoint, go on from there.

    `start` names a bundle or a run from whose weights a new run starts; one that has begun must have begun from it.

    Returns:
        Figures on validation images of the finished network, in the leading process of a complete run; else None.

    Raises:
        ConfigError: another process trains in this folder, the weights to start from are of another network, the run
            began from others, or the processes of the run found different checkpoints, images or settings.
    """
    source = None if start is None else read_source(start)
    config = _check(config, run / "checkpoint.pt", source)
    prepare_device(config, world.device)
    config, training_set, validation_set = load_data(config, download=download)
    trainer = Trainer(config, training_set, world=world)
    with ExitStack() as stack:
        if world.leads:
            stack.enter_context(held(run, by="training"))
            for name in ("checkpoint.pt", HELD_OUT):
                remove_unfinished(run / name)
        return _train(
            trainer,
            run,
            training_set,
            validation_set,
            max_minutes=max_minutes,
            tensorboard=tensorboard,
            source=source,
        )


def _check(config: TrainConfig, checkpoint: Path, source: Source | None) -> TrainConfig:
    """Refuse what a run cannot begin or go on with, before thousands of images are read and anything is written.

    Returns:
        The configuration, in the precision in which the run began.
    """
    if config.dataset == YOUR_IMAGES:
        raise ConfigError(f"the recipe folder needs your folder of images: --set dataset={YOUR_IMAGES}")
    if checkpoint.is_file():
        began = load_checkpoint(checkpoint)
        known: dict[str, object] = {"dataset": lasting_name(config.dataset)}
        if config.fit_to_data:
            fitted = began.config.model.model_dump(include={"num_classes", "mean", "std"})
            known["model"] = config.model.model_copy(update=fitted)
        precision = going_on(config.model_copy(update=known), began, checkpoint).precision
        if source is not None and source.name != began.config.start:
            raise ConfigError(
                f"{checkpoint.parent} began from {began.config.start or 'random weights'}, and --from names "
                f"{source.name}: leave --from out, or start a new run folder with --run"
            )
        return config.model_copy(update={"precision": precision})
    if config.restarts or config.start:
        raise ConfigError(
            f"a new run has no restarts and no start, got {config.restarts} and {quoted(config.start)}: oat-train "
            "notes them as they happen (--from starts from other weights)"
        )
    if source is not None:
        check_name(config.model, source)
    elif config.start_share > 0.0:
        raise ConfigError(
            f"start_share is {config.start_share:g}, a share of what the run starts from: name it (--from)"
        )
    return config


def _train(
    trainer: Trainer,
    run: Path,
    training_set: ImageSet,
    validation_set: ImageSet,
    *,
    max_minutes: float | None,
    tensorboard: bool,
    source: Source | None,
) -> dict[str, float] | None:
    record = DataRecord.of(trainer.config, training_set, validation_set)
    checkpoint = run / "checkpoint.pt"
    if checkpoint.is_file():
        check_division(run, record, validation_set)
        _go_on(trainer, checkpoint)
    else:
        _begin(trainer, record, source)
    config = trainer.config
    settings = config.model_copy(update={"dataset": ""}).model_dump_json()  # which may lie elsewhere
    if not trainer.world.agrees(f"{trainer.step} {record.training.sha256} {settings}"):
        raise ConfigError(
            f"the processes of this run differ in step, training images or settings, and this one is at step "
            f"{trainer.step}: give all of them the same run folder {run}, data set and recipe"
        )
    if not trainer.world.leads:
        with held_back() as stop:
            for _ in trainer.run(max_minutes=max_minutes, stop=stop.came):
                pass
        return None
    keep_division(run, record, validation_set)
    write_whole(run / "config.json", config.model_dump_json(indent=2) + "\n")
    if trainer.step < trainer.num_steps:
        say_what_there_is(trainer, training_set, validation_set)
    log, pace = RunLog(run, tensorboard=tensorboard), Pace(trainer)
    with ExitStack() as stack:
        stack.callback(log.close)
        progress = stack.enter_context(progress_bar())
        bar = progress.add_task(config.model.name, total=trainer.num_steps, completed=trainer.step)
        with held_back() as stop:
            saved = time.monotonic()
            for metrics in trainer.run(max_minutes=max_minutes, stop=stop.came):
                progress.update(bar, completed=trainer.step, description=f"{config.model.name}  {summary(metrics)}")
                if (line := pace.said_after_a_step()) is not None:
                    _LOG.info("%s", line)
                if trainer.step % 50 == 0:
                    _report(trainer, metrics, log)
                if trainer.step % (trainer.steps_per_epoch * config.eval_every) == 0:
                    _validate(trainer, validation_set, log, seconds=trainer.seconds, loss=metrics.loss)
                if trainer.step == trainer.num_steps:
                    _LOG.info("that was the last step: the batch norms' statistics are averaged again, and the network "
                              "is validated")  # fmt: skip
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    trainer.save(checkpoint)
                    saved = time.monotonic()
            trainer.save(checkpoint)
            how_far = "its last step" if trainer.finished else f"step {trainer.step} of {trainer.num_steps}"
            stop.note = f"saved at {how_far} in {checkpoint}: the same command goes on"
        if not trainer.finished:
            return None
        figures = _validate(trainer, validation_set, log, recalibrated=True)
    say_what_was_reached(figures, trainer.config, num_validation=len(validation_set))
    return figures


def _begin(trainer: Trainer, record: DataRecord, source: Source | None) -> None:
    config = trainer.config
    if source is not None:
        for line in begin_from(trainer.model, source, record.class_names):
            _LOG.info("%s", line)
        trainer.note_start(source.name)
        share, peak = config.start_rate, config.start_rate * config.learning_rate
        _LOG.info("  learning rate: %g of that from random weights, %g at its peak (start_rate)", share, peak)
        if config.optimizer == "muon" and (change := change_of_lengths(trainer.model)) > _CHANGE_OF_LENGTHS:
            _LOG.warning(
                "WARNING: muon gives each convolution a length of its own. In the first step, that of one changes by a "
                "factor of %.1f, so the network loses some of what it knew: --set optimizer=sgd keeps it",
                change,
            )
        if source.trained_on is not None and (warning := seen_before(record, source.trained_on)) is not None:
            _LOG.warning("WARNING: %s", warning)


def _go_on(trainer: Trainer, checkpoint: Path) -> None:
    trainer.resume(checkpoint)
    _LOG.info("resumed %s at step %d of %d", checkpoint, trainer.step, trainer.num_steps)
    if trainer.step in trainer.config.restarts:
        _LOG.info(
            "this run was finished and goes on with more epochs: from its weights, with the learning rate rising to "
            "its peak and falling again (a warm restart)"
        )


def _report(trainer: Trainer, metrics: StepMetrics, log: RunLog) -> None:
    _LOG.info("step %d/%d  %.0f s  %s", trainer.step, trainer.num_steps, trainer.seconds, summary(metrics))
    rate = trainer.optimizer.param_groups[0]["lr"]
    figures = {"loss": metrics.loss, "clean": metrics.clean_accuracy, "adversarial": metrics.adversarial_accuracy}
    log.scalars("training", trainer.step, figures | {"learning_rate": rate})


def _validate(trainer: Trainer, validation_set: ImageSet, log: RunLog, **extra: float | bool) -> dict[str, float]:
    """Run a quick validation with the averaged weights, if there are any; log it, and warn."""
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # other batch sizes: not worth compiling for
        stack.enter_context(trainer.alone())
        if trainer.average is not None and not trainer.finished:
            stack.enter_context(trainer.average.shown_by(trainer.model))
        figures = quick_validation(trainer.model, validation_set, trainer.config)
    # Clean steps alone have trained no λ at which robustness could be false.
    suspect = trainer.step > trainer.num_clean_steps and warn(
        figures, trainer.step, trainer.config, num_images=min(NUM_IMAGES, len(validation_set))
    )
    log.entry(trainer.step, extra | figures | {"catastrophic_overfitting": suspect})
    return figures


def sweep(
    config: TrainConfig,
    run: Path,
    key: str,
    values: list[str],
    *,
    world: World,
    download: bool,
    tensorboard: bool = False,
    start: str | None = None,
) -> list[tuple[str, dict[str, float]]]:
    """Train once for each value of one key, in `run/KEY=VALUE`; return (value, validation figures), best first.

    Raises:
        ConfigError: a value does not fit; nothing has been trained then.
    """
    results = []
    for value, changed in [(value, with_changes(config, [f"{key}={value}"])) for value in values]:
        folder = run / f"{key}={value}"
        figures = train(changed, folder, world=world, download=download, tensorboard=tensorboard, start=start)
        if figures is not None:
            results.append((value, figures))
    return sorted(results, key=lambda result: score(result[1], config), reverse=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of `oat-train`'s command line."""
    made = Parser(prog="oat-train", description=__doc__)
    made.add_argument("recipe", nargs="?", help="a name from --list, or a YAML file: `base: NAME` and what differs")
    made.add_argument("--list", action="store_true", help="show all recipes and end")
    made.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
                      help="change a field of the recipe, as in `model.depth=28`; may be repeated")  # fmt: skip
    made.add_argument("--sweep", metavar="KEY=V1,V2,...",
                      help="train once for each value and compare on validation images")  # fmt: skip
    made.add_argument("--run", type=output_folder, help="run folder (default: runs/<recipe>)")
    made.add_argument("--from", dest="start", metavar="BUNDLE|RUN|FILE",
                      help="start from a bundle, a run, or a torchvision ResNet (.pth, .safetensors)")  # fmt: skip
    made.add_argument("--device", type=device_argument, default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--epochs", type=int)
    made.add_argument("--seed", type=int)
    made.add_argument("--max-minutes", type=real(least=0.0), help="stop cleanly after this long; run again to go on")
    made.add_argument("--tensorboard", action="store_true", help="write events into <run>/tensorboard")
    made.add_argument("--download", action="store_true", help="fetch the data set if it is not there")
    made.add_argument("--skip-broken", action="store_true", help="leave out images of a folder that cannot be read")
    return made


@command("oat-train")
def main() -> int:
    """Run `oat-train`; under torchrun, in every process."""
    args = parser().parse_args()
    if args.list:
        list_recipes()
        return 0
    if args.recipe is None:
        raise ConfigError("name a recipe, or a YAML file: --list shows the recipes")
    if args.tensorboard:
        require("tensorboard", extra="training", by="--tensorboard")
    logging.basicConfig(level=logging.INFO, handlers=[LogLines()])
    shorthand = [f"{key}={getattr(args, key)}" for key in ("epochs", "seed") if getattr(args, key) is not None]
    if args.skip_broken:
        shorthand.append("skip_broken=true")
    run = args.run or Path("runs") / run_name(args.recipe)
    world = World.join(args.device)
    if not world.leads:
        logging.getLogger().setLevel(logging.ERROR)  # the leading process says it for all
    try:
        recipe, changes = read_recipe(args.recipe), [*shorthand, *args.changes]
        config = with_changes(recipe, changes)
        if args.sweep is not None:
            if args.max_minutes is not None:
                raise ConfigError("--sweep trains every value to its end, and takes no --max-minutes: leave one out")
            key, separator, values = args.sweep.partition("=")
            if not separator:
                raise ConfigError(f"--sweep: expected KEY=V1,V2,..., got {quoted(args.sweep)}")
            for value in values.split(","):  # a mistake in the last one is found before the first one trains
                with_changes(recipe, [*changes, f"{key}={value}"])
            results = sweep(
                config,
                run,
                key,
                values.split(","),
                world=world,
                download=args.download,
                tensorboard=args.tensorboard,
                start=args.start,
            )
            if results:
                print_sweep(key, results, config)
            return 0
        figures = train(
            config,
            run,
            world=world,
            max_minutes=args.max_minutes,
            download=args.download,
            tensorboard=args.tensorboard,
            start=args.start,
        )
    finally:
        world.leave()
    if world.leads:
        print(f"{'stopped in time' if figures is None else 'finished'}: {run / 'checkpoint.pt'}")
        if figures is None:
            print("the same command goes on")
        else:
            paths = shlex.join([str(run / "checkpoint.pt"), f"bundles/{run.name}"])
            print(f"next: oat-export {paths}\n      (that makes the bundle, which a robot loads)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
