"""Run the training loop: draw a step, compute its gradients over all widths and processes, stop and resume."""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from oat_runtime.architecture import ADVERSARIAL, CLEAN
from oat_runtime.backends.trials import multiplies_bfloat16
from oat_runtime.data import ImageSet, PickedImages
from oat_runtime.errors import CheckpointError, ConfigError, OATError
from training.augment import augmented
from training.checkpoint import (
    Checkpoint,
    check_tensors,
    going_on,
    load_checkpoint,
    load_weights,
    optimizer_state,
    save_checkpoint,
)
from training.config import TrainConfig
from training.cuda_graph import Recorder
from training.distributed import World
from training.losses import Terms, attacked, weighted_sum
from training.network import OATNet
from training.optimizer import Average, float_tensors, make_optimizer, perturbed_weights, set_learning_rate
from training.origin import commit_of_code, hardware
from training.sampling import BalancedOrder, StepDraw, draw_step

_LOG = logging.getLogger(__name__)
_ORDER, _STEP, _RECALIBRATE, _CLASS_ORDER, _SHUFFLE = range(5)
"""Streams of random numbers."""


class NonFiniteLossError(OATError):
    """The loss became NaN or infinite; the weights were left as they are."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Training images float32 (N, 3, H, W) in [0, 1] and labels int64 (N,), on the model's device."""

    x_NCHW: Tensor
    y_N: Tensor


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Figures of one step at the full width; NaN if no term concerns one."""

    loss: float
    clean_accuracy: float
    adversarial_accuracy: float


def gradients(
    model: OATNet, terms: Terms, noise: Tensor, *, widths: Sequence[float], num: int, config: TrainConfig, world: World
) -> Tensor:
    """Add this part's gradients of the loss (a mean over samples and widths; the paper, Eq. 3) to the parameters.

    Args:
        model: in training mode; its statistics take in each width's joint images.
        terms: this part's loss terms.
        noise: (W, N, 3, H, W) uniform in [-1, 1], the start of each width's attack.
        widths: W widths, widest first.
        num: samples of the whole batch.
        config: attack, loss and AWP.
        world: the processes over which AWP's direction is summed.

    Returns:
        (W + 2,): each width's share of the loss, and how many clean and adversarial images the widest classified
        correctly.
    """
    teacher_MK: Tensor | None = None
    figures: list[Tensor] = []
    hits: list[Tensor] = []
    for width, images in zip(widths, attacked(model, terms, noise, widths=widths, config=config), strict=True):

        def loss(
            images: Tensor = images, width: float = width, teacher_MK: Tensor | None = teacher_MK
        ) -> tuple[Tensor, Tensor]:
            total, logits_MK = weighted_sum(model, terms, images, width=width, config=config, teacher_MK=teacher_MK)
            return total / num, logits_MK

        with ExitStack() as stack:
            if config.awp_gamma > 0.0:
                ascent = perturbed_weights(model, lambda: loss()[0], gamma=config.awp_gamma, sum_=world.sum_)
                stack.enter_context(ascent)
            value, logits_MK = loss()
            (value / len(widths)).backward()  # type: ignore[no-untyped-call]
        figures.append(value.detach())
        if not hits:  # of the widest
            if config.width_distillation > 0.0:
                teacher_MK = logits_MK.detach().softmax(dim=1)
            hit_M = logits_MK.detach().argmax(dim=1) == terms.y_N[torch.cat([terms.clean_A, terms.adversarial_B])]
            num_clean_terms = len(terms.clean_A)
            hits = [hit_M[:num_clean_terms].sum(), hit_M[num_clean_terms:].sum()]
    return torch.stack([*figures, *(count.float() for count in hits)])


Gradients = Callable[..., Tensor]


def train_step(
    model: OATNet,
    batch: Batch,
    draw: StepDraw,
    noise: Tensor,
    *,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    world: World,
    compute: Gradients = gradients,
) -> StepMetrics:
    """Make one optimizer step on the whole batch; this process and each accumulation round take a strided part of it.

    Args:
        model: in training mode.
        batch: the whole batch, the same in every process.
        draw: the draw for it.
        noise: (W, N, 3, H, W) uniform in [-1, 1]: the starts of the attacks.
        config: the run's.
        optimizer: over the model's parameters.
        world: the processes that share the batch.
        compute: `gradients`, or the same recorded.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite; the weights are as they were before the step.
    """
    num, stride = len(batch.y_N), world.size * config.accumulation
    optimizer.zero_grad(set_to_none=True)
    figures = torch.zeros(len(draw.widths) + 2, device=batch.y_N.device)
    for start in range(world.rank, stride, world.size):
        part = slice(start, None, stride)
        terms = Terms.of(draw.part(start, stride), batch.x_NCHW[part], batch.y_N[part], config)
        figures = figures + compute(
            model, terms, noise[:, part], widths=draw.widths, num=num, config=config, world=world
        )
    *losses, clean_hits, adversarial_hits = world.sum_(figures).tolist()
    for width, loss in zip(draw.widths, losses, strict=True):
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"loss at width {width:g} is {loss}: train another run with a lower learning rate or in float32 "
                "(--run NEW --set learning_rate=… or precision=float32)"
            )
    world.sum_gradients(list(model.parameters()))
    if not config.sync_bn:
        world.average_(running_statistics(model))
    optimizer.step()
    return StepMetrics(losses[0], _share(clean_hits, len(draw.clean)), _share(adversarial_hits, len(draw.adversarial)))


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running means and variances of all batch norms."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [norm.get_buffer(name) for norm in norms for name in ("running_mean", "running_var")]


def _share(hits: float, num: int) -> float:
    return hits / num if num else math.nan


def settled(config: TrainConfig, world: World) -> TrainConfig:
    """Return `config` with one precision in place of `auto`: the one that suits the devices of all processes."""
    if config.precision != "auto":
        return config
    on_gpu = world.device.type == "cuda"
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else multiplies_bfloat16()
    return config.model_copy(update={"precision": "float32" if world.any(not fast) else "bfloat16"})


class Trainer:
    """A run that can stop at any step and go on to the same bits, because all its draws depend only on (seed, step)."""

    def __init__(self, config: TrainConfig, data: ImageSet, *, device: str = "cpu", world: World | None = None) -> None:
        """Build the network and the optimizer for the training images `data` (without the validation images)."""
        torch.manual_seed(config.seed)
        self.world = world or World(device=torch.device(device))
        self.config = config = settled(config, self.world)
        self.device = self.world.device
        num_parts = self.world.size * config.accumulation
        if len(data) < config.batch_size:
            raise ConfigError(
                f"batch_size {config.batch_size} is larger than the {len(data)} training images: set batch_size to "
                f"{max(2, len(data) // 2)} or less, or add images"
            )
        if config.batch_size % num_parts:
            raise ConfigError(
                f"batch_size must be a multiple of processes times accumulation ({num_parts}), got {config.batch_size}"
            )
        self.model = OATNet(config.model).to(self.device)
        if self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.compute_dtype = getattr(torch, config.precision)
        if config.compile_norms:
            self.model.compile_norms()
        self._synchronize(config.sync_bn)
        self.optimizer = make_optimizer(self.model, config)
        self.average = Average(self.model, config.average_decay) if config.average_decay > 0.0 else None
        self.first: dict[str, Tensor] | None = None  # weights that the run started from, if it ends with some of them
        self.compute: Gradients = gradients
        if config.cuda_graphs and self.device.type == "cuda":
            if num_parts > 1:
                raise ConfigError(f"cuda_graphs needs one process and no accumulation, got {num_parts} parts a batch")
            self.compute = Recorder(gradients)
        self._images: Tensor | PickedImages = (
            data.images_NHWC  # those in a file stay there
            if isinstance(data.images_NHWC, PickedImages)
            else torch.from_numpy(data.images_NHWC).to(self.device)
        )
        self.labels_N = torch.from_numpy(data.labels_N).to(self.device)
        self.mirror = data.mirrors if config.mirror is None else config.mirror
        self.step = 0
        self.seconds = 0.0
        self.finished = False
        self._commit = commit_of_code()  # of the code that was loaded, whatever is checked out later
        self._hardware = hardware(self.device, num_processes=self.world.size)
        self._order: tuple[int, Tensor] | None = None
        self._balanced: BalancedOrder | None = None
        if config.balance == "sampling":
            labels_N = torch.from_numpy(data.labels_N)
            self._balanced = BalancedOrder(labels_N, partial(self._generator, _CLASS_ORDER))

    def note_start(self, start: str) -> None:
        """Note that the fresh network was given the weights of `start`; their average starts from them as well."""
        self.config = self.config.model_copy(update={"start": start})
        self._begin_averages()

    def _begin_averages(self) -> None:
        """Let the running average, and what the run keeps of its start, begin at the present weights."""
        if self.config.average_decay > 0.0:
            self.average = Average(self.model, self.config.average_decay)
        if self.config.start_share > 0.0:
            self.first = {name: tensor.clone() for name, tensor in float_tensors(self.model).items()}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last, smaller batch is left out."""
        return len(self.labels_N) // self.config.batch_size

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self._num_steps(self.config)

    def _num_steps(self, config: TrainConfig) -> int:
        return config.steps or self.steps_per_epoch * config.epochs

    @property
    def phase(self) -> tuple[int, int]:
        """First step of the learning-rate schedule that the next step is in, and the step after its last."""
        index = bisect_right(self.config.restarts, self.step)
        return (0, *self.config.restarts)[index], (*self.config.restarts, self.num_steps)[index]

    @property
    def num_clean_steps(self) -> int:
        """Number of first steps, which train only on clean images at λ=0."""
        return round(self.config.clean_share * (*self.config.restarts, self.num_steps)[0])

    def _generator(self, stream: int, index: int, device: str | torch.device = "cpu") -> torch.Generator:
        """Return a generator for (seed, stream, index), unrelated to that of any other triple.

        All three are mixed into every bit, because torch's CPU generator uses only the low 32 bits of a seed.
        """
        (mixed,) = np.random.SeedSequence((self.config.seed, stream, index)).generate_state(1, np.uint64).tolist()
        return torch.Generator(device).manual_seed(mixed)

    def _synchronize(self, on: bool) -> None:
        """Let batch norms take statistics over all processes, or over this one's images."""
        for site in self.model.norms():
            site.all_reduce = self.world.sum_with_gradient if on and self.world.size > 1 else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Use the network in this process only: batch norms that took part in sums would wait for the others."""
        self._synchronize(False)
        try:
            yield
        finally:
            self._synchronize(self.config.sync_bn)

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        """Return the augmented batch of one step."""
        chosen = self._positions(step)
        images = augmented(self._pixels(chosen), self.config, mirror=self.mirror, generator=generator)
        return Batch(images, self.labels_N[chosen])

    def _pixels(self, chosen: Tensor) -> Tensor:
        """Return some training images, uint8 (B, H, W, 3), on the device."""
        if isinstance(self._images, PickedImages):
            return torch.from_numpy(self._images[chosen.cpu().numpy()]).to(self.device)
        return self._images[chosen]

    def _positions(self, step: int) -> Tensor:
        """Return where the images of a step lie (B,): in a random order of all, or balanced by class."""
        size = self.config.batch_size
        if self._balanced is not None:
            return self._balanced.batch(step, size, generator=self._generator(_SHUFFLE, step)).to(self.device)
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self.labels_N), generator=self._generator(_ORDER, epoch))
            self._order = (epoch, order.to(self.device))
        return self._order[1][position * size : (position + 1) * size]

    def draw(self, stream: int, index: int, step: int) -> tuple[Batch, StepDraw, Callable[[int], Tensor]]:
        """Return the batch of `step`, its draw, and a function that draws noise for a number of attacks on it."""
        generator = self._generator(stream, index)
        batch = self.batch(step, generator)
        clean_only = stream == _STEP and index < self.num_clean_steps
        draw = draw_step(self.config, len(batch.y_N), generator=generator, clean_only=clean_only)
        if self.device.type != "cpu":
            generator = self._generator(stream, index, self.device)

        def noise(num: int) -> Tensor:
            uniform = torch.rand((num, *batch.x_NCHW.shape), generator=generator, device=self.device)
            return 2.0 * uniform - 1.0

        return batch, draw, noise

    def run_step(self) -> StepMetrics:
        """Train on the next batch."""
        started = time.perf_counter()
        if 0 < self.step == self.num_clean_steps:
            self._end_clean_phase()
        start, end = self.phase
        set_learning_rate(self.optimizer, self.config, (self.step + 1 - start) / (end - start))
        batch, draw, noise = self.draw(_STEP, self.step, self.step)
        self.model.train()
        metrics = train_step(
            self.model,
            batch,
            draw,
            noise(len(draw.widths)),
            config=self.config,
            optimizer=self.optimizer,
            world=self.world,
            compute=self.compute,
        )
        self.step += 1
        if self.average is not None:
            started_at = self.num_clean_steps if self.step > self.num_clean_steps else 0
            self.average.update(self.model, self.step - max(started_at, start))
        self.seconds += time.perf_counter() - started
        return metrics

    def _end_clean_phase(self) -> None:
        """Give the batch norms of λ≠0, untrained so far, the weights and statistics of those of λ=0."""
        for site in self.model.norms():
            for index in range(len(self.config.model.widths)):
                site.norm(ADVERSARIAL, index).load_state_dict(site.norm(CLEAN, index).state_dict())
        if self.average is not None:
            self.average = Average(self.model, self.config.average_decay)

    def run(
        self, *, max_minutes: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[StepMetrics]:
        """Train until the last step or until `max_minutes` of this call have passed, yielding after every step.

        If `stop` says so in any process, all of them end after the step that they are at.
        """
        deadline = math.inf if max_minutes is None else time.monotonic() + 60.0 * max_minutes
        while self.step < self.num_steps:
            is_late = time.monotonic() > deadline
            if self.world.any(is_late or stop()):
                if is_late:
                    _LOG.info("time budget spent at step %d of %d", self.step, self.num_steps)
                return
            yield self.run_step()
        if not self.finished and not self.world.any(stop()):
            if self.average is not None:
                self.average.write_to(self.model)
            if self.first is not None:
                with torch.no_grad():
                    for name, tensor in float_tensors(self.model).items():
                        tensor.lerp_(self.first[name], self.config.start_share)
            self.recalibrate(self.config.num_recalibration)
            self.finished, self.first = True, None

    def recalibrate(self, num_batches: int) -> None:
        """Average every batch norm's statistics again over the training mixture of all processes, with fixed weights.

        Running statistics forget all but the last few batches, and each holds few images of λ=0. Gradients stay on,
        although none is used, so that the kernels that were compiled for training fit.
        """
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        num_seen: Counter[nn.BatchNorm2d] = Counter()
        size, stride = self.world.size, self.world.size * self.config.accumulation
        self._synchronize(True)
        self.model.train()
        for index in range(num_batches):
            batch, draw, noise = self.draw(_RECALIBRATE, index, index % self.steps_per_epoch)
            starts = noise(len(self.config.model.widths))
            for first in range(0, stride, size):
                part = slice(first + self.world.rank, None, stride)
                own = draw.part(first + self.world.rank, stride)
                terms = Terms.of(own, batch.x_NCHW[part], batch.y_N[part], self.config)
                everyone = [draw.part(start, stride) for start in range(first, first + size)]
                widths = self.config.model.widths
                # All attacks come before the first statistic changes, so the order of widths does not matter.
                images = list(attacked(self.model, terms, starts[:, part], widths=widths, config=self.config))
                for width, adversarial in zip(widths, images, strict=True):
                    self._count(everyone, width, num_seen)
                    joint = torch.cat([terms.x_NCHW[terms.clean_A], adversarial])
                    self.model(joint, terms.lam_M, width=width)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self._synchronize(self.config.sync_bn)

    def _count(self, draws: list[StepDraw], width: float, num_seen: Counter[nn.BatchNorm2d]) -> None:
        """Set the momentum of each batch norm that will get images, so that its statistics become a mean."""
        lambdas = [draw.lam_N[n] for draw in draws for n in (*draw.clean, *draw.adversarial)]
        branches = {CLEAN if lam == 0.0 else ADVERSARIAL for lam in lambdas}  # a batch may hold no λ=0
        index = self.model.config.width_index(width)
        for site in self.model.norms():
            for norm in {site.norm(branch, index) for branch in branches}:
                num_seen[norm] += 1
                norm.momentum = 1.0 / num_seen[norm]

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            Checkpoint(
                config=self.config,
                step=self.step,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                seconds=self.seconds,
                finished=self.finished,
                average=None if self.average is None else self.average.state,
                first=self.first,
                commit=self._commit,
                hardware=self._hardware,
            ),
            path,
        )

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same configuration, or with more epochs from one of a finished run.

        More epochs start from the finished weights, which are the averaged ones, with momenta at zero, with a new
        average, and at the beginning of the learning-rate schedule.

        Raises:
            CheckpointError: it is damaged, or of another configuration.
        """
        checkpoint = load_checkpoint(path, device=self.device)
        config = going_on(self.config, checkpoint, path)
        num_steps = self._num_steps(config)
        begins_anew = config.restarts != checkpoint.config.restarts
        if begins_anew and checkpoint.step >= num_steps:
            raise CheckpointError(
                f"{path} is finished after {checkpoint.step} steps, and {num_steps} are asked for: ask for more "
                "epochs, or start a new run folder"
            )
        is_complete = checkpoint.finished and not begins_anew
        if checkpoint.step > num_steps or (is_complete and checkpoint.step != num_steps):
            raise CheckpointError(f"{path}: expected a step of at most {num_steps}, got {checkpoint.step}")
        if config.restarts and config.restarts[-1] > checkpoint.step:
            raise CheckpointError(f"{path}: expected restarts up to step {checkpoint.step}, got {config.restarts}")
        # All is checked before anything is taken over: a refusal leaves this run as it was.
        optimizer = optimizer_state(checkpoint.optimizer, self.optimizer)
        if self.average is not None:
            if checkpoint.average is None:
                raise CheckpointError(f"{path} holds no average of weights: start a new run folder")
            check_tensors("average", checkpoint.average, self.average.state)
        if config.start_share > 0.0 and not checkpoint.finished:
            if checkpoint.first is None:
                raise CheckpointError(f"{path} holds no weights of its start: start a new run folder")
            check_tensors("start", checkpoint.first, float_tensors(self.model))
        load_weights(self.model, checkpoint)
        self.config, self.step, self.seconds, self.finished = config, checkpoint.step, checkpoint.seconds, is_complete
        if begins_anew:
            self.optimizer = make_optimizer(self.model, config)
            self._begin_averages()
            return
        self.first = None if self.finished else checkpoint.first
        self.optimizer.load_state_dict(optimizer)
        if self.average is not None and checkpoint.average is not None:
            self.average.load(checkpoint.average)
        if self.finished:  # whoever looks at it again did not train it
            self._commit, self._hardware = checkpoint.commit, checkpoint.hardware
