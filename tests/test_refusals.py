"""Every command answers a mistake in one line with status 2, before it works and before it writes anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from oat_runtime import SHIPPED_BUNDLE

ROOT = Path(__file__).resolve().parents[1]
NODE = ROOT / "ros2_ws" / "src" / "oat_perception"
B = str(SHIPPED_BUNDLE)
TORCH = ("torch", "yaml", "matplotlib")

COMMANDS: dict[str, tuple[str, ...]] = {
    "oat_runtime.profile": (),
    "oat_runtime.bench": (),
    "policy.replay": (),
    "policy.calibrate": (),
    "policy.fit": ("torch",),
    "policy.bench": TORCH,
    "training.train": TORCH,
    "training.evaluate": TORCH,
    "training.export": TORCH,
    "training.plots": TORCH,
    "training.compare": TORCH,
    "training.bench": TORCH,
    "oat_perception.bench": ("rclpy", "oat_msgs"),
    "oat_perception.demo": ("rclpy", "oat_msgs"),
    "oat_perception.console": ("rclpy", "oat_msgs"),
}
"""Every command, and what it cannot be imported without."""

FILE, FOLDER, NOTHING, DEEP, BINARY, HELD = "FILE", "FOLDER", "NOTHING", "DEEP", "BINARY", "HELD/"
REQUIRED, ENDING = "the following arguments are required", "expected a file ending in .png, .svg, .pdf"
IS_FOLDER, NO_FOLDER, HELD_BACK = "is a folder: name a file", "FILE is not a folder", "no permission in HELD"
NO_HOME, DEVICE = "there is no such home folder", "--device: expected cpu, cuda"
ANY = ("unrecognized arguments: --no-such-option", "--no-such-option")
MISTAKES: dict[str, list[tuple[str, ...]]] = {
    "oat_runtime.profile": [
        (REQUIRED,), ("no bundle 'NOTHING'", NOTHING), ("no bundle at FILE", FILE), ("no bundle at FOLDER", FOLDER),
        ("--threads: must be at least 1", B, "--threads", "0"),
        ("--seconds-per-point: must be in (0", B, "--seconds-per-point", "nan"), (IS_FOLDER, B, "--output", FOLDER),
        (HELD_BACK, B, "--output", HELD + "x"), (ENDING, B, "--plot", "x.exe"),
        ("--backend: invalid choice: 'x'", B, "--backend", "x"), (NO_HOME, B, "--output", "~nobody-at-all/x.json"),
        (*ANY, B),
    ],
    "oat_runtime.bench": [
        ("no bundle 'NOTHING'", NOTHING), ("no bundle at FILE", FILE), ("no bundle at FOLDER", FOLDER),
        ("--threads: must be at least 1", B, "--threads", "-1"), ("--device: invalid choice: 'x'", B, "--device", "x"),
        ANY,
    ],
    "policy.replay": [
        (REQUIRED,), ("cannot read the decision log NOTHING", NOTHING), ("Is a directory", FOLDER),
        ("got 'plain text", FILE),
        (r"got '\x00\x01", BINARY), ("more than 32 deep", DEEP), (r"\x1b[31m\nname", "\x1b[31m\nname"),
        (ENDING, "LOG", "--plot", "x.txt"), (NO_FOLDER, "LOG", "--plot", FILE + "/x.png"),
        ("NOTHING cannot be read as a policy configuration", "LOG", "--config", NOTHING),
        ("FOLDER cannot be read as a policy configuration", "LOG", "--config", FOLDER),
        ("DEEP is not a policy configuration", "LOG", "--config", DEEP),
        ("BINARY is not an estimator", "LOG", "--estimator", BINARY), ("no bundle at FILE", "LOG", "--bundle", FILE),
        (NO_HOME, "~nobody-at-all/log"), (*ANY, "LOG"),
    ],
    "policy.calibrate": [
        (REQUIRED,), ("no frames at NOTHING", B, NOTHING), ("no bundle 'NOTHING'", NOTHING, FOLDER),
        ("no frames at FILE", B, FILE), ("FOLDER holds no image", B, FOLDER),
        ("--limit: must be at least 1", B, FOLDER, "--limit", "0"),
        ("--seed: must be at least 0", B, FOLDER, "--seed", "-1"), (IS_FOLDER, B, FOLDER, "--output", FOLDER),
        (HELD_BACK, B, FOLDER, "--output", HELD + "x"), ("BAG cannot be read as a rosbag2", B, "BAG"),
        ("no frames at NPZ", B, "NPZ"), (*ANY, B, B),
    ],
    "policy.fit": [
        (REQUIRED, B), ("no such file", B, "--images", NOTHING), ("Is a directory", B, "--images", FOLDER),
        ("it is not an .npz file", B, "--images", "NPZ"),
        ("--count: must be at least 1", B, "--images", "NPZ", "--count", "0"),
        ("--num-steps: expected a whole number", B, "--images", "NPZ", "--num-steps", "x"),
        ("no bundle at FOLDER", FOLDER, "--images", "NPZ"), (*ANY, B, "--images", "NPZ"),
    ],
    "policy.bench": [
        ("no bundle 'NOTHING'", "--bundle", NOTHING), ("no bundle at FILE", "--bundle", FILE),
        ("DEEP is not a policy configuration", "--config", DEEP), ("no CIFAR-10 under NPZ", "--images", "NPZ"),
        ("no CIFAR-10 under NOTHING", "--images", NOTHING), ("--count: must be at least 1", "--count", "0"),
        ("--threads: must be at least 1", "--threads", "0"), (NO_FOLDER, "--cache", FILE), ANY,
    ],
    "training.train": [
        ("name a recipe",), ("no recipe 'nothing'", "nothing"), ("no recipe 'FOLDER'", FOLDER),
        ("FILE is not YAML", FILE), ("BINARY is not YAML", BINARY), ("DEEP cannot be read as a recipe", DEEP),
        ("expected KEY=VALUE, got 'epochs'", "smoke", "--set", "epochs"),
        ("there is no setting 'x'", "smoke", "--set", "x=1"),
        ("epochs: expected a value in YAML", "smoke", "--set", "epochs=[["),
        ("--epochs: invalid int value: 'x'", "smoke", "--epochs", "x"), (NO_FOLDER, "smoke", "--run", FILE),
        (DEVICE, "smoke", "--device", "x"), ("--max-minutes: must be in [0", "smoke", "--max-minutes", "nan"),
        (HELD_BACK, "smoke", "--run", HELD + "run"),
        ("no folder /nothing", "smoke", "--set", "dataset=/nothing"),
        ("unable to parse string as an integer", "smoke", "--sweep", "epochs=1,x"),
        ("expected KEY=V1,V2,..., got 'epochs'", "smoke", "--sweep", "epochs"),
        ("--device: got cuda:99", "smoke", "--device", "cuda:99"),
        ("a value has more than 1000 characters", "smoke", "--set", "epochs=" + "9" * 6000),
        ("a value has more than 1000 characters", "smoke", "--set", "dataset=" + "x" * 5000), ANY,
    ],
    "training.evaluate": [
        (REQUIRED,), ("no bundle 'NOTHING'", NOTHING), ("no bundle at FOLDER", FOLDER),
        ("FILE is damaged or not a checkpoint", FILE, "--suite", "attacks"),
        ("--count: must be at least 1", B, "--count", "0"), ("unknown suite x", B, "--suite", "x"),
        ("--attack: invalid choice: 'x'", B, "--attack", "x"), ("--lambda: must be in [0, 1]", B, "--lambda", "2"),
        ("--width: must be in (0, 1]", B, "--width", "nan"), ("--steps: must be at least 1", B, "--steps", "0"),
        (NO_FOLDER, B, "--out", FILE), ("no results under", B, "--plots", FOLDER), (IS_FOLDER, B, "--publish", FOLDER),
        (DEVICE, B, "--device", "x"), ("width must be one of [0.5, 0.75, 1.0], got 0.6", B, "--width", "0.6"),
        (*ANY, B),
    ],
    "training.export": [
        (REQUIRED,), ("no checkpoint at NOTHING", NOTHING, "new"),
        ("FILE is damaged or not a checkpoint", FILE, "new"),
        ("FOLDER is a folder", FOLDER, "new"), ("BINARY is damaged or not a checkpoint", BINARY, "new"),
        ("--attacked: must be at least 1", BINARY, "new", "--attacked", "-1"), (NO_FOLDER, BINARY, FILE),
        (HELD_BACK, BINARY, HELD + "x"), (DEVICE, BINARY, "new", "--device", "tpu"), (*ANY, BINARY, "new"),
    ],
    "training.plots": [
        (REQUIRED,), ("no bundle 'NOTHING'", NOTHING, "new"), ("no bundle at FILE", FILE, "new"), (NO_FOLDER, B, FILE),
        (HELD_BACK, B, HELD + "x"), (*ANY, B, "new"),
    ],
    "training.compare": [
        ("no recipe 'nothing'", "nothing"), ("DEEP cannot be read as a recipe", DEEP),
        ("expected recipes of one dataset to compare", "compare-fast", "gtsrb"),
        ("does not train: add --no-one-bn", "gtsrb-at-1-1", "--one-bn", "gtsrb-at-1-1"),
        ("--seeds: must be at least 0", "--seeds", "-1"), ("name the seeds by --seeds", "--set", "seed=3"),
        ("--count: must be at least 1", "--count", "0"), ("--steps: must be at least 1", "--steps", "0"),
        (NO_FOLDER, "--run", FILE), ("there is no setting 'x'", "--set", "x=1"), (DEVICE, "--device", "x"), ANY,
    ],
    "training.bench": [
        ("no recipe 'nothing'", "nothing"), ("no recipe 'nothing'", "smoke", "nothing"),
        ("--side: must be at least 8", "--side", "0"), ("--seconds: must be in (0", "--seconds", "0"),
        ("expected KEY=VALUE, got 'x'", "--set", "x"), ("no bundle 'NOTHING'", "--runtime", NOTHING),
        (DEVICE, "--device", "x"), ANY,
    ],
    "oat_perception.bench": [
        ("no bundle 'NOTHING'", "--bundle", NOTHING), ("no bundle at FILE", "--bundle", FILE),
        ("--backend: invalid choice: 'x'", "--backend", "x"), ANY,
    ],
    "oat_perception.demo": [
        ("no bundle 'NOTHING'", "--bundle", NOTHING), (NO_FOLDER, "--output", FILE),
        ("--rate: must be in [1, 100]", "--rate", "0"), ("--seed: must be at least 0", "--seed", "-1"),
        ("--seconds-per-phase must be at least", "--seconds-per-phase", "1"), ANY,
    ],
    "oat_perception.console": [
        ("expected NAME=VALUE, as in lambda=0.8, got 'lambda'", "lambda"), ("expected NAME=VALUE", "=3"), ANY,
    ],
}  # fmt: skip
"""What each mistake is called, and the arguments that hold it."""


@pytest.fixture(scope="module")
def run() -> Callable[..., tuple[int, str]]:
    """Run many calls of one command in one process, as importing torch takes seconds; (status, stderr) of each."""

    def call(module: str, calls: list[list[str]], folder: Path) -> list[tuple[int, str]]:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "OAT_DATA": str(folder / "no data"), "HOME": str(folder / "home"), "COLUMNS": "500",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(NODE), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", _RUNNER, module, json.dumps(calls)],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return [tuple(result) for result in json.loads(done.stdout.splitlines()[-1])]

    return call


_RUNNER = """
import contextlib, importlib.util, io, json, sys
module, calls = sys.argv[1], json.loads(sys.argv[2])
name = module if not importlib.util.find_spec(module).submodule_search_locations else module + ".__main__"
main, results = importlib.import_module(name).main, []
for arguments in calls:
    sys.argv, said = [module, *arguments], io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main()
        except BaseException as error:
            status = repr(error)
    results.append((status, said.getvalue()))
