"""Evaluation: integer counts and per-image outcomes, clean, corrupted and attacked; and `oat-evaluate` for a bundle."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.bundle import Bundle, Temperature, outcome_key
from oat_runtime.data import ImageSet, load_dataset
from oat_runtime.errors import ConfigError, OATError
from oat_runtime.operating_point import AttackSpec, Measurement, OperatingPoint, OperatingRow, Proportion, Regime
from oat_runtime.plain_net import fold
from oat_runtime.report import wide_console
from oat_runtime.stress.attacks import LogitsFn, perturb
from oat_runtime.stress.corruptions import CORRUPTIONS, corrupt_batch
from training.augment import to_unit
from training.kept import Hits, Kept
from training.network import OATNet, folded

ATTACKS = {
    spec.name: spec
    for spec in (
        AttackSpec(name="fgsm", epsilon=8 / 255, step_size=8 / 255, num_steps=1),
        AttackSpec(name="mi-fgsm", epsilon=8 / 255, step_size=0.8 / 255, num_steps=10),
        AttackSpec(name="pgd-7", epsilon=8 / 255, step_size=2 / 255, num_steps=7),
        AttackSpec(name="pgd-20", epsilon=8 / 255, step_size=2 / 255, num_steps=20),
        AttackSpec(name="apgd-ce", epsilon=8 / 255, step_size=0.0, num_steps=100),
        AttackSpec(name="apgd-t", epsilon=8 / 255, step_size=0.0, num_steps=100),
        AttackSpec(name="pgd-20-l2", epsilon=0.5, step_size=0.1, num_steps=20),
        AttackSpec(name="apgd-ce-l2", epsilon=0.5, step_size=0.0, num_steps=100),
    )
}
"""Attacks of evaluation, weaker ones first within a norm; what a name means: `oat_runtime.stress.attacks.kind_of`. An
image counts as broken if any iterate is misclassified, which is at least as strong as looking at the last one only.
MI-FGSM takes ten steps of ε / 10 (Dong et al. 2018); Auto-PGD has AutoAttack's 100 steps and sets their size itself."""


Outcomes = dict[str, Hits]
"""Per-image outcomes by `oat_runtime.bundle.outcome_key`."""


@dataclass(frozen=True, slots=True)
class EvalCounts:
    """What one evaluation counted; `correct_N` is one bool an image, in the order of the set."""

    correct_N: Hits

    @property
    def proportion(self) -> Proportion:
        """The count."""
        return Proportion(int(self.correct_N.sum()), len(self.correct_N))


def evaluate(
    logits_fn: LogitsFn,
    data: ImageSet,
    *,
    attack: AttackSpec | None,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
) -> EvalCounts:
    """Count images classified right, under `attack` where one is given.

    Args:
        logits_fn: images (N, 3, H, W) float32 in [0, 1] to logits, in evaluation mode; attacked as it is.
        data: the images.
        attack: what to run; its seed and `batch_size` decide the random starts.
        batch_size: images at a time.
        device: where `logits_fn` wants its images.
    """
    generator = torch.Generator(device).manual_seed(0 if attack is None else attack.seed)
    correct = []
    for start in range(0, len(data), batch_size):
        x_NCHW = to_unit(torch.from_numpy(data.images_NHWC[start : start + batch_size]).to(device))
        y_N = torch.from_numpy(data.labels_N[start : start + batch_size]).to(device)
        if attack is not None:
            x_NCHW = perturb(logits_fn, x_NCHW, y_N, spec=attack, generator=generator, keep="broken")
        with torch.no_grad():
            correct.append((logits_fn(x_NCHW).argmax(dim=1) == y_N).cpu().numpy())
    return EvalCounts(np.concatenate(correct))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to count at every operating point."""

    clean: ImageSet
    attacked: ImageSet
    attack: AttackSpec
    corrupted: ImageSet
    kinds: tuple[str, ...]
    severities: tuple[int, ...]


def right(
    net: LogitsFn, point: OperatingPoint, data: ImageSet, *, attack: AttackSpec | None, kept: Kept, device: torch.device
) -> Hits:
    """Whether each image is classified right by `net`, the folded network of `point`; counted once."""
    what = f"{point.lam:g} {point.width:g} {'clean' if attack is None else attack.model_dump_json()}"
    return kept.get(what, data, lambda: evaluate(net, data, attack=attack, device=device).correct_N)


def measure_point(model: OATNet, point: OperatingPoint, plan: Plan, kept: Kept) -> Outcomes:
    """Per-image outcomes of one point under every condition, on the folded float32 network that is deployed."""
    device = model.code_KD.device
    plain = folded(model, lam=point.lam, width=point.width)
    found = {
        "clean": right(plain, point, plan.clean, attack=None, kept=kept, device=device),
        plan.attack.name: right(plain, point, plan.attacked, attack=plan.attack, kept=kept, device=device),
    }
    for condition, _, images in corrupted_sets(plan.corrupted, plan.kinds, plan.severities):
        found[condition] = right(plain, point, images, attack=None, kept=kept, device=device)
    return {outcome_key(condition, point): right_N for condition, right_N in found.items()}


def row_of(point: OperatingPoint, outcomes: Outcomes, plan: Plan) -> OperatingRow:
    """The table row of a point's outcomes."""
    regimes = {"clean": Regime.CLEAN, plan.attack.name: Regime.ADVERSARIAL}
    named = corruption_conditions(plan.kinds, plan.severities)
    regimes |= {condition: CORRUPTIONS[kind].regime for condition, (kind, _) in named.items()}
    measurements = []
    for condition, regime in regimes.items():
        count = EvalCounts(outcomes[outcome_key(condition, point)]).proportion
        measurements.append(
            Measurement(condition=condition, regime=regime, num_correct=count.num_correct, num_total=count.num_total)
        )
    return OperatingRow(lam=point.lam, width=point.width, measurements=tuple(measurements))


