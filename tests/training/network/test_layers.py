"""Laws of λ interpolation and encoding, and of the slimmable layers."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from oat_runtime.architecture import ADVERSARIAL, CLEAN, knot_weights, scaled
from oat_runtime.errors import OperatingPointError
from training.network.layers import LambdaBatch, SlimmableConv2d, SlimmableLinear, encode_knots

KNOTS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)


@pytest.mark.parametrize("lam_N", [[0.1, 0.0], [0.0, 1.0, 0.0]])
def test_an_unsorted_batch_is_refused(lam_N: list[float]) -> None:
    with pytest.raises(OperatingPointError, match="sort the batch by lambda"):
        LambdaBatch.from_values(lam_N, KNOTS)


@pytest.mark.parametrize(
    ("lam_N", "expected"),
    [
        ([0.0, 0.0], [(CLEAN, 0, 2)]),
        ([0.3], [(ADVERSARIAL, 0, 1)]),
        ([0.0, 0.1, 1.0], [(CLEAN, 0, 1), (ADVERSARIAL, 1, 3)]),
        ([], []),
    ],
)
def test_parts_cover_the_batch_once(lam_N: list[float], expected: list[tuple[int, int, int]]) -> None:
    batch = LambdaBatch.from_values(lam_N, KNOTS)
    assert [(branch, part.start, part.stop) for branch, part in batch.parts()] == expected
    torch.testing.assert_close(
        batch.weights_NK, torch.tensor([knot_weights(lam, KNOTS) for lam in lam_N]).view(-1, len(KNOTS))
    )


@pytest.mark.parametrize("lam", [0.0, 0.05, 0.1, 0.7])
def test_a_constant_batch_is_the_batch_of_equal_values(lam: float) -> None:
    constant, listed = LambdaBatch.constant(lam, 3, KNOTS), LambdaBatch.from_values([lam] * 3, KNOTS)
    assert torch.equal(constant.weights_NK, listed.weights_NK)
    assert constant.num_clean == listed.num_clean


@pytest.mark.parametrize("encoding", ["dct", "orthogonal"])
@pytest.mark.parametrize("size", [6, 128])
def test_codes_are_orthonormal(encoding: str, size: int) -> None:
    code_KD = encode_knots(KNOTS, encoding=encoding, size=size, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(code_KD @ code_KD.T, torch.eye(len(KNOTS)), atol=1e-5, rtol=0)


def test_codes_depend_on_the_generator_alone() -> None:
    def draw(seed: int) -> torch.Tensor:
        return encode_knots(KNOTS, encoding="orthogonal", size=16, generator=torch.Generator().manual_seed(seed))

    torch.manual_seed(0)
    first = draw(5)
    torch.manual_seed(1)
    assert torch.equal(draw(5), first)
    assert not torch.equal(draw(6), first)


def test_no_encoding_is_lambda_itself() -> None:
    code_K1 = encode_knots(KNOTS, encoding="none", size=128, generator=torch.Generator())
    assert code_K1.tolist() == torch.tensor(KNOTS).view(-1, 1).tolist()


@pytest.mark.parametrize("encoding", ["dct", "orthogonal"])
def test_too_small_an_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(OperatingPointError, match=r"at least the number of knots \(6\), got 5"):
        encode_knots(KNOTS, encoding=encoding, size=5, generator=torch.Generator())


def test_scaled_rounds_and_keeps_at_least_one() -> None:
    assert [scaled(16, width) for width in (0.5, 0.75, 1.0)] == [8, 12, 16]
    assert scaled(3, 0.1) == 1


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_a_sliced_convolution_is_the_small_convolution(width: float) -> None:
    torch.manual_seed(0)
    wide = SlimmableConv2d(8, 16, 3, 2, 1, bias=False)
    narrow = nn.Conv2d(scaled(8, width), scaled(16, width), 3, 2, 1, bias=False)
    with torch.no_grad():
        narrow.weight.copy_(wide.weight[: narrow.out_channels, : narrow.in_channels])
    x_NCHW = torch.randn(2, narrow.in_channels, 8, 8)
    torch.testing.assert_close(wide(x_NCHW, width), narrow(x_NCHW))


def test_a_sliced_classifier_uses_the_first_features_and_float32() -> None:
    torch.manual_seed(0)
    wide = SlimmableLinear(16, 10)
    x_NC = torch.randn(2, 8).bfloat16()
    logits_NK = wide(x_NC)
    assert logits_NK.dtype == torch.float32
    torch.testing.assert_close(logits_NK, x_NC.float() @ wide.weight[:, :8].T + wide.bias)


STRIDED = """
import torch
from training.network.layers import SlimmableConv2d
torch.set_num_threads(2)
for channels in (8, 12):
    conv = SlimmableConv2d(channels, 2 * channels, 1, 2, 0, bias=False)
    for _ in range(60):
        x_NCHW = torch.randn(21, channels, 32, 32).to(memory_format=torch.channels_last)
        conv(x_NCHW).square().mean().backward()
"""


def test_the_gradient_of_a_narrow_strided_shortcut_keeps_to_its_memory() -> None:
    """oneDNN's own (issue 6035) breaks the heap here, on two threads: the process dies within some steps."""
    done = subprocess.run([sys.executable, "-c", STRIDED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("channels", [8, 16])
def test_a_strided_shortcut_computes_what_torch_computes(channels: int) -> None:
    conv = SlimmableConv2d(channels, 24, 1, 2, 0, bias=False).double()
    x_NCHW = torch.randn(3, channels, 7, 8, dtype=torch.float64, requires_grad=True)
    mine = torch.autograd.grad(conv(x_NCHW).square().sum(), [x_NCHW, conv.weight])
    plain = nn.functional.conv2d(x_NCHW, conv.weight, None, 2)
    for one, other in zip(mine, torch.autograd.grad(plain.square().sum(), [x_NCHW, conv.weight]), strict=True):
        torch.testing.assert_close(one, other)
