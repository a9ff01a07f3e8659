"""Suite `rounding`: does int8 only look robust? Attacks without its gradients, beside those with gradients."""

from __future__ import annotations

import numpy as np
import torch

from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.report import Check, progress
from oat_runtime.stress.attacks import LogitsFn, perturb
from training.evaluation.attack_checks import worst_case
from training.evaluation.counting import Bools, surely_above
from training.evaluation.square import square_linf
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import by_condition

_ATTACKS, _NUM_QUERIES = ("pgd-20", "apgd-t"), 1000
_TO_INT8, _TO_FLOAT32 = "float32 to int8", "int8 to float32"
_WITHOUT = ("square", _TO_INT8)


def run(job: Job) -> Result:
    """Count at the ends of λ and its middle, and at the ends of width, each attack on the same images."""
    specs = job.attacks_among(_ATTACKS)
    rows, gaps = [], []
    for point in progress(_points(job), "rounding"):
        found = {"clean": job.outcomes(point)}
        found |= {spec.name: job.outcomes(point, attack=spec) for spec in specs}
        by_gradients = worst_case(found)
        square = f"square {_NUM_QUERIES} {point.lam:g} {point.width:g} {specs[0].model_dump_json()}"
        found["square"] = job.cache.get(square, job.data, lambda point=point: _square(job, point, specs[0]))  # type: ignore[misc]
        there, back = (_transferred(job, point, specs[0], to_int8=to_int8) for to_int8 in (True, False))
        found[_TO_INT8] = there
        found["worst-case"] = worst_case(found)
        found |= {"float32 clean": job.float32.outcomes(point, job.data), _TO_FLOAT32: back}
        found[f"float32 {specs[0].name}"] = job.float32.outcomes(point, job.data, attack=specs[0])
        rows += [counted(point, name, correct_N) for name, correct_N in found.items()]
        gaps += [surely_above(by_gradients, found[name]) for name in _WITHOUT]
    name = "accuracy under gradients of float32 above that under an attack without gradients of int8"
    return Result(rows, [Check.at_most(name, gaps, 0.0, "share of images")], attacks=specs)


def _points(job: Job) -> list[OperatingPoint]:
    widths = sorted({max(job.widths), min(job.widths)}, reverse=True)
    return [OperatingPoint(lam, width) for width in widths for lam in job.three_lambdas()]


def _square(job: Job, point: OperatingPoint, spec: AttackSpec) -> Bools:
    generator, net = torch.Generator().manual_seed(spec.seed), job.plain(point)
    found = []
    for x_NCHW, y_N in job.batches():
        images = square_linf(net, x_NCHW, y_N, epsilon=spec.epsilon, num_queries=_NUM_QUERIES, generator=generator)
        found.append(_correct(net, images, y_N))
    return np.concatenate(found)


def _transferred(job: Job, point: OperatingPoint, spec: AttackSpec, *, to_int8: bool) -> Bools:
    """Attack one of the two networks of a point, and show the images to the other one."""
    nets = job.float32.plain(point), job.plain(point)
    source, target = nets if to_int8 else nets[::-1]
    generator = torch.Generator(job.device).manual_seed(spec.seed)
    found = []
    for x_NCHW, y_N in job.batches():
        images = perturb(source, x_NCHW, y_N, spec=spec, generator=generator, keep="best")
        found.append(_correct(target, images, y_N))
    return np.concatenate(found)


@torch.no_grad()
def _correct(net: LogitsFn, x_NCHW: torch.Tensor, y_N: torch.Tensor) -> Bools:
    correct_N: Bools = (net(x_NCHW).argmax(dim=1) == y_N).cpu().numpy()
    return correct_N


SUITE = Suite(
    name="rounding",
    about="int8 under attacks with gradients of the float32 network, and under attacks that need no gradient: Square "
    f"with {_NUM_QUERIES:,} queries on int8 itself, and images that were made for float32 (“{_TO_INT8}”). If rounding "
    "only hid the gradients, those would break more. “worst-case” counts an image as right if none of them broke it.",
    run=run,
    tables=(by_condition,),
    attacks=_ATTACKS,
    most_images=500,
    needs_more=True,
    precisions=("int8",),
)
