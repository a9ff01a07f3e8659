"""Laws of frames with boxes: each layout is read right or refused by file and line, and a crop is what a robot sees."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("yaml")

from oat_runtime import OATRuntime
from oat_runtime.architecture import InputSpec, Resize
from oat_runtime.data import ImageSet, PickedImages, data_roots, load_dataset, load_frames, split_validation
from oat_runtime.data.boxes import BOX_SOURCES, BoxFrame, CropRules, frames_of_split, index, index_boxes
from oat_runtime.data.boxes.crops import cut_out, frame_crops
from oat_runtime.errors import DataError
from oat_runtime.image import enlarged
from tests.conftest import make_tiny_bundle

HEIGHT, WIDTH = 60, 80
BALL, ROBOT = "0 0.25 0.5 0.25 0.3", "1 0.75 0.5 0.25 0.5"
BACKGROUNDS = 2


def frame_of(seed: int) -> npt.NDArray[np.uint8]:
    """Patches of colour, like no other frame."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(patches, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), np.uint8)


def save(path: Path, seed: int = 0, text: str | None = f"{BALL}\n{ROBOT}\n", *, labels: str = "images") -> Path:
    """Write an image, and its text file beside it or, below `images`, in `labels`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame_of(seed)[..., ::-1])
    if text is not None:
        at = Path(str(path).replace("/images/", f"/{labels}/")).with_suffix(".txt")
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)
    return path


def save_frames(folder: Path, num: int, *, first: int = 0, labels: str = "images") -> None:
    for number in range(num):
        save(folder / f"{number}.png", first + number, labels=labels)


def described(root: Path, more: str = "") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(f"nc: 2\nnames: [ball, robot]\n{more}")
    return root


def sessions(root: Path, num: int = 5, *, frames: int = 4) -> Path:
    for number in range(num):
        save_frames(described(root) / f"day{number}", frames, first=100 * number)
    return root


def both(root: Path, **options: bool) -> tuple[ImageSet, ImageSet]:
    return load_dataset(f"{root}@16", "train", **options), load_dataset(f"{root}@16", "test", **options)


def frame_names(data: ImageSet) -> set[str]:
    assert data.names is not None
    return {name.split("#")[0] for name in data.names}


def beside(root: Path) -> set[str]:
    (root / "classes.txt").write_text("ball\nrobot\n\n")
    save_frames(root, 8)
    return set()


def trees(root: Path) -> set[str]:
    described(root)
    save_frames(root / "images", 8, labels="labels")
    return set()


def splits_in_trees(root: Path) -> set[str]:
    described(root)
    for place, part in enumerate(("train", "val", "test")):
        save_frames(root / "images" / part, 4, first=100 * place, labels="labels")
    return {f"images/test/{number}.png" for number in range(4)}


def trees_in_splits(root: Path) -> set[str]:
    described(root, "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n")
    for place, part in enumerate(("train", "valid", "test")):
        save_frames(root / part / "images", 4, first=100 * place, labels="labels")
    return {f"test/images/{number}.png" for number in range(4)}


def lists(root: Path) -> set[str]:
    (root / "obj.names").write_text("ball\nrobot\n")
    described(root, "path: .\ntrain: train.txt\ntest: [late]\n")
    save_frames(root / "early", 4)
    save_frames(root / "late", 4, first=50)
    (root / "train.txt").write_text("".join(f"./early/{number}.png\n" for number in range(4)))
    return {f"late/{number}.png" for number in range(4)}


def darknet(root: Path) -> set[str]:
    """As Darknet and CVAT write it. The lists were left out as `not an image`, and the hash of names decided."""
    (root / "obj.names").write_text("ball\nrobot\n")
    for place, part in enumerate(("Train", "valid", "test")):
        save_frames(root / f"obj_{part}_data", 4, first=100 * place)
        (root / f"{part}.txt").write_text("".join(f"data/obj_{part}_data/{number}.png\n" for number in range(4)))
    return {f"obj_test_data/{number}.png" for number in range(4)}


@pytest.mark.parametrize("lay_out", [beside, trees, splits_in_trees, trees_in_splits, lists, darknet])
def test_each_layout_gives_crops_by_class_of_every_frame_once(
    lay_out: Callable[[Path], set[str]], tmp_path: Path
) -> None:
    root = tmp_path / "frames"
    root.mkdir()
    official = lay_out(root)
    train, test = both(root)
    everything = {path.relative_to(root).as_posix() for path in root.rglob("*.png")}
    assert frame_names(train) | frame_names(test) == everything and not frame_names(train) & frame_names(test)
    assert not official or frame_names(test) == official
    assert train.class_names == test.class_names == ("ball", "robot", "background")
    assert train.images_NHWC.shape[1:] == (16, 16, 3) and train.region_margin == CropRules().margin
    for data in (train, test):
        num = len(frame_names(data))
        assert Counter(data.labels_N.tolist()) == {0: num, 1: num, 2: BACKGROUNDS * num}
    held = {name for name in everything if "val" in name}
    assert (train.validation_N is not None) == bool(held)
    if held:
        training, validation = split_validation(train, 1, seed=0)
        assert frame_names(validation) == held and not frame_names(training) & held


@pytest.mark.parametrize("resize", ["center_crop", "stretch"])
def test_a_crop_is_what_the_runtime_makes_of_the_box_to_the_bit(tmp_path: Path, engine: str, resize: Resize) -> None:
    root = described(tmp_path / "frames", "crops: {margin: 0.25, min_side_px: 1}\n")
    rng = np.random.default_rng(0)
    size_N2 = rng.uniform(0.05, 0.5, (9, 2))
    boxes_N4 = np.concatenate((rng.uniform(size_N2 / 2, 1 - size_N2 / 2), size_N2), axis=1)
    save(root / "images" / "1.png", 3, "".join(f"0 {' '.join(map(str, box))}\n" for box in boxes_N4), labels="labels")
    save(root / "images" / "2.png", 4, labels="labels")
    crops = load_dataset(f"{root}@32", "train", resize=resize), load_dataset(f"{root}@32", "test", resize=resize)
    spec = InputSpec(region_margin=crops[0].region_margin, resize=resize)
    runtime = OATRuntime.load(make_tiny_bundle(tmp_path / "net", spec), backend=engine, num_threads=1)
    num = 0
    for frame in load_frames(str(root)).frames:
        pixels_HWC = frame.read()
        of_frame = {
            name: image
            for data in crops
            for name, image in zip(data.names or (), data.images_NHWC, strict=True)
            if name.startswith(f"{frame.name}#") and "background" not in name
        }
        images = [of_frame[f"{frame.name}#{line}"] for line in frame.lines_N]
        seen = runtime.predict_regions(pixels_HWC, frame.boxes(*pixels_HWC.shape[:2]))
        for region, alone in zip(seen, runtime.predict_batch(images), strict=True):
            np.testing.assert_array_equal(region.logits_K, alone.logits_K)
            num += 1
    assert num == 11
    runtime.close()


def test_a_region_holds_its_box_stays_in_the_frame_and_has_the_inputs_shape_where_there_is_room() -> None:
    rng = np.random.default_rng(0)
    for height, width, margin in ((16, 16, 0.1), (12, 32, 0.0), (32, 16, 0.5)):
        spec = InputSpec(height=height, width=width, region_margin=margin)
        for _ in range(300):
            (left, right), (top, bottom) = (np.sort(rng.choice(size + 1, 2, replace=False)) for size in (WIDTH, HEIGHT))
            box = int(left), int(top), int(right), int(bottom)
            seen = enlarged(box, height=HEIGHT, width=WIDTH, spec=spec)
            assert (
                0 <= seen[0] <= left < right <= seen[2] <= WIDTH and 0 <= seen[1] <= top < bottom <= seen[3] <= HEIGHT
            )
            columns, rows = seen[2] - seen[0], seen[3] - seen[1]
            if columns < WIDTH and rows < HEIGHT:
                assert abs(columns * height - rows * width) <= max(height, width)
            assert enlarged(box, height=HEIGHT, width=WIDTH, spec=InputSpec()) == box
            stretched = spec.model_copy(update={"resize": "stretch"})
            seen = enlarged(box, height=HEIGHT, width=WIDTH, spec=stretched)
            assert (
                0 <= seen[0] <= left < right <= seen[2] <= WIDTH and 0 <= seen[1] <= top < bottom <= seen[3] <= HEIGHT
            )


def test_a_region_that_is_stretched_keeps_the_shape_of_its_box_and_shows_nothing_beside_it() -> None:
    spec = InputSpec(height=16, width=16, resize="stretch", region_margin=0.1)
    for box, seen in (
        ((40, 10, 50, 40), (39, 7, 51, 43)),  # narrow: a square would reach from 27 to 63
        ((20, 20, 40, 30), (18, 19, 42, 31)),
        ((0, 0, 10, 60), (0, 0, 12, 60)),
    ):
        assert enlarged(box, height=HEIGHT, width=WIDTH, spec=spec) == seen
    image_HWC = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image_HWC[:, :38], image_HWC[:, 52:] = 255, 255
    (crop_HWC,) = cut_out(image_HWC, np.array([[40, 10, 50, 40]]), spec)
    assert not crop_HWC.any()
    (crop_HWC,) = cut_out(image_HWC, np.array([[40, 10, 50, 40]]), spec.model_copy(update={"resize": "center_crop"}))
    assert crop_HWC.any()


def test_an_input_without_a_margin_is_written_as_before() -> None:
    assert "region_margin" not in InputSpec().model_dump() and "region_margin" not in InputSpec().model_dump_json()
    with_margin = InputSpec(region_margin=0.1)
    assert InputSpec.model_validate_json(with_margin.model_dump_json()) == with_margin


WRONG = [
    ("0 0.5 0.5 0.2", r"1\.txt:2: expected `class cx cy w h`, got 4 values"),
    ("0 0.5 0.5 0.2 0.2 0.9", r"1\.txt:2: .*got 6 values: outlines and points are not read"),
    ("2 0.5 0.5 0.2 0.2", r"1\.txt:2: expected a class of 0 to 1, got 2"),
    ("-1 0.5 0.5 0.2 0.2", r"1\.txt:2: .*whole number for the class, got '-1'"),
    ("1.5 0.5 0.5 0.2 0.2", r"1\.txt:2: .*whole number for the class"),
    ("0 nan 0.5 0.2 0.2", r"1\.txt:2: .*in shares of the frame, got 'nan'"),
    ("0 0.5 inf 0.2 0.2", r"1\.txt:2: .*got 'inf'"),
    ("0 0.5 0.5 1e999 0.2", r"1\.txt:2: expected a box within the frame"),
    ("0 0.5 0.5 0 0.2", r"1\.txt:2: expected a box with area"),
    ("0 0.5 0.5 -0.2 0.2", r"1\.txt:2: expected a box with area"),
    ("0 0.95 0.5 0.2 0.2", r"1\.txt:2: expected a box within the frame, all in shares of 0 to 1"),
    ("0 40 30 20 18", r"1\.txt:2: expected a box within the frame"),
    ("ball 0.5 0.5 0.2 0.2", r"1\.txt:2: .*got 'ball'"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_wrong_line_is_refused_by_file_and_number(line: str, message: str, tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames")
    (root / "day1" / "1.txt").write_text(f"{BALL}\n{line}\n")
    with pytest.raises(DataError, match=message) as refused:
        load_dataset(f"{root}@16", "train")
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_and_huge_files_are_refused(tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames")
    text = root / "day1" / "1.txt"
    text.write_bytes(BALL.encode() + b"\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"1\.txt:2: expected UTF-8"):
        index_boxes(root)
    text.write_bytes(b"\n" * 2**21)
    with pytest.raises(DataError, match=r"1\.txt cannot be read \(larger than 1048576 bytes\)"):
        index_boxes(root)


def test_all_wrong_text_files_are_named_at_once_or_left_out_with_their_frames(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = sessions(tmp_path / "frames")
    (root / "day1" / "1.txt").write_text("9 0.5 0.5 0.2 0.2\n")
    (root / "day2" / "lost.txt").write_text(f"{BALL}\n")
    with pytest.raises(DataError, match=r"2 text files of boxes are wrong: .*--skip-broken.*day2/lost.txt, day1/1.txt"):
        both(root)
    reasons = ("boxes without an image", "expected a class of 0 to 1, got 9")
    assert all(reason in caplog.text for reason in reasons)
    caplog.clear()
    train, test = both(root, skip_broken=True)
    assert all(reason in caplog.text for reason in reasons)
    assert "day1/1.png" not in frame_names(train) | frame_names(test)
    assert "2 left out: wrong text file (day2/lost.txt, day1/1.txt)" in caplog.text


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = described(tmp_path / "frames")
    for part in ("train", "test"):
        save_frames(root / part, 2, first=len(part))
    save(root / "train" / "bare.png", 7, None)
    save(root / "train" / "empty.png", 8, "")
    save(root / "train" / "small.png", 9, f"{BALL}\n{BALL}\n1 0.75 0.5 0.1 0.1\n")
    save(root / "train" / "full.png", 10, "0 0.5 0.5 1 1\n")
    (root / "train" / "notes.txt").write_text("seen on Monday\n")
    caplog.set_level(logging.INFO)
    train = load_dataset(f"{root}@16", "train")
    assert Counter(train.labels_N.tolist()) == {0: 4, 1: 2, 2: 2 * 4}
    assert {"train/small.png#1", "train/empty.png#background-1"} <= set(train.names or ())
    for line in (
        "1 left out: image without a text file (train/bare.png)",
        "1 left out: box that occurs twice (train/small.png#2)",
        "1 left out: box that is too small (train/small.png#3)",
        "2 left out: background crop without room (train/full.png#background-1, train/full.png#background-2)",
        "1 left out: not an image (train/notes.txt)",
        "14 crops read as train: ball 4, robot 2, background 8",
    ):
        assert line in caplog.text


def test_a_class_without_crops_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = sessions(tmp_path / "frames")
    (root / "data.yaml").write_text("names: {0: ball, 1: robot, 2: referee}\n")
    load_dataset(f"{root}@16", "train")
    assert "no crop of class referee" in caplog.text


def test_one_name_twice_is_one_class_and_settings_lie_with_the_data(tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames")
    settings = "crops: {margin: 0.5, min_side_px: 25, backgrounds_per_frame: 0}"
    (root / "data.yaml").write_text(f"names: [robot, robot, ball]\n{settings}\n")
    train = load_dataset(f"{root}@16", "train")
    assert (train.class_names, train.region_margin) == (("robot", "ball"), 0.5)
    assert set(train.labels_N.tolist()) == {0} and len(train) == len(frame_names(train))  # the box of 20 x 30 pixels


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [ball]\ncrops: {margins: 1}", "crops: margins"),
        ("names: [ball]\ncrops: {backgrounds_per_frame: 0}", "expected at least 2 classes"),
        ("names: {0: ball, 2: robot}", "names: expected the indices 0 to 1"),
        ("names: [ball, '']", "expected the name of class 1"),
        ("names: [0, 1]", "expected the name of class 0, .* got 0: set it in quotes"),
        ('names: ["caf\u00e9", "cafe\u0301"]', "are one name in two forms of Unicode"),
        ("names: ball", "names: expected a list"),
        ("names: [a, b", "is not YAML"),
        ("names: &a [ball, robot]\nothers: *a", "needs no references"),
        ("nc: 2", "expected `names`"),
        ("nc: 3\nnames: [ball, robot]", "nc says 3 classes, names has 2"),
        ("names: [ball, robot]\ntrain: ../elsewhere", "'../elsewhere', which is not in this folder"),
        ("names: [ball, robot]\ntrain: day0\nval: day0", "into two splits, train and validation"),
        ("names: [ball, robot]\nval: day0", "without train"),
        ("names: [ball, robot]\ntrain: day0\nval: day1\nvalid: day2", "valid names the validation split a second time"),
        ('names: [ball, robot]\npath: "a\\0b"\ntrain: ../x', "'../x', which is not in this folder"),
        ("names: [ball, robot]\ntrain: 3", "train: expected a folder or a list of folders"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(yaml: str, message: str, tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames")
    (root / "data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message):
        load_dataset(f"{root}@16", "train")


def test_folders_that_are_nearly_splits_are_no_sessions(tmp_path: Path) -> None:
    """`train2017` and `val2017` were two sessions, of which one or the other became the test set."""
    root = described(tmp_path / "frames")
    for place, part in enumerate(("train2017", "val2017")):
        save_frames(root / "images" / part, 4, first=100 * place, labels="labels")
    with pytest.raises(DataError, match="train2017, val2017 look like splits, which are called train, val and test"):
        load_dataset(f"{root}@16", "train")


def test_a_list_of_classes_beside_the_text_files_must_agree(tmp_path: Path) -> None:
    """LabelImg writes one there. The boxes took the names of the other one without a word."""
    root = sessions(tmp_path / "frames")
    for content in ("ball\n", "ball\nrobot\n\n", ""):
        (root / "day0" / "classes.txt").write_text(content)
        load_dataset(f"{root}@16", "train")
    (root / "day0" / "classes.txt").write_text("robot\nball\n")
    with pytest.raises(DataError, match=r"day0/classes.txt calls class 0 'robot', and the folder's own list 'ball'"):
        load_dataset(f"{root}@16", "train")


def test_what_could_be_boxes_and_folders_of_classes_is_refused(tmp_path: Path) -> None:
    for name in ("ball", "robot"):
        save_frames(tmp_path / name, 4, first=len(name))
    with pytest.raises(DataError, match=r"ball/0\.txt holds boxes, but no file names their classes: add classes\.txt"):
        load_dataset(f"{tmp_path}@16", "train")
    (tmp_path / "classes.txt").write_text("ball\nrobot\n")
    with pytest.raises(DataError, match="ball, robot could be folders of one class each, or sessions"):
        load_dataset(f"{tmp_path}@16", "train")
    (tmp_path / "train").mkdir()
    for name in ("ball", "robot"):
        (tmp_path / name).rename(tmp_path / "train" / name)
    with pytest.raises(DataError, match="ball, robot could be folders of one class each, or sessions"):
        load_dataset(f"{tmp_path}@16", "train")
    for text in tmp_path.rglob("*/*.txt"):
        text.unlink()
    assert load_dataset(f"{tmp_path}@16", "train").class_names == ("ball", "robot")


@pytest.mark.parametrize("place", ["day{}/labels/{}.txt", "day{}/{}.TXT", "boxes/day{}/{}.txt"])
def test_boxes_that_belong_to_no_image_never_make_sessions_classes(place: str, tmp_path: Path) -> None:
    """Regression: the folders of the sessions became the classes, and the boxes were left out as no images."""
    root = described(tmp_path / "frames")
    for day in range(2):
        for number in range(3):
            save(root / f"day{day}" / f"{number}.png", 10 * day + number, None)
            text = root / place.format(day, number)
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text("\n" * number + f"{BALL}\n")  # an empty line hid them
    with pytest.raises(DataError, match="6 text files of boxes are wrong"):
        load_dataset(f"{root}@16", "train")
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match="holds boxes, but no file names their classes"):
        load_dataset(f"{root}@16", "train")


def test_two_meanings_of_one_file_are_refused(tmp_path: Path) -> None:
    root = described(tmp_path / "frames")
    first = save(root / "images" / "1.png", 1, labels="labels")
    first.with_suffix(".txt").write_text(BALL)
    with pytest.raises(DataError, match=r"1\.png: both .*labels/1\.txt and 1\.txt beside it"):
        index_boxes(root)
    first.with_suffix(".txt").unlink()
    save(root / "images" / "1.jpg", 2, None)
    with pytest.raises(DataError, match=r"labels/1\.txt would hold the boxes of images/1\.(png|jpg), images/1"):
        index_boxes(root)
    (root / "images" / "1.jpg").unlink()
    (root / "classes.txt").write_text("ball\ngoal\n")
    with pytest.raises(DataError, match=r"data\.yaml and classes\.txt name other classes"):
        index_boxes(root)
    (root / "classes.txt").unlink()
    save(root / "train" / "2.png", 3)
    with pytest.raises(DataError, match=r"images/1\.png is in no folder of a split, others are"):
        index_boxes(root)
    with pytest.raises(DataError, match="boxes have many sizes: put the side to fit them to behind the name"):
        load_dataset(str(sessions(tmp_path / "others")), "train")


def test_broken_images_are_refused_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = sessions(tmp_path / "frames", 2)
    for name in ("day0/1.png", "day1/2.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    with pytest.raises(DataError, match="1 of 4 images cannot be read"):
        load_dataset(f"{root}@16", "train")
    caplog.clear()
    train, test = both(root, skip_broken=True)
    assert len(frame_names(train)) == len(frame_names(test)) == 3
    assert all(f"{name} cannot be decoded" in caplog.text for name in ("day0/1.png", "day1/2.png"))
    assert caplog.text.count("1 left out: broken image") == 2


def test_no_split_divides_a_session_or_a_frame(tmp_path: Path) -> None:
    train, test = both(sessions(tmp_path / "sessions", 6))
    training, validation = split_validation(train, 10, seed=0, stratified=True)
    parts = [{name.split("/")[0] for name in frame_names(data)} for data in (training, validation, test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 6
    described(tmp_path / "single")
    save_frames(tmp_path / "single", 12)
    for number in range(12, 15):  # near copies of the first frame
        save(tmp_path / "single" / f"{number}.png", 0)
    train, test = both(tmp_path / "single")
    training, validation = split_validation(train, 10, seed=0, stratified=True)
    parts = [frame_names(data) for data in (training, validation, test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 15
    assert any({"0.png", "12.png", "13.png", "14.png"} <= part for part in parts)
    assert {frame.name for frame in frames_of_split(index_boxes(tmp_path / "single"), "test")} == parts[2]


@pytest.mark.parametrize("first", [0, 1])
def test_frames_that_a_list_holds_out_for_validation_are_never_test_frames(first: int, tmp_path: Path) -> None:
    """Regression: the first frame of a session decided for all of it, so that there were none or far too many."""
    root = sessions(tmp_path / "frames", 5)
    names = [f"day{day}/{number}.png" for day in range(5) for number in range(4)]
    held_out = set(names[first::4])
    (root / "train.txt").write_text("".join(f"{name}\n" for name in names if name not in held_out))
    (root / "val.txt").write_text("".join(f"{name}\n" for name in names if name in held_out))
    described(root, "train: train.txt\nval: val.txt\n")
    train, test = both(root)
    assert train.validation_N is not None
    assert {name for name in frame_names(train) if name in held_out} == held_out
    assert len(frame_names(test)) == 3 and not frame_names(test) & (held_out | frame_names(train))


def test_backgrounds_touch_no_box_and_depend_on_their_frame_alone(tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames", 3)
    train = load_dataset(f"{root}@16", "train")
    before = dict(zip(train.names or (), train.images_NHWC, strict=True))
    save(root / "day0" / "new.png", 77)
    after = load_dataset(f"{root}@16", "train")
    again = dict(zip(after.names or (), after.images_NHWC, strict=True))
    assert set(again) > set(before) or len(again) == len(before)
    for name in before.keys() & again.keys():
        np.testing.assert_array_equal(before[name], again[name])
    spec, rules = InputSpec(region_margin=0.1), CropRules(backgrounds_per_frame=50, min_side_px=4)
    found = replace(index_boxes(root), rules=rules)
    for frame in found.frames:
        crops = frame_crops(frame, found, height=HEIGHT, width=WIDTH, spec=spec)
        assert (crops.labels_N == 2).sum() == 50 and not crops.without_room
        for box in crops.boxes_N4[crops.labels_N == 2].tolist():
            left, top, right, bottom = enlarged(tuple(box), height=HEIGHT, width=WIDTH, spec=spec)
            for other in frame.boxes(HEIGHT, WIDTH).tolist():
                assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_each_frame_is_decoded_once_and_none_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read = sessions(tmp_path / "frames"), Counter[Path]()
    original = index.read_picture

    def counted(path: Path) -> Any:
        read[path] += 1
        return original(path)

    monkeypatch.setattr(index, "read_picture", counted)
    train, _ = both(root)
    assert set(read.values()) == {1} and len(read) == 20
    assert isinstance(train.images_NHWC, PickedImages) and train.images_NHWC.stored_NHWC.shape[1:] == (16, 16, 3)


def test_frames_come_session_by_session_in_their_order_with_their_boxes(tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames", 11, frames=12)
    found = load_frames(f"{root}@16")
    expected = [f"day{day}/{number}.png" for day in range(11) for number in range(12)]
    assert [frame.name for frame in found.frames] == expected
    frame = found.frames[-1]
    np.testing.assert_array_equal(frame.read(), frame_of(1011))
    assert [found.class_names[label] for label in frame.labels_N] == ["ball", "robot"]
    assert frame.boxes(HEIGHT, WIDTH).tolist() == [[10, 21, 30, 39], [50, 15, 70, 45]]
    train, test = frames_of_split(found, "train"), frames_of_split(found, "test")
    assert {f.name for f in train} == frame_names(load_dataset(f"{root}@16", "train"))
    assert len(train) + len(test) == 132 and len({f.session for f in train} | {f.session for f in test}) == 11
    with pytest.raises(DataError, match="unknown data set 'nowhere': expected one of robocup, robocup-poor-light, or"):
        load_frames("nowhere")
    with pytest.raises(DataError, match="gtsrb holds images without boxes"):
        load_frames("gtsrb")


def test_sessions_below_a_folder_of_frames_do_not_come_between_them(tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames", 2, frames=3)
    for name in ("1", "zoo"):
        for suffix in (".png", ".txt"):
            (root / "day0" / "day1").mkdir(exist_ok=True)
            shutil.copy(root / "day0" / f"0{suffix}", root / "day0" / "day1" / f"{name}{suffix}")
            shutil.copy(root / "day0" / f"0{suffix}", root / "day0" / f"{name}{suffix}")
    found = [frame.session for frame in load_frames(str(root)).frames]
    assert found == [*["day0"] * 4, *["day0/day1"] * 2, *["day1"] * 3]


def test_a_box_takes_in_each_pixel_that_it_touches_and_ends_at_the_border() -> None:
    shares_N4 = np.array([[0.0511, 0.0511, 0.1, 0.1], [0.999, 0.5, 0.004, 0.5]])
    labels_N = np.zeros(2, np.int64)
    frame = BoxFrame(Path("a.png"), "a.png", ".", "train", labels_N, shares_N4, labels_N)
    assert frame.boxes(100, 100).tolist() == [[0, 0, 11, 11], [99, 25, 100, 75]]
    assert cut_out(frame_of(0), frame.boxes(HEIGHT, WIDTH), InputSpec(height=8, width=8))[1].shape == (8, 8, 3)


def test_a_crop_keeps_the_longer_side_of_its_box_without_the_margin(tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames", 8)
    train = load_dataset(f"{root}@16", "train")
    assert train.sides_N is not None and train.names is not None
    for name, label, side in zip(train.names, train.labels_N.tolist(), train.sides_N.tolist(), strict=True):
        if label < BACKGROUNDS:
            assert side == {"ball": 20, "robot": 30}[train.class_names[label]], name
        else:
            assert 16 <= side <= HEIGHT
    assert train.first(5).sides_N.tolist() == train.sides_N[:5].tolist()  # type: ignore[union-attr]


def test_the_beginning_of_a_set_is_a_sample_and_always_the_same(tmp_path: Path) -> None:
    root = sessions(tmp_path / "frames", 8)
    train, again = load_dataset(f"{root}@16", "train"), load_dataset(f"{root}@16", "train", limit=24)
    np.testing.assert_array_equal(train.images_NHWC[:24], again.images_NHWC)
    assert len({name.split("/")[0] for name in again.names or ()}) > 3 and len(set(again.labels_N.tolist())) == 3


def robocup(root: Path) -> Path:
    """Seven early sessions, two late ones, one in poor light."""
    rows = ["session,group,num_frames"]
    main = (*(f"2019060{day}_r2" for day in range(1, 7)), "20260311_r4", "20260312_r5", "20260602_r5")
    for place, name in enumerate((*main, "20190706_r5")):
        for number in range(2):
            save(root / "robocup" / name / f"{number}.png", 10 * place + number, f"{BALL}\n3 0.75 0.5 0.25 0.5\n")
        rows.append(f"{name},{'main' if name in main else 'poor_light'},2")
    (root / "robocup" / "sessions.csv").write_text("\n".join(rows) + "\n")
    return root


def test_robocup_is_divided_by_day_and_poor_light_is_never_trained_on(tmp_path: Path) -> None:
    root = robocup(tmp_path)
    train, test = (load_dataset("robocup@16", split, root=root) for split in ("train", "test"))
    assert train.class_names == ("ball", "robot", "human", "goal post", "background")
    assert {name.split("/")[0] for name in frame_names(train)} == {
        *(f"2019060{day}_r2" for day in range(1, 7)),
        "20260311_r4",
    }
    assert {name.split("/")[0] for name in frame_names(test)} == {"20260312_r5", "20260602_r5"}
    assert set(train.labels_N.tolist()) == {0, 1, 4}  # parked robots are robots
    _, validation = split_validation(train, 1, seed=0)
    assert {name.split("/")[0] for name in frame_names(validation)} == {"20190606_r2"}  # every sixth session
    dark = load_dataset("robocup-poor-light@16", "test", root=root)
    assert dark.class_names == train.class_names and set(dark.labels_N.tolist()) == {0, 1}
    assert {name.split("/")[0] for name in frame_names(dark)} == {"20190706_r5"}
    with pytest.raises(DataError, match="robocup-poor-light: no train frames"):
        load_dataset("robocup-poor-light@16", "train", root=root)
    (root / "robocup" / "20190606_r2" / "1.txt").unlink()
    with pytest.raises(DataError, match=r"20190606_r2: expected 2 frames, as in sessions\.csv"):
        load_dataset("robocup@16", "train", root=root)
    with pytest.raises(DataError, match="no frames of RoboCup's Middle Size League under"):
        load_dataset("robocup@16", "train", root=tmp_path / "empty")


def test_the_real_sessions_are_whole_where_they_are_at_hand() -> None:
    if not any((root / "robocup" / "sessions.csv").is_file() for root in data_roots()):
        pytest.skip("no robocup data")
    found = BOX_SOURCES["robocup"].index(data_roots())
    num = Counter(frame.part for frame in found.frames)
    assert num == {"train": 1058 - 170, "validation": 170, "test": 731}
    assert min(frame.session for frame in found.frames if frame.part == "test") == "20260312_r5"
    labels_N = np.concatenate([frame.labels_N for frame in found.frames if frame.part != "test"])
    assert np.bincount(labels_N).tolist() == [1134, 3570 + 243, 2259, 1408]
