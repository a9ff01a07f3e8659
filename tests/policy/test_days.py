"""Real days: what a robot meets and when, who plays, and which alarms count as false."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import cv2
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import attach_file
from oat_runtime.plain_net import fold
from oat_runtime.untrained import untrained_tensors
from policy.belief.constants import EstimatorConstants
from policy.bench.__main__ import main
from policy.bench.days import detectors, renormalized
from policy.bench.days.alarms import _judged
from policy.bench.days.latency import Latencies
from policy.bench.days.record import Recorder
from policy.bench.days.sessions import Session, orders_of, sessions_of, venues_of
from policy.bench.days.trials import accuracy
from policy.bench.days.world import World
from policy.config import PolicyConfig
from policy.fitting.frames import region_frames


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Callable[[], Bundle], constants: EstimatorConstants) -> Bundle:
    return attach_file(tiny_bundle(), "estimator.json", constants.model_dump_json().encode())


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of an event and one of another, of four frames each with two boxes, and a day to train on."""
    root, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    (root / "data.yaml").write_text("names: [a, b]\ncrops: {backgrounds_per_frame: 0}\n")
    for part, session in (("train", "20250101_r1"), ("test", "20260501_r1"), ("test", "20260503_r2"),
                          ("test", "20260601_r1")):  # fmt: skip
        folder = root / part / session
        folder.mkdir(parents=True)
        for at in range(4):
            image = cv2.resize(rng.integers(0, 256, (8, 12, 3), np.uint8), (120, 80), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"{at}.png"), image)
            (folder / f"{at}.txt").write_text("0 0.3 0.5 0.4 0.5\n1 0.7 0.4 0.3 0.6\n")
    return root