def corruption_conditions(kinds: Sequence[str], severities: Sequence[int]) -> dict[str, tuple[str, int]]:
    """Kind and severity by the name of the condition, `KIND-SEVERITY`."""
    return {f"{kind}-{severity}": (kind, severity) for kind in kinds for severity in severities}


def corrupted_sets(
    data: ImageSet, kinds: Sequence[str], severities: Sequence[int]
) -> Iterator[tuple[str, Regime, ImageSet]]:
    """`data` under every kind and severity, as (condition, regime, images); the same pixels every time."""
    for condition, (kind, severity) in corruption_conditions(kinds, severities).items():
        rng = np.random.default_rng(zlib.crc32(condition.encode()))
        images = corrupt_batch(data.images_NHWC, kind, severity, rng=rng)
        yield condition, CORRUPTIONS[kind].regime, ImageSet(images, data.labels_N, data.class_names, condition)


def measure_table(model: OATNet, plan: Plan, *, title: str, kept: Kept) -> tuple[tuple[OperatingRow, ...], Outcomes]:
    """Rows for every trained λ and width, with progress; and all per-image outcomes."""
    points = [OperatingPoint(lam, width) for lam in model.config.lambdas for width in model.config.widths]
    rows: list[OperatingRow] = []
    outcomes: Outcomes = {}
    for point in track(points, description=title, console=Console(stderr=True)):
        of_point = measure_point(model, point, plan, kept)
        rows.append(row_of(point, of_point, plan))
        outcomes |= of_point
    return tuple(rows), outcomes


def fit_temperature(model: OATNet, point: OperatingPoint, data: ImageSet) -> Temperature:
    """The softmax temperature with the least cross-entropy on `data` (Guo et al. 2017), searched on a log grid."""
    device = model.code_KD.device
    plain = folded(model, lam=point.lam, width=point.width)
    with torch.no_grad():
        x_NCHW = to_unit(torch.from_numpy(data.images_NHWC).to(device))
        logits = torch.cat([plain(part) for part in torch.split(x_NCHW, 250)])
        y_N = torch.from_numpy(data.labels_N).to(device)
        grid = np.logspace(-1.0, 1.0, 201)
        losses = [torch.nn.functional.cross_entropy(logits / t, y_N).item() for t in grid]
    return Temperature(lam=point.lam, width=point.width, temperature=float(grid[np.argmin(losses)]))


def first(data: ImageSet, count: int) -> ImageSet:
    """The first `count` images."""
    return data.subset(np.arange(min(count, len(data))), f"{data.name}[:{count}]")


