"""Read the weights of an ordinary ResNet under torchvision's names, as a network of one λ and one width."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oat_runtime.architecture import CLEAN, ModelConfig
from oat_runtime.errors import CheckpointError, quoted
from training.network.norm import SwitchableNorm
from training.network.oat_net import Block, OATNet

_DEPTHS = {(1, 1, 1, 1): 10, (2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Pixel statistics that torchvision's networks expect: those of ImageNet."""


@torch.no_grad()
def resnet_from(state: Mapping[str, Tensor]) -> OATNet:
    """Return the network of a state dict in evaluation mode: a ResNet-10, -18 or -34 with two convolutions a block.

    A first convolution of 7x7 is followed by a pool, as in torchvision; one of 3x3 is not, as is usual on small images.

    Raises:
        CheckpointError: it is of another network; the line names a tensor.
    """
    if "layer1.0.conv3.weight" in state:
        raise CheckpointError("it has three convolutions a block (ResNet-50 and deeper): expected ResNet-18 or -34")
    counts = tuple(sum(f"layer{n}.{k}.conv1.weight" in state for k in range(64)) for n in range(1, 5))
    stem, classifier = (state.get(name) for name in ("conv1.weight", "fc.weight"))
    if counts not in _DEPTHS or stem is None or classifier is None or stem.ndim != 4 or classifier.ndim != 2:
        raise CheckpointError(f"expected the names of torchvision's ResNet-18 or -34, got {quoted(sorted(state)[:3])}")
    model = OATNet(
        ModelConfig(
            family="resnet",
            depth=_DEPTHS[counts],
            stem="7x7-stride2-pool" if stem.shape[-1] == 7 else "3x3",
            num_classes=len(classifier),
            widths=(1.0,),
            lambdas=(0.0,),
            mean=_MEAN,
            std=_STD,
        )
    )
    places: dict[str, nn.Module | None] = {"conv1": model.stem, "bn1": model.stem_norm, "fc": model.classifier}
    blocks = iter(model.blocks)
    for layer, count in enumerate(counts, start=1):
        for index in range(count):
            block, name = next(blocks), f"layer{layer}.{index}"
            assert isinstance(block, Block)
            places |= {
                f"{name}.conv1": block.conv1, f"{name}.bn1": block.norm1,
                f"{name}.conv2": block.conv2, f"{name}.bn2": block.norm2,
                f"{name}.downsample.0": block.shortcut, f"{name}.downsample.1": block.shortcut_norm,
            }  # fmt: skip
    for place, module in places.items():
        if module is not None:
            _take(place, module.norm(CLEAN, 0) if isinstance(module, SwitchableNorm) else module, state)
    known = {f"{place}." for place in places}
    if unknown := sorted(name for name in state if f"{name.rpartition('.')[0]}." not in known):
        raise CheckpointError(
            f"expected the names of torchvision's ResNet-18 or -34, got {quoted(unknown[:3])} as well"
        )
    return model.eval().requires_grad_(False)


def _take(place: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, own in module.state_dict().items():
        if name == "num_batches_tracked":
            continue
        found = state.get(f"{place}.{name}")
        if found is None or found.shape != own.shape or not bool(torch.isfinite(found).all()):
            got = "none" if found is None else f"{tuple(found.shape)}"
            raise CheckpointError(f"expected finite {place}.{name} of {tuple(own.shape)}, got {got}")
        own.copy_(found)
