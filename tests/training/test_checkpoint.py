"""A checkpoint is whole, of this run, and survives a kill; everything else is refused."""

import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oat_runtime.data import ImageSet
from oat_runtime.errors import CheckpointError
from training.checkpoint import Checkpoint, going_on, load_checkpoint, read_source, save_checkpoint
from training.config import TrainConfig
from training.network import OATNet
from training.trainer import Trainer


@pytest.fixture
def state(tiny_run: TrainConfig) -> Checkpoint:
    torch.manual_seed(0)
    net = OATNet(tiny_run.model)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.classifier.weight.sum().backward()
    optimizer.step()
    return Checkpoint(
        tiny_run, 7, net.state_dict(), optimizer.state_dict(), 12.5, commit=40 * "a", hardware="a large GPU"
    )


@pytest.fixture
def path(tmp_path: Path, state: Checkpoint) -> Path:
    path = tmp_path / "run" / "checkpoint.pt"
    save_checkpoint(state, path)
    return path


def test_everything_comes_back(path: Path, state: Checkpoint) -> None:
    back = load_checkpoint(path)
    assert (back.config, back.step, back.seconds, back.finished) == (state.config, 7, 12.5, False)
    assert (back.commit, back.hardware) == (40 * "a", "a large GPU")
    assert back.model.keys() == state.model.keys()
    assert all(torch.equal(back.model[name], tensor) for name, tensor in state.model.items())
    assert "code_KD" in back.model
    assert back.optimizer["param_groups"] == state.optimizer["param_groups"]
    momentum, kept = back.optimizer["state"], state.optimizer["state"]
    assert momentum.keys() == kept.keys() != set()
    assert all(torch.equal(momentum[k]["momentum_buffer"], kept[k]["momentum_buffer"]) for k in kept)


