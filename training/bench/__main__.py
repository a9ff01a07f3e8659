"""Measure the cost of a step of each recipe, in clean steps of an ordinary network: `python -m training.bench`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.commands import Parser, a_path, command, real, whole
from oat_runtime.data import CIFAR10_CLASSES, ImageSet
from oat_runtime.report import Check, Report, Row, text_table
from oat_runtime.timing import Millis, interleave, p50_p99
from training.augment import to_unit
from training.bench import deployed
from training.bench.ordinary_net import ordinary_net, single
from training.config import TrainConfig
from training.distributed import World, device_argument
from training.network import LambdaBatch, OATNet
from training.network.norm import normalize_batch, normalize_natively
from training.optimizer import make_optimizer
from training.origin import machine
from training.settings import read_recipe, with_changes
from training.train import prepare_device
from training.trainer import Trainer, settled

LIMITS = {"compare-paper": 11.7, "compare-fast": 4.0}
"""Clean steps that a step of a recipe may take: as many as the public code takes with PGD-7 at each of three widths,
and few enough to make a cheap recipe worthwhile."""
PLAIN = ("plain, torch's norms", "plain, fused norms")
"""Two ways to run the ordinary network; the faster one counts."""
_BURST = 6


def synthetic(config: TrainConfig, side: int) -> ImageSet:
    """Return random images, enough for a few batches. Their content does not change the cost."""
    rng = np.random.default_rng(0)
    num = 4 * config.batch_size
    images = rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)
    return ImageSet(images, rng.integers(0, 10, num), CIFAR10_CLASSES, "random")


def recipe_step(config: TrainConfig, side: int, device: str) -> Callable[[], object]:
    """Return a step of a recipe after its clean phase, with data and optimizer; call it as often as needed."""
    endless = config.model_copy(update={"epochs": 10**6, "steps": None, "clean_share": 0.0})
    trainer = Trainer(endless, synthetic(config, side), device=device)
    return trainer.run_step


def plain_steps(config: TrainConfig, side: int, device: str) -> dict[str, Callable[[], object]]:
    """Return clean steps of the ordinary full-width network in the recipe's precision, layout and batch size."""
    images = synthetic(config, side)
    x_NHWC = torch.from_numpy(images.images_NHWC[: config.batch_size]).to(device)
    y_N = torch.from_numpy(images.labels_N[: config.batch_size]).to(device)
    lam = LambdaBatch.constant(0.0, len(y_N), (0.0,), device=device)
    config = settled(config, World(device=torch.device(device)))
    native, fused = ordinary_net(config.model), single(config.model)
    if config.compile_norms:
        fused.compile_norms()

    def step_of(model: OATNet) -> Callable[[], object]:
        model.to(device).compute_dtype = getattr(torch, config.precision)
        if torch.device(device).type == "cuda":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.train()
        optimizer = make_optimizer(model, config)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(to_unit(x_NHWC), lam, width=1.0), y_N)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return loss.item()

        return step

    return dict(zip(PLAIN, map(step_of, (native, fused)), strict=True))


def measure(names: list[str], changes: list[str], *, side: int, device: str, seconds: float) -> list[Row]:
    """Return one row for each recipe: milliseconds a step, also in clean steps of the ordinary network."""
    configs = {name: with_changes(read_recipe(name), changes) for name in names}
    calls = {name: recipe_step(config, side, device) for name, config in configs.items()}
    # The yardstick takes the fused norms wherever one of the recipes does.
    fused = next((config for config in configs.values() if config.compile_norms), configs[names[0]])
    calls |= plain_steps(fused, side, device)
    for call in calls.values():
        for _ in range(_BURST):  # compile every shape and width
            call()
    times = interleave(calls, seconds=seconds, burst=_BURST, min_rounds=5)
    first, second = PLAIN
    # By rounds, as below: one slow round must not make the slower form the unit.
    is_first = np.median(times[first].mean(axis=1) / times[second].mean(axis=1)) <= 1.0
    plain = first if is_first else second
    peak = _peak_flops(device)
    rows = []
    for name in (*PLAIN, *names):
        per_round = times[name].mean(axis=1) / times[plain].mean(axis=1)
        p50, p99 = p50_p99(times[name])
        row: Row = {
            "recipe": name,
            "step_ms": float(times[name].mean()),
            "p50_ms": p50,
            "p99_ms": p99,
            "clean_steps": float(np.median(per_round)),
        }
        if name in configs:
            row["images_per_s"] = 1e3 * configs[name].batch_size / row["step_ms"]
            row |= _utilization(configs[name], side, device, times[name], peak)
        rows.append(row)
    return rows


