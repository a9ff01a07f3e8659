"""Folded equals unfolded: at every trained point and at unseen λ, for both families, and nothing else is touched."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from oat_runtime.architecture import InputSpec, ModelConfig, tensor_shapes
from oat_runtime.backends.torch_net import ChannelAffine, TorchBlock, TorchNet
from oat_runtime.bundle import outcome_key
from oat_runtime.errors import OperatingPointError
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import share
from training.network import LambdaBatch, OATNet, folded, network_of, probe_of, tensors_of

CONFIGS = {
    "wide_resnet": ModelConfig(depth=10, widen_factor=1),
    "resnet": ModelConfig(family="resnet", depth=10),
    "classifier-per-width": ModelConfig(depth=10, widen_factor=1, classifier_per_width=True),
    "no-encoding": ModelConfig(depth=10, widen_factor=1, encoding="none", dual_bn=False, num_classes=3),
}
UNSEEN = (0.05, 0.15, 0.25, 0.5, 0.7, 0.9)
MakeNet = Callable[..., OATNet]


@pytest.fixture(scope="module", params=CONFIGS)
def net(request: pytest.FixtureRequest, make_net: MakeNet) -> OATNet:
    return make_net(CONFIGS[request.param])


def images() -> torch.Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_folded_equals_unfolded_everywhere(net: OATNet) -> None:
    x_NCHW = images()
    for lam in (*net.config.lambdas, *UNSEEN):
        for width in net.config.widths:
            expected = net.eval()(x_NCHW, LambdaBatch.constant(lam, 3, net.config.lambdas), width=width)
            got = folded(net.train(), lam=lam, width=width)(x_NCHW)
            assert (got - expected).abs().max() < 2e-5 * expected.abs().max(), (lam, width)


def test_the_shipped_form_folds_to_the_same_network(net: OATNet) -> None:
    trained, shipped = (folded(form, lam=0.35, width=0.75) for form in (net, net.with_film_tables()))
    assert all(torch.equal(shipped.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())


def test_neighbouring_points_fold_to_different_networks(net: OATNet) -> None:
    x_NCHW = images()
    points = [(lam, width) for lam in net.config.lambdas for width in net.config.widths]
    logits = torch.stack([folded(net, lam=lam, width=width)(x_NCHW).flatten() for lam, width in points])
    assert torch.pdist(logits).min() > 1e-3 * logits.abs().max()


def test_folding_touches_nothing(net: OATNet) -> None:
    net.train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plain = folded(net, lam=0.3, width=0.75)
    with torch.no_grad():
        for tensor in plain.state_dict().values():
            tensor.fill_(0.5)  # whatever is done to the folded network
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_what_is_left_is_plain_and_frozen(net: OATNet) -> None:
    plain = folded(net.train(), lam=0.3, width=0.5)
    allowed = (TorchNet, TorchBlock, ChannelAffine, nn.Conv2d, nn.Linear, nn.ModuleList)
    assert all(type(module) in allowed for module in plain.modules())
    assert not any(module.training for module in plain.modules())
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    full = folded(net, lam=0.3, width=1.0)
    assert sum(p.numel() for p in plain.parameters()) < 0.3 * sum(p.numel() for p in full.parameters())


def test_a_folded_network_passes_gradients_to_its_images(net: OATNet) -> None:
    x_NCHW = images().requires_grad_(True)
    folded(net, lam=0.0, width=1.0)(x_NCHW).square().sum().backward()
    assert x_NCHW.grad is not None
    assert x_NCHW.grad.abs().sum() > 0


@pytest.mark.parametrize(("lam", "width"), [(1.2, 1.0), (float("nan"), 1.0), (0.5, 0.6), (0.5, float("nan"))])
def test_a_point_that_is_not_offered_is_refused(net: OATNet, lam: float, width: float) -> None:
    with pytest.raises(OperatingPointError, match="got"):
        folded(net, lam=lam, width=width)


@torch.no_grad()
def test_the_shared_form_equals_the_folded_one_everywhere(net: OATNet) -> None:
    x_NCHW, tensors = images(), tensors_of(net)
    for lam in (*net.config.lambdas, *UNSEEN):
        for width in net.config.widths:
            expected = folded(net, lam=lam, width=width)(x_NCHW)
            got = TorchNet(share(tensors, net.config, lam=lam, width=width))(x_NCHW)
            assert (got - expected).abs().max() < 2e-5 * expected.abs().max(), (lam, width)


def test_the_tensors_are_those_of_the_architecture_and_the_network_comes_back(net: OATNet) -> None:
    tensors = tensors_of(net)
    assert {name: array.shape for name, array in tensors.items()} == tensor_shapes(net.config)
    again = network_of(tensors, net.config)
    assert not any(module.training for module in again.modules())
    assert not any(parameter.requires_grad for parameter in again.parameters())
    batch = LambdaBatch.constant(0.35, 3, net.config.lambdas)
    with torch.no_grad():
        expected = net.eval()(images(), batch, width=0.75)
        assert torch.equal(again(images(), batch, width=0.75), expected)
    assert all((array == tensors[name]).all() for name, array in tensors_of(again).items())


@torch.no_grad()
def test_the_probe_holds_the_logits_of_the_trained_network_and_of_no_folded_one(net: OATNet) -> None:
    probe = probe_of(net.train(), InputSpec(height=8, width=8))
    assert net.training
    x_NCHW = torch.from_numpy(probe["x_NCHW"])
    assert x_NCHW.shape == (4, 3, 8, 8)
    for lam in net.config.lambdas:
        for width in net.config.widths:
            stored = torch.from_numpy(probe[outcome_key("logits", OperatingPoint(lam, width))])
            trained = net.eval()(x_NCHW, LambdaBatch.constant(lam, 4, net.config.lambdas), width=width)
            torch.testing.assert_close(stored, trained, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(stored, folded(net, lam=lam, width=width)(x_NCHW), atol=1e-3, rtol=1e-3)
