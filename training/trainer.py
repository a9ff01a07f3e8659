"""The training loop: per-sample λ, an attack for each width, the paper's loss, and a stop that can be resumed."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from oat_runtime.errors import CheckpointError, ConfigError, OATError
from oat_runtime.layers import LambdaBatch, SlimmableConv2d, SlimmableLinear
from oat_runtime.model import OATNet, frozen
from oat_runtime.operating_point import AttackSpec
from oat_runtime.stress.attacks import pgd_linf
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.data import ImageSet, augment, to_unit
from training.sampling import sample_lambdas, sample_widths

_LOG = logging.getLogger(__name__)


class NonFiniteLossError(OATError):
    """The loss became NaN or infinite; nothing was stepped."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Training images float32 (N, 3, H, W) in [0, 1] and labels int64 (N,), on the model's device."""

    x_NCHW: Tensor
    y_N: Tensor


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Figures of one step at the full width, over the samples they concern (NaN where there were none)."""

    loss: float
    clean_accuracy: float
    adversarial_accuracy: float


@dataclass(frozen=True, slots=True)
class StepSampler:
    """What one step draws: λ for each sample, widths, and the generator of the attack's random starts."""

    config: TrainConfig
    generator: torch.Generator

    def lambdas(self, num: int) -> list[float]:
        """One λ per sample, ascending."""
        return sample_lambdas(self.config, num, generator=self.generator)

    def widths(self) -> tuple[float, ...]:
        """The widths to train, widest first."""
        return sample_widths(self.config, generator=self.generator)


@dataclass(frozen=True, slots=True)
class _JointBatch:
    """Clean and adversarial images of one width, joined so that what shares a batch norm is normalized together."""

    x_NCHW: Tensor
    y_N: Tensor
    lam: LambdaBatch
    weight_N: Tensor
    """Weight of each image's cross-entropy: 1 − λ if clean, λ if adversarial."""
    num_front: int
    """Clean images come first: this many."""


def _joint_batch(
    model: OATNet, batch: Batch, lam_N: list[float], width: float, *, attack: AttackSpec, generator: torch.Generator
) -> _JointBatch:
    """Attack the samples of λ>0 at their λ and this width, and join them to all clean ones that have weight."""
    device = batch.x_NCHW.device
    lam = LambdaBatch.from_values(lam_N, model.config.lambdas, device=device)
    lam_values_N = torch.tensor(lam_N, device=device)
    robust = slice(lam.num_clean, None)
    num_front = sum(value < 1.0 for value in lam_N)
    attacked = LambdaBatch(lam.weights_NK[robust], 0)
    adversarial = batch.x_NCHW[robust]
    if len(adversarial):
        with frozen(model):
            adversarial = pgd_linf(
                lambda x_NCHW: model(x_NCHW, attacked, width=width),
                adversarial,
                batch.y_N[robust],
                epsilon=attack.epsilon,
                step_size=attack.step_size,
                num_steps=attack.num_steps,
                generator=generator,
            )
    front = slice(0, num_front)
    return _JointBatch(
        x_NCHW=torch.cat([batch.x_NCHW[front], adversarial]),
        y_N=torch.cat([batch.y_N[front], batch.y_N[robust]]),
        lam=LambdaBatch(torch.cat([lam.weights_NK[front], lam.weights_NK[robust]]), lam.num_clean),
        weight_N=torch.cat([1.0 - lam_values_N[front], lam_values_N[robust]]),
        num_front=num_front,
    )


def train_step(
    model: OATNet,
    batch: Batch,
    *,
    sampler: StepSampler,
    attack: AttackSpec,
    optimizer: torch.optim.Optimizer,
    label_smoothing: float = 0.0,
) -> StepMetrics:
    """One optimizer step on (1 − λ) CE(clean) + λ CE(adversarial), averaged over samples and widths (the paper, Eq. 3).

    Raises:
        NonFiniteLossError: the loss is NaN or infinite; the weights are as they were before the step.
    """
    lam_N = sampler.lambdas(len(batch.y_N))
    widths = sampler.widths()
    optimizer.zero_grad(set_to_none=True)
    metrics: StepMetrics | None = None
    for width in widths:
        joint = _joint_batch(model, batch, lam_N, width, attack=attack, generator=sampler.generator)
        logits = model(joint.x_NCHW, joint.lam, width=width)
        losses = F.cross_entropy(logits, joint.y_N, reduction="none", label_smoothing=label_smoothing)
        loss = (joint.weight_N * losses).sum() / len(lam_N)
        (loss / len(widths)).backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(loss_value := loss.item()):
            raise NonFiniteLossError(
                f"loss at width {width:g} is {loss_value}: lower the learning rate or train in float32, and resume"
            )
        if metrics is None:
            hit_N = (logits.detach().argmax(dim=1) == joint.y_N).float()
            front = hit_N[: joint.num_front]
            metrics = StepMetrics(loss_value, front.mean().item(), hit_N[joint.num_front :].mean().item())
    optimizer.step()
    assert metrics is not None
    return metrics


