"""Suite `joint`: one perturbation for all operating points at once."""

from __future__ import annotations

import numpy as np
import torch

from oat_runtime.report import Row, progress
from oat_runtime.stress.attacks import perturb
from training.evaluation.counting import Bools
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import by_condition


def run(job: Job) -> Result:
    """Count the accuracy of each point under one attack on all: on the mean loss, or on points drawn at each step."""
    points = job.points()
    nets = [job.plain(point) for point in points]
    rows: list[Row] = []
    for name, draws in (("joint", None), ("expectation", min(4, len(nets)))):
        generator = torch.Generator(job.device).manual_seed(job.attack.seed)
        batches: list[list[Bools]] = [[] for _ in nets]
        for x_NCHW, y_N in progress(list(job.batches()), name):
            images = perturb(nets, x_NCHW, y_N, spec=job.attack, generator=generator, keep="last", draws=draws)
            with torch.no_grad():
                for parts, net in zip(batches, nets, strict=True):
                    parts.append((net(images).argmax(dim=1) == y_N).cpu().numpy())
        condition = f"{name} {job.attack.name}"
        correct = [np.concatenate(parts) for parts in batches]
        rows += [counted(point, condition, correct_N) for point, correct_N in zip(points, correct, strict=True)]
        rows.append(counted(None, f"{condition}, any point right", np.logical_or.reduce(correct)))
    return Result(rows, attacks=[job.attack])


SUITE = Suite(
    name="joint",
    about="One perturbation for all operating points at once, by an attacker who does not know which one is active.",
    run=run,
    tables=(by_condition,),
    attacks="one",
    takes_auto_pgd=False,
)