def test_a_save_that_dies_half_way_leaves_the_old_one(
    path: Path, state: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    save = torch.save

    def die(payload: object, file: object) -> None:
        save(payload, file)
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(replace(state, step=8), path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    save_checkpoint(state, path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_truncated_checkpoint_is_refused(path: Path) -> None:
    raw = path.read_bytes()
    for size in (0, 1, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        says = rf"not a checkpoint \(it is {'cut off' if size else 'empty'}\): if oat-train wrote it, remove it"
        with pytest.raises(CheckpointError, match=says):
            load_checkpoint(path)


def test_a_flipped_bit_is_refused_or_harmless(path: Path, state: Checkpoint) -> None:
    """Regression: a bit flipped in a tensor once loaded in silence, and one in a name raised UnicodeDecodeError."""
    raw, num_refused = path.read_bytes(), 0
    positions = random.Random(0).sample(range(len(raw)), 30) + random.Random(1).sample(range(9000), 30)
    for position in positions:
        changed = bytearray(raw)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        try:
            back = load_checkpoint(path)
        except CheckpointError:
            num_refused += 1
        else:  # between the entries of the archive nothing is stored
            assert all(torch.equal(back.model[name], tensor) for name, tensor in state.model.items())
            assert (back.config, back.step) == (state.config, state.step)
    assert num_refused > 30


def test_a_checkpoint_from_before_the_origin_was_kept_is_read(path: Path, state: Checkpoint) -> None:
    payload = torch.load(path, weights_only=True) | {"format": 2}
    torch.save({key: value for key, value in payload.items() if key not in ("commit", "hardware")}, path)
    assert (load_checkpoint(path).hardware, load_checkpoint(path).step) == ("unknown", state.step)


@pytest.mark.parametrize("payload", [None, 3, [1], {}, {"format": 99}, {"format": 1}, torch.zeros(3)], ids=repr)
def test_a_foreign_file_is_refused(path: Path, payload: object) -> None:
    torch.save(payload, path)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_checkpoint(path)


def test_a_pickle_that_would_run_code_is_refused(path: Path) -> None:
    """Regression: the error was torch's own text, which advises to load the file unsafely."""
    torch.save({"format": 1, "config": print}, path)
    for name in ("checkpoint.pt", "resnet.pth"):
        path = path.rename(path.with_name(name))
        with pytest.raises(CheckpointError, match=r"not a .* \(its contents are damaged, or not plain values\): "):
            read_source(str(path))


@pytest.mark.parametrize(
    ("text", "says"), [("", "is empty"), ("hello", "is another kind of file"), ("PK\x03\x04", "is cut off")]
)
def test_text_is_refused(path: Path, text: str, says: str) -> None:
    path.write_text(text)
    with pytest.raises(CheckpointError, match=rf"damaged or not a checkpoint \(it {says}\)"):
        load_checkpoint(path)


def test_no_checkpoint_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_a_run_goes_on_only_with_its_own_configuration(
    path: Path, tiny_run: TrainConfig, patches: Callable[..., ImageSet]
) -> None:
    other = tiny_run.model_copy(update={"learning_rate": 0.05, "epochs": 9})
    trainer = Trainer(other, patches(16))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    says = r"differs in epochs \(2 became 9\), learning_rate \(0.1 became 0.05\): start a new run folder"
    with pytest.raises(CheckpointError, match=says):
        trainer.resume(path)
    assert trainer.step == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_epochs_have_no_part_in_what_a_run_of_so_many_steps_goes_on_with(state: Checkpoint, path: Path) -> None:
    """Regression: a run with `steps` set was refused because its epochs, which it does not use, differed."""
    began = replace(state, config=state.config.model_copy(update={"steps": 20}))
    assert going_on(began.config.model_copy(update={"epochs": 40}), began, path) == began.config
    with pytest.raises(CheckpointError, match=r"steps \(20 became null\): .*as it began \(--set steps=20\)"):
        going_on(state.config.model_copy(update={"epochs": 40}), began, path)


_WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "a step below 0": lambda payload: payload.update(step=-5),
    "a step that is text": lambda payload: payload.update(step="x"),
    "a step that is a truth": lambda payload: payload.update(step=True),
    "a step beyond the end": lambda payload: payload.update(step=10**9),
    "an end before its time": lambda payload: payload.update(finished=True),
    "no time": lambda payload: payload.update(seconds=float("nan")),
    "a weight that is not finite": lambda payload: payload["model"]["classifier.bias"].fill_(float("nan")),
    "a weight too few": lambda payload: payload["model"].pop("classifier.bias"),
    "a weight too many": lambda payload: payload["model"].update(more=torch.zeros(1)),
    "a weight of another shape": lambda payload: payload["model"].update({"classifier.bias": torch.zeros(3)}),
    "a weight of another type": lambda payload: payload["model"].update({"classifier.bias": torch.zeros(10).double()}),
    "a weight without values": lambda payload: payload["model"].update(
        {"classifier.bias": torch.zeros(1).expand(10**9)}
    ),
    "a momentum that is not finite": lambda payload: _momentum(payload).fill_(float("inf")),
    "a momentum of another shape": lambda payload: _momentum(payload, torch.zeros(1)),
    "a momentum of nothing": lambda payload: payload["optimizer"]["state"].update({999: {"momentum_buffer": None}}),
    "an optimizer of other weights": lambda payload: payload["optimizer"]["param_groups"].pop(),
    "no configuration": lambda payload: payload.update(config="[" * 10_000),
    "ten megabytes as its format": lambda payload: payload.update(format="x" * 10**7),
}


def _momentum(payload: dict[str, Any], other: torch.Tensor | None = None) -> torch.Tensor:
    state = next(iter(payload["optimizer"]["state"].values()))
    state["momentum_buffer"] = state["momentum_buffer"] if other is None else other
    return state["momentum_buffer"]


@pytest.mark.parametrize("wrong", _WRONG)
def test_a_run_does_not_go_on_from_what_cannot_be_and_stays_as_it_was(
    wrong: str, tmp_path: Path, tiny_run: TrainConfig, patches: Callable[..., ImageSet]
) -> None:
    """Regression: a step of -5 or "x" went on without a word, and so did momenta that are not finite."""
    trainer, path = Trainer(tiny_run, patches(48)), tmp_path / "checkpoint.pt"
    trainer.run_step()
    trainer.save(path)
    payload = torch.load(path, weights_only=True)
    _WRONG[wrong](payload)
    torch.save(payload, path)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(CheckpointError) as refused:
        trainer.resume(path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000
    assert trainer.step == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_settings_of_the_optimizer_come_from_the_configuration(
    tmp_path: Path, tiny_run: TrainConfig, patches: Callable[..., ImageSet]
) -> None:
    trainer, path = Trainer(tiny_run, patches(48)), tmp_path / "checkpoint.pt"
    trainer.run_step()
    trainer.save(path)
    payload = torch.load(path, weights_only=True)
    for group in payload["optimizer"]["param_groups"]:
        group["momentum"] = 1e30
    torch.save(payload, path)
    trainer.resume(path)
    assert {group["momentum"] for group in trainer.optimizer.param_groups} == {tiny_run.momentum}


def test_an_archive_that_unpacks_is_refused_before_it_does(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/bomb", bytes(10**7))
    with pytest.raises(CheckpointError, match="parts are compressed"):
        load_checkpoint(path)


def test_a_full_disk_is_said_and_keeps_the_old_checkpoint(path: Path) -> None:
    before = path.read_bytes()
    script = (
        "import resource, sys\nfrom dataclasses import replace\nfrom pathlib import Path\n"
        "from oat_runtime.commands import command\nfrom training.checkpoint import load_checkpoint, save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "@command('oat-train')\ndef main():\n"
        "    save_checkpoint(replace(load_checkpoint(Path(sys.argv[1])), step=8), Path(sys.argv[1]))\n    return 0\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, f"oat-train: disk full: {path} could not be written\n")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
