"""Count outcomes: whether each image is classified correctly, clean, corrupted or attacked."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from oat_runtime.data import ImageSet
from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import AttackSpec, Proportion
from oat_runtime.stress.attacks import LogitsFn, perturb
from oat_runtime.stress.corruptions import corrupt_batch
from oat_runtime.text import PlainConsole
from training.augment import to_unit

Bools = npt.NDArray[np.bool_]
"""One bool an image, in the order of its set: as `correct_N`, whether the network classifies it correctly."""

BATCH = 100
"""Images at a time."""
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
LINF_ATTACKS = tuple(name for name in ATTACKS if not name.endswith("-l2"))


def attack_named(name: str, *, num_steps: int | None = None, epsilon: float | None = None) -> AttackSpec:
    """Return an attack of `ATTACKS`.

    Args:
        name: its key.
        num_steps: steps of Auto-PGD, which no other attack takes; None: its own.
        epsilon: of another L∞ ball, see `in_ball`; None: its own.

    Raises:
        ConfigError: another ε is asked of an attack in an L2 ball.
    """
    asked = num_steps is not None and name.startswith("apgd")
    attack = ATTACKS[name].model_copy(update={"num_steps": num_steps} if asked else {})
    return attack if epsilon is None else in_ball(attack, epsilon)


def in_ball(attack: AttackSpec, epsilon: float) -> AttackSpec:
    """Return an L∞ attack in a ball of another ε, on the [0, 1] pixel scale; the size of its steps changes with it.

    Raises:
        ConfigError: it is an attack in an L2 ball, where the same ε means something else.
    """
    if attack.name.endswith("-l2"):
        raise ConfigError(f"ε in 255ths is of attacks in an L∞ ball, got {attack.name}: leave out one of both")
    return attack.model_copy(update={"epsilon": epsilon, "step_size": attack.step_size * (epsilon / attack.epsilon)})


def proportion(correct_N: Bools) -> Proportion:
    """Return the count of outcomes."""
    return Proportion(int(correct_N.sum()), len(correct_N))


def surely_above(these_N: Bools, those_N: Bools) -> float:
    """Return by how much one accuracy exceeds another on the same images, less two standard errors of the difference.

    Above 0, chance hardly explains it: one image of twenty, or of a thousand, never does.
    """
    difference_N = these_N.astype(np.float64) - those_N
    return float(difference_N.mean() - 2.0 * difference_N.std() / math.sqrt(len(difference_N)))


def outcomes_of(
    logits_fn: LogitsFn,
    data: ImageSet,
    *,
    attack: AttackSpec | None,
    batch_size: int = BATCH,
    device: str | torch.device = "cpu",
) -> Bools:
    """Return whether each image is classified correctly; for the arguments see `predictions_of`."""
    found_N = predictions_of(logits_fn, data, attack=attack, batch_size=batch_size, device=device)
    return np.equal(found_N, data.labels_N)


def predictions_of(
    logits_fn: LogitsFn,
    data: ImageSet,
    *,
    attack: AttackSpec | None,
    batch_size: int = BATCH,
    device: str | torch.device = "cpu",
) -> npt.NDArray[np.int64]:
    """Return the class that each image is taken for, under `attack` where one is given.

    Args:
        logits_fn: images (N, 3, H, W) float32 in [0, 1] to logits, in evaluation mode; attacked as it is.
        data: the images.
        attack: what to run; its seed and `batch_size` decide the random starts.
        batch_size: images at a time.
        device: where `logits_fn` wants its images.
    """
    generator = torch.Generator(device).manual_seed(0 if attack is None else attack.seed)
    found = []
    for x_NCHW, y_N in batches(data, batch_size=batch_size, device=device):
        if attack is not None:
            x_NCHW = perturb(logits_fn, x_NCHW, y_N, spec=attack, generator=generator, keep="broken")
        with torch.no_grad():
            found.append(logits_fn(x_NCHW).argmax(dim=1).cpu().numpy())
    return np.concatenate(found)


def batches(
    data: ImageSet, *, batch_size: int = BATCH, device: str | torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images in [0, 1] and labels, on the device."""
    for start in range(0, len(data), batch_size):
        images = torch.from_numpy(data.images_NHWC[start : start + batch_size])
        yield to_unit(images.to(device)), torch.from_numpy(data.labels_N[start : start + batch_size]).to(device)


def first_of(data: ImageSet, count: int, option: str) -> ImageSet:
    """Return the first images, and say so where there are fewer than an option asks for."""
    if len(data) < count:
        PlainConsole(stderr=True).print(
            f"{data.name} holds {len(data):,} images, and {option} is {count}: all of them count"
        )
    return data.first(count)


def corrupted_sets(
    data: ImageSet, kinds: Sequence[str], severities: Sequence[int]
) -> Iterator[tuple[str, int, ImageSet]]:
    """Yield `data` under every (kind, severity), each named `KIND-SEVERITY`; the same pixels every time."""
    for kind in kinds:
        for severity in severities:
            name = f"{kind}-{severity}"
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            images = corrupt_batch(data.images_NHWC[:], kind, severity, rng=rng)
            yield kind, severity, ImageSet(images, data.labels_N, data.class_names, name)
