"""Does the deployed path decide as the float32 reference does? On real test images, clean and attacked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.runtime import OATRuntime
from oat_runtime.stress.attacks import pgd_linf

Row = dict[str, Any]
_CHUNK = 100


def agreement(
    runtime: OATRuntime, images_NHWC: npt.NDArray[np.uint8], labels_N: npt.NDArray[np.int64], *, num_attacked: int
) -> list[Row]:
    """Top-1 agreement with the float32 torch reference, and how far SA and RA move, at the smallest and largest λ.

    Attack gradients are the reference's (PGD-20, ε = 8/255, step 2/255); its images are replayed through the plan.
    """
    config, tensors, attack = runtime.bundle.manifest.model, runtime.bundle.tensors(), runtime.bundle.report.attack
    x_NCHW = np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    rows = []
    for lam in sorted({config.lambdas[0], config.lambdas[-1]}):
        width = config.widths[-1]
        reference = TorchNet(fold(tensors, config, lam=lam, width=width))
        runtime.prepare([OperatingPoint(lam, width)])
        runtime.set_point(lam=lam, width=width)
        adversarial = [
            pgd_linf(
                reference,
                torch.from_numpy(x_NCHW[start : start + _CHUNK][: num_attacked - start]),
                torch.from_numpy(labels_N[start : start + _CHUNK][: num_attacked - start]),
                epsilon=attack.epsilon,
                step_size=attack.step_size,
                num_steps=attack.num_steps,
                generator=torch.Generator().manual_seed(start),
            ).numpy()
            for start in range(0, num_attacked, _CHUNK)
        ]
        attacked_NCHW = np.concatenate(adversarial)
        clean, clean_reference = _labels(runtime, x_NCHW), _reference_labels(reference, x_NCHW)
        hit, hit_reference = _labels(runtime, attacked_NCHW), _reference_labels(reference, attacked_NCHW)
        truth = labels_N[:num_attacked]
        rows.append(
            {
                "comparison": f"agreement_{runtime.precision}",
                "lambda": lam,
                "width": width,
                "num_images": len(labels_N),
                "num_attacked": num_attacked,
                "top1_agreement_percent": 100 * float(np.mean(clean == clean_reference)),
                "sa_shift_points": 100 * abs(float(np.mean(clean == labels_N) - np.mean(clean_reference == labels_N))),
                "ra_shift_points": 100 * abs(float(np.mean(hit == truth) - np.mean(hit_reference == truth))),
            }
        )
    return rows


def _labels(runtime: OATRuntime, x_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    chunks = [x_NCHW[start : start + _CHUNK] for start in range(0, len(x_NCHW), _CHUNK)]
    return np.concatenate([runtime.infer(chunk).argmax(axis=1) for chunk in chunks])


@torch.inference_mode()
def _reference_labels(net: torch.nn.Module, x_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    chunks = torch.split(torch.from_numpy(x_NCHW), _CHUNK)
    labels: npt.NDArray[np.int64] = torch.cat([net(chunk).argmax(dim=1) for chunk in chunks]).numpy()
    return labels