print(json.dumps(results))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file that is none of ours, a folder, deep JSON, noise, a bag and an archive that are none."""
    for folder in ("FOLDER", "HELD", "home", "no data", "BAG"):
        (tmp_path / folder).mkdir()
    (tmp_path / "FILE").write_text("plain text: [\n")
    (tmp_path / "DEEP").write_text("[" * 100_000)
    (tmp_path / "BINARY").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "BAG" / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: x}\n")
    (tmp_path / "NPZ").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "HELD").chmod(0o555)
    return tmp_path


@pytest.mark.parametrize("module", COMMANDS)
def test_a_mistake_is_named_in_one_line_with_status_2_and_nothing_is_written(
    module: str, run: Callable[..., list[tuple[int, str]]], place: Path
) -> None:
    for package in COMMANDS[module]:
        pytest.importorskip(package)
    mistakes = MISTAKES[module]
    if os.geteuid() == 0:  # to whom no folder is closed
        mistakes = [mistake for mistake in mistakes if HELD_BACK not in mistake]
    calls = [list(arguments) for _, *arguments in mistakes]
    _write_log(place / "LOG")
    before = _all_of(place)
    wrong = [
        f"{call}: expected {words!r}, got status {status}, {said!r}"
        for (words, *call), (status, said) in zip(mistakes, run(module, calls, place), strict=True)
        if status != 2 or words not in said or not _is_one_line(said)
    ]
    assert not wrong, "\n".join(wrong)
    assert _all_of(place) == before


def _is_one_line(said: str) -> bool:
    return said.count("\n") == 1 and said.strip().isprintable() and len(said) <= 1200


def _all_of(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if folder / "home" not in path.parents)  # Matplotlib keeps fonts there
    return {str(path): path.stat().st_size if path.is_file() else -1 for path in found}


def _write_log(path: Path) -> None:
    from policy.config import PolicyConfig
    from policy.controller import AdaptivePolicy
    from policy.records.record import header_line, step_line
    from policy.replay import read_bundle
    from policy.signals import Signals

    policy = AdaptivePolicy(read_bundle(SHIPPED_BUNDLE)[0], PolicyConfig())
    signals = Signals(0.0)
    path.write_text(f"{header_line(policy)}\n{step_line(signals, policy.step(signals))}\n")


def test_every_main_is_guarded_and_tested_here() -> None:
    mains = {
        str(path.relative_to(root).with_suffix("")).replace("/", ".").removesuffix(".__main__")
        for root in (ROOT, NODE)
        for package in ("oat_runtime", "policy", "training", "oat_perception")
        for path in (root / package).rglob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    # These end by `node/spin.py`, which speaks through ROS's log, and the last is a part of a benchmark.
    nodes = {"oat_perception.perception_node", "oat_perception.camera_replay_node", "oat_perception.bench.echo"}
    assert mains - nodes == set(COMMANDS)
    for name in COMMANDS:
        file = next(
            place
            for root in (ROOT, NODE)
            for place in (root / f"{name.replace('.', '/')}.py", root / name.replace(".", "/") / "__main__.py")
            if place.is_file()
        )
        assert "@command(" in file.read_text(encoding="utf-8"), name


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
def test_a_missing_path_is_named_as_it_was_given(run: Callable[..., list[tuple[int, str]]], place: Path) -> None:
    ((_, said),) = run("training.export", [["NOTHING", "new"]], place)
    assert said == "oat-export: no checkpoint at NOTHING: give the path of a checkpoint.pt that oat-train wrote\n"
