"""Frames with boxes are played as training and benchmarks cut them, from wherever they are found."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from oat_perception.replay import frames
from oat_perception.replay.frames import find_robocup, is_session, open_session
from oat_perception.replay.sources import open_source

from oat_runtime.architecture import InputSpec
from oat_runtime.data import load_dataset, load_frames, roots
from oat_runtime.data.boxes.crops import cut_out
from oat_runtime.errors import DataError

SESSIONS = {"20260502_r5": "main", "20260503_r3": "main", "20190101_r1": "main", "20190707_r3": "poor_light"}


def save_robocup(root: Path) -> Path:
    """Two test sessions, one to train on, one in poor light; two frames each with a robot and a person."""
    for at, name in enumerate(SESSIONS):
        (root / "robocup" / name).mkdir(parents=True)
        for number in range(2):
            image_HWC = np.random.default_rng(10 * at + number).integers(0, 256, (96, 128, 3), np.uint8)
            cv2.imwrite(str(root / "robocup" / name / f"{number}.png"), image_HWC)
            (root / "robocup" / name / f"{number}.txt").write_text("1 0.25 0.5 0.25 0.25\n2 0.75 0.5 0.2 0.4\n")
    rows = [f"{name},{group},2" for name, group in SESSIONS.items()]
    (root / "robocup" / "sessions.csv").write_text("\n".join(["session,group,num_frames", *rows, ""]))
    return root


@pytest.fixture(autouse=True)
def _nothing_is_remembered():
    frames._index.cache_clear()


def test_a_session_is_played_in_its_order_with_the_crops_of_the_data_set(tmp_path):
    root = save_robocup(tmp_path)
    crops = load_dataset("robocup@32", "test", root=root)
    by_name = dict(zip(crops.names or (), crops.images_NHWC[:], strict=True))
    spec = InputSpec(height=32, width=32, region_margin=crops.region_margin)
    played = list(open_source("robocup/20260502_r5", data_root=str(root)))
    assert [frame.index for frame in played] == [0, 1] and all(frame.label is None for frame in played)
    for frame in played:
        name = f"20260502_r5/{frame.index}.png"
        boxes = load_frames("robocup", root=root)
        (found,) = (each for each in boxes.frames if each.name == name)
        assert frame.labels_N[:2].tolist() == found.labels_N.tolist() == [1, 2]
        assert frame.labels_N[2:].tolist() == [4, 4]  # two of background, where there is room
        cut = cut_out(frame.image_HWC, frame.boxes_N4, spec)
        names = (f"{name}#1", f"{name}#2", f"{name}#background-1", f"{name}#background-2")
        assert all(np.array_equal(image, by_name[crop]) for image, crop in zip(cut, names, strict=True))


def test_poor_light_has_no_background_since_its_labels_are_incomplete(tmp_path):
    session = open_session("robocup-poor-light/20190707_r3", save_robocup(tmp_path))
    assert len(session) == 2 and session[0].labels_N.tolist() == [1, 2]
    assert session.class_names == open_session("robocup", tmp_path).class_names


def test_a_session_that_was_trained_on_or_is_not_there_is_refused(tmp_path):
    root = save_robocup(tmp_path)
    assert is_session("robocup/x") and not is_session("cifar10") and not is_session("/some/robocup")
    for name in ("20190101_r1", "20190707_r3", "20991231_r1"):
        with pytest.raises(DataError, match="expected one of 20260502_r5, 20260503_r3"):
            open_session(f"robocup/{name}", root)


def test_frames_are_found_in_the_usual_folders_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.delenv("OAT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(roots, "BESIDE_PROJECT", tmp_path / "beside")
    fetched: list[Path] = []
    monkeypatch.setattr(frames, "fetch_sample", lambda root, progress=None: fetched.append(root))
    sample = tmp_path / "cache" / "oat" / "data" / "robocup-sample"
    assert find_robocup() == sample == fetched.pop()
    assert find_robocup(str(save_robocup(tmp_path / "named"))) == tmp_path / "named"
    save_robocup(sample)
    assert find_robocup() == sample
    save_robocup(tmp_path / "beside")
    assert find_robocup() == tmp_path / "beside"
    monkeypatch.setenv("OAT_DATA", str(tmp_path / "named"))
    assert find_robocup() == tmp_path / "named"
    assert not fetched


@pytest.mark.parametrize("named", [True, False])
def test_without_frames_and_network_one_line_says_what_to_do(tmp_path, monkeypatch, named):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(roots, "BESIDE_PROJECT", tmp_path / "beside")
    monkeypatch.delenv("OAT_DATA", raising=False)
    if named:
        monkeypatch.setenv("OAT_DATA", str(tmp_path / "empty"))

    def no_network(root, progress=None):
        assert not named, "a folder that a person names is not filled without asking"
        raise DataError("20260502_r5/cam.jpg could not be downloaded (no network)")

    monkeypatch.setattr(frames, "fetch_sample", no_network)
    with pytest.raises(DataError, match="set OAT_DATA to the folder that holds it") as refused:
        find_robocup()
    assert "\n" not in str(refused.value)
