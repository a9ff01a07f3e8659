"""Attack frames between camera and node: white-box PGD on the network at one operating point."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from oat_perception.replay.sources import Bytes
from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.bundle import Bundle
from oat_runtime.errors import InputError
from oat_runtime.image import network_input
from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.stress.attacks import pgd_linf

PGD10 = AttackSpec(name="pgd-10", epsilon=8 / 255, step_size=2 / 255, num_steps=10)


class Attacker:
    """Make adversarial frames with full knowledge of the network, in torch float32, whatever engine the node uses.

    Args:
        bundle_path: the bundle that the attacked node runs.
        spec: the attack.
    """

    def __init__(self, bundle_path: Path, spec: AttackSpec = PGD10) -> None:
        """Load the network. It is folded for a point when that point is attacked first."""
        self.spec = spec
        self._bundle = Bundle.load(bundle_path)
        tensors, config = self._bundle.tensors(), self._bundle.manifest.model
        self._folded = lru_cache(maxsize=32)(
            lambda point: TorchNet(fold(tensors, config, lam=point.lam, width=point.width))
        )

    def attack(self, frame_HWC: Bytes, label: int | None, *, point: OperatingPoint, seed: int) -> Bytes:
        """Return the frame, changed by at most ε (L∞) against its label and rounded to bytes as a camera delivers it.

        Args:
            frame_HWC: uint8 RGB of exactly the network's input size, so that no resampling blunts the attack.
            label: true class; None: the class that the network gives it now.
            point: operating point whose gradients are followed.
            seed: draws the random start.

        Raises:
            InputError: the frame has another size.
        """
        wanted = self._bundle.input
        if frame_HWC.shape[:2] != (wanted.height, wanted.width):
            raise InputError(
                f"an attacked frame must be {wanted.height}x{wanted.width}, the network's input, got "
                f"{frame_HWC.shape[0]}x{frame_HWC.shape[1]}: set frame_side_px, or take a source of that size"
            )
        network = self._folded(point)
        x_NCHW = torch.from_numpy(network_input(frame_HWC, wanted))[None]
        if label is None:
            with torch.no_grad():
                label = int(network(x_NCHW).argmax())
        adversarial_NCHW = pgd_linf(
            network,
            x_NCHW,
            torch.tensor([label]),
            epsilon=self.spec.epsilon,
            step_size=self.spec.step_size,
            num_steps=self.spec.num_steps,
            generator=torch.Generator().manual_seed(seed),
        )
        # ε is a whole number of grey levels, so rounding stays in the ball.
        levels_HWC = (adversarial_NCHW[0].permute(1, 2, 0) * 255).round()
        return np.ascontiguousarray(levels_HWC.to(torch.uint8).numpy())
