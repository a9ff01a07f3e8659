"""Compare the deployed network's decisions with the float32 reference, on test images, clean and attacked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oat_runtime.backends import BackendName
from oat_runtime.data import ImageSet, load_dataset
from oat_runtime.errors import BackendError, ConfigError, DataError
from oat_runtime.extras import require
from oat_runtime.image import unit_planes
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import fold
from oat_runtime.report import Row
from oat_runtime.runtime import OATRuntime

Floats = npt.NDArray[np.float32]
_CHUNK = 100


def accuracy(runtime: OATRuntime, *, root: Path | None, num_images: int, num_attacked: int) -> list[Row]:
    """Compare the runtime's precision with the reference, and bfloat16 if that works; otherwise say why not.

    Args:
        runtime: of a bundle that was trained on CIFAR-10.
        root: folder that holds CIFAR-10; None takes the usual ones.
        num_images: test images, from the first on.
        num_attacked: those of them that are attacked.
    """
    dataset = runtime.bundle.manifest.provenance.dataset
    try:
        require("torch", extra="torch", by="the reference")
        if dataset != "cifar10":
            raise DataError(f"the bundle was not trained on cifar10 but on {dataset}")
        data = load_dataset("cifar10", "test", root=root, limit=num_images)
    except (ConfigError, DataError) as error:
        return [{"comparison": "agreement_bfloat16", "not_measured": str(error)}]
    rows = agreement(runtime, data, num_attacked=num_attacked)
    if runtime.precision == "bfloat16":
        return rows
    device, num_threads = runtime.device, runtime.num_threads
    backend: BackendName = "openvino" if device == "cpu" else runtime.backend  # the one that is fast in it
    try:
        other = OATRuntime(
            runtime.bundle, device=device, backend=backend, precision="bfloat16", num_threads=num_threads
        )
    except BackendError as error:
        return [*rows, {"comparison": "agreement_bfloat16", "not_measured": str(error)}]
    with closing(other):
        return rows + agreement(other, data, num_attacked=num_attacked)


def agreement(runtime: OATRuntime, data: ImageSet, *, num_attacked: int) -> list[Row]:
    """Return top-1 agreement with the float32 torch reference and how far SA and RA move, at the outermost λ.

    Attack gradients are the reference's (PGD-20, ε = 8/255, step 2/255); its images are replayed through the plan.
    """
    import torch

    from oat_runtime.backends.torch_net import TorchNet
    from oat_runtime.stress.attacks import perturb

    config, tensors, attack = runtime.bundle.manifest.model, runtime.bundle.tensors(), runtime.bundle.report.attack
    x_NCHW = unit_planes(data.images_NHWC[:])
    truth_N, rows = data.labels_N, []
    for lam in sorted({config.lambdas[0], config.lambdas[-1]}):
        width = config.widths[-1]
        net = TorchNet(fold(tensors, config, lam=lam, width=width))
        runtime.prepare([OperatingPoint(lam, width)])
        runtime.set_point(lam=lam, width=width)

        def reference(x_NCHW: Floats, net: torch.nn.Module = net) -> Floats:
            with torch.inference_mode():
                logits_NK: Floats = net(torch.from_numpy(x_NCHW)).numpy()
            return logits_NK

        adversarial = []
        for start in range(0, num_attacked, _CHUNK):
            part = slice(start, min(start + _CHUNK, num_attacked))
            x, y = torch.from_numpy(x_NCHW[part]), torch.from_numpy(truth_N[part])
            generator = torch.Generator().manual_seed(start)
            adversarial.append(perturb(net, x, y, spec=attack, generator=generator).numpy())
        attacked_NCHW = np.concatenate(adversarial)
        clean, clean_reference = _labels(runtime.infer, x_NCHW), _labels(reference, x_NCHW)
        hit, hit_reference = _labels(runtime.infer, attacked_NCHW), _labels(reference, attacked_NCHW)
        rows.append(
            {
                "comparison": f"agreement_{runtime.precision}",
                "lambda": lam,
                "width": width,
                "num_images": len(truth_N),
                "num_attacked": num_attacked,
                "top1_agreement_percent": 100 * float(np.mean(clean == clean_reference)),
                "sa_shift_points": _shift(clean, clean_reference, truth_N),
                "ra_shift_points": _shift(hit, hit_reference, truth_N[:num_attacked]),
            }
        )
    return rows


def _shift(ours_N: npt.NDArray[np.int64], theirs_N: npt.NDArray[np.int64], truth_N: npt.NDArray[np.int64]) -> float:
    """Return by how many points two accuracies differ."""
    return 100 * abs(float(np.mean(ours_N == truth_N) - np.mean(theirs_N == truth_N)))


def _labels(logits_of: Callable[[Floats], Floats], x_NCHW: Floats) -> npt.NDArray[np.int64]:
    chunks = [x_NCHW[start : start + _CHUNK] for start in range(0, len(x_NCHW), _CHUNK)]
    return np.concatenate([logits_of(chunk).argmax(axis=1) for chunk in chunks])
