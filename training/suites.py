"""The parts of a full evaluation that need nothing but the network, each a function from a `Job` to rows of counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from oat_runtime.architecture import effective_lambda
from oat_runtime.data import ImageSet
from oat_runtime.operating_point import AttackSpec, OperatingPoint, Proportion
from oat_runtime.stress.attacks import perturb
from oat_runtime.stress.corruptions import CORRUPTIONS, SEVERITIES
from training import attack_checks, inspection
from training.augment import to_unit
from training.evaluate import ATTACKS, corrupted_sets, right
from training.kept import Hits, Kept
from training.network import folded
from training.subject import Subject

Row = dict[str, Any]
Item = TypeVar("Item")

UNSEEN = (0.15, 0.25, 0.35, 0.5, 0.7, 0.9)
"""S3 of the paper: λ that no training saw."""
LINF_ATTACKS = tuple(name for name in ATTACKS if not name.endswith("-l2"))
"""What the suite `attacks` runs unless told otherwise."""
BATCH = 100
MARGIN = 0.01
"""An unseen λ must lie between its trained neighbours' figures, give or take this (one point)."""


@dataclass(frozen=True)
class Job:
    """What a suite works on.

    Attributes:
        subject: the network.
        data: its images, in order.
        lambdas: λ to look at.
        widths: widths to look at.
        attack: the attack of suites that need one.
        attacks: names of those that the suite `attacks` runs.
        num_steps: steps of Auto-PGD.
        beside: networks to compare with.
        kept_in: where outcomes are kept, so that a suite that was stopped goes on; None keeps none.
    """

    subject: Subject
    data: ImageSet
    lambdas: tuple[float, ...]
    widths: tuple[float, ...]
    attack: AttackSpec
    attacks: tuple[str, ...] = LINF_ATTACKS
    num_steps: int | None = None
    beside: tuple[Subject, ...] = ()
    kept_in: Path | None = None

    @cached_property
    def kept(self) -> Kept:
        """Outcomes of the network that were counted before."""
        return Kept(self.kept_in, self.subject.model)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.subject.model.code_KD.device

    def attack_named(self, name: str) -> AttackSpec:
        """An attack of `ATTACKS`; Auto-PGD with the steps asked for."""
        asked = self.num_steps is not None and name.startswith("apgd")
        return ATTACKS[name].model_copy(update={"num_steps": self.num_steps} if asked else {})

    def points(self) -> list[OperatingPoint]:
        """Every λ at every width, the widest first."""
        return [OperatingPoint(lam, width) for width in sorted(self.widths, reverse=True) for lam in self.lambdas]

    def plain(self, lam: float, width: float) -> torch.nn.Module:
        """The folded network of one point, as it is deployed."""
        return folded(self.subject.model, lam=lam, width=width)

    def right(
        self, net: torch.nn.Module, lam: float, width: float, *, attack: AttackSpec | None, data: ImageSet | None = None
    ) -> Hits:
        """Whether `net`, the folded network of a point, classifies each image right; see `training.evaluate.right`."""
        point, images = OperatingPoint(lam, width), self.data if data is None else data
        return right(net, point, images, attack=attack, kept=self.kept, device=self.device)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images in [0, 1] and labels, on the device."""
        for start in range(0, len(self.data), BATCH):
            stop = start + BATCH
            x_NCHW = to_unit(torch.from_numpy(self.data.images_NHWC[start:stop]).to(self.device))
            yield x_NCHW, torch.from_numpy(self.data.labels_N[start:stop]).to(self.device)


@dataclass(frozen=True)
class Result:
    """What a suite found.

    Attributes:
        rows: mostly counts, see `counted`.
        checks: in the form of the benchmarks, see `check`.
        warnings: reasons for doubt.
        attacks: what the images were attacked with.
    """

    rows: list[Row]
    checks: Sequence[Row] = ()
    warnings: Sequence[Row] = ()
    attacks: Sequence[AttackSpec] = ()


def counted(lam: float, width: float, condition: str, right_N: Hits) -> Row:
    """One row: integer counts, the share, and its 95 % interval (Wilson 1927)."""
    count = Proportion(int(right_N.sum()), len(right_N))
    low, high = count.interval()
    return {
        "lambda": lam, "width": width, "condition": condition, "num_correct": count.num_correct,
        "num_total": count.num_total, "accuracy": count.rate, "low_95": low, "high_95": high,
    }  # fmt: skip


def attacks(job: Job) -> Result:
    """SA and RA at every point under every L∞ attack, and `worst-case`: right under all of them."""
    rows, warnings = [], []
    rates: dict[float, dict[float, tuple[float, float]]] = {}
    gaps: list[float] = []
    specs = [job.attack_named(name) for name in ATTACKS if name in job.attacks]
    if len(job.data.class_names) < 4:
        specs = [spec for spec in specs if not spec.name.startswith("apgd-t")]
    for point in progress(job.points(), "attacks"):
        plain = job.plain(point.lam, point.width)
        outcomes = {"clean": job.right(plain, point.lam, point.width, attack=None)}
        for spec in specs:
            outcomes[spec.name] = job.right(plain, point.lam, point.width, attack=spec)
        x_NCHW, y_N = next(job.batches())
        doubts = attack_checks.inspect_network(plain, x_NCHW, y_N) + attack_checks.inspect_outcomes(outcomes)
        warnings += [{"lambda": point.lam, "width": point.width} | asdict(doubt) for doubt in doubts]
        outcomes["worst-case"] = attack_checks.worst_case(outcomes)
        rows += [counted(point.lam, point.width, name, right_N) for name, right_N in outcomes.items()]
        if specs:
            rate = (float(outcomes["clean"].mean()), float(outcomes[specs[-1].name].mean()))
            rates.setdefault(point.width, {})[point.lam] = rate
        if {"pgd-20", "apgd-ce"} <= set(outcomes):
            gaps.append(float(outcomes["apgd-ce"].mean() - outcomes["pgd-20"].mean()))
    for width, by_lambda in rates.items():
        warnings += [{"width": width} | asdict(doubt) for doubt in attack_checks.inspect_lambdas(by_lambda)]
    checks = (
        [check("accuracy under apgd-ce above that under pgd-20", max(gaps), 0.0, "share of images")] if gaps else []
    )
    return Result(rows, checks, warnings, specs)


def unseen(job: Job) -> Result:
    """SA and RA at λ that no training saw: between their trained neighbours', and each a network of its own?"""
    knots = job.subject.model.config.lambdas
    usable = [lam for lam in UNSEEN if knots[0] <= lam <= knots[-1] and lam not in knots]
    rows: list[Row] = []
    outside, same = [0.0], []
    for width in progress(sorted(job.widths, reverse=True), "unseen λ"):
        found: dict[float, tuple[Hits, ...]] = {}
        logits: dict[float, Tensor] = {}
        for lam in sorted({*knots, *usable}):
            plain = job.plain(lam, width)
            logits[lam] = _logits(job, plain)
            labels_N = torch.from_numpy(job.data.labels_N).to(job.device)
            clean_N = (logits[lam].argmax(dim=1) == labels_N).cpu().numpy()
            found[lam] = (clean_N, job.right(plain, lam, width, attack=job.attack))
            for condition, right_N in zip(("clean", job.attack.name), found[lam], strict=True):
                rows.append(counted(lam, width, condition, right_N) | {"trained": lam in knots})
        for lam in usable:
            if effective_lambda(lam, knots) != lam:
                continue
            below, above = max(k for k in knots if k < lam), min(k for k in knots if k > lam)
            if below == 0.0:
                continue  # λ=0 has batch norms of its own
            for index in range(2):
                ends = sorted(float(found[knot][index].mean()) for knot in (below, above))
                rate = float(found[lam][index].mean())
                outside.append(max(ends[0] - rate, rate - ends[1]))
            same.append(min(float((logits[lam] - logits[knot]).abs().max()) for knot in (below, above)))
    checks = [
        check("outside its neighbours' range", max(outside), MARGIN, "share of images"),
        {"name": "logits differ from both neighbours'", "value": min(same, default=None), "limit": 1e-3,
         "unit": "largest difference", "ok": bool(same) and min(same) > 1e-3},
    ]  # fmt: skip
    return Result(rows, checks, attacks=[job.attack])


