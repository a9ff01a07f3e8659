"""Suite `crosscheck`: our Auto-PGD against that of the Adversarial Robustness Toolbox."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import nn

from oat_runtime.data import ImageSet
from oat_runtime.extras import require
from oat_runtime.image import unit_planes
from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.report import Check, progress
from training.evaluation.counting import Bools
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import by_condition

_ATTACK = "apgd-ce"
LIMIT = 0.01
"""Share of images by which the two may differ (one point)."""


def run(job: Job) -> Result:
    """Count RA under both at the smallest and the largest λ, at the widest width."""
    attack = job.attack_named(_ATTACK)
    width = max(job.widths)
    rows, checks = [], []
    for lam in progress(sorted({min(job.lambdas), max(job.lambdas)}), "crosscheck"):
        point = OperatingPoint(lam, width)
        ours_N = job.outcomes(point, attack=attack)
        key = f"{lam:g} {width:g} toolbox's {attack.model_dump_json()}"
        theirs_N = job.cache.get(key, job.data, partial(art_apgd, job.plain(point), job.data, attack=attack))
        rows.append(counted(point, "apgd-ce, ours", ours_N))
        rows.append(counted(point, "apgd-ce, toolbox", theirs_N))
        gap = abs(float(ours_N.mean() - theirs_N.mean()))
        checks.append(Check.at_most(f"apgd-ce at λ={lam:g}: ours and the toolbox's", [gap], LIMIT, "share of images"))
    return Result(rows, checks, attacks=[attack])


def art_apgd(net: nn.Module, data: ImageSet, *, attack: AttackSpec, batch_size: int = 100) -> Bools:
    """Return whether each image of `data` is still correct under the toolbox's Auto-PGD on the cross-entropy.

    Raises:
        ConfigError: the toolbox is not installed.
    """
    require("art", extra="crosscheck", by="the suite crosscheck")
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    x_NCHW = unit_planes(data.images_NHWC[:])
    classifier = PyTorchClassifier(
        model=net,
        loss=nn.CrossEntropyLoss(),
        input_shape=x_NCHW.shape[1:],
        nb_classes=len(data.class_names),
        clip_values=(0.0, 1.0),
    )
    theirs = AutoProjectedGradientDescent(
        estimator=classifier,
        norm=np.inf,
        eps=attack.epsilon,
        eps_step=2.0 * attack.epsilon,  # the paper's first step, and ours
        max_iter=attack.num_steps,
        nb_random_init=1,
        batch_size=batch_size,
        loss_type="cross_entropy",
        verbose=False,
    )
    np.random.seed(attack.seed)  # the toolbox draws its starts from NumPy's global generator
    adversarial = theirs.generate(x=x_NCHW, y=data.labels_N)
    clean_N = classifier.predict(x_NCHW, batch_size=batch_size).argmax(axis=1) == data.labels_N
    standing_N = classifier.predict(adversarial, batch_size=batch_size).argmax(axis=1) == data.labels_N
    return np.asarray(clean_N & standing_N)


SUITE = Suite(
    name="crosscheck",
    about="Our Auto-PGD beside that of the Adversarial Robustness Toolbox, a third party's.",
    run=run,
    tables=(by_condition,),
    attacks=(_ATTACK,),
    needs_more=True,
)
