"""`python -m training.bench`: what a step of each recipe costs, in clean steps of the plain network, in one process."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Column, Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.architecture import ModelConfig
from oat_runtime.data import CIFAR10_CLASSES, ImageSet
from oat_runtime.errors import OATError
from oat_runtime.terminal import wide_console
from oat_runtime.timing import Millis, interleave
from training import bench_runtime
from training.config import TrainConfig
from training.network import LambdaBatch, OATNet
from training.network.norm import normalize_batch, normalize_natively
from training.network.oat_net import Block
from training.optimizer import make_optimizer
from training.origin import machine
from training.settings import read_recipe, with_changes
from training.train import prepare_device
from training.trainer import Trainer

Row = dict[str, Any]
LIMITS = {"compare-paper": 11.7, "compare-fast": 4.0}
"""Clean steps that a step of a recipe may take: what the public code takes with PGD-7 at each of three widths, and what
a cheap recipe is worth having at."""
PLAIN = ("plain, torch's norms", "plain, fused norms")
"""Two ways to run the yardstick; the faster one counts."""
_BURST = 6


class PlainNet(nn.Module):
    """A network as one would write it for one purpose: the shapes of an OATNet at full width, ordinary batch norm."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with fresh weights."""
        super().__init__()
        like = OATNet(ModelConfig(**(dict(config) | {"lambdas": (0.0,), "widths": (1.0,)})))
        self.pre = config.family == "wide_resnet"
        self.like, self.mean, self.std = like, like.mean, like.std
        self.norms = nn.ModuleDict()
        for name, site in like.named_modules():
            if hasattr(site, "film"):
                self.norms[name.replace(".", "_")] = nn.BatchNorm2d(site.film.gamma_KC.shape[1])
        self.names = {id(site): name.replace(".", "_") for name, site in like.named_modules()}

    def norm(self, site: nn.Module | None, x_NCHW: Tensor) -> Tensor:
        """Ordinary batch norm at a site."""
        out: Tensor = x_NCHW if site is None else self.norms[self.names[id(site)]](x_NCHW)
        return out

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of a batch in the dtype of the convolutions."""
        net = self.like
        x_NCHW = ((x_NCHW - self.mean) / self.std).to(net.compute_dtype, memory_format=torch.channels_last)
        x_NCHW = net.stem(x_NCHW)
        if net.stem_norm is not None:
            x_NCHW = F.relu(self.norm(net.stem_norm, x_NCHW))
        for block in net.blocks:
            assert isinstance(block, Block)
            x_NCHW = self.block(block, x_NCHW)
        if net.final_norm is not None:
            x_NCHW = F.relu(self.norm(net.final_norm, x_NCHW))
        logits: Tensor = net.classifier(x_NCHW.mean(dim=(2, 3)))
        return logits

    def block(self, block: Block, x_NCHW: Tensor) -> Tensor:
        """One residual block."""
        if self.pre:
            active = F.relu(self.norm(block.norm1, x_NCHW))
            skip = x_NCHW if block.shortcut is None else block.shortcut(active)
            hidden = block.conv1(active)
            out: Tensor = block.conv2(F.relu(self.norm(block.norm2, hidden))) + skip
            return out
        skip = x_NCHW if block.shortcut is None else self.norm(block.shortcut_norm, block.shortcut(x_NCHW))
        hidden = F.relu(self.norm(block.norm1, block.conv1(x_NCHW)))
        return F.relu(self.norm(block.norm2, block.conv2(hidden)) + skip)


def synthetic(config: TrainConfig, side: int) -> ImageSet:
    """Random images, enough for a few batches: what is in them costs nothing."""
    rng = np.random.default_rng(0)
    num = 4 * config.batch_size
    images = rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)
    return ImageSet(images, rng.integers(0, 10, num), CIFAR10_CLASSES, "random")


def recipe_step(config: TrainConfig, side: int, device: str) -> Callable[[], object]:
    """A step of a recipe after its clean ones, data and optimizer included; as many epochs as it takes."""
    endless = config.model_copy(update={"epochs": 10**6, "steps": None, "clean_share": 0.0})
    trainer = Trainer(endless, synthetic(config, side), device=device)
    return trainer.run_step


def plain_steps(config: TrainConfig, side: int, device: str) -> dict[str, Callable[[], object]]:
    """Clean steps of the plain full-width network in the recipe's precision, layout and batch size."""
    images = synthetic(config, side)
    x_NHWC = torch.from_numpy(images.images_NHWC[: config.batch_size]).to(device)
    y_N = torch.from_numpy(images.labels_N[: config.batch_size]).to(device)
    dtype = getattr(torch, config.precision)
    native = PlainNet(config.model).to(device)
    native.like.compute_dtype = dtype
    fused = OATNet(ModelConfig(**(dict(config.model) | {"lambdas": (0.0,), "widths": (1.0,)}))).to(device)
    fused.compute_dtype = dtype
    if config.compile_norms:
        fused.compile_norms()
    lam = LambdaBatch.constant(0.0, len(y_N), (0.0,), device=device)
    networks: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [
        (native, native),
        (fused, lambda x_NCHW: fused(x_NCHW, lam, width=1.0)),
    ]

    def step_of(model: nn.Module, logits_fn: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        if torch.device(device).type == "cuda":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.train()
        optimizer = make_optimizer(model, config)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(logits_fn(x_NHWC.permute(0, 3, 1, 2).float() / 255.0), y_N)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return loss.item()

        return step

    return {name: step_of(*network) for name, network in zip(PLAIN, networks, strict=True)}


def measure(names: list[str], changes: list[str], *, side: int, device: str, seconds: float) -> list[Row]:
    """One row a recipe: milliseconds a step, and clean steps of the faster yardstick."""
    configs = {name: with_changes(read_recipe(name), changes) for name in names}
    calls = {name: recipe_step(config, side, device) for name, config in configs.items()}
    # The yardstick takes the fused norms wherever one of the recipes does.
    fused = next((config for config in configs.values() if config.compile_norms), configs[names[0]])
    calls |= plain_steps(fused, side, device)
    for call in calls.values():
        for _ in range(_BURST):  # compile every shape and width
            call()
    times = interleave(calls, seconds=seconds, burst=_BURST, min_rounds=5)
    plain = min(PLAIN, key=lambda name: times[name].mean())
    peak = _peak_flops(device)
    rows = []
    for name in (*PLAIN, *names):
        per_round = times[name].mean(axis=1) / times[plain].mean(axis=1)
        row: Row = {
            "recipe": name,
            "step_ms": float(times[name].mean()),
            "p50_ms": float(np.percentile(times[name], 50)),
            "p99_ms": float(np.percentile(times[name], 99)),
            "clean_steps": float(np.median(per_round)),
        }
        if name in configs:
            row["images_per_s"] = 1e3 * configs[name].batch_size / row["step_ms"]
            row |= _utilization(configs[name], side, device, times[name], peak)
        rows.append(row)
    return rows


def _peak_flops(device: str) -> float | None:
    """Measured bf16 peak of a GPU in FLOP/s, by a large matrix product; None on a CPU."""
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
    """FLOPs of convolutions and matrix products a step, and their share of the peak; counted in steps run eagerly."""
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
    """One norm site, forward and backward: torch's batch norm, plain formulas as they are, and compiled."""
    rows = []
    for channels, side in ((64, 32), (512, 4)):
        shape = (128, channels, side, side)
        x_NCHW = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last).requires_grad_()
        scale_NC, bias_NC = (torch.rand(128, channels, device=device, requires_grad=True) for _ in range(2))
        gradient = torch.ones_like(x_NCHW)

        def call(
            form: Callable[..., tuple[Tensor, Tensor, Tensor]],
            x_NCHW: Tensor = x_NCHW,
            scale_NC: Tensor = scale_NC,
            bias_NC: Tensor = bias_NC,
            gradient: Tensor = gradient,
        ) -> None:
            form(x_NCHW, scale_NC, bias_NC, (32, 96), 1e-5, True, None)[0].backward(gradient)  # type: ignore[no-untyped-call]
            if x_NCHW.is_cuda:
                torch.cuda.synchronize()

        forms = {
            "torch's batch norm": normalize_natively,
            "plain formulas": normalize_batch,
            "plain formulas, compiled": torch.compile(normalize_batch, dynamic=False),
        }
        times = interleave({n: (lambda form=form: call(form)) for n, form in forms.items()}, seconds=seconds)  # type: ignore[misc]
        for name, taken in times.items():
            rows.append({"norm": name, "channels": channels, "side": side, "p50_ms": float(np.median(taken))})
    return rows


