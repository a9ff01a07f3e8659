"""A training step, an evaluation and a recalibration stay on their device: run on torch's `meta` device, without a GPU.

A meta tensor has a shape and no data. So whatever mixes devices, or waits for a value that the device computed, fails
here as it would fail or stall on a GPU. Three things cannot run there, and their settings are switched off:
`compile_norms` (the compiler makes code for a real device), `cuda_graphs` (they record a real GPU), and random numbers
of the device itself (`torch.rand` gets no generator here). A memory format is accepted, and means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oat_runtime.architecture import ModelConfig
from oat_runtime.data import ImageSet
from oat_runtime.stress.attacks import perturb
from training.config import TrainConfig
from training.distributed import World
from training.evaluation.counting import ATTACKS
from training.network import LambdaBatch, frozen
from training.recipes import RECIPES, pgd
from training.trainer import Trainer

_META = torch.device("meta")
_SMALL = TrainConfig(model=ModelConfig(depth=10, widen_factor=1), batch_size=12)
_TRANSFERS = ("aten::_to_copy", "aten::copy_")


class OneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse any operation on tensors of two devices, other than a transfer from the CPU to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation if all its tensors are on one device."""
        kinds = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        name = func._schema.name
        if len(kinds) > 1 and name not in _TRANSFERS:
            raise AssertionError(f"{name} mixes {sorted(kinds)}")
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class WaitingWorld(World):
    """One process that counts how often it waits for figures of the device, and gets ones."""

    waits: list[int] = field(default_factory=list)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Return ones in place of values that meta tensors do not have."""
        self.waits.append(tensor.numel())
        return torch.ones(tensor.shape)


class WithoutGenerator(TorchFunctionMode):
    """Let `torch.rand` on meta, which has no random numbers, take a generator of the CPU and ignore it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Drop the generator of a call on meta."""
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == _META:
            kwargs.pop("generator", None)
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Refuse mixed devices, and take care of random numbers, within the `with` block."""
    with OneDevice(), WithoutGenerator():  # type: ignore[no-untyped-call]
        yield


class MetaTrainer(Trainer):
    """A trainer whose random streams are the CPU's: meta has none."""

    def _generator(self, stream: int, index: int, device: str | torch.device = "cpu") -> torch.Generator:
        return super()._generator(stream, index)


def trainer_on_meta(config: TrainConfig) -> MetaTrainer:
    """Return a trainer of `config` on the meta device, with one batch of grey images and at most two attack steps."""
    attack = pgd(2) if config.attack.num_steps > 2 else config.attack  # every further step repeats the second
    config = config.model_copy(update={"compile_norms": False, "cuda_graphs": False, "attack": attack})
    names = tuple(f"class {index}" for index in range(config.model.num_classes))
    labels_N = np.arange(config.batch_size) % len(names)
    data = ImageSet(np.zeros((config.batch_size, 32, 32, 3), np.uint8), labels_N, names, "grey")
    return MetaTrainer(config, data, world=WaitingWorld(device=_META))


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_every_recipe_stays_on_its_device_and_waits_once(name: str) -> None:
    trainer = trainer_on_meta(RECIPES[name]())
    assert isinstance(trainer.world, WaitingWorld)
    with on_meta():
        trainer.run_step()
    assert len(trainer.world.waits) == 1, "the losses, which are checked for NaN, are all that a step waits for"
    tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
    state = [leaf for leaf in tree_leaves(trainer.optimizer.state) if isinstance(leaf, Tensor) and leaf.ndim > 0]
    average = [] if trainer.average is None else list(trainer.average.state.values())
    assert {tensor.device.type for tensor in (*tensors, *state, *average)} == {"meta"}
    assert all(parameter.grad is not None for parameter in trainer.model.stem.parameters())


def test_recalibration_stays_on_its_device() -> None:
    trainer = trainer_on_meta(_SMALL)
    with on_meta():
        trainer.recalibrate(1)
    assert {buffer.device.type for buffer in trainer.model.buffers()} == {"meta"}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "apgd-t"])
def test_an_attack_of_the_evaluation_stays_on_its_device(name: str) -> None:
    """Targeted Auto-PGD is left out: it goes on with the images that still stand, so it must wait for their number."""
    net = trainer_on_meta(_SMALL).model.eval()
    x_NCHW, y_N = torch.zeros(4, 3, 32, 32, device=_META), torch.zeros(4, dtype=torch.int64, device=_META)
    attack = ATTACKS[name]
    with on_meta(), frozen(net):
        logits_fn = net.logits_fn(LambdaBatch.constant(1.0, 4, net.config.lambdas, device=_META), width=0.5)
        found = perturb(logits_fn, x_NCHW, y_N, spec=attack, generator=torch.Generator(), keep="last")
        hit_N = logits_fn(found).argmax(dim=1) == y_N
    assert (hit_N.device, hit_N.shape) == (_META, (4,))
