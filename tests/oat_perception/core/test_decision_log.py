"""The decision log on a full disk, over several files, and around decisions that have no record."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oat_perception.core.decision_log import DecisionLog
from oat_perception.core.perception import CameraFrame, ExternalSignals, FrameResult, PerceptionCore

from oat_runtime.errors import BackendError, ConfigError
from oat_runtime.runtime import OATRuntime
from policy.belief.constants import EstimatorConstants
from policy.config import PolicyConfig
from policy.records.record import header_line
from policy.replay import ReplayStep, read_recording, replay
from policy.signals import Override
from tests.conftest import room

ESTIMATOR = Path(__file__).parents[3] / "bundles" / "cifar10-wrn-16-4" / "estimator.json"
NEVER = 10**9
Run = Callable[..., FrameResult]


@pytest.fixture(scope="module")
def runtime(tiny_bundle: Path, engine) -> OATRuntime:
    runtime = OATRuntime.load(tiny_bundle, backend=engine, num_threads=1)
    runtime.prepare()
    return runtime


@pytest.fixture
def core(runtime: OATRuntime) -> PerceptionCore:
    """With an estimator, so that a decision hangs on all frames before it."""
    constants = EstimatorConstants.model_validate_json(ESTIMATOR.read_text())
    config = PolicyConfig(dwell_s=0.3, settle_s=0.0, confidence_topic="absent")
    return PerceptionCore(runtime, config, constants=constants)


@pytest.fixture
def run(core: PerceptionCore) -> Run:
    """The next of a sequence of frames that go from smooth to noisy and back."""
    rng = np.random.default_rng(0)
    numbers = iter(range(10**6))
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3)

    def next_frame() -> FrameResult:
        number = next(numbers)
        noisy = smooth + rng.normal(0, 60 * (number // 20 % 2), smooth.shape)
        frame = CameraFrame(noisy.clip(0, 255).astype(np.uint8), received_s=number / 10)
        external = ExternalSignals(override_lam=Override(0.3) if number % 30 == 7 else None)
        return core.process(frame, external=external, now_s=number / 10)

    return next_frame


def _gaps(path: Path) -> list[tuple[int, int]]:
    """Where something is missing, and how much."""
    return [(number, gap.num_lost) for number, gap in read_recording(path).gaps.items()]


def _all_equal(steps: list[ReplayStep]) -> bool:
    return bool(steps) and all(step.equal for step in steps)


def test_the_log_replays_and_keeps_the_ones_before(core: PerceptionCore, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    policy = core.policy
    for num_frames in (3, 5, 7, 0, 4):
        fresh = PerceptionCore(core._runtime, policy.config, constants=policy.constants)
        log = DecisionLog(path, fresh.policy, max_bytes=NEVER, max_files=3)
        for _ in range(num_frames):
            result = run()
            decision = fresh.policy.step(result.signals)
            log.write(replace(result, decision=decision))
        log.close()
    kept = ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
    assert sorted(file.name for file in path.parent.iterdir()) == kept
    assert [len(replay(path.with_name(name))) for name in kept] == [4, 7, 5], "a run without a decision takes no place"
    assert all(_all_equal(replay(path.with_name(name))) for name in kept)


def test_a_full_disk_costs_the_log_what_it_counts_and_the_rest_replays(
    core: PerceptionCore, run: Run, tmp_path: Path
) -> None:
    """Regression: the error came out of the log before the result was published."""
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2)
    for _ in range(30):
        log.write(run())
    full = path.stat().st_size
    for lost in (25, 15):
        with room(path.stat().st_size + 100):
            for _ in range(lost):
                log.write(run())
            assert (log.problem, log.remedy) == (os.strerror(errno.EFBIG), "make room")
        assert path.read_bytes().endswith(b"\n"), "half a line is taken back"
        for _ in range(20):
            log.write(run())
        assert log.problem == ""
    log.close()
    assert path.stat().st_size > full
    assert (log.num_written, log.num_lost) == (70, 40)
    assert _gaps(path) == [(30, 25), (50, 15)]
    assert _all_equal(replay(path))


def test_what_is_not_a_full_disk_has_another_remedy(core: PerceptionCore, run: Run, tmp_path: Path) -> None:
    """Regression: the node asked for room where somebody had put a file in the place of the log's folder."""
    path = tmp_path / "logs" / "log.jsonl"
    log = DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2)
    path.parent.rename(tmp_path / "moved")
    (tmp_path / "moved" / path.name).unlink()
    path.parent.touch()
    for reason in ("the file was removed", os.strerror(errno.EEXIST)):
        log.write(run())
        assert (log.problem, log.remedy) == (reason, f"let {path} be a file that this node can write")
    path.parent.unlink()
    log.write(run())
    log.close()
    assert (log.problem, log.num_written, log.num_lost) == ("", 1, 2)


