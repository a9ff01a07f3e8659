"""How weights move: SGD, its learning-rate schedules, the running average, and adversarial weight perturbation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.network import SlimmableConv2d, SlimmableLinear, untracked


def decayed_weights(model: nn.Module) -> list[Tensor]:
    """Convolution and classifier weights: those with weight decay, and those that AWP perturbs."""
    return [module.weight for module in model.modules() if isinstance(module, SlimmableConv2d | SlimmableLinear)]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum; weight decay on convolution and classifier weights only."""
    decayed = decayed_weights(model)
    known = {id(weight) for weight in decayed}
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if id(p) not in known], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0
    )


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate at `progress` in [0, 1]: a linear warm-up, then the schedule."""
    peak = config.learning_rate
    if progress < config.warmup:
        return peak * progress / config.warmup
    if config.schedule == "steps":
        return peak * (1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
    rest = (progress - config.warmup) / (1.0 - config.warmup)
    return peak * (1.0 - rest if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest)))


class Average:
    """A running average of weights and batch-norm statistics; in its first steps it forgets faster.

    The decay is min(decay, (1 + step) / (10 + step)), so that the start of a run leaves no trace in a short one.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the weights of `model`."""
        self.decay = decay
        self.state = {name: tensor.clone() for name, tensor in _floats(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step number `step`, counted from 1."""
        share = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(list(self.state.values()), list(_floats(model).values()), share)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def write_to(self, model: nn.Module) -> None:
        """Overwrite the weights of `model` with the average."""
        for name, tensor in _floats(model).items():
            tensor.copy_(self.state[name])

    @contextmanager
    def shown_by(self, model: nn.Module) -> Iterator[None]:
        """Within the block, `model` holds the average."""
        kept = {name: tensor.clone() for name, tensor in _floats(model).items()}
        self.write_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in _floats(model).items():
                    tensor.copy_(kept[name])


def _floats(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@contextmanager
def perturbed_weights(
    model: nn.Module, loss: Callable[[], Tensor], *, gamma: float, sum_: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Within the block, weights are moved uphill on `loss` (AWP, Wu et al. 2020, Eq. 10), by `gamma` of their length.

    Each weight moves along its gradient; of one that a narrow width uses in part, that part moves, by its own length.

    Args:
        model: its convolution and classifier weights are perturbed and restored exactly; its statistics stay.
        loss: this process's part of the loss, computed anew.
        gamma: length of the perturbation relative to that of the weight.
        sum_: adds a tensor up over all processes.
    """
    weights = decayed_weights(model)
    with untracked(model):
        gradients = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, part in zip(weights, gradients, strict=True):
            gradient = sum_(part.contiguous())
            length = (weight * (gradient != 0)).norm()
            weight.add_(gradient * (gamma * length / gradient.norm().clamp_min(1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)
