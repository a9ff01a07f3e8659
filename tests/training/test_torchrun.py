"""Two processes as people start them: through validations, a kill and a resume, to the end, beside one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oat_runtime.data import load_dataset
from training.checkpoint import load_checkpoint, load_weights
from training.config import TrainConfig
from training.distributed import World
from training.evaluation.counting import outcomes_of
from training.network import OATNet, folded
from training.settings import read_recipe, with_changes
from training.train import train

pytestmark = pytest.mark.slow

# `oat-train` that saves at every step and says who it is, so that it can be killed in the middle of a run. The first
# process writes each step's loss beside that of one process with the same weights, which then takes the same step.
WATCHED = """
import os, sys
from pathlib import Path
from training import train
from training.trainer import Trainer

train._SAVE_EVERY_S = 0.0
folder = Path(sys.argv.pop(1))
(folder / os.environ["RANK"]).write_text(str(os.getpid()))
begin, run_step, alone = Trainer.__init__, Trainer.run_step, []


def begun(self, config, data, **options):
    begin(self, config, data, **options)
    self.data = data


def watched(self):
    if not self.world.leads:
        return run_step(self)
    if not alone:
        alone.append(Trainer(self.config, self.data))
    alone[0].step = self.step
    alone[0].model.load_state_dict(self.model.state_dict())
    expected, metrics = run_step(alone[0]), run_step(self)
    with (folder / "losses").open("a") as file:
        file.write(f"{metrics.loss} {expected.loss}\\n")
    return metrics


Trainer.__init__, Trainer.run_step = begun, watched
sys.exit(train.main())
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
CHANGES = (
    "epochs=10", "model.depth=10", "model.widen_factor=1", "model.stem=3x3", "num_validation=20", "batch_size=20",
    "eval_every=4", "num_recalibration=2",
)  # fmt: skip
NUM_COMPARED = 20
NUM_TEST = 60


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Two classes that differ in brightness and overlap; 60 training images of 16x16, 3 steps an epoch."""
    rng = np.random.default_rng(0)
    for split, num in (("train", 40), ("test", NUM_TEST)):
        for name, level in (("ant", 110), ("bee", 145)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(num):
                image = rng.normal(level, 20) + rng.integers(-40, 41, (16, 16, 3))
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return with_changes(read_recipe("folder"), [f"dataset={tmp_path / 'photos'}@16", *CHANGES])


def test_two_processes_with_the_defaults_do_what_one_does_and_survive_a_kill(
    config: TrainConfig, tmp_path: Path
) -> None:
    """One process alone validates. Its synchronized batch norms once waited for the other, which ended both."""
    run, watched = tmp_path / "run", tmp_path / "watched.py"
    watched.write_text(WATCHED)
    arguments = ["folder", "--device", "cpu", "--run", str(run), "--set", f"dataset={config.dataset}"]
    for change in CHANGES:
        arguments += ["--set", change]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path.cwd())}
    log = run / "log.jsonl"

    first = subprocess.Popen(
        [*TORCHRUN, str(watched), "--", str(tmp_path), *arguments], env=env, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not log.is_file() or len(log.read_text().splitlines()) < 2:
        assert first.poll() is None and time.monotonic() < deadline, "it ended before the second validation"
        time.sleep(0.05)
    for process in (int((tmp_path / rank).read_text()) for rank in "01"):
        os.kill(process, signal.SIGKILL)
    first.wait(timeout=60)
    assert (run / "checkpoint.pt").is_file()
    losses = np.loadtxt(tmp_path / "losses")[:NUM_COMPARED]
    assert len(losses) == NUM_COMPARED
    assert np.abs(losses[:, 0] - losses[:, 1]).max() < 1e-4

    done = subprocess.run(
        [*TORCHRUN, "-m", "training.train", "--", *arguments], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resumed") == 1, "the leading process says it, and the other one says nothing"
    assert f"finished: {run / 'checkpoint.pt'}" in done.stdout
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["step"] == 30 and last["recalibrated"] is True

    train(config, tmp_path / "alone", world=World())
    both, alone = (correct(path / "checkpoint.pt", config) for path in (run, tmp_path / "alone"))
    assert alone.mean() > 0.6
    # Float32 sums in another order, and signs of gradients near zero, end in weights that differ a little. Three
    # standard errors: on some machine, 95 % of this would fail.
    difference = both - alone
    assert abs(difference.mean()) <= 3.0 * max(difference.std(ddof=1), 0.1) / np.sqrt(len(difference))


def correct(checkpoint: Path, config: TrainConfig) -> np.ndarray:
    """How often each test image is classified correctly at the ends of λ, as deployed, as a share."""
    kept = load_checkpoint(checkpoint)
    model = OATNet(kept.config.model)
    load_weights(model, kept)
    data = load_dataset(config.dataset, "test")
    nets = [folded(model, lam=lam, width=1.0) for lam in (0.0, 1.0)]
    share_N: np.ndarray = np.stack([outcomes_of(net, data, attack=None) for net in nets]).mean(axis=0)
    return share_N