@pytest.mark.parametrize("num_bytes", [0, 100])
def test_a_disk_that_is_full_from_the_start_is_no_reason_not_to_start(
    core: PerceptionCore, run: Run, tmp_path: Path, num_bytes: int, monkeypatch
) -> None:
    path = tmp_path / "log.jsonl"
    opened = os.open
    monkeypatch.setattr(os, "open", lambda *args, **named: _no_room())
    log = DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2)
    assert log.problem == os.strerror(errno.ENOSPC)
    log.write(run())
    monkeypatch.setattr(os, "open", opened)
    with room(num_bytes):
        log.write(run())
    for _ in range(10):
        log.write(run())
    log.close()
    assert (log.num_written, log.num_lost) == (10, 2)
    assert _gaps(path) == [(0, 2)]
    assert _all_equal(replay(path))


def _no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_half_a_line_that_cannot_be_taken_back_never_swallows_the_next(
    core: PerceptionCore, run: Run, tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2)
    for _ in range(5):
        log.write(run())
    monkeypatch.setattr(os, "ftruncate", _no_room)
    with room(path.stat().st_size + 100):
        log.write(run())
        log.write(run())
    monkeypatch.undo()
    for _ in range(5):
        log.write(run())
    log.close()
    recording = read_recording(path)
    assert (recording.num_torn, _gaps(path)) == (1, [(5, 2)])
    steps = replay(path)
    assert len(steps) == 10
    assert _all_equal(steps)


def test_each_file_replays_by_itself_and_all_of_them_in_their_order(
    core: PerceptionCore, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    header = len(header_line(core.policy))
    log = DecisionLog(path, core.policy, max_bytes=header + 20_000, max_files=4)
    written: list[FrameResult] = []
    while not path.with_name("log.jsonl.3").exists():
        written.append(run())
        log.write(written[-1])
    for _ in range(40):
        written.append(run())
        log.write(written[-1])
    log.close()
    files = [*(path.with_name(f"log.jsonl.{number}") for number in (3, 2, 1)), path]
    assert sorted(tmp_path.iterdir()) == sorted(files), "never more than four"
    for file in files:
        assert file.stat().st_size < header + 25_000
        assert _all_equal(replay(file))
        assert not any(num_lost for _, num_lost in _gaps(file))
    together = tmp_path / "together.jsonl"
    together.write_bytes(b"".join(file.read_bytes() for file in files))
    steps = replay(together)
    assert _all_equal(steps)
    assert [repr(step.signals) for step in steps] == [repr(result.signals) for result in written[-len(steps) :]]


def test_a_file_that_another_node_writes_is_refused_and_left_as_it_is(
    core: PerceptionCore, run: Run, tmp_path: Path
) -> None:
    """Regression: of two nodes with one parameter file, each destroyed what the other wrote, in silence."""
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, core.policy, max_bytes=len(header_line(core.policy)) + 3_000, max_files=99)

    def another() -> DecisionLog:
        return DecisionLog(path, core.policy, max_bytes=NEVER, max_files=9)

    for _ in range(12):  # before the first line, between lines, and where a file has just reached its size
        before = sorted((file.name, file.stat().st_ino, file.stat().st_size) for file in tmp_path.iterdir())
        with pytest.raises(ConfigError, match="written by another node or process: name a file for each node"):
            another()
        after = sorted((file.name, file.stat().st_ino, file.stat().st_size) for file in tmp_path.iterdir())
        assert after == before
        log.write(run())
    log.close()
    assert (log.num_written, log.num_lost) == (12, 0)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2, "over several files"
    assert sum(len(replay(file)) for file in files) == 12
    another().close()


