"""Laws of λ interpolation and encoding, of FiLM, of the switchable norm and of the slimmable layers."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from oat_runtime.errors import OperatingPointError
from oat_runtime.layers import (
    ADVERSARIAL,
    CLEAN,
    FiLM,
    LambdaBatch,
    Route,
    SlimmableConv2d,
    SlimmableLinear,
    SwitchableNorm,
    effective_lambda,
    encode_knots,
    knot_weights,
    scaled,
)

KNOTS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
WIDTHS = (0.5, 1.0)


@pytest.mark.parametrize("index", range(len(KNOTS)))
def test_a_knot_is_one_hot(index: int) -> None:
    assert knot_weights(KNOTS[index], KNOTS) == [float(k == index) for k in range(len(KNOTS))]


@given(lam=st.floats(0.0, 1.0))
@example(lam=math.nextafter(0.0, 1.0))
@example(lam=math.nextafter(1.0, 0.0))
def test_weights_interpolate_linearly_between_two_neighbours(lam: float) -> None:
    weights = knot_weights(lam, KNOTS)
    used = [k for k, weight in enumerate(weights) if weight]
    assert min(weights) >= 0.0
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)
    assert len(used) == 1 or (len(used) == 2 and used[1] == used[0] + 1)
    assert math.fsum(w * knot for w, knot in zip(weights, KNOTS, strict=True)) == pytest.approx(
        effective_lambda(lam, KNOTS), abs=1e-12
    )


@given(lam=st.floats(0.0, 0.1, exclude_min=True))
def test_between_zero_and_the_first_knot_runs_the_first_knot(lam: float) -> None:
    assert effective_lambda(lam, KNOTS) == 0.1
    assert knot_weights(lam, KNOTS) == knot_weights(0.1, KNOTS)


@pytest.mark.parametrize("lam", [0.0, 0.1, 0.15, 0.7, 1.0])
def test_any_other_lambda_is_itself(lam: float) -> None:
    assert effective_lambda(lam, KNOTS) == lam


@pytest.mark.parametrize(
    ("lam", "knots"), [(-0.01, KNOTS), (1.01, KNOTS), (math.nan, KNOTS), (0.1, (0.2, 1.0)), (0.9, (0.0, 0.8))]
)
def test_lambda_outside_the_trained_range_is_refused(lam: float, knots: tuple[float, ...]) -> None:
    for function in (effective_lambda, knot_weights):
        with pytest.raises(OperatingPointError, match=rf"in \[{knots[0]:g}, {knots[-1]:g}\].*got {lam}"):
            function(lam, knots)


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
def test_branches_cover_the_batch_once(lam_N: list[float], expected: list[tuple[int, int, int]]) -> None:
    batch = LambdaBatch.from_values(lam_N, KNOTS)
    assert [(branch, part.start, part.stop) for branch, part, _ in batch.branches()] == expected
    rows = torch.cat([weights for _, _, weights in batch.branches()]) if lam_N else torch.empty(0, len(KNOTS))
    torch.testing.assert_close(rows, torch.tensor([knot_weights(lam, KNOTS) for lam in lam_N]).view(-1, len(KNOTS)))


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


@pytest.mark.parametrize("channels", [16, 64])
def test_film_starts_near_but_not_at_the_identity(channels: int) -> None:
    torch.manual_seed(0)
    code_KD = encode_knots(KNOTS, encoding="orthogonal", size=128, generator=torch.Generator().manual_seed(0))
    gamma_KC, beta_KC = FiLM(channels, 128)(code_KD)
    for deviation_KC in (gamma_KC - 1.0, beta_KC):
        assert deviation_KC.abs().max() < 0.1
        # From exactly zero the middle λ collapse into one network: every two knots must differ from the start.
        assert torch.pdist(deviation_KC).min() > 1e-4


@pytest.fixture
def site() -> SwitchableNorm:
    torch.manual_seed(0)
    site = SwitchableNorm(8, WIDTHS, code_size=1, dual=True)
    with torch.no_grad():
        for name, tensor in site.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.4 * torch.rand_like(tensor)) if "var" in name else tensor.add_(
                    0.3 * torch.randn_like(tensor)
                )
    return site


def route(branch: int, width_index: int, lam_N: list[float]) -> Route:
    weights_NK = torch.tensor([knot_weights(lam, KNOTS) for lam in lam_N])
    return Route(branch, width_index, WIDTHS[width_index], weights_NK, torch.tensor(KNOTS).view(-1, 1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("width_index", [0, 1])
def test_a_site_is_batch_norm_then_film_per_sample(site: SwitchableNorm, training: bool, width_index: int) -> None:
    site.train(training)
    at = route(ADVERSARIAL, width_index, [0.1, 0.35, 1.0])
    norm = site.norms[width_index][ADVERSARIAL]
    x_NCHW = torch.randn(3, norm.num_features, 4, 4)
    gamma_KC, beta_KC = site.film(at.code_KD)
    gamma_NC = (at.weights_NK @ gamma_KC)[:, : norm.num_features, None, None]
    beta_NC = (at.weights_NK @ beta_KC)[:, : norm.num_features, None, None]
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    plain = F.batch_norm(x_NCHW, mean, var, norm.weight, norm.bias, training, norm.momentum, norm.eps)
    torch.testing.assert_close(site(x_NCHW, at), gamma_NC * plain + beta_NC, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)


@pytest.mark.parametrize("branch", [CLEAN, ADVERSARIAL])
@pytest.mark.parametrize("width_index", [0, 1])
def test_only_the_routed_norm_learns_statistics(site: SwitchableNorm, branch: int, width_index: int) -> None:
    before = [[norm.running_mean.clone() for norm in pair] for pair in site.norms]
    lam = 0.0 if branch == CLEAN else 0.3
    site.train()(torch.randn(2, scaled(8, WIDTHS[width_index]), 4, 4), route(branch, width_index, [lam, lam]))
    changed = {
        (w, b)
        for w, pair in enumerate(site.norms)
        for b, norm in enumerate(pair)
        if not torch.equal(norm.running_mean, before[w][b])
    }
    assert changed == {(width_index, branch)}


def test_without_dual_norms_both_branches_share_one() -> None:
    site = SwitchableNorm(8, WIDTHS, code_size=1, dual=False)
    assert site.norm(route(CLEAN, 1, [0.0])) is site.norm(route(ADVERSARIAL, 1, [1.0]))


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
