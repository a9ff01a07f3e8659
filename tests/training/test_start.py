"""A run starts from other weights: it computes what they computed, as far as it can, and says what it took."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from oat_runtime.architecture import ModelConfig
from oat_runtime.data import CIFAR10_CLASSES, ImageSet
from oat_runtime.errors import CheckpointError, ConfigError, OATError
from training import train as train_module
from training.checkpoint import load_checkpoint, read_source
from training.config import TrainConfig
from training.distributed import World
from training.network import LambdaBatch, OATNet, SlimmableConv2d, network_of, tensors_of
from training.network.transplant import Source, begin_from
from training.split import TrainedOn
from training.train import train

Patches = Callable[..., ImageSet]
THEIRS = ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 0.3, 1.0))
X = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def trained(config: ModelConfig, *, seed: int = 3) -> OATNet:
    """A network whose every number is its own, as after training."""
    torch.manual_seed(seed)
    net = OATNet(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if "norms" in name and tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
            if "film" in name:
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return net.eval()


def source(config: ModelConfig = THEIRS) -> Source:
    """A source as a bundle gives it: with tables in place of the MLPs."""
    about = TrainedOn("cifar10", {}, None, None, CIFAR10_CLASSES)
    return Source("bundle some", network_of(tensors_of(trained(config)), config), about)


def begun(
    changes: dict[str, object], theirs: Source, class_names: tuple[str, ...] = CIFAR10_CLASSES
) -> tuple[OATNet, list[str]]:
    """A network with some changes that began from a source, and what it said."""
    torch.manual_seed(77)
    model = OATNet(ModelConfig(**(dict(theirs.network.config) | changes)))
    return model.eval(), list(begin_from(model, theirs, class_names))


def logits(net: OATNet, lam: float, width: float) -> torch.Tensor:
    with torch.no_grad():
        return net(X, LambdaBatch.constant(lam, len(X), net.config.lambdas), width=width)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"widths": (1.0,)},
        {"lambdas": (0.0, 0.1, 0.3, 0.7, 1.0)},
        {"lambdas": (0.15,), "widths": (0.5,)},
        {"lambdas": (0.0,)},
        {"lambdas": (0.2, 0.3)},
        {"classifier_per_width": True},
        {"encoding": "dct", "encoding_size": 16, "encoding_seed": 4},
        {"stem": "3x3-stride2"},
    ],
    ids=str,
)
def test_it_computes_what_the_source_computes_at_every_lambda_and_width_of_its_own(changes: dict[str, object]) -> None:
    theirs = source()
    model, lines = begun(changes, theirs)
    if "stem" in changes:  # the same numbers at another stride
        assert torch.equal(model.stem.weight, theirs.network.stem.weight)
        return
    for lam in model.config.lambdas:
        for width in model.config.widths:
            torch.testing.assert_close(logits(model, lam, width), logits(theirs.network, lam, width), atol=2e-4, rtol=0)
    assert "classifier: taken, its 10 classes are the same" in lines[-1]
    new = [lam for lam in model.config.lambdas if lam not in THEIRS.lambdas]
    assert ("interpolated" in lines[3]) == bool(new)
    assert all(f"{lam:g}" in lines[3] for lam in new)


def test_it_can_be_trained_further_in_all_its_parts() -> None:
    model, _ = begun({}, source())
    model.train()(X, LambdaBatch.from_values([0.0, 0.0, 0.3, 1.0, 1.0], THEIRS.lambdas), width=1.0).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None and "norms.0" not in name]
    assert idle == []


def test_other_classes_get_a_new_classifier_and_everything_else_is_taken() -> None:
    theirs = source()
    num = sum(isinstance(module, SlimmableConv2d) for module in theirs.network.modules())
    for changes, names in (({"num_classes": 3}, ("a", "b", "c")), ({}, CIFAR10_CLASSES[::-1]), ({}, ())):
        model, lines = begun(changes, theirs, names)
        assert f"classifier: starts anew, for {model.config.num_classes} classes" in lines[-1]
        assert lines[1] == f"  convolutions: {num} of {num} taken"
        for own, other in zip(model.blocks[0].conv1.weight, theirs.network.blocks[0].conv1.weight, strict=True):
            assert torch.equal(own, other)
        assert not torch.equal(model.classifier.weight[:3], theirs.network.classifier.weight[:3])


def test_a_new_width_takes_the_norms_of_the_next_wider_one() -> None:
    theirs = source()
    model, lines = begun({"widths": (0.25, 0.75, 1.0)}, theirs)
    assert "width 0.25 from the channels of width 0.5, width 0.75 from the channels of width 1" in lines[2]
    own, other = model.norms()[0], theirs.network.norms()[0]
    for branch in (0, 1):
        for index, their_index in ((0, 0), (1, 1), (2, 1)):
            mean_C = own.norm(branch, index).running_mean
            assert torch.equal(mean_C, other.norm(branch, their_index).running_mean[: len(mean_C)])


def test_classifiers_of_each_width_are_taken_by_a_network_that_shares_one_and_by_new_widths() -> None:
    theirs = source(ModelConfig(**(THEIRS.model_dump() | {"classifier_per_width": True})))
    narrow, wide = theirs.network.classifiers()
    shared, _ = begun({"classifier_per_width": False}, theirs)
    assert torch.equal(shared.classifier.weight, wide.weight) and torch.equal(shared.classifier.bias, wide.bias)
    more, _ = begun({"classifier_per_width": True, "widths": (0.25, 0.5, 0.75, 1.0)}, theirs)
    for own, other in zip(more.classifiers(), (narrow, narrow, wide, wide), strict=True):
        assert torch.equal(own.weight, other.weight[:, : own.in_features])
        assert torch.equal(own.bias, other.bias)


def test_pixels_that_vary_by_another_amount_give_the_same_output() -> None:
    theirs = source()
    model, _ = begun({"std": (0.1, 0.2, 0.4)}, theirs)
    torch.testing.assert_close(logits(model, 0.3, 1.0), logits(theirs.network, 0.3, 1.0), atol=2e-4, rtol=0)


def test_a_network_of_another_name_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"is a wrn-10-1, and this run trains a wrn-10-2: .*model.widen_factor=1"):
        begun({"widen_factor": 2}, source())


def test_a_stem_of_another_size_starts_anew_and_is_named() -> None:
    _, lines = begun({"stem": "7x7-stride2-pool"}, source())
    assert lines[1].endswith("start anew, because their size differs: stem")


@pytest.mark.parametrize("options", [{}, {"average_decay": 0.9}], ids=str)
def test_a_run_starts_from_another_and_keeps_the_record(
    options: dict[str, object], tiny_run: TrainConfig, patches: Patches, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(train_module, "load_dataset", lambda name, split, **_: patches(58))
    first = tiny_run.model_copy(update={"epochs": 1} | options)
    train(first, tmp_path / "first", world=World())
    for place in (tmp_path / "first", tmp_path / "first" / "checkpoint.pt"):
        assert read_source(str(place)).name.startswith("run first at step 3 (")
    begins = read_source(str(tmp_path / "first"))
    second = first.model_copy(update={"seed": 6, "epochs": 2})
    with caplog.at_level(logging.INFO):
        train(second, tmp_path / "second", world=World(), max_minutes=-1.0, start=str(tmp_path / "first"))
    assert "classifier: taken" in caplog.text and f"starts from {begins.name}, a wrn-10-1:" in caplog.text
    assert "WARNING: the weights that this run starts from come from another division" in caplog.text
    assert "learning rate: 0.2 of that from random weights, 0.02 at its peak" in caplog.text
    saved = load_checkpoint(tmp_path / "second" / "checkpoint.pt")
    assert (saved.step, saved.config.start) == (0, begins.name)
    for state in (saved.model, saved.average) if options else (saved.model,):
        assert torch.equal(state["blocks.0.conv1.weight"], begins.network.blocks[0].conv1.weight)
    assert train(second, tmp_path / "second", world=World(), max_minutes=-1.0, start=str(tmp_path / "first")) is None
    with pytest.raises(ConfigError, match=r"second began from run first .*\), and --from names run second at step 0"):
        train(second, tmp_path / "second", world=World(), start=str(tmp_path / "second"))
    with pytest.raises(ConfigError, match=r"first began from random weights, and --from names run second"):
        train(first, tmp_path / "first", world=World(), start=str(tmp_path / "second"))
    assert train(second, tmp_path / "second", world=World()) is not None  # goes on without being told again
    assert json.loads((tmp_path / "second" / "config.json").read_text())["start"] == begins.name


@pytest.mark.parametrize(
    ("start", "share", "says"),
    [
        ("gtsrb-wrn-16-2", 0.0, "is a wrn-16-2, and this run trains a wrn-10-1: add --set"),
        ("nothing", 0.0, "no bundle 'nothing'"),
        (None, 0.5, r"start_share is 0.5, a share of what the run starts from: name it \(--from\)"),
    ],
)
def test_what_a_run_cannot_start_from_is_refused_before_an_image_is_read(
    start: str | None, share: float, says: str, tiny_run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read 20,000 images takes minutes, and only then a wrong `--from` was refused."""
    monkeypatch.setattr(train_module, "load_dataset", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(OATError, match=says):
        train(tiny_run.model_copy(update={"start_share": share}), tmp_path / "run", world=World(), start=start)
    assert not (tmp_path / "run").exists()


def test_a_shipped_bundle_can_be_started_from_by_its_name() -> None:
    theirs = read_source("gtsrb-wrn-16-2")
    _, lines = begun({"num_classes": 2, "stem": "3x3-stride2"}, theirs, ("left", "right"))
    assert lines[0].startswith("starts from bundle gtsrb-wrn-16-2 (") and "anew, for 2 classes" in lines[-1]
    assert float(lines[3].split("off by ")[1].split()[0]) < 1e-4


def state_of_a_resnet(*, stem: int = 7) -> dict[str, torch.Tensor]:
    """A state dict under torchvision's names, of a ResNet with one block a layer."""
    generator = torch.Generator().manual_seed(2)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, inputs: int, outputs: int, size: int) -> None:
        weight = torch.randn(outputs, inputs, size, size, generator=generator)
        state[f"{name}.weight"] = weight * (2 / (inputs * size * size)) ** 0.5

    def norm(name: str, num: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = 0.5 + 0.5 * torch.rand(num, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", 3, 64, stem)
    norm("bn1", 64)
    inputs = 64
    for layer, outputs in enumerate((64, 128, 256, 512), start=1):
        name = f"layer{layer}.0"
        convolution(f"{name}.conv1", inputs, outputs, 3)
        convolution(f"{name}.conv2", outputs, outputs, 3)
        norm(f"{name}.bn1", outputs)
        norm(f"{name}.bn2", outputs)
        if inputs != outputs:
            convolution(f"{name}.downsample.0", inputs, outputs, 1)
            norm(f"{name}.downsample.1", outputs)
        inputs = outputs
    state |= {"fc.weight": torch.randn(7, 512, generator=generator) / 20, "fc.bias": torch.zeros(7)}
    return state


def computed(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What such a ResNet computes, written out."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    x = F.max_pool2d(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1").relu(), 3, 2, 1)
    for layer in range(1, 5):
        name, stride = f"layer{layer}.0", 1 if layer == 1 else 2
        hidden = norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").relu()
        hidden = norm(F.conv2d(hidden, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        if layer > 1:
            x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
        x = (hidden + x).relu()
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_torchvision_resnet_computes_the_same_and_starts_a_run_for_every_lambda(ending: str, tmp_path: Path) -> None:
    state = state_of_a_resnet()
    file = tmp_path / f"resnet{ending}"
    if ending == ".pth":
        torch.save(state, file)
    else:
        safetensors.torch.save_file(state, file)
    theirs = read_source(str(file))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = theirs.network(x, LambdaBatch.constant(0.0, 2, (0.0,)), width=1.0)
    torch.testing.assert_close(found, computed(state, x), atol=1e-3, rtol=1e-3)
    model, lines = begun({"num_classes": 3, "lambdas": (0.0, 1.0), "widths": (0.5, 1.0)}, theirs, ("a", "b", "c"))
    assert lines[0].startswith(f"starts from resnet{ending} (") and lines[0].endswith("a resnet-10:")
    assert "12 of 12 taken" in lines[1] and "the same at every λ" in lines[3]
    assert torch.equal(model.blocks[3].conv2.weight, state["layer4.0.conv2.weight"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.update({"layer1.0.conv3.weight": torch.ones(1)}), "three convolutions a block"),
        (lambda state: state.pop("layer3.0.bn2.bias"), r"expected finite layer3.0.bn2.bias of \(256,\), got none"),
        (lambda state: state.update({"bn1.weight": torch.full((64,), torch.nan)}), "expected finite bn1.weight"),
        (lambda state: state.update({"conv1.weight": torch.ones(64, 1, 7, 7)}), r"conv1.weight of \(64, 3, 7, 7\)"),
        (lambda state: state.update({"attention.weight": torch.ones(1)}), r"got \['attention.weight'\] as well"),
        (lambda state: state.clear(), "expected the names of torchvision's ResNet"),
        (lambda state: state.update({"fc.weight": "x"}), "not a state dict"),
    ],
)
def test_a_state_dict_of_another_network_is_refused(
    change: Callable[[dict[str, torch.Tensor]], object], reason: str, tmp_path: Path
) -> None:
    state = state_of_a_resnet()
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=reason):
        read_source(str(tmp_path / "other.pth"))
