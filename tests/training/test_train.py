"""The command: it trains, stops in time, goes on, survives a kill, sweeps, and shouts at catastrophic overfitting."""

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends import trials
from oat_runtime.data import ImageSet
from oat_runtime.errors import ConfigError
from training import train as train_module
from training import validation
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.distributed import World
from training.recipes import RECIPES
from training.settings import run_name, with_changes
from training.split import divided
from training.train import fit_model, train
from training.trainer import Trainer
from training.validation import OVERFITTING_GAP, false_robustness, quick_validation, score, warn

Patches = Callable[..., ImageSet]
Command = Callable[..., int]


@pytest.fixture
def command(tiny_run: TrainConfig, patches: Patches, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`oat-train smoke` with a tiny run on coloured patches."""
    monkeypatch.setattr(train_module, "load_dataset", lambda name, split, **_: patches(58))
    monkeypatch.setattr(train_module, "read_recipe", lambda name: tiny_run)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["oat-train", *arguments])
        return train_module.main()

    return call


def test_a_second_training_in_a_folder_is_refused_until_the_first_is_gone(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: two trainings in one folder overwrote each other's checkpoints and mixed their logs."""
    run = tmp_path / "run"
    arguments = ["smoke", "--run", str(run), "--device", "cpu", "--max-minutes", "0"]
    script = (
        "import pathlib, sys, time\nfrom oat_runtime.files import held\n"
        "with held(pathlib.Path(sys.argv[1]), by='training'):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", script, str(run)], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    try:
        assert command(*arguments) == 2
        assert capsys.readouterr().err.endswith(
            f"oat-train: another training is at work in {run}: wait for its end, or name another folder\n"
        )
        assert [path.name for path in run.iterdir()] == [".lock"]
    finally:
        first.kill()
        first.communicate()
    assert command(*arguments) == 0


def test_what_a_killed_process_had_written_of_a_checkpoint_goes_at_the_next_start(
    command: Command, tmp_path: Path
) -> None:
    """Regression: each SIGKILL during a save left a hidden file as large as the checkpoint, for good."""
    run = tmp_path / "run"
    script = (
        "import os, pathlib, signal, sys\nfrom oat_runtime.files import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as file:\n    file.write(bytes(5000))\n    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for name in ("checkpoint.pt", "validation.npz"):
        killed = subprocess.run(
            [sys.executable, "-c", script, str(run / name)], cwd=Path(__file__).parents[2], check=False
        )
        assert killed.returncode == -signal.SIGKILL
    assert len(list(run.iterdir())) == 2
    assert command("smoke", "--run", str(run), "--device", "cpu", "--max-minutes", "0") == 0
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "checkpoint.pt", "config.json", "data.json", "log.jsonl", "validation.npz",
    ]  # fmt: skip


def test_the_command_trains_stops_in_time_and_goes_on(
    command: Command, tiny_run: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    arguments = ["smoke", "--run", str(run), "--device", "cpu"]
    assert command(*arguments, "--max-minutes", "0") == 0
    assert "stopped in time" in capsys.readouterr().out
    assert command(*arguments) == 0
    assert f"finished: {run / 'checkpoint.pt'}" in capsys.readouterr().out
    assert TrainConfig.model_validate_json((run / "config.json").read_text()) == tiny_run
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["recalibrated"], last["catastrophic_overfitting"]) == (6, True, False)
    assert all(0.0 <= value <= 1.0 for key, value in last.items() if key[:3] in ("sa_", "ra_"))
    monkeypatch.setattr(train_module, "load_dataset", lambda *_, **__: pytest.fail("images were read"))
    assert command(*arguments, "--seed", "9") == 2
    assert "differs in seed (5 became 9): start a new run folder" in capsys.readouterr().err


def test_more_epochs_for_a_finished_run_are_said_and_kept(
    command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: a finished run was refused more epochs (it "differs in ['epochs']")."""
    run = tmp_path / "run"
    arguments = ["smoke", "--run", str(run), "--device", "cpu"]
    assert command(*arguments) == 0
    with caplog.at_level(logging.INFO):
        assert command(*arguments, "--epochs", "3") == 0
    assert "goes on with more epochs: from its weights" in caplog.text
    assert json.loads((run / "config.json").read_text())["restarts"] == [6]
    saved = load_checkpoint(run / "checkpoint.pt")
    assert (saved.step, saved.finished, saved.config.restarts) == (9, True, (6,))
    assert command(*arguments, "--epochs", "3") == 0  # there is nothing left to do
    assert "finished: " in capsys.readouterr().out
    assert command(*arguments) == 2
    assert "finished after 9 steps, and 6 are asked for" in capsys.readouterr().err


def test_changes_and_tensorboard(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    assert command("smoke", "--run", str(run), "--device", "cpu", "--set", "epochs=1", "--tensorboard") == 0
    assert json.loads((run / "config.json").read_text())["epochs"] == 1
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert events.Scalars("validation/sa_0")[-1].value == pytest.approx(last["sa_0"])


def test_a_sweep_trains_each_value_and_ranks_them(
    command: Command, tiny_run: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["--sweep", "learning_rate=0.000001,0.1", "--set", "epochs=1", "--set", "num_random_widths=0"]
    assert command("smoke", "--run", str(tmp_path), "--device", "cpu", *sweep) == 0
    assert "best first" in capsys.readouterr().out
    config = with_changes(tiny_run, ["epochs=1", "num_random_widths=0"])
    results = train_module.sweep(  # goes on from what is there: nothing is left to train
        config, tmp_path, "learning_rate", ["0.000001", "0.1"], world=World(), download=False
    )
    assert {value for value, _ in results} == {"0.000001", "0.1"}
    scores = [score(figures, config) for _, figures in results]
    assert scores == sorted(scores, reverse=True)
    for value, figures in results:
        run = tmp_path / f"learning_rate={value}"
        assert load_checkpoint(run / "checkpoint.pt").config.learning_rate == float(value)
        logged = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        assert {key: logged[key] for key in figures} == figures


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sweep", "learning_rate=0.1,abc"], "learning_rate"),
        (["--epochs", "40", "--sweep", "steps=1,2"], "epochs and steps both say how long to train, got 40 and 1"),
        (["--set", "batch_size=10000"], "batch_size 10000 is larger than the 50 training images"),
        (["--set", "accumulation=3"], "must be a multiple of processes times accumulation (3), got 16"),
        (["--set", "restarts=[6]"], "a new run has no restarts"),
        (["--set", "num_validation=58"], "cannot hold out 58 of 58"),
        (
            ["--set", "model.num_classes=4"],
            "4 classes apart, and cifar10 has 10: add --set fit_to_data=true",
        ),
        (["--sweep", "learning_rate=0.1", "--max-minutes", "1"], "takes no --max-minutes"),
        (["--set", "dataset=PATH@64"], "the recipe folder needs your folder of images: --set dataset=PATH@64"),
    ],
    ids=str,
)
def test_a_run_that_is_refused_leaves_nothing(
    arguments: list[str], says: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: a run with too large a batch left its folder and a lock in it."""
    assert command("smoke", "--run", str(tmp_path / "new" / "run"), *arguments) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("differs", ["step", "images", "settings"])
def test_processes_that_found_other_checkpoints_images_or_settings_do_not_train_together(
    differs: str,
    tiny_run: TrainConfig,
    patches: Patches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: where one of two processes had no checkpoint, it began anew, and their gradients were added up."""
    said: list[str] = []
    monkeypatch.setattr(World, "agrees", lambda self, text: said.append(text) or len(set(said)) == 1)
    monkeypatch.setattr(train_module, "load_dataset", lambda *_, **__: data)
    data = patches(50)
    train(tiny_run, tmp_path / "first", world=World(), max_minutes=0.0)
    assert train(tiny_run, tmp_path / "again", world=World(), max_minutes=0.0) is None and len(set(said)) == 1
    if differs == "step":
        trainer = Trainer(tiny_run, divided(data, tiny_run)[0])
        trainer.run_step()
        trainer.save(tmp_path / "second" / "checkpoint.pt")
    elif differs == "images":
        data = replace(data, images_NHWC=255 - data.images_NHWC)
    other = tiny_run.model_copy(update={"weight_decay": 0.1} if differs == "settings" else {})
    with pytest.raises(ConfigError, match=r"give all of them the same run folder .*second, data set and recipe"):
        train(other, tmp_path / "second", world=World(), max_minutes=0.0)
    assert not (tmp_path / "second" / "config.json").is_file()


def test_a_run_keeps_whether_it_leaves_out_broken_images(
    command: Command, patches: Patches, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bool] = []

    def load(name: str, split: str, *, download: bool, resize: str, skip_broken: bool) -> ImageSet:
        asked.append(skip_broken)
        return patches(58)

    monkeypatch.setattr(train_module, "load_dataset", load)
    stopped = ["--device", "cpu", "--max-minutes", "0"]
    assert command("smoke", "--run", str(tmp_path / "a"), *stopped, "--skip-broken") == 0
    assert command("smoke", "--run", str(tmp_path / "b"), *stopped) == 0
    kept = [load_checkpoint(tmp_path / name / "checkpoint.pt").config.skip_broken for name in "ab"]
    assert asked == kept == [True, False]


def test_a_run_keeps_the_full_path_of_its_pictures_and_goes_on_from_elsewhere(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`photos@64` in a run, and in its bundle, meant another folder from another place."""
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    run, stopped = str(tmp_path / "run"), ["--device", "cpu", "--max-minutes", "0"]
    assert command("smoke", "--run", run, *stopped, "--set", "dataset=photos@64") == 0
    kept = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert kept.config.dataset == f"{tmp_path}/photos@64"
    save_checkpoint(
        replace(kept, config=kept.config.model_copy(update={"dataset": "photos@64"})),  # as runs were kept before
        tmp_path / "run" / "checkpoint.pt",
    )
    assert command("smoke", "--run", run, *stopped, "--set", "dataset=photos@64") == 0
    monkeypatch.chdir("/")
    assert command("smoke", "--run", run, *stopped, "--set", f"dataset={tmp_path}/photos@64") == 0


def test_each_recipe_has_a_run_folder_of_its_own_named_like_it() -> None:
    assert [name for name in RECIPES if run_name(name) != name] == []
    assert run_name("gtsrb-at-0.2-0.5") == "gtsrb-at-0.2-0.5"
    assert run_name("mine/faster-0.5.yaml") == "faster-0.5"


def test_the_list_names_every_recipe(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert command("--list") == 0
    listed = capsys.readouterr().out
    assert [name for name in RECIPES if name not in listed] == []


def test_a_wrong_recipe_or_change_is_an_error_of_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("smoke", "--run", str(tmp_path), "--device", "cpu", "--set", "epoch=1") == 2
    assert capsys.readouterr().err == "oat-train: there is no setting 'epoch': did you mean epochs?\n"


def test_a_recipe_can_be_fitted_to_the_data(tiny_run: TrainConfig, patches: Patches, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    data = patches(58)
    monkeypatch.setattr(train_module, "load_dataset", lambda name, split, **_: data)
    config = with_changes(tiny_run, ["fit_to_data=true", "model.num_classes=3", "epochs=1"])
    train(config, tmp_path, world=World())
    model = load_checkpoint(tmp_path / "checkpoint.pt").config.model
    assert model.num_classes == 10
    assert model.mean != tiny_run.model.mean
    assert train(config, tmp_path, world=World()) is not None  # what was fitted is no other configuration


def test_a_quick_validation_leaves_the_network_as_it_was(tiny_run: TrainConfig, patches: Patches) -> None:
    trainer = Trainer(tiny_run, patches(50))
    trainer.model.train()
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    figures = quick_validation(trainer.model, patches(12), tiny_run)
    assert {"sa_0", "sa_0_narrow", "ra_one_1", "ra_pgd7_1_narrow", "sa_1_batch"} <= figures.keys()
    assert [n for n, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[n])] == []
    assert all(module.training for module in trainer.model.modules())
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    assert {m.momentum for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_fooling_ones_own_attack_is_shouted_about(tiny_run: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not warn({"overfitting": OVERFITTING_GAP - 0.01}, 1, tiny_run)
        assert not warn({"overfitting": 0.25}, 6, tiny_run, num_images=8)  # two images, which say nothing
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        assert warn({"overfitting": 0.6}, 70, tiny_run)
    assert "CATASTROPHIC OVERFITTING at step 70" in caplog.text
    assert "60 points above" in caplog.text


def advised(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The settings that the warning advises."""
    caplog.clear()
    assert warn({"overfitting": 0.6}, 70, config)
    assert "--run NEW --from RUN --set" in caplog.text
    return re.findall(r"--set (\S+)", caplog.text)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_follow_the_advice_and_gets_a_stronger_attack_that_crosses_its_ball(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = RECIPES[name]()
    after = with_changes(before, advised(before, caplog)).attack
    assert after.epsilon == before.attack.epsilon and after.num_steps > before.attack.num_steps
    assert after.epsilon <= after.num_steps * after.step_size and after.step_size < after.epsilon


def test_the_advice_is_taken_by_the_command(
    command: Command, tiny_run: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: it wanted an older checkpoint, which no run keeps, and another attack in the same run."""
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    changes = [part for change in advised(tiny_run, caplog) for part in ("--set", change)]
    assert command("smoke", "--run", old, "--device", "cpu") == 0
    assert command("smoke", "--run", old, "--device", "cpu", *changes) == 2
    assert command("smoke", "--run", new, "--from", old, "--device", "cpu", *changes) == 0
    assert load_checkpoint(tmp_path / "new" / "checkpoint.pt").config.attack.name == "pgd-3"


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_network_that_no_attack_trained_cannot_have_overfitted_to_one(
    lam: float, tiny_run: TrainConfig, patches: Patches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: PGD-AT at λ=0, which is clean training, was warned of catastrophic overfitting."""
    monkeypatch.setattr(validation, "false_robustness", lambda one, seven: 0.6)
    trainer = Trainer(with_changes(tiny_run, [f"model.lambdas=[{lam}]"]), patches(50))
    assert quick_validation(trainer.model, patches(12), trainer.config)["overfitting"] == (0.6 if lam else 0.0)


def test_a_sound_gap_between_one_step_and_seven_is_no_overfitting() -> None:
    assert false_robustness(0.70, 0.52) == 0.0, "traffic signs: the gap is wide, and three quarters stand"
    assert false_robustness(0.12, 0.12) == 0.0
    assert false_robustness(0.65, 0.05) == pytest.approx(0.60)
    assert false_robustness(0.60, 0.25) > OVERFITTING_GAP, "on its way"


def test_auto_takes_bfloat16_where_the_cpu_multiplies_it_and_a_run_keeps_what_it_began_with(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the recipes asked for bfloat16, in which a CPU without it took ten times as long, without a word."""
    monkeypatch.setattr(train_module, "bfloat16_works", lambda engine: True)
    caplog.set_level(logging.INFO)

    def trained(run: str, *changes: str) -> str:
        caplog.clear()
        assert command("smoke", "--run", str(tmp_path / run), "--device", "cpu", *changes) == 0
        return load_checkpoint(tmp_path / run / "checkpoint.pt").config.precision

    for precision, instructions in (("float32", ""), ("bfloat16", "amx_bf16"), ("bfloat16", "avx512_bf16")):
        monkeypatch.setattr(trials, "shows", lambda feature, its=instructions: feature == its)
        assert trained(instructions or "without", "--set", "precision=auto") == precision
        assert f", in {precision}\n" in caplog.text
        assert "no instructions for bfloat16" not in caplog.text
    monkeypatch.setattr(trials, "shows", lambda feature: False)
    assert trained("amx_bf16", "--set", "precision=auto", "--epochs", "3") == "bfloat16"
    assert "this CPU has no instructions for bfloat16" in caplog.text


def test_a_model_takes_classes_and_statistics_from_the_data(patches: Patches) -> None:
    colours = patches(30)
    data = ImageSet(colours.images_NHWC, np.zeros(30, dtype=np.int64), tuple("abcd"), "patches")
    config = fit_model(ModelConfig(depth=10), data)
    assert (config.num_classes, config.depth) == (4, 10)
    assert (config.mean, config.std) == data.statistics()


STOPPED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from tests.training.conftest import colour_patches
from training import train, trainer
number = int(sys.argv.pop(1))
train.load_dataset = lambda name, split, **_: colour_patches(58)
real_step, real_save, steps = trainer.train_step, torch.save, []

def step(*args, **settings):
    steps.append(1)
    if len(steps) == 3:
        os.kill(os.getpid(), number)  # in the middle of a step
    return real_step(*args, **settings)

def save(payload, file):
    for again in (number, signal.SIGINT, signal.SIGTERM):  # and impatiently, in the middle of saving
        os.kill(os.getpid(), again)
    real_save(payload, file)

trainer.train_step, torch.save = step, save
sys.exit(train.main())
"""


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_the_step_saves_and_is_one_line(number: int, status: int, word: str, tmp_path: Path) -> None:
    """Regression: Ctrl-C lost all steps since the last save, and a second one the file that was being written."""
    run = tmp_path / "run"
    changes = ["model.depth=10", "model.widen_factor=1", "num_validation=8", "batch_size=16", "eval_every=100"]
    arguments = ["smoke", "--epochs", "50", "--device", "cpu", "--run", str(run)]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(number), *arguments, *(part for c in changes for part in ("--set", c))],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    said = f"oat-train: {word}: saved at step 3 of 150 in {run / 'checkpoint.pt'}: the same command goes on"
    assert done.stderr.splitlines()[-1] == said and "Traceback" not in done.stderr
    saved = load_checkpoint(run / "checkpoint.pt")
    assert (saved.step, saved.finished) == (3, False)
    assert [path.name for path in run.iterdir() if "checkpoint" in path.name] == ["checkpoint.pt"]


CHILD = """
import io, os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.training.conftest import colour_patches
from training.config import TrainConfig
from training.trainer import Trainer
folder, moment, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
trainer = Trainer(TrainConfig.model_validate_json((folder / "config.json").read_text()), colour_patches(50))
real_save, real_replace = torch.save, os.replace

def here(name):
    if (name, trainer.step) == (moment, step):
        os.kill(os.getpid(), signal.SIGKILL)

def save(payload, file):
    content = io.BytesIO()
    real_save(payload, content)
    file.write(content.getvalue()[:5000])
    file.flush()
    here("half a file")
    file.write(content.getvalue()[5000:])

def replace(*names):
    here("before it takes its place")
    real_replace(*names)
    here("after")

torch.save, os.replace = save, replace
for _ in trainer.run():
    trainer.save(folder / "checkpoint.pt")
    here("between")
"""


@pytest.mark.parametrize(
    ("moment", "step", "saved"),
    [
        ("half a file", 1, 0), ("half a file", 3, 2), ("before it takes its place", 2, 1), ("after", 1, 1),
        ("between", 4, 4),
    ],
)  # fmt: skip
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits(
    moment: str, step: int, saved: int, tiny_run: TrainConfig, patches: Patches, tmp_path: Path
) -> None:
    config, data = tiny_run.model_copy(update={"average_decay": 0.9}), patches(50)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), moment, str(step)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    checkpoint = tmp_path / "checkpoint.pt"
    whole, rest = Trainer(config, data), Trainer(config, data)
    assert checkpoint.is_file() == (saved > 0)
    if saved:
        rest.resume(checkpoint)
    assert rest.step == saved < rest.num_steps
    for trainer in (whole, rest):
        for _ in trainer.run():
            pass
    for first, second in ((whole.model.state_dict(), rest.model.state_dict()),
                          (whole.average.state, rest.average.state)):  # fmt: skip
        assert [name for name in first if not torch.equal(first[name], second[name])] == []
