"""Move the weights: SGD or Muon, learning-rate schedules, the running average, and adversarial weight perturbation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.network import SlimmableConv2d, SlimmableLinear, untracked

_NUM_ROUNDS = 5
"""Newton–Schulz rounds of Muon; each costs three products."""


def decayed_weights(model: nn.Module) -> list[Tensor]:
    """Return the convolution and classifier weights, which get weight decay and which AWP perturbs."""
    return [module.weight for module in model.modules() if isinstance(module, SlimmableConv2d | SlimmableLinear)]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """Make SGD with momentum and weight decay on `decayed_weights` only; with `muon`, Muon on convolutions."""
    decayed = decayed_weights(model)
    known = {id(weight) for weight in decayed}
    others = {"params": [p for p in model.parameters() if id(p) not in known], "weight_decay": 0.0}
    nesterov = config.nesterov and config.momentum > 0
    if config.optimizer == "sgd":
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, others]
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov)
    # A group's own rate in units of the shared one, so that one schedule drives both.
    relative_rate = config.muon_learning_rate / config.learning_rate
    groups = [
        {"params": [w for w in decayed if w.ndim == 2], "weight_decay": config.weight_decay},
        others,
        {
            "params": [w for w in decayed if w.ndim == 4],
            "weight_decay": 0.0,
            "momentum": 0.0,  # of SGD's step, which follows
            "nesterov": False,
            "muon_momentum": config.momentum,
            "muon_nesterov": nesterov,
            "relative_rate": relative_rate,
        },
    ]
    dtype = getattr(torch, config.precision)
    return Muon(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, product_dtype=dtype)


class Muon(torch.optim.SGD):
    """SGD that first makes the gradients of the groups with a `muon_momentum` orthogonal (Jordan et al. 2024).

    Such a weight (O, ...) is treated as a matrix of O rows. The running sum of its gradients, with `muon_nesterov` one
    step ahead, is replaced by about the nearest matrix with orthonormal rows (or columns, if there are fewer), so that
    all its directions move equally far. After the step, the weight is scaled to the length √O, as if each row had
    length 1. So the learning rate says how far a step turns it. The norm after a convolution cancels its length. Only
    the last weight of a residual branch has no norm after it, and there the length fixes the branch's share in the sum.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, momentum: float, nesterov: bool, product_dtype: torch.dtype
    ) -> None:
        """Set up the groups; matrix products run in `product_dtype`."""
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=nesterov)
        self.product_dtype = product_dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move all weights by their gradients; `closure` must be None.

        Raises:
            ValueError: there is a closure.
        """
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients first, then call step()")
        weights = []
        for group in self.param_groups:
            if "muon_momentum" not in group:
                continue
            decay = group["muon_momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                weights.append(weight)
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                total = state["momentum_buffer"]
                total.mul_(decay).add_(weight.grad)
                direction = weight.grad.add(total, alpha=decay) if group["muon_nesterov"] else total
                weight.grad = orthogonalized(direction.flatten(1), dtype=self.product_dtype).view_as(weight)
        super().step()
        for weight in weights:
            weight.mul_(math.sqrt(len(weight)) / weight.norm().clamp_min(1e-12))
        return None


def change_of_lengths(model: nn.Module) -> float:
    """Return the factor, 1 or more, by which Muon's first step changes the length of some convolution the most."""
    weights = [weight.detach() for weight in decayed_weights(model) if weight.ndim == 4]
    factors = [math.sqrt(len(weight)) / max(float(weight.norm()), 1e-12) for weight in weights]
    return max(max(factor, 1.0 / factor) for factor in factors)


def orthogonalized(matrix_OI: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return about U Vᵀ of a matrix U S Vᵀ, float32 (O, I): singular values end between 0.6 and 1.3, near zero lower.

    Newton–Schulz rounds with the coefficients of Jordan et al. (2024), which lift small singular values fastest.

    Args:
        matrix_OI: of any scale; zero stays zero.
        dtype: of the matrix products.
    """
    tall = matrix_OI.shape[0] > matrix_OI.shape[1]
    x = (matrix_OI / matrix_OI.norm().clamp_min(1e-12)).to(dtype)
    x = x.T if tall else x
    for _ in range(_NUM_ROUNDS):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    found: Tensor = x.T if tall else x
    return found.float()


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, progress: float) -> None:
    """Set every group's learning rate at `progress` in [0, 1]."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, progress) * group.get("relative_rate", 1.0)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Return the learning rate at `progress` in [0, 1]: a linear warm-up, then the schedule; lower with a `start`."""
    peak = config.learning_rate * (config.start_rate if config.start else 1.0)
    if progress < config.warmup:
        return peak * progress / config.warmup
    if config.schedule == "steps":
        return peak * (1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
    rest = (progress - config.warmup) / (1.0 - config.warmup)
    return peak * (1.0 - rest if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest)))


class Average:
    """Keep a running average of weights and batch-norm statistics, which forgets faster in its first steps.

    The decay is min(decay, (1 + step) / (10 + step)), so that the start of a run leaves no trace in a short one.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the weights of `model`."""
        self.decay = decay
        self.state = {name: tensor.clone() for name, tensor in float_tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step number `step`, counted from 1."""
        share = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(list(self.state.values()), list(float_tensors(model).values()), share)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a saved average."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def write_to(self, model: nn.Module) -> None:
        """Overwrite the weights of `model` with the average."""
        for name, tensor in float_tensors(model).items():
            tensor.copy_(self.state[name])

    @contextmanager
    def shown_by(self, model: nn.Module) -> Iterator[None]:
        """Within the `with` block, let `model` hold the average."""
        saved = {name: tensor.clone() for name, tensor in float_tensors(model).items()}
        self.write_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in float_tensors(model).items():
                    tensor.copy_(saved[name])


def float_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights and the batch norms' statistics of `model` by name, not copied."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@contextmanager
def perturbed_weights(
    model: nn.Module, loss: Callable[[], Tensor], *, gamma: float, sum_: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Within the `with` block, move weights uphill on `loss` by `gamma` of their length (AWP, Wu et al. 2020, Eq. 10).

    Each weight moves along its gradient. If a narrow width uses only a part of a weight, that part moves, by its own
    length.

    Args:
        model: its convolution and classifier weights are perturbed and restored exactly; its statistics stay.
        loss: this process's part of the loss, computed anew.
        gamma: length of the perturbation relative to that of the weight.
        sum_: adds a tensor up over all processes.
    """
    weights = decayed_weights(model)
    with untracked(model):
        gradients = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
    saved = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, part in zip(weights, gradients, strict=True):
            gradient = sum_(part.contiguous())
            length = (weight * (gradient != 0)).norm()
            weight.add_(gradient * (gamma * length / gradient.norm().clamp_min(1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, saved, strict=True):
                weight.copy_(before)
