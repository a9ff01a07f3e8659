"""`oat-train`: train a recipe, with progress, checkpoints and a time budget; run it again to go on."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from oat_runtime.backends.bfloat16 import bfloat16_works
from oat_runtime.errors import OATError
from oat_runtime.layers import LambdaBatch
from oat_runtime.model import OATNet, frozen
from oat_runtime.stress.attacks import pgd_linf
from training.config import TrainConfig
from training.data import ImageSet, load_cifar10, split_validation, to_unit
from training.recipes import RECIPES
from training.trainer import Trainer

_LOG = logging.getLogger(__name__)
_NUM_LOOK = 256


def look(model: OATNet, data: ImageSet, config: TrainConfig) -> dict[str, float]:
    """A quick look at a few validation images: is λ used, do weak and strong attacks agree, do the statistics hold?

    Returns accuracies in [0, 1]: `sa_*` clean at a λ and width; `ra_pgd7_*` and `ra_train_*` under PGD-7 and the
    attack of training; `sa_1_batch` clean at λ=1 with the statistics of the batch in place of the running ones.
    A large `ra_train − ra_pgd7` is catastrophic overfitting; a large `sa_1_batch − sa_1`, a batch-norm gap.
    """
    device = next(model.parameters()).device
    x_NCHW = to_unit(torch.from_numpy(data.images_NHWC[:_NUM_LOOK]).to(device))
    y_N = torch.from_numpy(data.labels_N[:_NUM_LOOK]).to(device)
    knots, widths = model.config.lambdas, model.config.widths
    figures: dict[str, float] = {}

    def accuracy(images_NCHW: torch.Tensor, lam: float, width: float) -> float:
        batch = LambdaBatch.constant(lam, len(y_N), knots, device=device)
        with torch.no_grad():
            hit_N = model(images_NCHW, batch, width=width).argmax(dim=1) == y_N
        return float(hit_N.float().mean())

    with frozen(model):
        for lam in sorted({knots[0], knots[len(knots) // 2], knots[-1]}):
            figures[f"sa_{lam:g}"] = accuracy(x_NCHW, lam, widths[-1])
        figures[f"sa_{knots[0]:g}_narrow"] = accuracy(x_NCHW, knots[0], widths[0])
        steps = {"train": config.attack.num_steps, "pgd7": 7}
        for name, num_steps in steps.items():
            for lam, width in ((knots[0], widths[-1]), (knots[-1], widths[-1]), (knots[-1], widths[0])):
                batch = LambdaBatch.constant(lam, len(y_N), knots, device=device)
                adversarial = pgd_linf(
                    lambda images, batch=batch, width=width: model(images, batch, width=width),  # type: ignore[misc]
                    x_NCHW,
                    y_N,
                    epsilon=config.attack.epsilon,
                    step_size=config.attack.step_size if name == "train" else config.attack.epsilon / 4,
                    num_steps=num_steps,
                    generator=torch.Generator(device).manual_seed(0),
                )
                suffix = "" if width == widths[-1] else "_narrow"
                figures[f"ra_{name}_{lam:g}{suffix}"] = accuracy(adversarial, lam, width)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0  # batch statistics without a trace in the running ones
        model.train()
        figures[f"sa_{knots[-1]:g}_batch"] = accuracy(x_NCHW, knots[-1], widths[-1])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return figures


def avoid_broken_bfloat16(config: TrainConfig, device: str) -> None:
    """Keep oneDNN off AMX where that would kill the process. Works only before the first convolution."""
    if config.precision == "bfloat16" and device == "cpu" and not bfloat16_works("torch"):
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
        _LOG.warning("bfloat16 with AMX crashes on this CPU: training goes on without AMX, several times slower")


def train(config: TrainConfig, run: Path, *, device: str, max_minutes: float | None, download: bool) -> bool:
    """Train into the folder `run`, going on from its checkpoint where there is one. True when the run is complete."""
    run.mkdir(parents=True, exist_ok=True)
    avoid_broken_bfloat16(config, device)
    checkpoint = run / "checkpoint.pt"
    training_set, validation_set = split_validation(
        load_cifar10("train", download=download), config.num_validation, seed=config.seed
    )
    np.savez(run / "validation.npz", images=validation_set.images_NHWC, labels=validation_set.labels_N)
    trainer = Trainer(config, training_set, device=device)
    if checkpoint.is_file():
        trainer.resume(checkpoint)
        _LOG.info("resumed %s at step %d of %d", checkpoint, trainer.step, trainer.num_steps)
    (run / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
    saved = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress, (run / "log.jsonl").open("a") as log:
        bar = progress.add_task(config.model.name, total=trainer.num_steps, completed=trainer.step)
        for metrics in trainer.run(max_minutes=max_minutes):
            summary = (
                f"loss {metrics.loss:.3f}  clean {metrics.clean_accuracy:.2f}  adv {metrics.adversarial_accuracy:.2f}"
            )
            progress.update(bar, completed=trainer.step, description=f"{config.model.name}  {summary}")
            if trainer.step % 50 == 0:
                _LOG.info("step %d/%d  %.0f s  %s", trainer.step, trainer.num_steps, trainer.seconds, summary)
            if trainer.step % (trainer.steps_per_epoch * config.eval_every) == 0:
                entry = {"step": trainer.step, "seconds": round(trainer.seconds, 1), "loss": metrics.loss}
                with torch.compiler.set_stance("force_eager"):  # other batch sizes: not worth compiling for
                    entry |= look(trainer.model, validation_set, config)
                log.write(json.dumps(entry) + "\n")
                log.flush()
                _LOG.info("validation %s", {k: round(v, 3) for k, v in entry.items()})
            if time.monotonic() - saved > 120.0:
                trainer.save(checkpoint)
                saved = time.monotonic()
        trainer.save(checkpoint)
        if trainer.finished:
            with torch.compiler.set_stance("force_eager"):
                figures = look(trainer.model, validation_set, config)
            log.write(json.dumps({"step": trainer.step, "recalibrated": True} | figures) + "\n")
            _LOG.info("finished: %s", {k: round(v, 3) for k, v in figures.items()})
    return trainer.finished


def main() -> int:
    """Command line of `oat-train`."""
    parser = argparse.ArgumentParser(prog="oat-train", description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--run", type=Path, help="run folder (default: runs/<recipe>)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--max-minutes", type=float, help="stop cleanly after this long; run again to go on")
    parser.add_argument("--download", action="store_true", help="fetch the data set where it is not at hand")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    overrides = {k: getattr(args, k) for k in ("epochs", "seed") if getattr(args, k) is not None}
    config = TrainConfig(**(dict(RECIPES[args.recipe]()) | overrides))
    run = args.run or Path("runs") / args.recipe
    try:
        finished = train(config, run, device=args.device, max_minutes=args.max_minutes, download=args.download)
    except OATError as error:
        print(f"oat-train: {error}", file=sys.stderr)
        return 2
    print(f"{'finished' if finished else 'stopped in time'}: {run / 'checkpoint.pt'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