def check_bundle(
    bundle: Bundle,
    test_set: ImageSet,
    *,
    attack: str | None,
    count: int,
    points: Sequence[OperatingPoint],
    progress: Callable[[Sequence[OperatingPoint]], Iterator[OperatingPoint]],
) -> list[dict[str, float | int | str | None]]:
    """Evaluate a bundle's points again; one record each, with the agreement image by image where outcomes are kept."""
    config, tensors, kept = bundle.manifest.model, bundle.tensors(), bundle.outcomes()
    spec = None if attack is None else ATTACKS[attack]
    condition = "clean" if spec is None else spec.name
    records: list[dict[str, float | int | str | None]] = []
    for point in progress(points):
        plain = TorchNet(fold(tensors, config, lam=point.lam, width=point.width))
        counts = evaluate(plain, first(test_set, count), attack=spec)
        before = kept.get(outcome_key(condition, point))
        shared = 0 if before is None else min(len(before), count)
        agreement = None
        if before is not None:
            agreement = float((before[:shared] == counts.correct_N[:shared]).mean())
        low, high = counts.proportion.interval()
        records.append(
            {
                "lambda": point.lam,
                "width": point.width,
                "condition": condition,
                "num_correct": counts.proportion.num_correct,
                "num_total": counts.proportion.num_total,
                "accuracy": counts.proportion.rate,
                "low_95": low,
                "high_95": high,
                "num_compared": shared,
                "agreement": agreement,
            }
        )
    return records


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `oat-evaluate`."""
    parser = argparse.ArgumentParser(prog="oat-evaluate", description=__doc__)
    parser.add_argument("subject", type=Path, help="a bundle, or the checkpoint.pt of a run (validation images only)")
    parser.add_argument("--attack", choices=sorted(ATTACKS), help="without --suite: this one (clean if left out)")
    parser.add_argument("--suite", nargs="+", metavar="NAME", help="parts of a full evaluation, or `all`")
    parser.add_argument(
        "--attacks", choices=sorted(ATTACKS), nargs="+", help="of the suite `attacks` (default: all L∞)"
    )
    parser.add_argument("--count", type=int, default=1000, help="images, from the first on")
    parser.add_argument("--steps", type=int, help="of Auto-PGD (default: 100)")
    parser.add_argument("--lambda", dest="lambdas", type=float, nargs="+", help="only these (default: all trained)")
    parser.add_argument("--width", dest="widths", type=float, nargs="+", help="only these (default: all)")
    parser.add_argument("--split", choices=["test", "validation"], help="default: test for a bundle")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], help="bundles to compare with, say PGD-AT")
    parser.add_argument("--out", type=Path, help="folder for a JSON file a suite (default: out/evaluate/NAME)")
    parser.add_argument("--plots", type=Path, help="folder for figures and index.html, drawn from the JSON files")
    parser.add_argument("--publish", type=Path, metavar="PAGE",
                        help="keep the JSON files' counts in the bundle, and write them as Markdown")  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--download", action="store_true", help="fetch the data set where it is not at hand")
    args = parser.parse_args(argv)
    args.command = shlex.join(["oat-evaluate", *(sys.argv[1:] if argv is None else argv)])
    try:
        if args.count < 1:
            raise ConfigError(f"--count must be at least 1, got {args.count}")
        if args.suite or args.plots or args.publish:
            from training.run_suites import run_suites  # builds on this module

            return run_suites(args)
        return _check_again(args)
    except (OATError, OSError) as error:
        print(f"oat-evaluate: {error}", file=sys.stderr)
        return 2


def _check_again(args: argparse.Namespace) -> int:
    """Evaluate a bundle's points under one condition and compare with the outcomes that it keeps."""
    bundle = Bundle.load(args.subject)
    config = bundle.manifest.model
    points = [OperatingPoint(lam, w) for w in args.widths or config.widths for lam in args.lambdas or config.lambdas]
    records = check_bundle(
        bundle,
        load_dataset(bundle.report.dataset, "test", download=args.download),
        attack=args.attack,
        count=args.count,
        points=points,
        progress=lambda items: iter(track(items, description="evaluating", console=Console(stderr=True))),
    )
    table = Table("λ", "width", "condition", "right", "of", "accuracy", "95 % interval", "agrees with manifest")
    for r in records:
        agreement = "–" if r["agreement"] is None else f"{100 * float(r['agreement']):.2f} % of {r['num_compared']}"
        table.add_row(
            f"{r['lambda']:g}", f"{r['width']:g}", str(r["condition"]), str(r["num_correct"]), str(r["num_total"]),
            f"{100 * float(r['accuracy'] or 0):.2f} %",
            f"{100 * float(r['low_95'] or 0):.1f} – {100 * float(r['high_95'] or 0):.1f}", agreement,
        )  # fmt: skip
    wide_console().print(table)
    agreements = [float(r["agreement"]) for r in records if r["agreement"] is not None]
    worst = min(agreements) if agreements else None
    check = {"name": "agreement", "value": worst, "limit": 0.99, "unit": "share of images", "ok": (worst or 0) >= 0.99}
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "bundle_sha256": bundle.sha256}
    print(json.dumps({"name": "oat-evaluate", "machine": machine, "rows": records, "checks": [check]}))
    return 0 if check["ok"] or not agreements else 1


if __name__ == "__main__":
    sys.exit(main())
