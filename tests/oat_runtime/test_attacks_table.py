"""Laws that every attack keeps, from one table: the ball, the box, chance, independence, and what it leaves alone."""

import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import AttackSpec
from oat_runtime.stress.attack_loop import AdaptiveStep, Ball, ascend, checkpoints, lengths
from oat_runtime.stress.attacks import cross_entropy, kind_of, perturb, targeted_dlr

NUM_CLASSES = 6
LINF, L2 = 8 / 255, 0.25
ATTACKS = {
    name: AttackSpec(name=name, epsilon=epsilon, step_size=step, num_steps=steps)
    for name, epsilon, step, steps in (
        ("fgsm", LINF, LINF, 1),
        ("fgsm-rs", LINF, 1.25 * LINF, 1),
        ("pgd-5", LINF, LINF / 3, 5),
        ("mi-fgsm", LINF, LINF / 5, 5),
        ("apgd-ce", LINF, 0.0, 12),
        ("apgd-t", LINF, 0.0, 6),
        ("fgsm-l2", L2, L2, 1),
        ("pgd-5-l2", L2, L2 / 3, 5),
        ("mi-fgsm-l2", L2, L2 / 5, 5),
        ("apgd-ce-l2", L2, 0.0, 12),
        ("apgd-t-l2", L2, 0.0, 6),
    )
}
NAMES = sorted(ATTACKS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(num: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images that touch 0 and 1; labels as the network sees them, so that every break is the attack's work."""
    generator = seeded(seed)
    x_NCHW = (1.4 * torch.rand(num, 3, 4, 4, generator=generator) - 0.2).clamp(0, 1)
    with torch.no_grad():
        return x_NCHW, curved()(x_NCHW).argmax(dim=1)


def curved(seed: int = 1) -> nn.Module:
    """A small network without a closed form, with its classes about evenly spread over the images."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, NUM_CLASSES, bias=False))
    with torch.no_grad():
        net[1].weight.mul_(3.0)
        net[1].bias.copy_(-0.5 * net[1].weight.sum(dim=1))
    return net.requires_grad_(False)


def distance(spec: AttackSpec, delta: Tensor) -> Tensor:
    return lengths(delta) if kind_of(spec).norm == "l2" else delta.abs().amax(dim=(1, 2, 3))


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 20.0])
@pytest.mark.parametrize("name", NAMES)
def test_images_stay_in_the_ball_and_in_the_pixel_range(name: str, epsilon: float) -> None:
    spec, (x_NCHW, y_N) = ATTACKS[name], batch()
    spec = spec.model_copy(update={"epsilon": epsilon * spec.epsilon, "step_size": epsilon * spec.step_size})
    before = x_NCHW.clone()
    adversarial = perturb(curved(), x_NCHW, y_N, spec=spec, generator=seeded())
    assert distance(spec, adversarial - x_NCHW).max() <= spec.epsilon * (1 + 1e-5) + 1e-6
    assert adversarial.min() >= 0.0 and adversarial.max() <= 1.0
    assert adversarial.shape == x_NCHW.shape and adversarial.dtype == torch.float32 and not adversarial.requires_grad
    assert torch.equal(x_NCHW, before)
    assert torch.equal(adversarial, x_NCHW) == (epsilon == 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_is_the_only_source_of_chance(name: str) -> None:
    spec, (x_NCHW, y_N) = ATTACKS[name], batch()

    def attacked(seed: int) -> Tensor:
        return perturb(curved(), x_NCHW, y_N, spec=spec, generator=seeded(seed))

    first = attacked(3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    net = curved()
    torch.set_rng_state(state)
    assert torch.equal(perturb(net, x_NCHW, y_N, spec=spec, generator=seeded(3)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(attacked(4), first) != kind_of(spec).random_start


@pytest.mark.parametrize("name", ["fgsm", "mi-fgsm", "fgsm-l2", "mi-fgsm-l2"])
def test_an_attack_without_chance_treats_each_image_by_itself(name: str) -> None:
    spec, (x_NCHW, y_N) = ATTACKS[name], batch()
    together = perturb(curved(), x_NCHW, y_N, spec=spec, generator=seeded())
    alone = [perturb(curved(), x_NCHW[n : n + 1], y_N[n : n + 1], spec=spec, generator=seeded()) for n in range(12)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("keep", ["last", "best", "broken"])
def test_auto_pgd_adapts_to_each_image_by_itself(norm: str, keep: str) -> None:
    x_NCHW, y_N = batch()
    ball = Ball(x_NCHW, LINF if norm == "linf" else L2, norm)

    def run(rows: Tensor) -> Tensor:
        part = ball.select(rows)
        objective = cross_entropy([curved()], y_N[rows])
        return ascend(objective, part, part.x_NCHW, AdaptiveStep(20), num_steps=20, keep=keep)

    alone = [run(torch.tensor([n])) for n in range(12)]
    torch.testing.assert_close(torch.cat(alone), run(torch.arange(12)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("apgd-t")])
def test_the_best_iterate_is_never_worse_than_the_start_or_the_last(name: str) -> None:
    spec, (x_NCHW, y_N) = ATTACKS[name], batch(40)
    net = curved()
    kept = {
        keep: F.cross_entropy(
            net(perturb(net, x_NCHW, y_N, spec=spec, generator=seeded(), keep=keep)), y_N, reduction="none"
        )
        for keep in ("best", "last")
    }
    start = perturb(
        net, x_NCHW, y_N, spec=spec.model_copy(update={"step_size": 0.0}), generator=seeded(), keep="last"
    )  # a step of no length: where it starts (Auto-PGD has steps of its own, and is compared with the image)
    if name.startswith("apgd"):
        start = x_NCHW
    before = F.cross_entropy(net(start), y_N, reduction="none")
    assert bool((kept["best"] >= kept["last"] - 1e-6).all())
    assert bool((kept["best"] >= before - 1e-6).all())
    assert kept["best"].mean() > 1.05 * before.mean()


@pytest.mark.parametrize("name", NAMES)
def test_stopping_at_the_first_break_breaks_no_fewer(name: str) -> None:
    spec, (x_NCHW, y_N) = ATTACKS[name], batch(60)
    net = curved()
    broken = {
        keep: net(perturb(net, x_NCHW, y_N, spec=spec, generator=seeded(), keep=keep)).argmax(dim=1) != y_N
        for keep in ("last", "broken")
    }
    assert bool((broken["broken"] | ~broken["last"]).all())
    assert 0 < broken["broken"].sum() < 60


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_wrong_already_is_returned_as_it_starts(name: str) -> None:
    net, spec, (x_NCHW, y_N) = curved(), ATTACKS[name], batch(40)
    kind, wrong_N = kind_of(spec), (y_N + 1) % NUM_CLASSES

    def attacked(spec: AttackSpec) -> Tensor:
        return perturb(net, x_NCHW, wrong_N, spec=spec, generator=seeded(), keep="broken")

    if name.startswith("apgd-ce"):  # which has steps of its own
        start = Ball(x_NCHW, spec.epsilon, kind.norm).random_start(seeded())
    else:
        start = x_NCHW if name.startswith("apgd-t") else attacked(spec.model_copy(update={"step_size": 0.0}))
    broken = net(start).argmax(dim=1) != wrong_N
    assert broken.sum() > 20
    assert torch.equal(attacked(spec)[broken], start[broken])
    assert torch.equal(start, x_NCHW) == (not kind.random_start or name.startswith("apgd-t"))


@pytest.mark.parametrize("name", NAMES)
def test_images_stay_in_float32_though_the_network_computes_in_bfloat16(name: str) -> None:
    net, seen = curved(), []

    def logits_fn(images: Tensor) -> Tensor:
        seen.append(images.dtype)
        return net(images.bfloat16().float()).bfloat16()  # rounded as by such a network, on any machine

    spec, (x_NCHW, y_N) = ATTACKS[name], batch()
    adversarial = perturb(logits_fn, x_NCHW, y_N, spec=spec, generator=seeded())
    assert set(seen) == {torch.float32} and adversarial.dtype == torch.float32
    delta = (adversarial - x_NCHW)[(adversarial > 0) & (adversarial < 1)]
    assert len(delta.unique()) > 1  # bfloat16 images could hold only multiples of 1/256 near 1


@pytest.mark.parametrize("name", ["fgsm", "pgd-5", "pgd-5-l2", "apgd-ce", "apgd-ce-l2", "mi-fgsm-l2"])
def test_the_optimum_of_a_linear_network_is_found(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False)
    x_NCHW = 0.3 + 0.4 * torch.rand(10, 3, 4, 4, generator=seeded())  # the ball does not reach 0 or 1
    y_N = torch.arange(10) % 2
    spec = ATTACKS[name].model_copy(update={"num_steps": {"fgsm": 1, "pgd": 5}.get(name.split("-")[0], 40)})
    epsilon = spec.epsilon * (0.2 if "l2" in name else 1.0)
    spec = spec.model_copy(update={"epsilon": epsilon, "step_size": epsilon})
    adversarial = perturb(net, x_NCHW, y_N, spec=spec, generator=seeded(), keep="best")
    direction = (net[1].weight[1 - y_N] - net[1].weight[y_N]).view_as(x_NCHW)
    unit = direction / lengths(direction).view(-1, 1, 1, 1) if "l2" in name else direction.sign()
    best = F.cross_entropy(net(x_NCHW + epsilon * unit), y_N, reduction="none")
    torch.testing.assert_close(F.cross_entropy(net(adversarial), y_N, reduction="none"), best, atol=1e-4, rtol=0)


def test_auto_pgd_beats_plain_pgd_of_as_many_steps() -> None:
    net, (x_NCHW, y_N) = curved(), batch(200)
    losses = {}
    for name in ("pgd-20", "apgd-ce"):
        spec = AttackSpec(name=name, epsilon=LINF, step_size=LINF / 4, num_steps=20)
        adversarial = perturb(net, x_NCHW, y_N, spec=spec, generator=seeded(), keep="best")
        losses[name] = F.cross_entropy(net(adversarial), y_N).item()
    assert losses["apgd-ce"] >= losses["pgd-20"] - 1e-4


def test_the_checkpoints_are_the_published_ones() -> None:
    # Croce and Hein 2020, section 3.1: 0.22, then windows of 0.19, 0.16, 0.13, 0.10, 0.07, 0.06, 0.06, ...
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == set()


def test_the_targeted_loss_ignores_the_scale_of_the_logits_and_turns_positive_when_it_wins() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 5.0, 2.0, 0.0]])
    y_N, target_N = torch.tensor([0, 0]), torch.tensor([1, 1])
    images, rows = torch.zeros(2, 3, 2, 2), torch.arange(2)
    loss_N, right_N = targeted_dlr(lambda _: logits, y_N, target_N)(images, rows)
    torch.testing.assert_close(loss_N, torch.tensor([-1.0 / (4 - 1.5), 4.0 / (5 - 0.5)]))
    assert right_N.tolist() == [True, False]
    torch.testing.assert_close(targeted_dlr(lambda _: 50 * logits, y_N, target_N)(images, rows)[0], loss_N)


def test_a_joint_attack_counts_an_image_as_broken_only_when_all_are_wrong() -> None:
    nets = [curved(seed) for seed in (1, 2, 3)]
    x_NCHW, _ = batch(80)
    with torch.no_grad():
        y_N = nets[0](x_NCHW).argmax(dim=1)
    right = torch.stack([net(x_NCHW).argmax(dim=1) == y_N for net in nets])
    assert bool((right.any(dim=0) != right.all(dim=0)).any())
    loss_N, right_N = cross_entropy(nets, y_N)(x_NCHW, torch.arange(80))
    assert torch.equal(right_N, right.any(dim=0))
    by_hand = torch.stack([F.cross_entropy(net(x_NCHW), y_N, reduction="none") for net in nets]).mean(dim=0)
    torch.testing.assert_close(loss_N, by_hand)


def test_a_joint_attack_hurts_all_victims_more_than_one_of_them_attacked_alone() -> None:
    nets = [curved(seed) for seed in (1, 2, 3)]
    x_NCHW, y_N = batch(80)
    spec = AttackSpec(name="pgd-10", epsilon=LINF, step_size=LINF / 4, num_steps=10)

    def mean_loss(victims: list[nn.Module], draws: int | None = None) -> float:
        adversarial = perturb(victims, x_NCHW, y_N, spec=spec, generator=seeded(), draws=draws)
        return sum(F.cross_entropy(net(adversarial), y_N).item() for net in nets) / len(nets)

    alone, joint, expected = mean_loss(nets[:1]), mean_loss(nets), mean_loss(nets, draws=1)
    assert joint > alone and expected > alone
    assert expected <= joint + 0.05


@pytest.mark.parametrize(
    ("name", "steps", "says"),
    [
        ("pdg-20", 20, "unknown attack 'pdg-20': expected fgsm"),
        pytest.param("pgd-" + "1" * 5_000, 20, "unknown attack 'pgd-1", id="many digits"),
        ("pgd-20", 7, "pgd-20 takes 20 steps, got num_steps=7"),
        ("fgsm", 2, "fgsm takes 1 steps"),
        ("n-fgsm", 1, "n-fgsm leaves the ball of ε and is for training only"),
        ("apgd-t", 3, "apgd-t needs 4 classes or more, got 3"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_remedy(name: str, steps: int, says: str) -> None:
    spec = AttackSpec(name=name, epsilon=LINF, step_size=LINF, num_steps=steps)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).requires_grad_(False)
    with pytest.raises(ConfigError, match=says):
        perturb(net, torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), spec=spec, generator=seeded())


def test_options_that_do_not_go_together_are_refused() -> None:
    x_NCHW, y_N = batch(2)
    nets = [curved(1), curved(2)]
    with pytest.raises(ConfigError, match="noisy loss"):
        perturb(nets, x_NCHW, y_N, spec=ATTACKS["apgd-ce"], generator=seeded(), draws=1)
    with pytest.raises(ConfigError, match="use apgd-ce for a joint attack"):
        perturb(nets, x_NCHW, y_N, spec=ATTACKS["apgd-t"], generator=seeded())


@pytest.mark.parametrize("name", ["fgsm", "pgd-5", "mi-fgsm", "fgsm-l2", "pgd-5-l2"])
def test_foolbox_finds_the_same_images(name: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    spec, net, (x_NCHW, y_N) = ATTACKS[name], curved().eval(), batch()
    theirs = {
        "fgsm": lambda: foolbox.attacks.LinfFastGradientAttack(),
        "fgsm-l2": lambda: foolbox.attacks.L2FastGradientAttack(),
        "pgd-5": lambda: foolbox.attacks.LinfPGD(abs_stepsize=spec.step_size, steps=5, random_start=False),
        "pgd-5-l2": lambda: foolbox.attacks.L2PGD(abs_stepsize=spec.step_size, steps=5, random_start=False),
        "mi-fgsm": lambda: foolbox.attacks.LinfMomentumIterativeFastGradientMethod(
            abs_stepsize=spec.step_size, steps=5, random_start=False
        ),
    }[name]()
    _, expected, _ = theirs(foolbox.PyTorchModel(net, bounds=(0, 1)), x_NCHW, y_N, epsilons=spec.epsilon)
    ball = Ball(x_NCHW, spec.epsilon, kind_of(spec).norm)
    if name.startswith("pgd"):  # ours starts at random by name; here both start at the image
        from oat_runtime.stress.attack_loop import PlainStep

        ours = ascend(cross_entropy([net], y_N), ball, x_NCHW, PlainStep(spec.step_size), num_steps=5, keep="last")
    else:
        ours = perturb(net, x_NCHW, y_N, spec=spec, generator=seeded())
    apart = (ours - expected).abs() > 2e-6
    assert apart.float().mean() <= (0.01 if name == "mi-fgsm" else 0.0)  # a momentum near 0 may take either sign