def _peak_flops(device: str) -> float | None:
    """Return the bf16 peak of a GPU in FLOP/s, measured with a large matrix product; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    size = 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    taken_ms = []
    for _ in range(20):
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        a @ b
        end.record()
        torch.cuda.synchronize()
        taken_ms.append(start.elapsed_time(end))
    return 2.0 * size**3 / (1e-3 * float(np.median(taken_ms)))


def _utilization(config: TrainConfig, side: int, device: str, times: Millis, peak: float | None) -> Row:
    """Return a step's FLOPs in convolutions and matrix products, counted without compiling, and their share of peak."""
    if peak is None:
        return {}
    eager = config.model_copy(update={"compile_norms": False, "cuda_graphs": False})
    step = recipe_step(eager, side, device)
    with FlopCounterMode(display=False) as counter:
        for _ in range(_BURST):
            step()
    flops = counter.get_total_flops() / _BURST
    return {"step_flops": flops, "share_of_bf16_peak": flops / (1e-3 * float(times.mean())) / peak}


def measure_norms(device: str, dtype: torch.dtype, *, seconds: float) -> list[Row]:
    """Measure one norm site forward and backward: with torch's batch norm, plain formulas, and compiled formulas."""
    rows: list[Row] = []
    for channels, side in ((64, 32), (512, 4)):
        shape = (128, channels, side, side)
        x_NCHW = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last).requires_grad_()
        scale_NC, bias_NC = (torch.rand(128, channels, device=device, requires_grad=True) for _ in range(2))
        given = x_NCHW, scale_NC, bias_NC, (32, 96), 1e-5, True, None
        gradient = torch.ones_like(x_NCHW)
        forms = {
            "torch's batch norm": normalize_natively,
            "plain formulas": normalize_batch,
            "plain formulas, compiled": torch.compile(normalize_batch, dynamic=False),
        }
        calls = {name: partial(_forward_backward, form, given, gradient) for name, form in forms.items()}
        times = interleave(calls, seconds=seconds)
        site = {"channels": channels, "side": side}
        rows += [{"norm": name, **site, "p50_ms": p50_p99(taken)[0]} for name, taken in times.items()]
    return rows


def _forward_backward(
    form: Callable[..., tuple[Tensor, Tensor, Tensor]], given: tuple[object, ...], gradient: Tensor
) -> None:
    form(*given)[0].backward(gradient)  # type: ignore[no-untyped-call]
    if gradient.is_cuda:
        torch.cuda.synchronize()


def _tables(rows: list[Row]) -> Iterator[Table]:
    figures = ("step_ms", "p50_ms", "p99_ms", "clean_steps", "images_per_s", "share_of_bf16_peak")
    columns = ("recipe", "ms a step", "p50", "p99", "clean steps", "images/s", "share of bf16 peak")
    recipes = [(row["recipe"], *(row.get(key) for key in figures)) for row in rows if "recipe" in row]
    yield text_table("Steps of training", columns, recipes)
    norms = [(row["norm"], row["channels"], row["side"], row["p50_ms"]) for row in rows if "norm" in row]
    if norms:
        yield text_table("One norm site", ("", "channels", "side", "ms forward + backward"), norms)


@command("training.bench")
def main() -> int:
    """Run the benchmark."""
    parser = Parser(prog="python -m training.bench", description=__doc__)
    parser.add_argument(
        "recipes", nargs="*", default=list(LIMITS), help="recipes or YAML files (default: the compared)"
    )
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--side", type=whole(least=8), default=32, help="pixels of an image's side")
    parser.add_argument("--device", type=device_argument, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=real(above=0.0), default=300.0)
    parser.add_argument("--quick", action="store_true", help="under a minute on idle cores; rough figures")
    parser.add_argument(
        "--runtime", type=a_path, nargs="?", const=SHIPPED_BUNDLE, metavar="BUNDLE",
        help="compare a bundle's runtime with its network as trained instead (default: the shipped one)",
    )  # fmt: skip
    args = parser.parse_args()
    if args.runtime is not None:
        return deployed.run(args.runtime, device=args.device, seconds=0.5 if args.quick else 12.0)
    changes = [*(["batch_size=24"] if args.quick else []), *args.changes]
    configs = [with_changes(read_recipe(recipe), changes) for recipe in args.recipes]
    prepare_device(configs[0], torch.device(args.device))
    seconds = 5.0 if args.quick else args.seconds
    report = Report("training.bench")
    report.measure("steps", lambda: measure(args.recipes, changes, side=args.side, device=args.device, seconds=seconds))
    if args.quick:
        report.num_left_out = len(LIMITS)  # steps of a batch of 24 are not the recipe's
    else:
        report.measure("norms", lambda: measure_norms(args.device, torch.bfloat16, seconds=seconds / 10))
        costs = {row["recipe"]: row["clean_steps"] for row in report.rows if "recipe" in row}
        report.checks = [
            Check.at_most(f"{name}, clean steps a step", [costs.get(name)], limit, "× at most")
            for name, limit in LIMITS.items()
        ]
    return report.finish(machine(args.device) | {"quick": args.quick, "changes": changes}, *_tables(report.rows))


if __name__ == "__main__":
    sys.exit(main())