def transfer(job: Job) -> Result:
    """Attacks made at one λ and tested at another, at the widest width: accuracy of each pair."""
    width = max(job.widths)
    rows = []
    nets = {lam: job.plain(lam, width) for lam in job.lambdas}
    for source in progress(job.lambdas, "transfer"):
        generator = torch.Generator(job.device).manual_seed(job.attack.seed)
        hits: dict[float, list[Hits]] = {lam: [] for lam in nets}
        for x_NCHW, y_N in job.batches():
            images = perturb(nets[source], x_NCHW, y_N, spec=job.attack, generator=generator, keep="best")
            with torch.no_grad():
                for lam, net in nets.items():
                    hits[lam].append((net(images).argmax(dim=1) == y_N).cpu().numpy())
        for lam, parts in hits.items():
            rows.append(counted(lam, width, job.attack.name, np.concatenate(parts)) | {"made_at": source})
    return Result(rows, attacks=[job.attack])


def joint(job: Job) -> Result:
    """One attack on all points at once, by an adversary who does not know which is active: accuracy of each point."""
    points = job.points()
    nets = [job.plain(point.lam, point.width) for point in points]
    rows = []
    for name, draws in (("joint", None), ("expectation", min(4, len(nets)))):
        generator = torch.Generator(job.device).manual_seed(job.attack.seed)
        hits: list[list[Hits]] = [[] for _ in nets]
        for x_NCHW, y_N in progress(list(job.batches()), name):
            images = perturb(nets, x_NCHW, y_N, spec=job.attack, generator=generator, keep="last", draws=draws)
            with torch.no_grad():
                for parts, net in zip(hits, nets, strict=True):
                    parts.append((net(images).argmax(dim=1) == y_N).cpu().numpy())
        condition = f"{name} {job.attack.name}"
        rows += [counted(p.lam, p.width, condition, np.concatenate(r)) for p, r in zip(points, hits, strict=True)]
        stands_N = np.logical_or.reduce([np.concatenate(parts) for parts in hits])
        rows.append(counted(float("nan"), float("nan"), f"{condition}, any point right", stands_N))
    return Result([{k: None if v != v else v for k, v in row.items()} for row in rows], attacks=[job.attack])


