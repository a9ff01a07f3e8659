"""Laws of the whole network: branches, widths, what is restored, what a forward pass leaves alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from oat_runtime.architecture import ADVERSARIAL, CLEAN, ModelConfig, scaled
from oat_runtime.errors import OperatingPointError
from training.network import LambdaBatch, OATNet, SlimmableConv2d, folded, frozen, untracked
from training.network.norm import FiLMTable

WIDE = ModelConfig(depth=10, widen_factor=1)
RESNET = ModelConfig(family="resnet", depth=10)
MakeNet = Callable[..., OATNet]


@pytest.fixture(scope="module", params=[WIDE, RESNET], ids=["wide_resnet", "resnet"])
def net(request: pytest.FixtureRequest, make_net: MakeNet) -> OATNet:
    return make_net(request.param).eval()


def images(num: int = 4, size: int = 8) -> torch.Tensor:
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(7))


def run(net: OATNet, x_NCHW: torch.Tensor, lam: float, width: float = 1.0) -> torch.Tensor:
    return net(x_NCHW, LambdaBatch.constant(lam, len(x_NCHW), net.config.lambdas), width=width)


def snapshot(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def assert_same(net: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def narrow_twin(net: OATNet, width: float) -> OATNet:
    """A network of its own whose full width is `width` of `net`: every weight is cut out by hand."""
    twin = copy.deepcopy(net)
    index = net.config.widths.index(width)
    twin.config = net.config.model_copy(update={"widths": (1.0,)})
    for conv in (m for m in twin.modules() if isinstance(m, SlimmableConv2d)):
        conv.out_channels = scaled(conv.out_channels, width)
        num_in = 3 if conv is twin.stem else scaled(conv.in_channels, width)
        conv.weight = nn.Parameter(conv.weight[: conv.out_channels, :num_in].detach().clone())
    for site in twin.norms():
        site.norms = nn.ModuleList([site.norms[index]])
        for mlp in (site.film.gamma, site.film.beta):
            last = mlp[-1]
            last.weight = nn.Parameter(last.weight[: scaled(last.out_features, width)].detach().clone())
            last.bias = nn.Parameter(last.bias[: scaled(last.out_features, width)].detach().clone())
    features = scaled(twin.classifier.in_features, width)
    twin.classifier.weight = nn.Parameter(twin.classifier.weight[:, :features].detach().clone())
    return twin


@pytest.mark.parametrize("width", [0.5, 0.75])
@pytest.mark.parametrize("lam", [0.0, 0.35])
@pytest.mark.parametrize("training", [False, True])
def test_a_width_is_a_standalone_narrow_network(net: OATNet, width: float, lam: float, training: bool) -> None:
    net = copy.deepcopy(net).train(training)
    twin = narrow_twin(net, width)
    torch.testing.assert_close(run(net, images(), lam, width), run(twin, images(), lam), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0])
def test_a_width_trains_its_own_classifier_only(make_net: MakeNet, width: float) -> None:
    net = make_net(ModelConfig(depth=10, widen_factor=1, classifier_per_width=True)).train().requires_grad_(True)
    run(net, images(), 0.3, width).square().sum().backward()
    index = net.config.widths.index(width)
    assert [part.weight.shape for part in net.classifier] == [(10, 32), (10, 48), (10, 64)]
    assert [part.weight.grad is not None for part in net.classifier] == [other == index for other in range(3)]


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0])
@pytest.mark.parametrize(("lam", "used"), [(0.0, CLEAN), (0.1, ADVERSARIAL), (1.0, ADVERSARIAL)])
def test_each_lambda_trains_its_own_norms_only(net: OATNet, width: float, lam: float, used: int) -> None:
    net = copy.deepcopy(net).train().requires_grad_(True)
    before = snapshot(net)
    run(net, images(), lam, width).square().sum().backward()
    for site in net.norms():
        for w, pair in enumerate(site.norms):
            for branch, norm in enumerate(pair):
                is_used = (net.config.widths[w], branch) == (width, used)
                assert (norm.weight.grad is not None and bool(norm.weight.grad.any())) == is_used
                assert (norm.bias.grad is not None and bool(norm.bias.grad.any())) == is_used
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    index = net.config.widths.index(width)
    assert moved
    assert all(f".norms.{index}.{used}.running_" in f".{name}" for name in moved)


def test_narrow_training_leaves_the_other_channels_alone(net: OATNet) -> None:
    net = copy.deepcopy(net).train().requires_grad_(True)
    run(net, images(), 0.3, 0.5).square().sum().backward()
    for conv in (m for m in net.modules() if isinstance(m, SlimmableConv2d)):
        half = scaled(conv.out_channels, 0.5)
        assert conv.weight.grad[:half].any()
        assert not conv.weight.grad[half:].any()
        assert conv is net.stem or not conv.weight.grad[:, scaled(conv.in_channels, 0.5) :].any()


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_mixed_batch_is_its_parts_run_alone(net: OATNet, width: float) -> None:
    lam_N = [0.0, 0.0, 0.1, 0.35, 1.0]
    x_NCHW = images(len(lam_N))
    mixed = net(x_NCHW, LambdaBatch.from_values(lam_N, net.config.lambdas), width=width)
    alone = torch.cat([run(net, x_NCHW[n : n + 1], lam, width) for n, lam in enumerate(lam_N)])
    torch.testing.assert_close(mixed, alone, atol=1e-4, rtol=1e-4)
    assert torch.pdist(torch.cat([run(net, x_NCHW[:1], lam, width) for lam in set(lam_N)])).min() > 1e-3


def test_a_forward_pass_leaves_images_and_weights_alone(net: OATNet) -> None:
    x_NCHW, before = images(), snapshot(net)
    run(net, x_NCHW, 0.2)
    assert torch.equal(x_NCHW, images())
    assert_same(net, before)


def test_bfloat16_gives_float32_logits_near_those_of_float32(net: OATNet) -> None:
    half = copy.deepcopy(net)
    half.compute_dtype = torch.bfloat16
    logits_NK, exact_NK = run(half, images(), 0.3), run(net, images(), 0.3)
    assert logits_NK.dtype == torch.float32
    assert 0 < (logits_NK - exact_NK).abs().max() < 0.1 * exact_NK.abs().max()


def test_one_lambda_an_image_and_a_known_width_are_demanded(net: OATNet) -> None:
    batch = LambdaBatch.constant(0.1, 3, net.config.lambdas)
    with pytest.raises(OperatingPointError, match="one lambda per image: 4, got 3"):
        net(images(4), batch, width=1.0)
    with pytest.raises(OperatingPointError, match=r"width must be one of \[0.5, 0.75, 1.0\], got 0.6"):
        net(images(3), batch, width=0.6)


@pytest.mark.parametrize("tables", [False, True])
def test_the_encoding_travels_with_the_weights(make_net: MakeNet, tables: bool) -> None:
    trained = make_net(WIDE).eval()
    other = make_net(WIDE.model_copy(update={"encoding_seed": 9}), seed=1).eval()
    if tables:
        trained, other = trained.with_film_tables(), other.with_film_tables()
    assert not torch.equal(trained.code_KD, other.code_KD)
    other.load_state_dict(trained.state_dict())
    for lam in (0.0, 0.1, 0.35):
        assert torch.equal(run(other, images(), lam), run(trained, images(), lam))


def test_the_encoding_does_not_depend_on_the_seed_of_the_run(make_net: MakeNet) -> None:
    first, second = make_net(WIDE, seed=0), make_net(WIDE, seed=1)
    assert torch.equal(first.code_KD, second.code_KD)
    assert not torch.equal(first.stem.weight, second.stem.weight)


def test_film_tables_compute_what_the_mlps_compute(net: OATNet) -> None:
    before = snapshot(net)
    shipped = net.with_film_tables()
    assert_same(net, before)
    assert not any(".film.gamma." in name or ".film.beta." in name for name in shipped.state_dict())
    for lam in (*net.config.lambdas, 0.05, 0.15, 0.7):
        for width in net.config.widths:
            assert torch.equal(run(shipped, images(), lam, width), run(net, images(), lam, width))


def test_one_norm_for_all_lambdas_is_an_option(make_net: MakeNet) -> None:
    net = make_net(ModelConfig(depth=10, widen_factor=1, dual_bn=False)).train()
    before = snapshot(net)
    run(net, images(), 0.0)
    assert not torch.equal(net.norms()[0].norms[-1][0].running_mean, before["blocks.0.norm1.norms.2.0.running_mean"])
    assert all(len(pair) == 1 for site in net.norms() for pair in site.norms)


@pytest.mark.parametrize(
    ("lambdas", "num_norms", "film"),
    [((0.0, 1.0), 2, True), ((0.1, 1.0), 1, True), ((0.0,), 1, False), ((0.2,), 1, False)],
)
def test_only_what_the_lambdas_need_is_built(
    make_net: MakeNet, lambdas: tuple[float, ...], num_norms: int, film: bool
) -> None:
    net = make_net(ModelConfig(depth=10, widen_factor=1, lambdas=lambdas)).eval()
    assert {len(pair) for site in net.norms() for pair in site.norms} == {num_norms}
    assert {isinstance(site.film, FiLMTable) for site in net.norms()} == {not film}
    tables = net.with_film_tables()
    for lam in lambdas:
        torch.testing.assert_close(run(tables, images(), lam), run(net, images(), lam))


@pytest.mark.parametrize("config", [WIDE, RESNET], ids=["wide_resnet", "resnet"])
@pytest.mark.parametrize(
    ("stem", "size", "side"), [("3x3", 16, 16), ("3x3-stride2", 16, 8), ("7x7-stride2-pool", 32, 8), ("3x3", 15, 15)]
)
def test_a_stem_shrinks_the_image_and_any_size_runs(
    make_net: MakeNet, config: ModelConfig, stem: str, size: int, side: int
) -> None:
    net = make_net(config.model_copy(update={"stem": stem})).eval()
    seen: list[torch.Tensor] = []
    net.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert run(net, images(2, size), 0.3, 0.5).shape == (2, 10)
    assert seen[0].shape[1:] == (scaled(net.stem.out_channels, 0.5), side, side)
    plain = folded(net, lam=0.3, width=0.5)
    torch.testing.assert_close(plain(images(2, size)), run(net, images(2, size), 0.3, 0.5), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "num_blocks", "features", "millions"),
    [
        (ModelConfig(family="resnet", depth=18, lambdas=(0.0,), widths=(1.0,)), 8, 512, 11.17),
        (ModelConfig(family="resnet", depth=34, lambdas=(0.0,), widths=(1.0,)), 16, 512, 21.28),
        (ModelConfig(depth=16, widen_factor=8, lambdas=(0.0,), widths=(1.0,)), 6, 512, 10.96),
        (ModelConfig(depth=40, widen_factor=2, lambdas=(0.0,), widths=(1.0,)), 18, 128, 2.24),
    ],
    ids=lambda value: value.name if isinstance(value, ModelConfig) else "",
)
def test_the_papers_networks_have_their_published_sizes(
    config: ModelConfig, num_blocks: int, features: int, millions: float
) -> None:
    net = OATNet(config)
    assert (len(net.blocks), net.classifier.in_features) == (num_blocks, features)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions


def test_a_function_for_attacks_computes_what_the_network_computes(net: OATNet) -> None:
    lam = LambdaBatch.from_values([0.0, 0.1, 0.35, 1.0], net.config.lambdas)
    with frozen(net):
        logits_fn = net.logits_fn(lam, width=0.75)
        for shift in (0.0, 0.1):
            torch.testing.assert_close(logits_fn(images() + shift), net(images() + shift, lam, width=0.75))


def test_untracked_uses_the_batchs_statistics_and_leaves_no_trace(net: OATNet) -> None:
    net = copy.deepcopy(net).train()
    tracked, before = copy.deepcopy(net), snapshot(net)
    with untracked(net):
        out = run(net, images(), 0.3)
    assert_same(net, before)
    assert torch.equal(out, run(tracked, images(), 0.3))
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("raises", [False, True])
def test_frozen_leaves_everything_as_it_was(make_net: MakeNet, raises: bool) -> None:
    net = make_net(WIDE).train()
    net.blocks[0].eval()
    net.stem.weight.requires_grad_(False)
    modes = [module.training for module in net.modules()]
    grads = [parameter.requires_grad for parameter in net.parameters()]
    before = snapshot(net)
    try:
        with frozen(net):
            assert not any(module.training for module in net.modules())
            x_NCHW = images().requires_grad_(True)
            run(net, x_NCHW, 0.3).sum().backward()
            assert x_NCHW.grad is not None
            assert all(parameter.grad is None for parameter in net.parameters())
            if raises:
                raise KeyError
    except KeyError:
        pass
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == grads
    assert_same(net, before)


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 11},
        {"depth": 4},
        {"family": "resnet", "depth": 16},
        {"widths": (1.0, 0.5)},
        {"widths": (0.5, 0.5, 1.0)},
        {"widths": (0.0, 1.0)},
        {"widths": (0.5, 1.5)},
        {"widths": ()},
        {"lambdas": (0.0, 1.0, 0.5)},
        {"lambdas": (-0.1, 1.0)},
        {"lambdas": (0.0, 1.1)},
        {"lambdas": (0.0, float("nan"))},
        {"num_classes": 1},
        {"stem": "5x5"},
        {"surprise": 1},
    ],
)
def test_an_impossible_architecture_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig.model_validate(change)
