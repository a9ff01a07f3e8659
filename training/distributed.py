"""Join the processes of one run (`torchrun`), and add up tensors over them."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class World:
    """The processes that share a batch. With one process, every sum is the tensor itself."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, device: str) -> World:
        """Join the processes that torchrun started (it sets RANK, WORLD_SIZE, LOCAL_RANK), or return this one alone.

        If `device` is `cuda`, each process takes the GPU of its local rank, and sums run over NCCL; otherwise over
        gloo.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device=torch.device(device))
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
        if own.type == "cuda":
            torch.cuda.set_device(own)
        # Functions of this module keep the group that exists at import as their default. torch imports it together with
        # its compiler. A group kept in this way outlives `leave`, and its threads can abort a process that is ending.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
        return cls(dist.get_rank(), size, own)

    def leave(self) -> None:
        """Leave the other processes, and end the threads that sums ran in."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place, without a gradient."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_with_gradient(self, tensor: Tensor) -> Tensor:
        """Add up a tensor and its gradient over all processes, because every process's loss depends on every part."""
        if self.size == 1:
            return tensor
        total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
        return total

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors, which differ between processes, by their mean over all processes, in one message."""
        if self.size == 1:
            return
        mean = self.sum_(torch.cat([tensor.reshape(-1) for tensor in tensors])) / self.size
        for tensor, part in zip(tensors, torch.split(mean, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; all processes get the same answer."""
        if self.size == 1:
            return flag
        return bool(self.sum_(torch.tensor(float(flag), device=self.device)))

    def agrees(self, text: str) -> bool:
        """Return whether all processes call this with the same text; all of them get the same answer."""
        if self.size == 1:
            return True
        texts: list[str | None] = [None] * self.size
        dist.all_gather_object(texts, text)
        return len(set(texts)) == 1

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up the gradients of all processes in one message.

        Call this once a step, after the backward passes of all widths. A parameter that no process used gets no
        gradient, as in a run of one process, so that its momentum rests.
        """
        if self.size == 1:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self.sum_(torch.cat([used, *(grad.reshape(-1) for grad in flat)]))
        start = len(parameters)
        for parameter, num_users in zip(parameters, total[:start].tolist(), strict=True):
            if num_users > 0:
                parameter.grad = total[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()


def device_argument(text: str) -> str:
    """Return the argument of `--device`: `cpu`, `cuda` or one GPU such as `cuda:1`, checked before the work starts."""
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:NUMBER, got {text!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"got {text}, but this machine has {torch.cuda.device_count()} CUDA devices")
    return text


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
