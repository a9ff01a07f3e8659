"""Attack frames between camera and node: white-box PGD on the network at one operating point."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from oat_perception.replay.frames import Boxes, Bytes, Labels
from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.bundle import Bundle
from oat_runtime.errors import InputError
from oat_runtime.image import enlarged, fit_matrices, network_input, unit_planes
from oat_runtime.operating_point import AttackSpec, OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.stress.attack_loop import Ball, PlainStep, ascend
from oat_runtime.stress.attacks import as_bytes, perturb

PGD10 = AttackSpec(name="pgd-10", epsilon=8 / 255, step_size=2 / 255, num_steps=10)


class Attacker:
    """Make adversarial frames with full knowledge of the network, in torch float32, whatever engine the node uses.

    The attack is `PGD10`.

    Args:
        bundle_path: the bundle that the attacked node runs.
    """

    def __init__(self, bundle_path: Path) -> None:
        """Load the network. It is folded for a point when that point is attacked first."""
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
        generator = torch.Generator().manual_seed(seed)
        adversarial_NCHW = perturb(network, x_NCHW, torch.tensor([label]), spec=PGD10, generator=generator)
        attacked_HWC: Bytes = as_bytes(adversarial_NCHW)[0]
        return attacked_HWC

    def attack_regions(
        self, frame_HWC: Bytes, boxes_N4: Boxes, labels_N: Labels, *, point: OperatingPoint, seed: int
    ) -> Bytes:
        """Return the frame, changed by at most ε (L∞) inside its regions, so that each is taken for something else.

        The gradients go back through the network and through the resampling of each region, as it is deployed. Where
        regions overlap, one pixel serves both. Pixels that no region shows stay as they are.

        Args:
            frame_HWC: uint8 RGB of any size.
            boxes_N4: left, top, right and bottom of each box in pixels, without the bundle's margin.
            labels_N: true classes.
            point: operating point whose gradients are followed.
            seed: draws the random start.
        """
        if not len(boxes_N4):
            return frame_HWC
        spec, (height, width) = self._bundle.input, frame_HWC.shape[:2]
        views_N4 = np.array([enlarged(tuple(b), height=height, width=width, spec=spec) for b in boxes_N4.tolist()])
        # Gradients are as large as the image: only the part that holds all regions is worked on.
        (first_x, first_y), (end_x, end_y) = views_N4[:, :2].min(axis=0), views_N4[:, 2:].max(axis=0)
        views = (views_N4 - (first_x, first_y, first_x, first_y)).tolist()
        fits = [
            tuple(map(torch.from_numpy, fit_matrices(bottom - top, right - left, spec)))
            for left, top, right, bottom in views
        ]
        network, y_N = self._folded(point), torch.from_numpy(labels_N)
        clean_1CHW = torch.from_numpy(unit_planes(frame_HWC[first_y:end_y, first_x:end_x]))[None]
        shown_HW = torch.zeros(clean_1CHW.shape[2:])
        for left, top, right, bottom in views:
            shown_HW[top:bottom, left:right] = 1.0

        def objective(frames_1CHW: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            x_NCHW = torch.stack(
                [
                    rows_Hh @ frames_1CHW[0, :, top:bottom, left:right] @ columns_Ww.T
                    for (left, top, right, bottom), (rows_Hh, columns_Ww) in zip(views, fits, strict=True)
                ]
            )
            logits_NK = network(x_NCHW)
            return F.cross_entropy(logits_NK, y_N)[None], (logits_NK.argmax(dim=1) == y_N).any()[None]

        ball = Ball(clean_1CHW, PGD10.epsilon, "linf")
        drawn_1CHW = ball.random_start(torch.Generator().manual_seed(seed))
        start_1CHW = torch.where(shown_HW > 0, drawn_1CHW, clean_1CHW)
        stepper = PlainStep(PGD10.step_size)
        found_1CHW = ascend(objective, ball, start_1CHW, stepper, num_steps=PGD10.num_steps, keep="last")
        attacked_HWC: Bytes = frame_HWC.copy()
        attacked_HWC[first_y:end_y, first_x:end_x] = as_bytes(found_1CHW)[0]
        return attacked_HWC