def test_a_file_that_another_node_took_costs_decisions_that_are_counted_and_none_of_the_others(
    core: PerceptionCore, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2)
    log.write(run())
    path.unlink()
    fresh = PerceptionCore(core._runtime, core.policy.config, constants=core.policy.constants)
    other = DecisionLog(path, fresh.policy, max_bytes=NEVER, max_files=2)
    for _ in range(3):
        result = run()
        log.write(result)
        other.write(replace(result, decision=fresh.policy.step(result.signals), gap=None))
    assert (log.num_lost, log.problem) == (3, "another node or process writes it")
    other.close()
    log.write(run())
    log.close()
    assert log.problem == ""
    assert _gaps(path) == [(0, 3)]
    assert _all_equal(replay(path))
    assert len(replay(path.with_name("log.jsonl.1"))) == other.num_written == 3


def test_a_process_that_was_killed_holds_no_file(core: PerceptionCore, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    hold = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(ConfigError, match="another node or process"):
            DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2)
        process.kill()
    DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2).close()


def test_a_log_of_one_file_and_one_with_a_second_name_are_emptied(
    core: PerceptionCore, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    for max_files in (1, 1, 2):
        log = DecisionLog(path, core.policy, max_bytes=NEVER, max_files=max_files)
        assert path.stat().st_size == 0
        log.write(run())
        log.close()
        if max_files == 1:
            assert list(tmp_path.iterdir()) == [path]
    path.with_name("log.jsonl.1").unlink()
    path.with_name("log.jsonl.1").hardlink_to(path)
    DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2).close()
    assert path.stat().st_size == 0


def _taken_away(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def _cut_short(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("spoil", [_taken_away, _cut_short])
def test_a_file_that_somebody_took_away_or_cut_short_is_begun_anew(
    spoil: Callable[[Path], None], core: PerceptionCore, run: Run, tmp_path: Path
) -> None:
    """Regression: after logrotate's copytruncate, decisions went on without a header, and nobody said so."""
    path = tmp_path / "logs" / "log.jsonl"
    log = DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2)
    for _ in range(5):
        log.write(run())
    spoil(path)
    for _ in range(5):
        log.write(run())
    log.close()
    assert (log.num_written, log.num_lost) == (9, 1)
    assert _gaps(path) == [(0, 1)]
    assert _all_equal(replay(path))


@pytest.mark.parametrize("place", ["/dev/full", "."])
def test_what_is_no_file_is_refused_and_left_where_it_is(core: PerceptionCore, place: str, tmp_path: Path) -> None:
    """Regression: a device at the log's place was renamed."""
    link = tmp_path / "log.jsonl"
    link.symlink_to(place)
    with pytest.raises(ConfigError, match="decision_log must be a file"):
        DecisionLog(link, core.policy, max_bytes=NEVER, max_files=2)
    assert link.is_symlink()
    with pytest.raises(OSError, match="File exists"):
        DecisionLog(ESTIMATOR / "log.jsonl", core.policy, max_bytes=NEVER, max_files=2)


def test_decisions_without_a_result_are_gaps_in_every_record(
    core: PerceptionCore, run: Run, tmp_path: Path, monkeypatch
) -> None:
    """Regression: the policy had gone a step that no record held, so every later decision replayed unequal."""
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, core.policy, max_bytes=NEVER, max_files=2)
    monkeypatch.setattr(core._runtime, "predict_inputs", lambda *_, **__: _raise(BackendError("logits are not finite")))
    for _ in range(2):
        with pytest.raises(BackendError):
            run()
    monkeypatch.undo()
    for _ in range(25):
        log.write(run())
    monkeypatch.setattr(core._runtime, "predict_inputs", lambda *_, **__: _raise(BackendError("logits are not finite")))
    with pytest.raises(BackendError):
        run()
    monkeypatch.undo()
    budget = core.policy._budget
    monkeypatch.setattr(budget, "allowance", lambda *_, **__: _raise(ZeroDivisionError()))
    assert [run().policy_failed for _ in range(3)] == [True] * 3
    monkeypatch.undo()
    with room(path.stat().st_size + 10):
        log.write(run())
    for _ in range(25):
        log.write(run())
    log.close()
    assert _gaps(path) == [(0, 2), (25, 5)]
    assert "File too large" in read_recording(path).gaps[25].reason
    assert _all_equal(replay(path))
    assert json.loads(path.read_text().splitlines()[1])["num_lost"] == 2


def _raise(error: Exception) -> None:
    raise error
