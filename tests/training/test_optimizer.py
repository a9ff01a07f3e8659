"""Laws of how weights move: schedules, weight decay, the running average, adversarial weight perturbation."""

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.network import OATNet
from training.optimizer import (
    Average,
    change_of_lengths,
    decayed_weights,
    learning_rate,
    make_optimizer,
    orthogonalized,
    perturbed_weights,
    set_learning_rate,
)


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


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_run_that_starts_from_other_weights_turns_them_less(optimizer: str, tiny_run: TrainConfig) -> None:
    """At the rate for random weights, a start from a bundle was forgotten within a hundred steps."""
    config = tiny_run.model_copy(update={"optimizer": optimizer, "start_rate": 0.25})
    rates = []
    for start in ("", "bundle some"):
        steps = make_optimizer(OATNet(config.model), config)
        set_learning_rate(steps, config.model_copy(update={"start": start}), 0.5)
        rates.append([group["lr"] for group in steps.param_groups])
    assert rates[1] == pytest.approx([0.25 * rate for rate in rates[0]])


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


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)], ids=str)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_orthogonalized_matrix_keeps_its_directions_and_equals_their_lengths(
    shape: tuple[int, int], scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = shape
    left, _ = torch.linalg.qr(torch.randn(rows, min(shape), generator=generator))
    right, _ = torch.linalg.qr(torch.randn(columns, min(shape), generator=generator))
    lengths = torch.linspace(0.2, 1.0, min(shape))
    found = orthogonalized(scale * (left * lengths) @ right.T, dtype=torch.float32)
    within = left.T @ found @ right  # diagonal: what belonged to one direction stays there
    assert (within - torch.diag(within.diagonal())).abs().max() < 1e-3
    assert within.diagonal().min() > 0.6
    assert within.diagonal().max() < 1.3


def test_an_orthogonalized_zero_is_zero() -> None:
    assert not orthogonalized(torch.zeros(3, 5), dtype=torch.float32).any()


def test_muon_turns_convolutions_keeps_their_length_and_leaves_the_rest_to_sgd(tiny_run: TrainConfig) -> None:
    nets, config = [], tiny_run.model_copy(update={"optimizer": "muon", "muon_learning_rate": 0.03})
    for optimizer in ("muon", "sgd"):
        torch.manual_seed(0)
        net = OATNet(tiny_run.model)
        steps = make_optimizer(net, config.model_copy(update={"optimizer": optimizer}))
        set_learning_rate(steps, config, 0.5)
        before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            for parameter in net.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            steps.step()
        nets.append((net, before))
    (muon, before), (sgd, _) = nets
    rate = 0.03 * learning_rate(config, 0.5) / config.learning_rate
    for (name, parameter), other in zip(muon.named_parameters(), sgd.parameters(), strict=True):
        if parameter.ndim < 4:
            assert torch.equal(parameter, other), name
            continue
        rows = len(parameter)
        assert parameter.norm().item() == pytest.approx(rows**0.5, rel=1e-5)
        start = before[name] * (rows**0.5 / before[name].norm())
        # Two steps of at most `rate` a direction, each before the length is set again.
        turned = torch.linalg.matrix_norm((parameter.detach() - start).flatten(1), ord=2)
        assert 0.0 < turned < 2 * 1.3 * rate * max(1.0, rows**0.5 / before[name].norm().item()) * 1.5, name


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_looks_a_step_ahead_where_it_is_asked_to(nesterov: bool, tiny_run: TrainConfig) -> None:
    config = tiny_run.model_copy(update={"optimizer": "muon", "nesterov": nesterov, "momentum": 0.5})
    net = OATNet(config.model)
    weight = next(p for p in net.parameters() if p.ndim == 4)
    steps = make_optimizer(net, config)
    set_learning_rate(steps, config, 0.5)
    first, second = torch.randn(2, *weight.shape)
    for gradient in (first, second):
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        steps.step()
    total = 0.5 * first + second
    direction = orthogonalized((second + 0.5 * total if nesterov else total).flatten(1), dtype=torch.float32)
    rate = config.muon_learning_rate * learning_rate(config, 0.5) / config.learning_rate
    moved = before - rate * direction.view_as(before)
    torch.testing.assert_close(weight.detach(), moved * len(moved) ** 0.5 / moved.norm())


def test_the_lengths_that_muon_changes_are_found(tiny_run: TrainConfig) -> None:
    net = OATNet(tiny_run.model)
    convolutions = [p for p in net.parameters() if p.ndim == 4]
    with torch.no_grad():
        for weight in convolutions:
            weight.mul_(len(weight) ** 0.5 / weight.norm())
        assert change_of_lengths(net) == pytest.approx(1.0, abs=1e-5)
        convolutions[-1].div_(3.0)
        assert change_of_lengths(net) == pytest.approx(3.0, abs=1e-5)
        convolutions[0].mul_(4.0)
    assert change_of_lengths(net) == pytest.approx(4.0, abs=1e-5)


def test_muon_takes_no_closure(tiny_run: TrainConfig) -> None:
    steps = make_optimizer(OATNet(tiny_run.model), tiny_run.model_copy(update={"optimizer": "muon"}))
    with pytest.raises(ValueError, match="takes no closure"):
        steps.step(lambda: 0.0)


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
