"""Laws of the plain network, computed by definition: no engine and no torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oat_runtime.architecture import ModelConfig, knot_weights
from oat_runtime.errors import OperatingPointError
from oat_runtime.plain_net import Floats, PlainNet, constants, fold, share

CONFIGS = {
    "wide_resnet": ModelConfig(depth=10, widen_factor=1),
    "resnet": ModelConfig(family="resnet", depth=10, stem="7x7-stride2-pool", widths=(0.25, 0.5), encoding="none"),
    "classifier-per-width": ModelConfig(depth=10, widen_factor=1, classifier_per_width=True, widths=(0.5, 0.8)),
    "one-norm": ModelConfig(depth=10, widen_factor=1, encoding="none", dual_bn=False, num_classes=3),
    "one-lambda": ModelConfig(depth=10, widen_factor=1, lambdas=(0.5,), widths=(1.0,)),
}
UNSEEN = (0.05, 0.15, 0.25, 0.5, 0.7, 0.9)
Logits = Callable[[PlainNet, Floats], Floats]


@pytest.fixture(scope="module", params=CONFIGS)
def network(request: pytest.FixtureRequest, shaken_tensors: Callable[..., Any]) -> tuple[dict[str, Any], ModelConfig]:
    config = CONFIGS[request.param]
    return shaken_tensors(config), config


def images() -> Floats:
    return np.random.default_rng(1).random((2, 3, 16, 16), dtype=np.float32)


def some_points(config: ModelConfig) -> list[tuple[float, float]]:
    lambdas = config.lambdas if len(config.lambdas) == 1 else (0.0, 0.1, 0.35, 1.0)
    return [(lam, width) for lam in lambdas for width in config.widths]


def test_both_forms_compute_the_same(network: tuple[dict[str, Any], ModelConfig], plain_logits: Logits) -> None:
    tensors, config = network
    for lam, width in some_points(config):
        expected = plain_logits(fold(tensors, config, lam=lam, width=width), images())
        got = plain_logits(share(tensors, config, lam=lam, width=width), images())
        assert np.abs(got - expected).max() < 2e-5 * np.abs(expected).max(), (lam, width)


def test_points_differ(network: tuple[dict[str, Any], ModelConfig], plain_logits: Logits) -> None:
    tensors, config = network
    found = [plain_logits(fold(tensors, config, lam=lam, width=width), images()) for lam, width in some_points(config)]
    for index, first in enumerate(found):
        for second in found[:index]:
            assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()


def test_constants_of_any_lambda_lie_between_those_of_its_knots(network: tuple[dict[str, Any], ModelConfig]) -> None:
    tensors, config = network
    for width in config.widths:
        table_KV = np.stack([constants(tensors, config, lam=knot, width=width) for knot in config.lambdas])
        for lam in UNSEEN if len(config.lambdas) > 1 else config.lambdas:
            expected = constants(tensors, config, lam=lam, width=width)
            got = np.array(knot_weights(lam, config.lambdas), np.float32) @ table_KV
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * float(np.abs(expected).max()))


def test_a_network_with_the_constants_of_another_lambda_is_that_lambdas_network(
    network: tuple[dict[str, Any], ModelConfig], plain_logits: Logits
) -> None:
    tensors, config = network
    lam, width = config.lambdas[0], config.widths[0]
    at_lam = share(tensors, config, lam=lam, width=width)
    moved = share(tensors, config, width=width).with_constants(constants(tensors, config, lam=lam, width=width))
    np.testing.assert_array_equal(moved.constants(), at_lam.constants())
    np.testing.assert_array_equal(plain_logits(moved, images()), plain_logits(at_lam, images()))
    numbered = moved.with_constants(np.arange(moved.constants().size, dtype=np.float32))
    np.testing.assert_array_equal(numbered.constants(), np.arange(moved.constants().size))
    with pytest.raises(ValueError, match=r"expected \d+ constants, got shape \(3,\)"):
        moved.with_constants(np.zeros(3, np.float32))


def test_the_shared_form_holds_views_and_folding_touches_nothing(network: tuple[dict[str, Any], ModelConfig]) -> None:
    tensors, config = network
    before = {name: array.copy() for name, array in tensors.items()}
    shared = share(tensors, config, width=config.widths[0])
    convolutions = [shared.stem, *(conv for block in shared.blocks for conv in (block.conv1, block.conv2))]
    for conv, name in zip(convolutions, ["stem", "blocks.0.conv1", "blocks.0.conv2"], strict=False):
        assert np.shares_memory(conv.weight_OIHW, tensors[f"{name}.weight"])
        assert conv.bias_O is None
    folded = fold(tensors, config, lam=config.lambdas[-1], width=config.widths[0])
    for conv in (folded.stem, folded.blocks[0].conv1, folded.blocks[0].conv2):
        assert conv.affine is None
    assert all(np.array_equal(array, before[name]) for name, array in tensors.items())


def test_weights_are_counted_and_a_narrow_network_has_fewer(network: tuple[dict[str, Any], ModelConfig]) -> None:
    tensors, config = network
    counts = [share(tensors, config, width=width).num_weights for width in config.widths]
    assert counts == sorted(counts)
    parts = [name for name in tensors if name.endswith(".weight") and "norms" not in name]
    if config.widths[-1] == 1.0:
        assert counts[-1] == sum(tensors[name].size for name in parts) + tensors["classifier.bias"].size


@pytest.mark.parametrize(("lam", "width"), [(1.2, 1.0), (float("nan"), 1.0), (0.5, 0.6), (0.5, float("nan"))])
def test_a_point_that_is_not_offered_is_refused(
    network: tuple[dict[str, Any], ModelConfig], lam: float, width: float
) -> None:
    tensors, config = network
    for make in (fold, share, constants):
        with pytest.raises(OperatingPointError, match="got"):
            make(tensors, config, lam=lam, width=width)
