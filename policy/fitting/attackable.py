"""Give `policy.fitting.rates` what it needs of a network: calibrated probabilities and white-box attacks. Needs torch.

Shape legend: N images, H height, W width, C channels (RGB), K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.image import unit_planes
from oat_runtime.operating_point import AttackSpec
from oat_runtime.plain_net import Tensors, fold
from oat_runtime.stress.attacks import as_bytes, perturb
from policy.image import Images

_ATTACK_BATCH = 250


class AttackableNetwork:
    """A network at one width, folded as deployed. It takes and gives NumPy arrays, and computes in small batches."""

    def __init__(
        self,
        tensors: Tensors,
        config: ModelConfig,
        *,
        width: float,
        temperature: Callable[[float], float],
        attack: AttackSpec,
        seed: int,
    ) -> None:
        self._nets = {lam: TorchNet(fold(tensors, config, lam=lam, width=width)) for lam in config.lambdas}
        self._temperature, self._attack, self._seed = temperature, attack, seed

    def probabilities(self, lam: float, images_NHWC: Images) -> NDArray[np.float32]:
        """Return calibrated class probabilities (N, K) at one λ."""
        x_NCHW = torch.from_numpy(unit_planes(images_NHWC))
        with torch.no_grad():
            logits_NK = torch.cat([self._nets[lam](part) for part in torch.split(x_NCHW, _ATTACK_BATCH)])
        probabilities_NK: NDArray[np.float32] = (logits_NK / self._temperature(lam)).softmax(dim=1).numpy()
        return probabilities_NK

    def attacked(self, lam: float, images_NHWC: Images, labels_N: NDArray[np.int64]) -> Images:
        """Return the images under the attack on the network at that λ, rounded to bytes as a camera delivers them."""
        generator = torch.Generator().manual_seed(self._seed)
        whole = torch.from_numpy(unit_planes(images_NHWC)), torch.from_numpy(labels_N)
        parts = zip(*(torch.split(tensor, _ATTACK_BATCH) for tensor in whole), strict=True)
        adversarial = [perturb(self._nets[lam], x, y, spec=self._attack, generator=generator) for x, y in parts]
        return as_bytes(torch.cat(adversarial))
