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

ANY = ("--no-such-option",)
FILE, FOLDER, NOTHING, DEEP, BINARY, HELD = "FILE", "FOLDER", "NOTHING", "DEEP", "BINARY", "HELD/"
MISTAKES: dict[str, list[tuple[str, ...]]] = {
    "oat_runtime.profile": [
        (), (NOTHING,), (FILE,), (FOLDER,), (B, "--threads", "0"), (B, "--seconds-per-point", "nan"),
        (B, "--output", FOLDER), (B, "--output", HELD), (B, "--plot", "x.exe"), (B, "--backend", "x"),
        (B, "--output", "~nobody-at-all/x.json"),
    ],
    "oat_runtime.bench": [(NOTHING,), (FILE,), (FOLDER,), (B, "--threads", "-1"), (B, "--device", "x")],
    "policy.replay": [
        (), (NOTHING,), (FOLDER,), (FILE,), (BINARY,), (DEEP,), ("\x1b[31m\nname",), (FILE, "--plot", "x.txt"),
        (FILE, "--plot", FILE + "/x.png"), ("LOG", "--config", NOTHING), ("LOG", "--config", FOLDER),
        ("LOG", "--config", DEEP), ("LOG", "--estimator", BINARY), ("LOG", "--bundle", FILE), ("~nobody-at-all/log",),
    ],
    "policy.calibrate": [
        (), (B, NOTHING), (NOTHING, FOLDER), (B, FILE), (B, FOLDER), (B, FOLDER, "--limit", "0"),
        (B, FOLDER, "--seed", "-1"), (B, FOLDER, "--output", FOLDER), (B, FOLDER, "--output", HELD + "x"),
        (B, "BAG"), (B, "NPZ"),
    ],
    "policy.fit": [
        (B,), (B, "--images", NOTHING), (B, "--images", FOLDER), (B, "--images", "NPZ"),
        (B, "--images", "NPZ", "--count", "0"), (B, "--images", "NPZ", "--num-steps", "x"),
        (FOLDER, "--images", "NPZ"),
    ],
    "policy.bench": [
        ("--bundle", NOTHING), ("--bundle", FILE), ("--config", DEEP), ("--images", "NPZ"), ("--images", NOTHING),
        ("--count", "0"), ("--threads", "0"), ("--cache", FILE),
    ],
    "training.train": [
        (), ("nothing",), (FOLDER,), (FILE,), (BINARY,), (DEEP,), ("smoke", "--set", "epochs"),
        ("smoke", "--set", "x=1"), ("smoke", "--set", "epochs=[["), ("smoke", "--epochs", "x"),
        ("smoke", "--run", FILE), ("smoke", "--device", "x"),
        ("smoke", "--max-minutes", "nan"), ("smoke", "--run", HELD + "run"), ("smoke", "--set", "dataset=/nothing"),
        ("smoke", "--sweep", "epochs=1,x"), ("smoke", "--sweep", "epochs"), ("smoke", "--device", "cuda:99"),
        ("smoke", "--set", "epochs=" + "9" * 6000), ("smoke", "--set", "dataset=" + "x" * 5000),
    ],
    "training.evaluate": [
        (), (NOTHING,), (FILE,), (FOLDER,), (B, "--count", "0"), (B, "--suite", "x"), (B, "--attack", "x"),
        (B, "--lambda", "2"), (B, "--width", "nan"), (B, "--steps", "0"), (B, "--out", FILE),
        (B, "--plots", FOLDER), (B, "--publish", FOLDER), (B, "--device", "x"), (B, "--width", "0.6"),
    ],
    "training.export": [
        (), (NOTHING, "new"), (FILE, "new"), (FOLDER, "new"), (BINARY, "new"), (BINARY, "new", "--attacked", "-1"),
        (BINARY, FILE), (BINARY, HELD + "x"), (BINARY, "new", "--device", "tpu"),
    ],
    "training.plots": [(), (NOTHING, "new"), (FILE, "new"), (B, FILE), (B, HELD + "x")],
    "training.compare": [
        ("nothing",), (DEEP,), ("compare-fast", "gtsrb"), ("gtsrb-at-1-1",), ("--seeds", "-1"), ("--count", "0"),
        ("--steps", "0"), ("--run", FILE), ("--set", "x=1"), ("--device", "x"),
    ],
    "training.bench": [
        ("nothing",), ("smoke", "nothing"), ("--side", "0"), ("--seconds", "0"), ("--set", "x"), ("--runtime", NOTHING),
        ("--device", "x"),
    ],
    "oat_perception.bench": [("--bundle", NOTHING), ("--bundle", FILE), ("--backend", "x")],
    "oat_perception.demo": [
        ("--bundle", NOTHING), ("--output", FILE), ("--rate", "0"), ("--seed", "-1"), ("--seconds-per-phase", "1"),
    ],
    "oat_perception.console": [("lambda",), ("=3",)],
}  # fmt: skip


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
def test_a_mistake_is_one_line_and_status_2_and_nothing_is_written(
    module: str, run: Callable[..., list[tuple[int, str]]], place: Path
) -> None:
    for package in COMMANDS[module]:
        pytest.importorskip(package)
    calls = [list(call) for call in (*MISTAKES[module], (*MISTAKES[module][0], *ANY))]
    if os.geteuid() == 0:  # to whom no folder is closed
        calls = [call for call in calls if not any(argument.startswith(HELD) for argument in call)]
    _write_log(place / "LOG")
    before = _all_of(place)
    wrong = [
        f"{call}: status {status}, {said!r}"
        for call, (status, said) in zip(calls, run(module, calls, place), strict=True)
        if status != 2 or said.count("\n") != 1 or not said.strip().isprintable() or len(said) > 1200
    ]
    assert not wrong, "\n".join(wrong)
    assert _all_of(place) == before


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
