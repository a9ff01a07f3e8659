"""Laws of FiLM and of the switchable norm: what is normalized together, by which statistics, in every form."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.architecture import ADVERSARIAL, CLEAN, scaled
from training.network.layers import LambdaBatch, Route, encode_knots
from training.network.norm import (
    FiLM,
    FiLMTable,
    SwitchableNorm,
    batch_sums,
    modulate,
    normalize_batch,
    normalize_by_sums,
    normalize_natively,
)

KNOTS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
WIDTHS = (0.5, 1.0)


@pytest.mark.parametrize("channels", [16, 64])
def test_film_starts_near_but_not_at_the_identity(channels: int) -> None:
    torch.manual_seed(0)
    code_KD = encode_knots(KNOTS, encoding="orthogonal", size=128, generator=torch.Generator().manual_seed(0))
    gamma_KC, beta_KC = FiLM(channels, 128)(code_KD)
    for deviation_KC in (gamma_KC - 1.0, beta_KC):
        assert deviation_KC.abs().max() < 0.1
        # From exactly zero the middle λ collapse into one network: every two knots must differ from the start.
        assert torch.pdist(deviation_KC).min() > 1e-4


@pytest.fixture(params=[2, 1], ids=["dual", "one"])
def site(request: pytest.FixtureRequest) -> SwitchableNorm:
    return make_site(num_branches=request.param)


def make_site(*, num_branches: int) -> SwitchableNorm:
    torch.manual_seed(0)
    site = SwitchableNorm(8, WIDTHS, code_size=1, num_branches=num_branches)
    with torch.no_grad():
        for name, tensor in site.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.4 * torch.rand_like(tensor)) if "var" in name else tensor.add_(
                    0.3 * torch.randn_like(tensor)
                )
    return site


def route(width_index: int, lam_N: list[float]) -> Route:
    code_KD = torch.tensor(KNOTS).view(-1, 1)
    return Route(LambdaBatch.from_values(lam_N, KNOTS), WIDTHS[width_index], width_index, code_KD)


def images(site: SwitchableNorm, num: int, width_index: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 1.5 * torch.randn(num, scaled(8, WIDTHS[width_index]), 4, 4, generator=generator) + 0.7


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("width_index", [0, 1])
@pytest.mark.parametrize("lam_N", [[0.0, 0.0], [0.1, 0.35, 1.0], [0.0, 0.0, 0.3, 1.0, 1.0]], ids=str)
def test_a_site_is_batch_norm_of_each_part_then_film_per_sample(
    site: SwitchableNorm, training: bool, width_index: int, lam_N: list[float]
) -> None:
    site.train(training)
    at, x_NCHW = route(width_index, lam_N), images(site, len(lam_N), width_index)
    gamma_KC, beta_KC = site.film(at.code_KD)
    channels, pair = x_NCHW.shape[1], site.norms[width_index]
    cut = at.lam.num_clean
    parts = [(CLEAN, slice(cut)), (ADVERSARIAL, slice(cut, None))] if len(pair) == 2 else [(CLEAN, slice(None))]
    plain, statistics = [], []
    for branch, part in parts:
        if not len(x_NCHW[part]):
            continue
        norm = pair[branch]
        mean, var = norm.running_mean.clone(), norm.running_var.clone()
        plain.append(F.batch_norm(x_NCHW[part], mean, var, norm.weight, norm.bias, training, norm.momentum, norm.eps))
        statistics.append((norm, mean, var))
    gamma_NC = (at.lam.weights_NK @ gamma_KC)[:, :channels, None, None]
    beta_NC = (at.lam.weights_NK @ beta_KC)[:, :channels, None, None]
    torch.testing.assert_close(site(x_NCHW, at), gamma_NC * torch.cat(plain) + beta_NC, atol=1e-5, rtol=1e-5)
    for norm, mean, var in statistics:
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, var)


@pytest.mark.parametrize("branch", [CLEAN, ADVERSARIAL])
@pytest.mark.parametrize("width_index", [0, 1])
def test_only_the_routed_norm_learns_statistics(branch: int, width_index: int) -> None:
    site = make_site(num_branches=2)
    before = [[norm.running_mean.clone() for norm in pair] for pair in site.norms]
    lam = 0.0 if branch == CLEAN else 0.3
    site.train()(images(site, 2, width_index), route(width_index, [lam, lam]))
    changed = {
        (w, b)
        for w, pair in enumerate(site.norms)
        for b, norm in enumerate(pair)
        if not torch.equal(norm.running_mean, before[w][b])
    }
    assert changed == {(width_index, branch)}


def test_without_dual_norms_both_branches_share_one() -> None:
    site = make_site(num_branches=1)
    assert site.norm(CLEAN, 1) is site.norm(ADVERSARIAL, 1)
    assert [size for _, size in site.parts(route(1, [0.0, 0.0, 1.0]))] == [3]


def test_a_single_lambda_has_no_film_to_train() -> None:
    site = SwitchableNorm(8, WIDTHS, code_size=1, num_branches=1, film=False)
    assert isinstance(site.film, FiLMTable)
    norms = [parameter for norm in site.norms.modules() for parameter in norm.parameters(recurse=False)]
    assert {id(p) for p in site.parameters()} == {id(p) for p in norms}
    at = Route(LambdaBatch.constant(0.2, 2, (0.2,)), 1.0, 1, torch.tensor([[0.2]]))
    x_NCHW = images(site, 2)
    torch.testing.assert_close(site.train()(x_NCHW, at), nn.BatchNorm2d(8).train()(x_NCHW))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_skip_is_added_before_the_rectifier(site: SwitchableNorm, relu: bool, training: bool) -> None:
    at, x_NCHW = route(1, [0.0, 0.3]), images(site.train(training), 2)
    skip_NCHW = torch.randn(x_NCHW.shape)
    plain = site(x_NCHW, at) + skip_NCHW
    torch.testing.assert_close(site(x_NCHW, at, relu=relu, skip_NCHW=skip_NCHW), F.relu(plain) if relu else plain)


def test_kept_constants_are_computed_once(site: SwitchableNorm) -> None:
    site.eval().requires_grad_(False)
    kept = Route(*(getattr(route(1, [0.0, 0.3]), name) for name in ("lam", "width", "width_index", "code_KD")), {})
    x_NCHW = images(site, 2)
    first = site(x_NCHW, kept)
    torch.testing.assert_close(first, site(x_NCHW, route(1, [0.0, 0.3])))
    site.film.to("meta")  # whatever would be computed again would fail
    assert torch.equal(site(x_NCHW, kept), first)


SIZES = [(5,), (2, 3)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_form_gives_the_same_result_statistics_and_gradients(sizes: tuple[int, ...], device: str) -> None:
    """torch's own batch norm against plain formulas against sums taken apart, as several processes do."""
    results = []
    for form in (normalize_natively, normalize_batch, by_sums):
        generator = torch.Generator().manual_seed(1)
        x_NCHW = (3.0 + torch.randn(5, 4, 6, 6, generator=generator)).to(device).requires_grad_()
        skip_NCHW = torch.randn(5, 4, 6, 6, generator=generator).to(device).requires_grad_()
        scale_NC = torch.rand(5, 4, generator=generator).to(device).requires_grad_()
        bias_NC = torch.randn(5, 4, generator=generator).to(device).requires_grad_()
        out, mean_PC, var_PC = form(x_NCHW, scale_NC, bias_NC, sizes, 1e-5, True, skip_NCHW)
        (out * torch.randn(out.shape, generator=generator).to(device)).sum().backward()
        inputs = (x_NCHW, skip_NCHW, scale_NC, bias_NC)
        results.append([out.detach(), mean_PC, var_PC, *(tensor.grad for tensor in inputs)])
    for other in results[1:]:
        for expected, got in zip(results[0], other, strict=True):
            torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


