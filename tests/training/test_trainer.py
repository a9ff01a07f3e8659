"""Laws of training: the paper's loss, what shares a norm in one forward, determinism, resuming, stopping in time."""

import copy
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.errors import OATError
from oat_runtime.layers import LambdaBatch
from oat_runtime.model import ModelConfig, OATNet
from oat_runtime.operating_point import AttackSpec
from training import train as train_module
from training.config import TrainConfig
from training.data import ImageSet
from training.trainer import (
    Batch,
    NonFiniteLossError,
    StepSampler,
    Trainer,
    learning_rate,
    make_optimizer,
    train_step,
)

Patches = Callable[..., ImageSet]
EPSILON = 8 / 255
NO_ATTACK = AttackSpec(name="none", epsilon=0.0, step_size=0.0, num_steps=1)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_equal_states(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def take(trainer: Trainer, num: int) -> list[object]:
    return list(itertools.islice(trainer.run(), num))


class Linear(nn.Module):
    """Two classes by a hyperplane of its own for each λ and width: the worst image is known in closed form."""

    def __init__(self, lambdas: tuple[float, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = ModelConfig(lambdas=lambdas, num_classes=2)
        self.weight = nn.Parameter(0.5 * torch.randn(len(lambdas), 2 * 12))
        self.modes: list[bool] = []

    def planes(self, lam: LambdaBatch, width: float) -> Tensor:
        """Weights (N, 2, 12) of each sample."""
        sign_C = torch.ones(12) if width == 1.0 else torch.tensor([1.0, -1.0]).repeat(6)
        return (lam.weights_NK @ self.weight).view(-1, 2, 12) * sign_C

    def forward(self, x_NCHW: Tensor, lam: LambdaBatch, *, width: float) -> Tensor:
        self.modes.append(self.training)
        return torch.einsum("nkc,nc->nk", self.planes(lam, width), x_NCHW.flatten(1))


@dataclass
class Fixed:
    """A sampler that draws what it is told."""

    lam_N: list[float]
    of_step: tuple[float, ...]
    generator: torch.Generator

    def lambdas(self, num: int) -> list[float]:
        assert num == len(self.lam_N)
        return self.lam_N

    def widths(self) -> tuple[float, ...]:
        return self.of_step


@pytest.mark.parametrize("lam_N", [[0.0, 0.0, 0.25, 0.5, 1.0, 1.0], [0.0] * 6, [1.0] * 6, [0.25] * 6])
@pytest.mark.parametrize("widths", [(1.0,), (1.0, 0.5)])
def test_a_step_descends_the_papers_loss(lam_N: list[float], widths: tuple[float, ...]) -> None:
    """(1 − λ) CE(clean) + λ CE(adversarial), a mean over samples and widths, each image attacked at its λ and width."""
    net = Linear((0.0, 0.25, 0.5, 1.0)).train()
    x_NCHW, y_N = torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    twin, lam = copy.deepcopy(net), torch.tensor(lam_N)
    by_width = []
    for width in widths:
        batch = LambdaBatch.from_values(lam_N, net.config.lambdas)
        planes, index_N = net.planes(batch, width).detach(), torch.arange(6)
        direction = (planes[index_N, 1 - y_N] - planes[index_N, y_N]).sign().view_as(x_NCHW)
        worst = (x_NCHW + EPSILON * direction).clamp(0, 1)
        clean, robust = (F.cross_entropy(twin(x, batch, width=width), y_N, reduction="none") for x in (x_NCHW, worst))
        by_width.append(((1 - lam) * clean + lam * robust).mean())
    torch.stack(by_width).mean().backward()

    # One step of 2 ε reaches the worst corner of the ball from any start.
    attack = AttackSpec(name="one-step", epsilon=EPSILON, step_size=2 * EPSILON, num_steps=1)
    metrics = train_step(
        net,
        Batch(x_NCHW, y_N),
        sampler=Fixed(lam_N, widths, torch.Generator().manual_seed(0)),
        attack=attack,
        optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    assert metrics.loss == pytest.approx(by_width[0].item(), abs=1e-5)
    torch.testing.assert_close(net.weight, twin.weight - twin.weight.grad, atol=1e-5, rtol=1e-5)


def test_clean_and_adversarial_images_share_one_forward_and_attacks_run_in_evaluation_mode() -> None:
    """Regression: separate forwards gave running statistics that mix two distributions (SA 83 % fell to 62 %)."""
    net = Linear((0.0, 0.5, 1.0)).train()
    attack = AttackSpec(name="pgd-3", epsilon=EPSILON, step_size=EPSILON, num_steps=3)
    train_step(
        net,
        Batch(torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])),
        sampler=Fixed([0.0, 0.5, 0.5, 1.0], (1.0, 0.5), torch.Generator().manual_seed(0)),
        attack=attack,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
    )
    assert net.modes == [False, False, False, True] * 2


def test_accuracies_are_of_the_images_they_name() -> None:
    net = Linear((0.0, 1.0)).train()
    x_NCHW = torch.rand(6, 3, 2, 2)
    lam_N = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    with torch.no_grad():
        right = net(x_NCHW, LambdaBatch.from_values(lam_N, (0.0, 1.0)), width=1.0).argmax(dim=1)
    y_N = right.clone()
    y_N[0] = 1 - y_N[0]
    y_N[4:] = 1 - y_N[4:]
    metrics = train_step(
        net,
        Batch(x_NCHW, y_N),
        sampler=Fixed(lam_N, (1.0,), torch.Generator().manual_seed(0)),
        attack=NO_ATTACK,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
    )
    assert (metrics.clean_accuracy, metrics.adversarial_accuracy) == (0.75, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_stops_before_the_optimizer_step(tiny_run: TrainConfig, bad: float) -> None:
    torch.manual_seed(0)
    net = OATNet(tiny_run.model).train()
    optimizer = make_optimizer(net, tiny_run)
    sampler = StepSampler(tiny_run, torch.Generator().manual_seed(0))
    good = Batch(torch.rand(8, 3, 8, 8), torch.arange(8))

    def step(batch: Batch) -> None:
        train_step(net, batch, sampler=sampler, attack=tiny_run.attack, optimizer=optimizer)

    step(good)
    before = [parameter.clone() for parameter in net.parameters()]
    momentum = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    spoiled = good.x_NCHW.clone()
    spoiled[3, 0, 0, 0] = bad
    with pytest.raises(NonFiniteLossError, match="loss at width 1 is nan: lower the learning rate"):
        step(Batch(spoiled, good.y_N))
    assert issubclass(NonFiniteLossError, OATError)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(torch.equal(a, b["momentum_buffer"]) for a, b in zip(momentum, optimizer.state.values(), strict=True))


def test_a_stopped_run_does_not_count_the_step(tiny_run: TrainConfig, patches: Patches) -> None:
    trainer = Trainer(tiny_run, patches(50))
    with torch.no_grad():
        trainer.model.classifier.bias[0] = math.nan
    with pytest.raises(NonFiniteLossError):
        trainer.run_step()
    assert trainer.step == 0


@pytest.mark.parametrize("sampling", ["discrete", "stratified", "continuous"])
def test_the_same_seed_gives_the_same_run_bit_for_bit(tiny_run: TrainConfig, patches: Patches, sampling: str) -> None:
    config = tiny_run.model_copy(update={"lambda_sampling": sampling, "epochs": 1, "num_recalibration": 1})
    first = Trainer(config, patches(50))
    losses = take(first, 99)
    torch.manual_seed(1234)
    second = Trainer(config, patches(50))
    torch.rand(7)  # nothing outside a run may disturb it
    assert repr(take(second, 99)) == repr(losses)  # repr, because NaN is not equal to itself
    assert_equal_states(weights(first), weights(second))
    other = Trainer(config.model_copy(update={"seed": 6}), patches(50))
    assert repr(take(other, 1)) != repr(losses[:1])


def test_resuming_equals_never_having_stopped(tiny_run: TrainConfig, patches: Patches, tmp_path: Path) -> None:
    whole = Trainer(tiny_run, patches(50))
    expected = []
    for metrics in whole.run():
        expected.append(metrics)
        whole.save(tmp_path / f"{whole.step}.pt")
    assert len(expected) == whole.num_steps == 6
    for stop in (1, 3, 4, 6):  # within an epoch, between two, and before recalibration
        rest = Trainer(tiny_run, patches(50))
        take(rest, 1)  # whatever it did before
        rest.resume(tmp_path / f"{stop}.pt")
        assert (rest.step, rest.finished) == (stop, False)
        assert repr(take(rest, 99)) == repr(expected[stop:])
        assert rest.finished
        assert_equal_states(weights(rest), weights(whole))


def test_a_finished_run_stays_as_it_is(tiny_run: TrainConfig, patches: Patches, tmp_path: Path) -> None:
    done = Trainer(tiny_run.model_copy(update={"epochs": 1}), patches(50))
    take(done, 99)
    done.save(tmp_path / "checkpoint.pt")
    again = Trainer(done.config, patches(50))
    again.resume(tmp_path / "checkpoint.pt")
    assert take(again, 99) == []
    assert_equal_states(weights(again), weights(done))


def test_a_time_budget_stops_between_steps(tiny_run: TrainConfig, patches: Patches) -> None:
    trainer = Trainer(tiny_run.model_copy(update={"epochs": 1, "num_recalibration": 0}), patches(50))
    assert list(trainer.run(max_minutes=-1.0)) == []
    assert (trainer.step, trainer.finished) == (0, False)
    assert len(list(trainer.run(max_minutes=60.0))) == 3
    assert trainer.finished


def test_training_lowers_the_loss(tiny_run: TrainConfig, patches: Patches) -> None:
    config = tiny_run.model_copy(update={"epochs": 5, "num_random_widths": 0, "num_recalibration": 0})
    losses = [metrics.loss for metrics in Trainer(config, patches(80)).run()]
    assert len(losses) == 25
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_an_epoch_visits_every_image_at_most_once_in_a_new_order(tiny_run: TrainConfig, patches: Patches) -> None:
    data = patches(50)
    numbered = ImageSet(data.images_NHWC, torch.arange(50).numpy(), data.class_names, "numbered")
    trainer = Trainer(tiny_run, numbered)
    orders = []
    for epoch in range(2):
        steps = range(epoch * trainer.steps_per_epoch, (epoch + 1) * trainer.steps_per_epoch)
        orders.append(torch.cat([trainer.batch(step, torch.Generator()).y_N for step in steps]).tolist())
        assert len(set(orders[-1])) == len(orders[-1]) == 48
    assert orders[0] != orders[1]


def test_recalibration_forgets_the_running_statistics_and_touches_nothing_else(
    tiny_run: TrainConfig, patches: Patches
) -> None:
    config = tiny_run.model_copy(update={"lambda_sampling": "stratified", "attack": NO_ATTACK})
    trainers = [Trainer(config, patches(50)) for _ in range(2)]
    before = weights(trainers[0])
    norms = [m for m in trainers[1].model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.fill_(50.0)
        norm.running_var.fill_(9.0)
    for trainer in trainers:
        trainer.recalibrate(3)
    first, second = (weights(trainer) for trainer in trainers)
    for name, tensor in first.items():
        if "running" in name:
            assert not torch.equal(tensor, before[name])
            torch.testing.assert_close(tensor, second[name], atol=1e-4, rtol=1e-4)
        else:
            assert torch.equal(tensor, before[name])
    assert {norm.momentum for norm in norms} == {0.1}


def test_recalibrated_statistics_are_the_mean_over_batches(tiny_run: TrainConfig, patches: Patches) -> None:
    config = tiny_run.model_copy(update={"lambda_sampling": "stratified", "attack": NO_ATTACK})
    trainer = Trainer(config, patches(50))
    site = trainer.model.norms()[0].norms[-1]
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x_NCHW, route = inputs[0], inputs[1]
        if module.training and (route.branch, route.width) == (1, 1.0):
            seen.append(x_NCHW.mean(dim=(0, 2, 3)))

    handle = trainer.model.norms()[0].register_forward_pre_hook(note)
    trainer.recalibrate(4)
    handle.remove()
    assert len(seen) == 4
    torch.testing.assert_close(site[1].running_mean, torch.stack(seen).mean(dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(warmup: float) -> None:
    config = TrainConfig(warmup=warmup, learning_rate=0.2)
    rates = [learning_rate(config, step / 1000) for step in range(1001)]
    peak = round(1000 * warmup)
    assert rates[peak] == pytest.approx(max(rates)) == pytest.approx(0.2)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.0025  # no jumps


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


def test_more_than_there_is_in_a_batch_is_refused(tiny_run: TrainConfig, patches: Patches) -> None:
    with pytest.raises(OATError, match="batch_size 16 is larger than the 15 training images"):
        Trainer(tiny_run, patches(15))


def test_the_command_trains_stops_in_time_and_goes_on(
    tiny_run: TrainConfig,
    patches: Patches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train_module, "load_cifar10", lambda split, download: patches(58))
    monkeypatch.setitem(train_module.RECIPES, "smoke", lambda: tiny_run)
    run = tmp_path / "run"
    command = ["oat-train", "smoke", "--run", str(run), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*command, "--max-minutes", "0"])
    assert train_module.main() == 0
    assert "stopped in time" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", command)
    assert train_module.main() == 0
    assert f"finished: {run / 'checkpoint.pt'}" in capsys.readouterr().out
    assert TrainConfig.model_validate_json((run / "config.json").read_text()) == tiny_run
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["recalibrated"]) == (6, True)
    assert all(0.0 <= value <= 1.0 for key, value in last.items() if key[:3] in ("sa_", "ra_"))
    monkeypatch.setattr(sys, "argv", [*command, "--seed", "9"])
    assert train_module.main() == 2
    assert "differs in ['seed']" in capsys.readouterr().err


def test_a_look_leaves_the_network_as_it_was(tiny_run: TrainConfig, patches: Patches) -> None:
    trainer = Trainer(tiny_run, patches(50))
    trainer.model.train()
    before = weights(trainer)
    train_module.look(trainer.model, patches(12), tiny_run)
    assert_equal_states(weights(trainer), before)
    assert all(module.training for module in trainer.model.modules())
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    assert {m.momentum for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
