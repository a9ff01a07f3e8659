"""Laws of a bundle's tables: a row counts what the network says at its point, and temperatures calibrate."""

from collections.abc import Callable

import pytest
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.data import ImageSet
from oat_runtime.operating_point import OperatingPoint, Regime
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS
from training.augment import to_unit
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import ATTACKS
from training.evaluation.table import Conditions, fit_temperature, measure_point
from training.network import LambdaBatch, OATNet, folded

Patches = Callable[..., ImageSet]
SMALL = ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 0.3, 1.0))


@pytest.fixture
def net() -> OATNet:
    torch.manual_seed(0)
    return OATNet(SMALL).eval().requires_grad_(False)


def test_a_row_counts_what_the_network_says_at_that_point(net: OATNet, patches: Patches) -> None:
    data, point = patches(24, size=16), OperatingPoint(0.3, 0.5)
    conditions = Conditions(
        clean=data,
        attacked=data.first(6),
        attack=ATTACKS["pgd-7"],
        corrupted=data.first(5),
        kinds=FITTING_KINDS[:2],
        severities=(1, 5),
    )
    row, outcomes = measure_point(OutcomeCache(None, net), point, conditions)
    kinds = [f"{kind}-{severity}" for kind in FITTING_KINDS[:2] for severity in (1, 5)]
    assert [m.condition for m in row.measurements] == ["clean", "pgd-7", *kinds]
    assert [m.num_total for m in row.measurements] == [24, 6, 5, 5, 5, 5]
    assert [m.regime for m in row.measurements[:2]] == [Regime.CLEAN, Regime.ADVERSARIAL]
    assert [m.regime for m in row.measurements[2:]] == [CORRUPTIONS[k].regime for k in FITTING_KINDS[:2] for _ in "12"]
    assert row.point == point
    assert [int(correct_N.sum()) for correct_N in outcomes.values()] == [m.num_correct for m in row.measurements]
    assert list(outcomes) == [f"{condition}/0.3/0.5" for condition in ("clean", "pgd-7", *kinds)]
    with torch.no_grad():
        x_NCHW = to_unit(torch.from_numpy(data.images_NHWC))
        logits = net(x_NCHW, LambdaBatch.constant(0.3, 24, SMALL.lambdas), width=0.5)
    assert outcomes["clean/0.3/0.5"].tolist() == (logits.argmax(dim=1).numpy() == data.labels_N).tolist()


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(net: OATNet, patches: Patches, true_temperature: float) -> None:
    with torch.no_grad():
        net.classifier.weight.mul_(12.0)
    data, point = patches(600), OperatingPoint(1.0, 1.0)
    with torch.no_grad():
        logits = folded(net, lam=1.0, width=1.0)(to_unit(torch.from_numpy(data.images_NHWC)))
    probabilities = torch.softmax(logits / true_temperature, dim=1)
    drawn = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(0))[:, 0].numpy()
    fitted = fit_temperature(
        OutcomeCache(None, net), point, ImageSet(data.images_NHWC, drawn, data.class_names, "drawn")
    )
    assert fitted.temperature == pytest.approx(true_temperature, rel=0.2)
    assert (fitted.lam, fitted.width) == (1.0, 1.0)