def test_a_part_of_a_single_pixel_is_its_own_mean() -> None:
    """Regression: torch's batch norm refuses one, and a small batch ended in a traceback."""
    x_NCHW, ones_NC = torch.rand(3, 4, 1, 1), torch.ones(3, 4)
    out, mean_PC, var_PC = normalize_natively(x_NCHW, ones_NC, ones_NC, (1, 2), 1e-5, False, None)
    torch.testing.assert_close(out[0], torch.ones(4, 1, 1))  # the bias alone
    torch.testing.assert_close(mean_PC[0], x_NCHW[0, :, 0, 0])
    assert torch.equal(var_PC[0], torch.zeros(4))


def by_sums(
    x_NCHW: Tensor, scale_NC: Tensor, bias_NC: Tensor, sizes: tuple[int, ...], eps: float, relu: bool, skip: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The whole batch's sums from those of its pieces, some of which are empty."""
    ends = [sum(sizes[: part + 1]) for part in range(len(sizes))]
    rows = []
    for end, size in zip(ends, sizes, strict=True):
        pieces = [x_NCHW[end - size : end - 1], x_NCHW[end - 1 : end], x_NCHW[end:end]]
        rows.append(torch.stack([batch_sums(piece, (len(piece),))[0] for piece in pieces]).sum(dim=0))
    return normalize_by_sums(
        x_NCHW, torch.stack(rows), scale_NC, bias_NC, sizes=sizes, eps=eps, relu=relu, skip_NCHW=skip
    )


def reduced_with(other: Tensor | None) -> Callable[[Tensor], Tensor]:
    """A sum over this process and one that contributes `other`."""
    return lambda sums: sums if other is None else sums + other


def test_statistics_of_two_processes_are_those_of_the_whole_batch() -> None:
    whole, part = make_site(num_branches=2).train(), make_site(num_branches=2).train()
    x_NCHW = images(whole, 6)
    everything = whole(x_NCHW, route(1, [0.0, 0.0, 0.3, 0.3, 1.0, 1.0]))
    part.all_reduce = reduced_with(batch_sums(x_NCHW[1::2], (1, 2)))
    torch.testing.assert_close(part(x_NCHW[::2], route(1, [0.0, 0.3, 1.0])), everything[::2], atol=1e-5, rtol=1e-5)
    for (name, expected), got in zip(whole.state_dict().items(), part.state_dict().values(), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_a_part_that_is_empty_here_takes_statistics_from_elsewhere_or_keeps_its_own(lam: float) -> None:
    missing = ADVERSARIAL if lam == 0.0 else CLEAN
    alone, together = make_site(num_branches=2).train(), make_site(num_branches=2).train()
    alone.all_reduce = reduced_with(None)
    elsewhere = torch.zeros(2, 17)
    elsewhere[missing] = batch_sums(images(together, 4), (4,))[0]
    together.all_reduce = reduced_with(elsewhere)
    before = alone.norm(missing, 1).running_mean.clone()
    for site in (alone, together):
        out = site(images(site, 2), route(1, [lam, lam]))
        out.sum().backward()
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(p.grad).all() for p in site.parameters() if p.grad is not None)
        assert site.norm(missing, 1).weight.grad is None  # so that its momentum rests
    assert torch.equal(alone.norm(missing, 1).running_mean, before)
    mean_C = images(together, 4).mean(dim=(0, 2, 3))
    torch.testing.assert_close(together.norm(missing, 1).running_mean, before.lerp(mean_C, 0.1))


def test_bfloat16_is_computed_in_float32() -> None:
    x_NCHW = images(make_site(num_branches=2), 4).bfloat16()
    scale_NC, bias_NC = torch.full((4, 8), 0.3), torch.full((4, 8), 0.1)
    out = modulate(x_NCHW, scale_NC, bias_NC, False)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, (x_NCHW.float() * 0.3 + 0.1).bfloat16())
