"""Attacks of the Adversarial Robustness Toolbox, a third party's, on networks and images of this project."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from oat_runtime.data import ImageSet
from oat_runtime.extras import require
from oat_runtime.image import unit_planes
from oat_runtime.operating_point import AttackSpec
from training.evaluation.counting import BATCH, Bools


def require_toolbox(by: str) -> None:
    """Check that the toolbox is installed, with what its AutoAttack imports and it does not name.

    Args:
        by: the suite that needs it, for the message.

    Raises:
        ConfigError: it is not installed.
    """
    for package in ("art", "multiprocess"):
        require(package, extra="crosscheck", by=f"the suite {by}")


def art_apgd(net: nn.Module, data: ImageSet, *, attack: AttackSpec) -> Bools:
    """Return whether each image of `data` is still correct under the toolbox's Auto-PGD on the cross-entropy.

    Args:
        net: a folded network, in evaluation mode.
        data: the images.
        attack: ε, steps and seed of the attack.
    """
    return _standing(net, data, lambda classifier: _auto_pgd(classifier, attack, loss="cross_entropy"), attack.seed)


def art_autoattack(net: nn.Module, data: ImageSet, *, attack: AttackSpec, num_queries: int) -> Bools:
    """Return whether each image of `data` is still correct under the toolbox's AutoAttack.

    One attack after the other takes on what the ones before it left: Auto-PGD on the cross-entropy and on the
    difference-of-logits ratio, DeepFool and Square. None of them aims at a class. The ratio looks at the third largest
    logit, so it is left out where there are two classes.

    Args:
        net: a folded network, in evaluation mode.
        data: the images.
        attack: ε, steps and seed of Auto-PGD, which begins once, as in AutoAttack (Croce & Hein 2020).
        num_queries: of Square, for each image.
    """

    def attack_on(classifier: Any) -> Any:
        from art.attacks.evasion import AutoAttack, DeepFool, SquareAttack

        ball: dict[str, Any] = {"norm": np.inf, "eps": attack.epsilon}
        losses = ["cross_entropy"] + ["difference_logits_ratio"] * (classifier.nb_classes > 2)
        parts = [_auto_pgd(classifier, attack, loss=loss) for loss in losses]
        parts.append(DeepFool(classifier, epsilon=1e-3, batch_size=BATCH, verbose=False))
        parts.append(SquareAttack(classifier, max_iter=num_queries, batch_size=BATCH, verbose=False, **ball))
        return AutoAttack(classifier, attacks=parts, batch_size=BATCH, **ball)

    return _standing(net, data, attack_on, attack.seed)


def _auto_pgd(classifier: Any, attack: AttackSpec, *, loss: str) -> Any:
    from art.attacks.evasion import AutoProjectedGradientDescent

    return AutoProjectedGradientDescent(
        classifier,
        norm=np.inf,
        eps=attack.epsilon,
        eps_step=2.0 * attack.epsilon,  # the paper's first step, and ours
        max_iter=attack.num_steps,
        nb_random_init=1,
        batch_size=BATCH,
        loss_type=loss,
        verbose=False,
    )


def _standing(net: nn.Module, data: ImageSet, attack_on: Any, seed: int) -> Bools:
    from art.estimators.classification import PyTorchClassifier

    x_NCHW = unit_planes(data.images_NHWC[:])
    classifier = PyTorchClassifier(
        model=net,
        loss=nn.CrossEntropyLoss(),
        input_shape=x_NCHW.shape[1:],
        nb_classes=len(data.class_names),
        clip_values=(0.0, 1.0),
    )
    np.random.seed(seed)  # the toolbox draws from NumPy's global generator
    adversarial = attack_on(classifier).generate(x=x_NCHW, y=data.labels_N)
    clean_N, standing_N = (
        classifier.predict(images, batch_size=BATCH).argmax(axis=1) == data.labels_N for images in (x_NCHW, adversarial)
    )
    return np.asarray(clean_N & standing_N)
