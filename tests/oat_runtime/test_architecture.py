"""Laws of λ interpolation, of the layers of an architecture, and of the tensors that belong to them."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oat_runtime.architecture import ModelConfig, effective_lambda, knot_weights, layout, tensor_shapes
from oat_runtime.errors import OperatingPointError

KNOTS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)


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
    ("lam", "knots", "knot"),
    [
        (0.1 + 0.2, KNOTS, 0.3), (float(np.float32(0.4)), KNOTS, 0.4), (sum([0.1] * 10), KNOTS, 1.0),
        (float(np.float32(0.7)), (0.7, 1.0), 0.7), (-0.0, KNOTS, 0.0), (1e-300, KNOTS, 0.1), (0.4001, KNOTS, 0.4001),
    ],
)  # fmt: skip
def test_a_lambda_that_rounding_moved_off_a_knot_is_that_knot(
    lam: float, knots: tuple[float, ...], knot: float
) -> None:
    """Regression: it was a point of its own, compiled anew in int8; below the first knot it was refused."""
    assert repr(effective_lambda(lam, knots)) == repr(knot)
    assert knot_weights(lam, knots) == knot_weights(knot, knots)


@pytest.mark.parametrize(
    ("lam", "knots"), [(-0.01, KNOTS), (1.01, KNOTS), (math.nan, KNOTS), (0.1, (0.2, 1.0)), (0.9, (0.0, 0.8))]
)
def test_lambda_outside_the_trained_range_is_refused(lam: float, knots: tuple[float, ...]) -> None:
    for function in (effective_lambda, knot_weights):
        with pytest.raises(OperatingPointError, match=rf"in \[{knots[0]:g}, {knots[-1]:g}\].*got {lam}"):
            function(lam, knots)


@pytest.mark.parametrize("width", [0.6, math.nan, 0.0])
def test_a_width_that_was_not_built_is_refused(width: float) -> None:
    with pytest.raises(OperatingPointError, match=rf"width must be one of \[0.5, 0.75, 1.0\], got {width}"):
        ModelConfig().width_index(width)


@pytest.mark.parametrize(
    ("config", "num_convolutions"),
    [
        (ModelConfig(depth=16, widen_factor=4), 16 - 3 + 3),  # depth counts 3 shortcuts and no classifier
        (ModelConfig(depth=10, widen_factor=1), 10 - 3 + 2),  # the first stage of widen factor 1 needs no shortcut
        (ModelConfig(family="resnet", depth=18), 17 + 3),
        (ModelConfig(family="resnet", depth=34), 33 + 3),
    ],
)
def test_an_architecture_has_the_convolutions_of_its_name(config: ModelConfig, num_convolutions: int) -> None:
    convolutions = [conv for _, conv in layout(config).convolutions()]
    assert len(convolutions) == num_convolutions
    assert math.prod(conv.stride for conv in convolutions if conv.size == 3) == (4 if config.family != "resnet" else 8)
    assert layout(config).num_features == (64 * config.widen_factor if config.family != "resnet" else 512)


def test_each_block_takes_what_the_one_before_gives() -> None:
    for config in (ModelConfig(depth=22), ModelConfig(family="resnet", depth=34, stem="7x7-stride2-pool")):
        parts = layout(config)
        channels = parts.stem.outputs
        for block in parts.blocks:
            assert block.conv1.inputs == channels
            channels = block.conv2.outputs
            if block.shortcut is None:
                assert (block.conv1.inputs, block.conv1.stride) == (channels, 1)
            else:
                assert (block.shortcut.outputs, block.shortcut.stride) == (channels, block.conv1.stride)


@pytest.mark.parametrize(
    ("lambdas", "dual_bn", "num_branches"),
    [((0.0, 1.0), True, 2), ((0.0, 1.0), False, 1), ((0.2, 1.0), True, 1), ((0.0,), True, 1)],
)
def test_only_lambda_zero_beside_others_has_a_batch_norm_of_its_own(
    lambdas: tuple[float, ...], dual_bn: bool, num_branches: int
) -> None:
    config = ModelConfig(depth=10, widen_factor=1, lambdas=lambdas, dual_bn=dual_bn)
    assert config.num_branches == num_branches
    branches = {name.split(".")[-2] for name in tensor_shapes(config) if name.endswith("running_var")}
    assert branches == {str(branch) for branch in range(num_branches)}
    assert np.prod(tensor_shapes(config)["code_KD"]) == len(lambdas) * config.encoding_size
