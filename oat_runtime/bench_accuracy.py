"""Does the deployed path decide as the float32 reference does? On real test images, clean and attacked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.errors import DataError
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.runtime import OATRuntime
from oat_runtime.stress.attacks import pgd_linf

Row = dict[str, Any]
_TILE, _COLUMNS = 32, 50
_CHUNK = 100


def read_test_images(root: Path | None, num: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The first CIFAR-10 test images (N, 32, 32, 3) RGB and their labels, from a lossless pack or the official binary.

    Args:
        root: folder with `cifar10/` or `cifar-10-batches-bin/`; `$OAT_DATA`, else `../shared/data` beside the project.
        num: how many.

    Raises:
        DataError: nothing there.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = root or Path(os.environ.get("OAT_DATA", beside))
    pack, binary = root / "cifar10", root / "cifar-10-batches-bin" / "test_batch.bin"
    if (pack / "labels.npz").is_file():
        with np.load(pack / "labels.npz", allow_pickle=False) as archive:
            labels = archive["y_test"].astype(np.int64)
        tiles: list[npt.NDArray[np.uint8]] = []
        for path in sorted(pack.glob("test_*.webp")):
            mosaic = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if mosaic is None:
                raise DataError(f"{path} cannot be decoded: copy the pack again")
            grid = mosaic[..., ::-1].reshape(-1, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4)
            tiles.append(grid.reshape(-1, _TILE, _TILE, 3).astype(np.uint8))
            if sum(map(len, tiles)) >= num:
                break
        return np.concatenate(tiles)[:num], labels[:num]
    if binary.is_file():
        table = np.fromfile(binary, np.uint8).reshape(-1, 3073)[:num]
        return table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), table[:, 0].astype(np.int64)
    raise DataError(
        f"no CIFAR-10 test images under {root}: set OAT_DATA to a folder with cifar10/ or {binary.parent.name}/"
    )


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