def corruptions(job: Job) -> Result:
    """Accuracy under 15 kinds of corruption at 5 severities for each λ, at the widest width."""
    width = max(job.widths)
    nets = {lam: job.plain(lam, width) for lam in job.lambdas}
    rows = []
    conditions = corrupted_sets(job.data, tuple(CORRUPTIONS), SEVERITIES)
    total = len(CORRUPTIONS) * len(SEVERITIES)
    for condition, regime, images in progress(conditions, "corruptions", total=total):
        kind, severity = condition.rsplit("-", 1)
        for lam, net in nets.items():
            right_N = job.right(net, lam, width, attack=None, data=images)
            extra = {"kind": kind, "severity": int(severity), "regime": str(regime)}
            rows.append(counted(lam, width, condition, right_N) | extra)
    return Result(rows)


def calibration(job: Job) -> Result:
    """Expected calibration error of each point, as the network is and with the bundle's temperature."""
    rows = []
    labels_N = torch.from_numpy(job.data.labels_N).to(job.device)
    for point in progress(job.points(), "calibration"):
        logits = _logits(job, job.plain(point.lam, point.width))
        fitted = 1.0 if job.subject.bundle is None else job.subject.bundle.temperature(point)
        for name, temperature in (("raw", 1.0), ("fitted", fitted)):
            found = inspection.reliability(logits, labels_N, temperature=temperature)
            row = {"lambda": point.lam, "width": point.width, "condition": name, "temperature": temperature}
            bins = {key: _finite(getattr(found, key)) for key in ("confidence_B", "accuracy_B", "share_B")}
            rows.append(row | {"num_total": len(job.data), "error": found.error} | bins)
    return Result(rows)


def inside(job: Job) -> Result:
    """Batch-norm statistics by λ, saliency with its alignment (beside other networks), and cost by width."""
    width = max(job.widths)
    num = min(len(job.data), 200)
    batches = list(job.batches())[: -(-num // BATCH)]
    x_NCHW, y_N = (torch.cat(parts)[:num] for parts in zip(*batches, strict=True))
    rows: list[Row] = []
    model = job.subject.model
    attack = ATTACKS["pgd-7"]
    for found in inspection.norm_statistics(model, x_NCHW, y_N, lambdas=job.lambdas, width=width, attack=attack):
        statistics = {"mean_C": found.mean_C.tolist(), "var_C": found.var_C.tolist()}
        rows.append({"part": "norm", "lambda": found.lam, "images": found.images, "width": width} | statistics)
    nets: list[tuple[str, float | None, torch.nn.Module]] = [
        (f"λ={lam:g}", lam, job.plain(lam, width)) for lam in job.lambdas
    ]
    for other in job.beside:
        config = other.model.config
        nets.append((other.name, None, folded(other.model, lam=config.lambdas[-1], width=config.widths[-1])))
    pairs = list(zip(torch.split(x_NCHW, BATCH), torch.split(y_N, BATCH), strict=True))
    for name, lam, net in nets:
        gradient = torch.cat([inspection.saliency(net, x, y) for x, y in pairs])
        aligned_N = inspection.alignment(gradient, x_NCHW)
        aligned_N = aligned_N[torch.isfinite(aligned_N)]
        half = 1.96 * float(aligned_N.std()) / max(1, len(aligned_N)) ** 0.5
        maps = gradient[:6].abs().amax(dim=1)
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        rows.append(
            {"part": "saliency", "network": name, "lambda": lam, "num_total": len(aligned_N),
             "alignment": float(aligned_N.mean()), "half_95": half,
             "maps_NHW": (maps * 255).round().to(torch.uint8).cpu().tolist()}
        )  # fmt: skip
    height, columns = job.data.images_NHWC.shape[1:3]
    rows += [
        {"part": "cost"} | asdict(inspection.cost(model, width=at, height=height, columns=columns)) for at in job.widths
    ]
    rows.append({"part": "images", "images_NHWC": job.data.images_NHWC[:6].tolist()})
    return Result(rows, attacks=[attack])


def check(name: str, value: float, limit: float, unit: str) -> Row:
    """One check in the form of the benchmarks: `value` may be `limit` at most."""
    return {"name": name, "value": value, "limit": limit, "unit": unit, "ok": value <= limit}


def _logits(job: Job, net: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(x_NCHW) for x_NCHW, _ in job.batches()])


def _finite(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def progress(items: Iterable[Item], title: str, *, total: int | None = None) -> Iterator[Item]:
    """`items`, with a bar on the standard error."""
    return iter(track(items, description=title, total=total, console=Console(stderr=True)))
