"""`python -m training.crosscheck BUNDLE`: our Auto-PGD against that of the Adversarial Robustness Toolbox."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from oat_runtime.errors import BackendError, OATError
from oat_runtime.fold import fold
from oat_runtime.operating_point import AttackSpec, Proportion
from training.data import ImageSet
from training.evaluate import ATTACKS, evaluate, first
from training.subject import load_subject

_LIMIT = 0.01


def art_apgd(net: nn.Module, data: ImageSet, *, attack: AttackSpec, batch_size: int = 100) -> npt.NDArray[np.bool_]:
    """Images of `data` that the toolbox's Auto-PGD on the cross-entropy leaves standing, one bool each.

    Raises:
        BackendError: the toolbox is not installed.
    """
    try:
        from art.attacks.evasion import AutoProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise BackendError("the cross-check needs pip install 'oat-robot[crosscheck]'") from error
    x_NCHW = data.images_NHWC.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.crosscheck", description=__doc__)
    parser.add_argument("subject", type=Path, help="a bundle or a checkpoint.pt")
    parser.add_argument("--count", type=int, default=1000, help="images, from the first on")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--lambda", dest="lambdas", type=float, nargs="+", help="only these (default: smallest, largest)"
    )
    parser.add_argument("--width", type=float, help="default: the widest")
    parser.add_argument("--download", action="store_true", help="fetch the data set where it is not at hand")
    args = parser.parse_args(argv)
    try:
        subject = load_subject(args.subject)
        data = first(subject.images("test" if subject.bundle else "validation", download=args.download), args.count)
        config = subject.model.config
        attack = ATTACKS["apgd-ce"].model_copy(update={"num_steps": args.steps})
        rows, checks = [], []
        table = Table("λ", "width", "images", "ours, %", "toolbox, %")
        for lam in args.lambdas or (config.lambdas[0], config.lambdas[-1]):
            width = args.width or config.widths[-1]
            net = fold(subject.model, lam=lam, width=width)
            ours = evaluate(net, data, attack=attack).proportion
            standing_N = art_apgd(net, data, attack=attack)
            theirs = Proportion(int(standing_N.sum()), len(standing_N))
            table.add_row(
                f"{lam:g}", f"{width:g}", str(len(data)), f"{100 * ours.rate:.2f}", f"{100 * theirs.rate:.2f}"
            )
            row = {"lambda": lam, "width": width, "num_total": len(data)}
            rows.append(row | {"ours": ours.num_correct, "toolbox": theirs.num_correct})
            gap = abs(ours.rate - theirs.rate)
            name = f"apgd-ce at λ={lam:g}: ours and the toolbox's"
            checks.append({"name": name, "value": gap, "limit": _LIMIT, "unit": "share of images", "ok": gap <= _LIMIT})
    except OATError as error:
        print(f"training.crosscheck: {error}", file=sys.stderr)
        return 2
    Console().print(table)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({"name": "training.crosscheck", "machine": machine, "rows": rows, "checks": checks}))
    return 0 if all(check["ok"] for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
