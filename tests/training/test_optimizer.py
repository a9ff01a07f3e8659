"""Laws of how weights move: schedules, weight decay, the running average, adversarial weight perturbation."""

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.network import OATNet
from training.optimizer import Average, decayed_weights, learning_rate, make_optimizer, perturbed_weights


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(warmup: float, schedule: str) -> None:
    config = TrainConfig(warmup=warmup, learning_rate=0.2, schedule=schedule)
    rates = [learning_rate(config, step / 1000) for step in range(1001)]
    peak = round(1000 * warmup)
    assert rates[peak] == pytest.approx(max(rates)) == pytest.approx(0.2)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.0025  # no jumps


def test_steps_divide_the_learning_rate_by_ten_twice() -> None:
    config = TrainConfig(warmup=0.0, learning_rate=0.2, schedule="steps")
    rates = [learning_rate(config, progress) for progress in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)]
    assert rates == pytest.approx([0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_weight_decay_spares_norms_film_and_biases(tiny_run: TrainConfig) -> None:
    net = OATNet(tiny_run.model)
    optimizer = make_optimizer(net, tiny_run)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    grouped = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert Counter(grouped) == Counter(names.values())
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    expected = {
        name for name in names.values() if name.endswith("weight") and "norm" not in name and "film" not in name
    }
    assert decayed == expected


def test_an_average_forgets_its_start_and_follows_the_weights() -> None:
    model = nn.Linear(2, 1)
    model.requires_grad_(False)
    average = Average(model, 0.9)
    expected = model.weight.clone()
    for step in range(1, 200):
        model.weight.fill_(float(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight
        average.update(model, step)
    torch.testing.assert_close(average.state["weight"], expected)
    assert expected.mean() == pytest.approx(190.0, abs=0.1)  # a lag of decay / (1 - decay) steps
    with average.shown_by(model):
        torch.testing.assert_close(model.weight, expected)
    assert (model.weight == 199.0).all()
    average.write_to(model)
    torch.testing.assert_close(model.weight, expected)


def test_perturbed_weights_climb_by_their_share_and_come_back_exactly(tiny_run: TrainConfig) -> None:
    torch.manual_seed(0)
    net = OATNet(tiny_run.model).train()
    from training.network import LambdaBatch

    lam, x_NCHW = LambdaBatch.constant(0.3, 4, tiny_run.model.lambdas), torch.rand(4, 3, 8, 8)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(net(x_NCHW, lam, width=0.5), torch.arange(4))

    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weights = decayed_weights(net)
    kept = [weight.detach().clone() for weight in weights]
    uphill, start = [], loss().item()
    net.load_state_dict(before)
    with perturbed_weights(net, loss, gamma=0.01, sum_=lambda tensor: tensor):
        uphill.append(loss().item())
        for weight, old in zip(weights, kept, strict=True):
            used = weight.detach() != old
            assert (weight.detach() - old).norm() == pytest.approx(0.01 * (old * used).norm().item(), rel=1e-2)
        assert not (weights[1].detach() != kept[1])[8:].any()  # what the narrow width does not use
        net.load_state_dict({n: t for n, t in before.items() if "running" in n or "tracked" in n}, strict=False)
    assert uphill[0] > start
    assert [name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])] == []
