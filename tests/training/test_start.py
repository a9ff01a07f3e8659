"""A run starts from other weights: it computes what they computed, as far as it can, and says what it took."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.data import CIFAR10_CLASSES, ImageSet
from oat_runtime.errors import ConfigError
from training import train as train_module
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.distributed import World
from training.network import LambdaBatch, OATNet, SlimmableConv2d, network_of, tensors_of
from training.start import Source, begin_from, read_source
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
    return Source("bundle some", network_of(tensors_of(trained(config)), config), CIFAR10_CLASSES)


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
    monkeypatch.setattr(train_module, "load_dataset", lambda name, split, download: patches(58))
    first = tiny_run.model_copy(update={"epochs": 1} | options)
    train(first, tmp_path / "first", world=World())
    for place in (tmp_path / "first", tmp_path / "first" / "checkpoint.pt"):
        assert read_source(str(place)).name.startswith("run first at step 3 (")
    begins = read_source(str(tmp_path / "first"))
    second = first.model_copy(update={"seed": 6, "epochs": 2})
    with caplog.at_level(logging.INFO):
        train(second, tmp_path / "second", world=World(), max_minutes=-1.0, start=str(tmp_path / "first"))
    assert "classifier: taken" in caplog.text and f"starts from {begins.name}, a wrn-10-1:" in caplog.text
    saved = load_checkpoint(tmp_path / "second" / "checkpoint.pt")
    assert (saved.step, saved.config.start) == (0, begins.name)
    for state in (saved.model, saved.average) if options else (saved.model,):
        assert torch.equal(state["blocks.0.conv1.weight"], begins.network.blocks[0].conv1.weight)
    assert train(second, tmp_path / "second", world=World()) is not None  # goes on without being told again
    assert json.loads((tmp_path / "second" / "config.json").read_text())["start"] == begins.name


def test_a_shipped_bundle_can_be_started_from_by_its_name() -> None:
    theirs = read_source("gtsrb-wrn-16-2")
    _, lines = begun({"num_classes": 2, "stem": "3x3-stride2"}, theirs, ("left", "right"))
    assert lines[0].startswith("starts from bundle gtsrb-wrn-16-2 (") and "anew, for 2 classes" in lines[-1]
    assert float(lines[3].split("off by ")[1].split()[0]) < 1e-4
