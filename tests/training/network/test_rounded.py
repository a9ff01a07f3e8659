"""Laws of int8 in training: its logits are the engine's, its gradient is the float32 network's."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends import available
from oat_runtime.backends.torch_net import activation_ranges
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.quantization import Quantization
from training.network import OATNet, RoundedNet, Rounding, folded

SMALL = ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 1.0))
POINT = OperatingPoint(1.0, 0.5)


@pytest.fixture
def net() -> OATNet:
    torch.manual_seed(0)
    return OATNet(SMALL).eval().requires_grad_(False)


def pretended(x_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A plan whose logits have nothing to do with the float32 network's."""
    return np.tile(np.arange(10, dtype=np.float32) / 3, (len(x_NCHW), 1))


def test_logits_are_the_plans_to_the_bit_and_the_gradient_is_the_float32_networks(net: OATNet) -> None:
    plain, x_NCHW = folded(net, lam=1.0, width=0.5), torch.rand(3, 3, 16, 16)
    y_N = torch.tensor([1, 2, 3])

    def gradient(logits_fn: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        images = x_NCHW.clone().requires_grad_(True)
        logits = logits_fn(images)
        # A loss that is linear in the logits: its gradient depends on the network's Jacobian alone.
        (found,) = torch.autograd.grad(logits.gather(1, y_N[:, None]).sum(), images)
        return logits.detach(), found

    rounded = RoundedNet(plain, pretended)  # type: ignore[arg-type]
    logits, found = gradient(rounded)
    assert np.array_equal(logits.numpy(), pretended(x_NCHW.numpy()))
    assert torch.equal(found, gradient(plain)[1]) and found.abs().max() > 0
    with torch.no_grad():
        assert np.array_equal(rounded(x_NCHW).numpy(), pretended(x_NCHW.numpy()))


def test_a_point_runs_on_the_engine_with_its_own_ranges(net: OATNet) -> None:
    if "onnxruntime" not in available():
        pytest.skip("onnxruntime is not installed")
    x_NCHW = torch.rand(4, 3, 16, 16)
    ranges = {
        OperatingPoint(lam, width): activation_ranges(folded(net, lam=lam, width=width), [x_NCHW])
        for lam in SMALL.lambdas
        for width in SMALL.widths
    }
    rounding = Rounding(Quantization.of(SMALL, ranges, measured="noise"), (16, 16), "onnxruntime")
    with torch.no_grad():
        ours, exact = rounding.net(net, POINT)(x_NCHW), folded(net, lam=1.0, width=0.5)(x_NCHW)
    difference, largest = float((ours - exact).abs().max()), float(exact.abs().max())
    assert 1e-5 * largest < difference < 0.05 * largest


def test_other_ranges_and_another_engine_are_told_apart(net: OATNet) -> None:
    if not {"onnxruntime", "openvino"} <= set(available()):
        pytest.skip("both engines must be installed")
    points = [OperatingPoint(lam, width) for lam in SMALL.lambdas for width in SMALL.widths]
    one, other = (
        Quantization.of(SMALL, {p: activation_ranges(folded(net, lam=p.lam, width=p.width), [x]) for p in points},
                        measured="")
        for x in (torch.rand(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    )  # fmt: skip
    roundings = [Rounding(one, (16, 16), "openvino"), Rounding(one, (16, 16), "onnxruntime"),
                 Rounding(other, (16, 16), "openvino"), Rounding(one, (32, 16), "openvino")]  # fmt: skip
    assert len({rounding.digest for rounding in roundings}) == 4
