"""Two processes as people start them: through validations, a kill and a resume, to the end."""

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

pytestmark = pytest.mark.slow

# `oat-train` that saves at every step and says who it is, so that it can be killed in the middle of a run.
OFTEN = """
import os, sys
from pathlib import Path
from training import train
train._SAVE_EVERY_S = 0.0
Path(sys.argv.pop(1), os.environ["RANK"]).write_text(str(os.getpid()))
sys.exit(train.main())
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
CHANGES = (
    "model.depth=10", "model.widen_factor=1", "model.stem=3x3", "num_validation=20", "batch_size=20", "eval_every=1",
    "num_recalibration=2",
)  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, 60 training images of 16x16."""
    rng = np.random.default_rng(0)
    for split, num in (("train", 40), ("test", 4)):
        for name, level in (("ant", 60), ("bee", 180)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(num):
                noise = rng.integers(-40, 41, (16, 16, 3))
                Image.fromarray((level + noise).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "photos"


def test_two_processes_with_the_defaults_survive_a_kill_and_come_to_the_end(photos: Path, tmp_path: Path) -> None:
    """One process alone validates. Its synchronized batch norms once waited for the other, which ended both."""
    run, often = tmp_path / "run", tmp_path / "often.py"
    often.write_text(OFTEN)
    arguments = ["folder", "--device", "cpu", "--epochs", "6", "--run", str(run)]
    for change in (f"dataset={photos}@16", *CHANGES):
        arguments += ["--set", change]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path.cwd())}
    log = run / "log.jsonl"

    first = subprocess.Popen(
        [*TORCHRUN, str(often), "--", str(tmp_path), *arguments], env=env, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not log.is_file() or len(log.read_text().splitlines()) < 2:
        assert first.poll() is None and time.monotonic() < deadline, "it ended before the second validation"
        time.sleep(0.05)
    for process in (int((tmp_path / rank).read_text()) for rank in "01"):
        os.kill(process, signal.SIGKILL)
    first.wait(timeout=60)
    assert (run / "checkpoint.pt").is_file()

    done = subprocess.run(
        [*TORCHRUN, "-m", "training.train", "--", *arguments], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stderr and f"finished: {run / 'checkpoint.pt'}" in done.stdout
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["step"] == 18 and last["recalibrated"] is True
