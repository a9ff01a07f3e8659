"""Run a network in int8 where it is counted: on the engine that a robot runs, with gradients of the float32 network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from oat_runtime.backends import BackendName, Plan, Settings, get_backend, versions
from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.quantization import Quantization
from training.network.deployed import tensors_of
from training.network.oat_net import OATNet


class RoundedNet(nn.Module):
    """Logits of an int8 plan, with the gradient of the float32 network at the same point (BPDA, Athalye et al. 2018).

    Rounding has a gradient of zero almost everywhere. Without this, an attack would find nothing, and that would look
    like robustness.

    Args:
        plain: the float32 network.
        plan: the same network, compiled in int8.
    """

    def __init__(self, plain: TorchNet, plan: Plan) -> None:
        super().__init__()
        self.plain, self._plan = plain, plan

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return int8's logits (N, K), to the bit, of images (N, 3, H, W) float32 in [0, 1]."""
        images = np.ascontiguousarray(x_NCHW.detach().cpu().numpy(), np.float32)
        rounded = torch.from_numpy(self._plan(images)).to(x_NCHW.device)
        if not (torch.is_grad_enabled() and x_NCHW.requires_grad):
            return rounded
        logits: Tensor = self.plain(x_NCHW)
        return rounded + (logits - logits.detach())


@dataclass(frozen=True)
class Rounding:
    """How networks are run in int8.

    Attributes:
        quantization: the ranges of the activations.
        input_hw: rows and columns of the images.
        engine: what runs them; see `oat_runtime.backends.int8_engines`.
    """

    quantization: Quantization
    input_hw: tuple[int, int]
    engine: BackendName

    def net(self, model: OATNet, point: OperatingPoint) -> RoundedNet:
        """Return the int8 network of one point.

        Raises:
            BackendError: the engine does not run in int8 here.
            OperatingPointError: λ or width is not offered.
        """
        plain = fold(tensors_of(model), model.config, lam=point.lam, width=point.width, quantization=self.quantization)
        settings = Settings(self.input_hw, "int8", num_threads=torch.get_num_threads())
        plan = get_backend(self.engine)(lambda: plain, settings).plan()
        return RoundedNet(TorchNet(plain).to(model.code_KD.device), plan)

    @property
    def digest(self) -> bytes:
        """Bytes that differ where ranges, images' size, engine or its version do."""
        ranges = self.quantization.model_dump_json(exclude={"measured"})
        about = f"int8 {versions(self.engine)} {self.input_hw} {ranges}"
        return hashlib.sha256(about.encode()).digest()

    def __str__(self) -> str:
        """As in `int8 on openvino 2026.1.0`."""
        return f"int8 on {versions(self.engine)}"