def _print(rows: list[Row]) -> None:
    console = wide_console()
    recipe = Column("recipe", no_wrap=True)
    table = Table(recipe, "ms a step", "p50", "p99", "clean steps", "images/s", "share of bf16 peak")
    for row in (row for row in rows if "recipe" in row):
        figures = [f"{row[key]:.2f}" for key in ("step_ms", "p50_ms", "p99_ms", "clean_steps")]
        rate = f"{row['images_per_s']:.0f}" if "images_per_s" in row else "–"
        share = f"{100 * row['share_of_bf16_peak']:.1f} %" if "share_of_bf16_peak" in row else "–"
        table.add_row(row["recipe"], *figures, rate, share)
    console.print(table)
    norms = [row for row in rows if "norm" in row]
    if norms:
        table = Table("one norm site", "channels", "side", "ms forward + backward")
        for row in norms:
            table.add_row(row["norm"], str(row["channels"]), str(row["side"]), f"{row['p50_ms']:.3f}")
        console.print(table)


def _runtime(args: argparse.Namespace) -> int:
    try:
        return bench_runtime.run(args.runtime, device=args.device, seconds=0.5 if args.quick else 12.0)
    except OATError as error:
        print(f"training.bench: {error}", file=sys.stderr)
        return 2


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m training.bench", description=__doc__)
    parser.add_argument(
        "recipes", nargs="*", default=list(LIMITS), help="recipes or YAML files (default: the compared)"
    )
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--side", type=int, default=32, help="pixels of an image's side")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--quick", action="store_true", help="under a minute on idle cores; rough figures")
    parser.add_argument(
        "--runtime", type=Path, nargs="?", const=SHIPPED_BUNDLE, metavar="BUNDLE",
        help="compare a bundle's runtime with its network as trained instead (default: the shipped one)",
    )  # fmt: skip
    args = parser.parse_args()
    if args.runtime is not None:
        return _runtime(args)
    quick = ["batch_size=24"] if args.quick else []
    changes = [*quick, *args.changes]
    prepare_device(with_changes(read_recipe(args.recipes[0]), changes), torch.device(args.device))
    seconds = 5.0 if args.quick else args.seconds
    rows = measure(args.recipes, changes, side=args.side, device=args.device, seconds=seconds)
    if not args.quick:
        rows += measure_norms(args.device, torch.bfloat16, seconds=seconds / 10)
    _print(rows)
    costs = {row["recipe"]: row["clean_steps"] for row in rows if "recipe" in row}
    checks = [
        {
            "name": f"{name}, clean steps a step",
            "value": costs.get(name),
            "limit": limit,
            "unit": "× at most",
            "ok": name in costs and bool(costs[name] <= limit),
        }
        for name, limit in LIMITS.items()
    ]
    about = {"name": "training.bench", "machine": machine(args.device) | {"quick": args.quick, "changes": changes}}
    print(json.dumps(about | {"rows": rows, "checks": checks}))
    return 0 if all(check["ok"] for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