@pytest.fixture(scope="module")
def world(bundle: Bundle, frames: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    sessions = sessions_of(str(frames))
    cache = tmp_path_factory.mktemp("cache")
    recorder = Recorder(cache, bundle, num_attacked=1, num_threads=1)
    records = [recorder.record(session) for session in sessions]
    stamps = [file.stat().st_mtime_ns for file in sorted(cache.rglob("*.npz"))]
    again = [recorder.record(session) for session in sessions]
    assert [file.stat().st_mtime_ns for file in sorted(cache.rglob("*.npz"))] == stamps
    np.testing.assert_array_equal(again[0].label_NP, records[0].label_NP)
    return World(recorder, sessions, records)


def test_days_that_are_near_are_one_venue_and_sessions_without_a_day_are_their_own() -> None:
    names = ["20260503_r4", "20260502_r5", "20260506_r1", "20260514_r3", "corridor", "20269999_r1"]
    assert venues_of(names) == ["2026-05-02", "2026-05-02", "2026-05-02", "2026-05-14", "corridor", "20269999_r1"]


def test_an_order_keeps_venues_together_and_sessions_in_time(world: World) -> None:
    orders = orders_of(world.sessions, num=20)
    assert len({tuple(order) for order in orders}) == 2
    for order in orders:
        names = [world.sessions[s].name for s in order]
        assert sorted(order) == [0, 1, 2]
        assert names.index("test/20260503_r2") - names.index("test/20260501_r1") == 1


def test_a_record_is_what_the_network_says_of_each_region(world: World, bundle: Bundle) -> None:
    record = world.records[0]
    assert (len(record), record.labels_N.tolist()) == (4, [0, 1] * 4)
    played = world.fixed(world.frames([0, 1, 2]), world.reference[0])
    assert played.regions_T.tolist() == [2] * 12
    assert accuracy(world, [played]).value == np.mean(
        np.concatenate([r.label_NP[:, world.reference[0]] == r.labels_N for r in world.records])
    )


def test_a_record_that_is_damaged_is_made_again_with_a_warning(
    bundle: Bundle, frames: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (session, *_) = sessions_of(str(frames), most_frames=1)
    recorder = Recorder(tmp_path, bundle, num_attacked=1, num_threads=1)
    first = recorder.record(session)
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    again = recorder.record(session)
    assert "recording again, since what was kept is damaged" in caplog.text and file.name in caplog.text
    np.testing.assert_array_equal(again.label_NP, first.label_NP)
    caplog.clear()
    recorder.record(session)
    assert not caplog.text


def test_frames_are_fitted_to_as_the_node_sees_them(world: World, bundle: Bundle) -> None:
    """Regression: densities of single crops were held against means over a frame's regions."""
    for session, record in zip(world.sessions, world.records, strict=True):
        stats_FS = region_frames(session.frames, session.index, bundle.input).statistics()
        np.testing.assert_array_equal(stats_FS, record.stats_FS)


def test_the_policy_and_the_rules_are_judged_by_the_points_that_they_chose(
    world: World, constants: EstimatorConstants, bundle: Bundle
) -> None:
    frame_T = world.frames([0, 1, 2])
    config = PolicyConfig(confidence_topic="absent")
    for played in (
        world.policy(frame_T, bundle.select, config, constants),
        world.naive(frame_T),
        world.oracle(frame_T),
    ):
        np.testing.assert_array_equal(played.right_T, world.right_GP[frame_T, played.point_T])


def test_an_attacked_frame_is_answered_as_it_was_attacked(world: World, constants: EstimatorConstants) -> None:
    order = [0, 1, 2]
    hit_T = world.attacked(order)
    assert np.flatnonzero(hit_T).tolist() == [7], "the last frame of the second session"
    point, column = world.reference[-1], len(world.reference) - 1
    labels_N, _, stats_S, _ = world.answer(7, point, column)
    record = world.records[1]
    np.testing.assert_array_equal(labels_N, record.attacked_label_LNL[column, :, column])
    np.testing.assert_array_equal(stats_S, record.attacked_stats_LFS[column, 0])


def test_alarms_in_usual_light_are_false_and_delays_start_with_the_adverse_session(world: World) -> None:
    adverse = World.__new__(World)
    adverse.adverse_G = np.array([False] * 4 + [True] * 4 + [False] * 4)
    raised = np.array([0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0], bool)
    found = _judged(adverse, [np.arange(12)], [raised])
    assert (found["false_alarms"], found["mean_delay_frames"], found["num_changes"]) == (1.0, 3.0, 1.0)
    assert found["usual_in_alarm"] == 3 / 8
    never = np.zeros(12, bool)
    assert _judged(adverse, [np.arange(12)], [never])["mean_delay_frames"] == 4.0


def test_adwin_finds_a_change_of_mean_and_hardly_another() -> None:
    rng = np.random.default_rng(0)
    value_T = np.clip(np.concatenate([rng.normal(0.8, 0.1, 300), rng.normal(0.4, 0.1, 100)]), 0, 1)
    begins_T = detectors.adwin(value_T, delta=0.001)
    assert not begins_T[:300].any()
    assert 0 < np.flatnonzero(begins_T)[0] - 300 < 40


def test_the_mahalanobis_distance_grows_away_from_every_class_and_knows_their_spread() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([10.0, 0.1])
    labels_N = np.arange(400) % 2
    train_NC = (rng.normal(size=(400, 2)) * spread + labels_N[:, None] * [0.0, 3.0]).astype(np.float32)
    probes_NC = np.array([[10.0, 0.0], [0.0, 1.0], [0.0, 3.0]], np.float32)
    wide, narrow, second = detectors.mahalanobis(train_NC, labels_N, probes_NC)
    assert second < 0.5 < wide < 1.5 < narrow


def test_statistics_that_are_hardly_re_estimated_leave_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    x_NCHW = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for family, depth in (("wide_resnet", 10), ("resnet", 10)):
        config = ModelConfig(family=family, depth=depth, widen_factor=1)  # type: ignore[arg-type]
        tensors = untrained_tensors(config)
        for lam in (0.0, 0.4):
            plain = TorchNet(fold(tensors, config, lam=lam, width=0.5))(x_NCHW)
            monkeypatch.setattr(renormalized, "_TRAINED_COUNTS", 1e12)
            same = renormalized.renormalized(tensors, config, lam=lam, width=0.5)(x_NCHW)
            torch.testing.assert_close(same, plain, rtol=1e-3, atol=1e-4)
            monkeypatch.setattr(renormalized, "_TRAINED_COUNTS", 1.0)
            assert not torch.allclose(renormalized.renormalized(tensors, config, lam=lam, width=0.5)(x_NCHW), plain)


def test_a_frame_takes_as_long_as_its_regions_and_the_whole_image() -> None:
    assert Latencies({1.0: (2.0, 0.5)})(1.0, 3) == 4.0


@pytest.mark.slow
def test_the_days_are_played_from_nothing_to_a_finding(
    bundle: Bundle, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = bundle.report.model_copy(update={"dataset": str(frames)})
    monkeypatch.setattr(Bundle, "report", property(lambda _: report))
    arguments = ["--bundle", str(bundle.path), "--days", "--quick", "--threads", "1", "--cache", str(tmp_path)]
    assert main(arguments) in (0, 1)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "oracle gains" in found["finding"]
    trials = {row["trial"] for row in found["rows"]}
    assert {"sessions", "real days", "alarms", "attacked days", "streaming, 30 Hz, alone"} <= trials


def test_a_data_set_without_frames_is_named(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle.path), "--days"]) == 2
    assert "synthetic" in capsys.readouterr().err


def test_sessions_hold_frames_evenly_spread(frames: Path) -> None:
    (first, *_) = sessions_of(str(frames), most_frames=2)
    assert isinstance(first, Session)
    assert [frame.path.name for frame in first.frames] == ["0.png", "3.png"]