def make_optimizer(model: OATNet, config: TrainConfig) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on convolution and classifier weights only."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, SlimmableConv2d | SlimmableLinear)}
    groups = [
        {"params": [p for p in model.parameters() if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate at `progress` in [0, 1]: linear warm-up, then a cosine to zero."""
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (progress - config.warmup) / (1.0 - config.warmup)))


class Trainer:
    """A run that can stop at any step and go on as if it never had: all it draws depends on (seed, step) alone."""

    def __init__(self, config: TrainConfig, data: ImageSet, *, device: str = "cpu") -> None:
        """Build the network and the optimizer for the training images `data` (without the validation images)."""
        torch.manual_seed(config.seed)
        self.config = config
        self.device = torch.device(device)
        self.model = OATNet(config.model).to(self.device)
        self.model.compute_dtype = getattr(torch, config.precision)
        if config.compile_norms:
            self.model.compile_norms()
        self.optimizer = make_optimizer(self.model, config)
        self.images_NHWC = torch.from_numpy(data.images_NHWC).to(self.device)
        self.labels_N = torch.from_numpy(data.labels_N).to(self.device)
        self.step = 0
        self.seconds = 0.0
        self.finished = False
        if len(data) < config.batch_size:
            raise ConfigError(f"batch_size {config.batch_size} is larger than the {len(data)} training images")

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch; the last, smaller batch is left out."""
        return len(self.labels_N) // self.config.batch_size

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    def _generator(self, stream: int, index: int) -> torch.Generator:
        """A CPU generator of its own for every (seed, stream, index)."""
        return torch.Generator().manual_seed((self.config.seed * 4 + stream) * 2**32 + index)

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        """The augmented batch of one step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.labels_N), generator=self._generator(0, epoch))
        size = self.config.batch_size
        chosen = order[position * size : (position + 1) * size].to(self.device)
        images = augment(self.images_NHWC[chosen], padding=4, generator=generator)
        return Batch(to_unit(images), self.labels_N[chosen])

    def _sampler(self, generator: torch.Generator) -> StepSampler:
        return StepSampler(self.config, generator)

    def run_step(self) -> StepMetrics:
        """Train on the next batch."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, (self.step + 1) / self.num_steps)
        generator = self._generator(1, self.step)
        self.model.train()
        metrics = train_step(
            self.model,
            self.batch(self.step, generator),
            sampler=self._sampler(generator),
            attack=self.config.attack,
            optimizer=self.optimizer,
            label_smoothing=self.config.label_smoothing,
        )
        self.step += 1
        self.seconds += time.perf_counter() - started
        return metrics

    def run(self, *, max_minutes: float | None = None) -> Iterator[StepMetrics]:
        """Train until the last step or until `max_minutes` of this call have passed, yielding after every step."""
        deadline = math.inf if max_minutes is None else time.monotonic() + 60.0 * max_minutes
        while self.step < self.num_steps:
            if time.monotonic() > deadline:
                _LOG.info("time budget spent at step %d of %d", self.step, self.num_steps)
                return
            yield self.run_step()
        if not self.finished:
            self.recalibrate(self.config.num_recalibration)
            self.finished = True

    def recalibrate(self, num_batches: int) -> None:
        """Average every batch norm's statistics anew over the training mixture, weights fixed.

        The running ones forget all but the last few batches, and the λ=0 share of each is small. Gradients stay on
        though none is used, so that kernels compiled for training serve here too.
        """
        norms = [m for m in self.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        num_seen: Counter[tuple[float, int]] = Counter()
        self.model.train()
        for index in range(num_batches):
            generator = self._generator(2, index)
            batch = self.batch(index % self.steps_per_epoch, generator)
            lam_N = self._sampler(generator).lambdas(len(batch.y_N))
            # All attacks come before the first statistic changes, so the order of widths does not matter.
            joints = [
                _joint_batch(self.model, batch, lam_N, width, attack=self.config.attack, generator=generator)
                for width in self.config.model.widths
            ]
            for width, joint in zip(self.config.model.widths, joints, strict=True):
                for branch, _, weights_NK in joint.lam.branches():  # a batch may hold no λ=0, and then counts not
                    num_seen[width, branch] += 1
                    route = self.model.route(branch, weights_NK, width)
                    for site in self.model.norms():
                        site.norm(route).momentum = 1.0 / num_seen[width, branch]
                self.model(joint.x_NCHW, joint.lam, width=width)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = Checkpoint(
            self.config, self.step, self.model.state_dict(), self.optimizer.state_dict(), self.seconds, self.finished
        )
        save_checkpoint(state, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same configuration.

        Raises:
            CheckpointError: it is damaged, or of another configuration.
        """
        checkpoint = load_checkpoint(path, device=self.device)
        if checkpoint.config != self.config:
            ours, theirs = self.config.model_dump(), checkpoint.config.model_dump()
            changed = sorted(key for key in ours if ours[key] != theirs[key])
            raise CheckpointError(f"{path} is of another configuration (differs in {changed}): start a new run folder")
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.step, self.seconds, self.finished = checkpoint.step, checkpoint.seconds, checkpoint.finished
