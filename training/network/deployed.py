"""Turn a trained network into a bundle's tensors and a robot's plain network, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from oat_runtime.architecture import InputSpec, ModelConfig
from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.bundle import outcome_key
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import Tensors, fold
from training.network.layers import LambdaBatch
from training.network.norm import FiLMTable
from training.network.oat_net import OATNet


def tensors_of(model: OATNet) -> dict[str, npt.NDArray[Any]]:
    """Return the weights as a bundle holds them: γ and β at the knots in place of the MLPs that make them.

    Returns:
        Arrays by the names of `oat_runtime.architecture.tensor_shapes`. They may share the model's memory.
    """
    tabled = all(isinstance(site.film, FiLMTable) for site in model.norms())
    shipped = model if tabled else model.with_film_tables()
    return {name: tensor.detach().cpu().numpy() for name, tensor in shipped.state_dict().items()}


def network_of(tensors: Tensors, config: ModelConfig) -> OATNet:
    """Return the network of these weights in evaluation mode, float32, on the CPU; its weights take no gradient.

    Args:
        tensors: the weights, as `tensors_of` or `oat_runtime.bundle.Bundle.tensors` gives them.
        config: their architecture.
    """
    model = OATNet(config)
    for site in model.norms():
        site.film = FiLMTable(site.film(model.code_KD)[0].shape[1], len(config.lambdas))
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})
    return model.eval().requires_grad_(False)


def folded(model: OATNet, *, lam: float, width: float) -> TorchNet:
    """Return the plain network of one operating point, as it is deployed, on the model's device.

    Raises:
        OperatingPointError: λ or width is not offered.
    """
    return TorchNet(fold(tensors_of(model), model.config, lam=lam, width=width)).to(model.code_KD.device)


@torch.no_grad()
def probe_of(model: OATNet, spec: InputSpec) -> dict[str, npt.NDArray[np.float32]]:
    """Return the bundle's reference: some images, and the trained network's logits for them, which engines must match.

    The images are smooth and random, and from no data set. The logits come from the trained network and not from the
    plain one, so that they test the folding too.

    Returns:
        `x_NCHW` (4, 3, H, W) in [0, 1], and `logits/λ/width` (4, K) of each point; float32.
    """
    network = network_of(tensors_of(model), model.config)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    x_NCHW = torch.nn.functional.interpolate(coarse, (spec.height, spec.width), mode="bilinear", align_corners=True)
    probe = {"x_NCHW": x_NCHW.numpy()}
    for lam in model.config.lambdas:
        for width in model.config.widths:
            batch = LambdaBatch.constant(lam, len(x_NCHW), model.config.lambdas)
            probe[outcome_key("logits", OperatingPoint(lam, width))] = network(x_NCHW, batch, width=width).numpy()
    return probe
