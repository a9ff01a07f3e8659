"""Laws of folders of pictures: each layout is read right or refused by name, what is left out is counted and named."""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("PIL")
from PIL import Image

from oat_runtime.architecture import Resize
from oat_runtime.data import ImageSet, lasting_name, load_dataset, short_name, split_validation
from oat_runtime.data.folders import index_folder, near_copies
from oat_runtime.data.folders.near_copies import group_near_copies, hashes, thumbnail
from oat_runtime.data.image_files import is_picture
from oat_runtime.errors import ConfigError, DataError

Bytes = npt.NDArray[np.uint8]
SIDE = 32


def picture(seed: int) -> Bytes:
    """Patches of colour, like no other picture."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(patches, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)


def save(path: Path, image: Bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def save_class(folder: Path, num: int, *, first: int = 0) -> None:
    for number in range(num):
        save(folder / f"{number:03d}.png", picture(first + number))


def photos(root: Path, *splits: str, num: int = 6) -> Path:
    """Pictures of cats and dogs, in each of these folders or, without any, in `root` itself."""
    for place, split in enumerate(splits or (".",)):
        for label, name in enumerate(("cat", "dog")):
            save_class(root / split / name, num, first=1000 * place + 100 * label)
    return root


def names(data: ImageSet) -> set[str]:
    assert data.names is not None
    return set(data.names)


def both(root: Path, **options: bool) -> tuple[ImageSet, ImageSet]:
    return load_dataset(str(root), "train", **options), load_dataset(str(root), "test", **options)


SPLITS = [
    ("train", "test"),
    ("Train", "Test"),
    ("Training", "Testing"),
    ("TRAINING", "test"),
    ("train", "val"),
    ("train", "Valid"),
    ("train", "validation"),
    ("Train", "Val", "Test"),
    ("train", "valid", "test"),
    ("training", "validation", "testing"),
]


def test_a_relative_path_means_the_same_folder_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`photos@64` in a bundle meant whatever `photos` lay in the folder where the bundle was evaluated."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    photos(mine / "photos", num=6)
    photos(other / "photos", num=9)
    monkeypatch.chdir(mine)
    lasting = lasting_name("photos@8")
    assert (lasting, short_name(lasting)) == (f"{mine}/photos@8", "photos@8")
    assert lasting_name(lasting) == lasting and lasting_name("photos") == f"{mine}/photos"
    assert lasting_name("cifar10") == short_name("cifar10") == "cifar10"
    assert lasting_name("stl10@64") == "stl10@64" and lasting_name("nothing@8") == "nothing@8"
    monkeypatch.chdir(other)
    assert names(load_dataset(lasting, "train")) < {
        f"{kind}/{at:03d}.png" for kind in ("cat", "dog") for at in range(6)
    }
    (mine / "photos").rename(tmp_path / "photos")
    monkeypatch.delenv("OAT_DATA", raising=False)
    with pytest.raises(DataError, match=f"no folder {mine}/photos, and none called photos under .*set OAT_DATA"):
        load_dataset(lasting, "train")
    monkeypatch.setenv("OAT_DATA", str(tmp_path))
    assert len(load_dataset(lasting, "train")) + len(load_dataset(lasting, "test")) == 12


@pytest.mark.parametrize("splits", SPLITS, ids="/".join)
def test_folders_of_splits_are_splits_in_any_case_and_never_classes(splits: tuple[str, ...], tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", *splits)
    train, test = both(root)
    assert train.class_names == test.class_names == ("cat", "dog")
    held = [name for name in splits if name.lower().startswith("val")]
    official = [name for name in splits if name.lower().startswith("test")]
    everything = {path.relative_to(root).as_posix() for path in root.rglob("*.png")}
    assert names(train) | names(test) == everything and not names(train) & names(test)
    if official:
        assert names(test) == {name for name in everything if name.startswith(official[0])}
    else:
        assert all(name.startswith(splits[0]) for name in names(test)) and set(test.labels_N.tolist()) == {0, 1}
    if held:
        assert train.validation_N is not None and train.names is not None
        assert train.validation_N.tolist() == [name.startswith(held[0]) for name in train.names]
    else:
        assert train.validation_N is None


def test_a_validation_folder_is_the_validation_split_whatever_number_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = load_dataset(str(photos(tmp_path, "train", "val", "test")), "train")
    with caplog.at_level(logging.INFO):
        for num, seed, stratified in ((1, 0, False), (500, 7, True)):
            kept, validation = split_validation(train, num, seed=seed, stratified=stratified)
            assert names(kept) == {name for name in names(train) if name.startswith("train")}
            assert names(validation) == {name for name in names(train) if name.startswith("val")}
    assert "the 12 images of its validation folder are held out; num_validation (500) is not used" in caplog.text
    with pytest.raises(DataError, match="expected training and validation images, got 0 and 12"):
        split_validation(validation, 1, seed=0)


def test_one_folder_of_classes_gives_each_class_images_on_both_sides(tmp_path: Path) -> None:
    for num in (2, 3, 6, 40):
        train, test = both(photos(tmp_path / str(num), num=num))
        assert set(train.labels_N.tolist()) == set(test.labels_N.tolist()) == {0, 1}
        assert len(train) + len(test) == 2 * num and not names(train) & names(test)
        assert len(test) < len(train) or num == 2


def test_a_subfolder_of_a_class_is_a_group_unless_it_holds_all_of_the_class(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        for session in range(6):
            save_class(tmp_path / "photos" / name / f"session{session}", 5, first=1000 * label + 100 * session)
        save_class(tmp_path / "photos" / name, 4, first=1000 * label + 900)
        save_class(tmp_path / "nested" / name / "images", 10, first=1000 * label)
    train, test = both(tmp_path / "photos")
    sides = [{name.rsplit("/", 1)[0] for name in names(data) if "session" in name} for data in (train, test)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 12
    kept, validation = split_validation(train, 10, seed=3, stratified=True)
    sides = [{name.rsplit("/", 1)[0] for name in names(data) if "session" in name} for data in (kept, validation)]
    assert not sides[0] & sides[1]
    assert load_dataset(str(tmp_path / "nested"), "train").groups_N is None


def rename(root: Path, old: str, new: str) -> None:
    (root / old).rename(root / new)


REFUSED: dict[str, tuple[tuple[str, ...], Callable[[Path], object], str]] = {
    "a class called train": ((), lambda root: rename(root, "dog", "train"), "train is the name of a split, but cat"),
    "splits beside a class": (
        ("train", "val"),
        lambda root: save_class(root / "bird", 2),
        "train, val are names of splits, but bird beside them is not: rename",
    ),
    "one split, misspelt": (("train", "tset"), lambda _: None, "train is the name of a split, but tset beside it"),
    "two training folders": (("train", "Training"), lambda _: None, "both name the train split: put their images"),
    "two validation folders": (("train", "val", "valid"), lambda _: None, "val and valid both name the validation"),
    **{
        f"nearly splits, {first}": ((first, other), lambda _: None, "look like splits, which are called train, val and")
        for first, other in (("training_set", "test_set"), ("train2017", "val2017"), ("TrainImages", "Val Images"))
    },
    "splits of data, nearly": (("seg_train", "seg_test", "seg_pred"), lambda _: None, "seg_test, seg_train look like"),
    "one name in two forms": (
        (),
        lambda root: [rename(root, old, new) for old, new in (("cat", "caf\u00e9"), ("dog", "cafe\u0301"))],
        r"'cafe\\u0301' and 'caf\\xe9' are one name in two forms of Unicode: rename one",
    ),
    "one name in two forms, split": (
        ("train", "val"),
        lambda root: [rename(root, f"{s}/dog", f"{s}/{n}") for s, n in (("train", "caf\u00e9"), ("val", "cafe\u0301"))],
        "are one name in two forms of Unicode: rename one",
    ),
    "no UTF-8": ((), lambda root: rename(root, "dog", "caf\udce9"), r"names of classes in UTF-8, .* got 'caf\\udce9'"),
    "longer than a bundle holds": ((), lambda root: rename(root, "dog", 201 * "a"), "of at most 200 characters, got"),
    "no training folder": (("val", "test"), lambda _: None, "test, val without a folder train/: expected FOLDER/CLASS"),
    "a class only in test": (
        ("train", "test"),
        lambda root: save_class(root / "test" / "bird", 2),
        "expected the same classes in each split, but bird is missing in train",
    ),
    "a class of other case": (
        ("train", "val"),
        lambda root: rename(root, "val/dog", "Dog"),
        "Dog is missing in train, dog is missing in validation",
    ),
    "one class": ((), lambda root: shutil.rmtree(root / "cat"), "each of at least 2 classes, got dog"),
    "one class, split": (("train",), lambda root: shutil.rmtree(root / "train" / "cat"), "at least 2 classes, got dog"),
    "pictures without classes": (
        (),
        lambda root: [shutil.rmtree(root / name) for name in ("cat", "dog")] and save_class(root, 3),
        "each of at least 2 classes, got none",
    ),
    "empty classes": (
        ("train", "test"),
        lambda root: [(root / s / name).mkdir() for s in ("train", "test") for name in ("ant", "bee")],
        "found none in train/ant, train/bee, test/ant, test/bee: add some, or remove",
    ),
    "only hidden pictures": (
        (),
        lambda root: save_class(root / "bird" / ".thumbnails", 2),
        "found none in bird",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_told_apart_is_refused_by_name(case: str, tmp_path: Path) -> None:
    splits, spoil, says = REFUSED[case]
    root = photos(tmp_path / "photos", *splits, num=2)
    if case == "a class of other case":
        (root / "val" / "dog").rename(root / "val" / "Dog")
    else:
        spoil(root)
    with pytest.raises(DataError, match=says):
        load_dataset(str(root), "train")


def test_links_are_followed_out_of_the_folder_and_never_twice(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    save_class(tmp_path / "elsewhere" / "deep", 3, first=5000)
    (tmp_path / "elsewhere" / "deep" / "loop").symlink_to(tmp_path / "elsewhere")
    (root / "bird").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "cat" / "dogs").symlink_to(root / "dog", target_is_directory=True)
    (root / "cat" / "self").symlink_to(root, target_is_directory=True)
    (root / "cat" / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "dog" / "linked.png").symlink_to(save(tmp_path / "pool" / "1.png", picture(7000)))
    index = index_folder(root)
    assert index.class_names == ("bird", "cat", "dog")
    assert [sum(entry.label == label for entry in index.entries) for label in range(3)] == [3, 6, 7]
    assert {reason: sorted(found) for reason, found in index.left_out.names.items()} == {
        "link to a folder that is read already": ["bird/deep/loop/", "cat/dogs/", "cat/more/"],
        "link to a folder around this one": ["cat/self/", "cat/up/"],
        "link to nothing": ["dog/gone.png"],
    }


def break_pictures(folder: Path, num: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(num):
        (folder / f"broken{number}.jpg").write_bytes(b"\xff\xd8\xff no picture")


def test_all_pictures_that_cannot_be_read_are_named_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = photos(tmp_path / "photos", "train", "test", num=3)
    whole = (root / "train" / "cat" / "000.png").read_bytes()
    (root / "train" / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "dog" / "empty.jpg").touch()
    (root / "train" / "dog" / "phone.HEIC").write_bytes(b"\0\0\0\x20ftypheic")
    Image.fromarray(picture(0)).save(
        root / "train" / "dog" / "moving.webp", save_all=True, append_images=[Image.fromarray(picture(1))]
    )
    file = io.BytesIO()
    Image.fromarray(np.vstack([picture(n) for n in range(9)])).save(file, "TIFF", compression="tiff_lzw")
    holed = bytearray(file.getvalue())
    holed[len(holed) // 2 : len(holed) // 2 + 200] = bytes(200)
    (root / "train" / "dog" / "holed.tiff").write_bytes(holed)
    named = ("cut.png", "empty.jpg", "phone.HEIC", "moving.webp", "holed.tiff")
    with pytest.raises(DataError, match=r"5 of 11 images cannot be read.*--skip-broken") as refused:
        load_dataset(str(root), "train")
    assert all(name in str(refused.value) and f"{name} " in caplog.text for name in named)
    assert "HEIC is a picture in a format that is not read" in caplog.text and "got an animation" in caplog.text
    assert len(load_dataset(str(root), "train", skip_broken=True)) == 6
    break_pictures(root / "train" / "cat", 40)
    caplog.clear()
    with pytest.raises(DataError, match=r"45 of 51 images cannot be read.*and 25 more"):
        load_dataset(str(root), "train")
    assert len(caplog.records) == 20


def test_a_class_of_which_no_picture_can_be_read_is_refused_even_when_broken_ones_are_left_out(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", num=3)
    break_pictures(root / "ant", 2)
    with pytest.raises(DataError, match=r"no image of ant \(train\) can be read"):
        load_dataset(str(root), "train", skip_broken=True)


def test_a_messy_folder_is_told_in_one_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = photos(tmp_path / "photos", "Train", "val", "TEST")
    cat, dog = root / "Train" / "cat", root / "Train" / "dog"
    hidden = (".ipynb_checkpoints", ".thumbnails", ".Trash-1000", ".git", ".AppleDouble")
    system = ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle", "System Volume Information")
    for place in (cat, cat / "session 1", root):
        for number, name in enumerate((*hidden, *system)):
            save_class(place / name, 2, first=8000 + 10 * number)
    save_class(cat / "session 1", 3, first=4000)
    for name in (".DS_Store", "._000.png", ".hidden.png"):
        (dog / name).write_bytes(b"Mac OS X")
    for name in ("Thumbs.db", "desktop.ini", "Icon\r", "ehthumbs.db"):
        (dog / name).write_bytes(b"system")
    for name in ("notes.txt", "000.xml", "clip.mp4", "labels.csv", "000.png~", "000.png.part", "no suffix"):
        (dog / name).write_bytes(b"other")
    save(root / "Train" / "loose.png", picture(1))
    (root / "README.md").write_text("my pictures")
    os.mkfifo(dog / "pipe.png")
    (dog / "again").symlink_to(cat, target_is_directory=True)
    (dog / "around").symlink_to(root.parent, target_is_directory=True)
    (dog / "gone.png").symlink_to(tmp_path / "nothing")
    break_pictures(dog, 2)
    (dog / "phone.heic").write_bytes(b"\0\0\0\x20ftypheic")
    cv2.imwrite(str(dog / "deep.png"), picture(4100)[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(dog / "float.tiff"), picture(4101)[..., ::-1].astype(np.float32) / 255)
    Image.fromarray(picture(4102)).quantize(9).save(dog / "palette.png", transparency=2)
    Image.fromarray(picture(4103)).convert("CMYK").save(dog / "print.jpg")
    Image.fromarray(picture(4104)).save(dog / "phone.jfif", "JPEG")
    Image.fromarray(picture(4105)).save(dog / "png.jpg", "PNG")
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(picture(4106)).save(dog / "turned.png", exif=sideways)
    frames = [Image.fromarray(picture(seed)) for seed in (4107, 4108)]
    frames[0].save(dog / "animated.webp", save_all=True, append_images=frames[1:])
    Image.new("1", (7681, 4320)).save(dog / "huge.png")
    (dog / "empty.png").touch()
    for number in (10, 2):
        save(dog / f"frame{number}.png", picture(4110 + number))

    with caplog.at_level(logging.INFO):
        train = load_dataset(f"{root}@32", "train", skip_broken=True)
    assert train.class_names == ("cat", "dog") and train.names is not None
    assert np.bincount(train.labels_N).tolist() == [6 + 3 + 6, 6 + 9 + 6]
    assert train.validation_N is not None and train.validation_N.sum() == 12
    read = dict(zip(train.names, train.images_NHWC, strict=True))
    for name, seed, turns in (
        ("deep.png", 4100, 0),
        ("float.tiff", 4101, 0),
        ("png.jpg", 4105, 0),
        ("turned.png", 4106, 3),
    ):
        assert np.array_equal(read[f"Train/dog/{name}"], np.rot90(picture(seed), turns))
    (table,) = [record.getMessage() for record in caplog.records if "read as train" in record.getMessage()]
    assert table.splitlines() == MESSY


MESSY = r"""
photos@32 train:
      36 read as train: cat 15, dog 21
      34 groups: subfolders and near copies are not divided
      12 of them from the validation folder
      15 left out: hidden folder (.AppleDouble/, .Trash-1000/, .git/ and 12 more)
       3 left out: hidden file (Train/dog/.DS_Store, Train/dog/._000.png, Train/dog/.hidden.png)
      18 left out: system folder (#recycle/, $RECYCLE.BIN/, @eaDir/ and 15 more)
       4 left out: system file (Train/dog/Icon\r, Train/dog/Thumbs.db, Train/dog/desktop.ini and 1 more)
       1 left out: link to a folder that is read already (Train/dog/again/)
       1 left out: link to a folder around this one (Train/dog/around/)
       1 left out: link to nothing (Train/dog/gone.png)
       8 left out: not an image (README.md, Train/dog/000.png.part, Train/dog/000.png~ and 5 more)
       1 left out: not a file (Train/dog/pipe.png)
       1 left out: image outside the class folders (Train/loose.png)
       6 left out: broken image (Train/dog/animated.webp, Train/dog/broken0.jpg, Train/dog/broken1.jpg and 3 more)
""".strip().splitlines()


def save_clip(folder: Path, name: str, num: int, *, seed: int, shift: float = 0.0) -> None:
    """Frames of one scene with noise, which moves by `shift` pixels from each to the next."""
    rng = np.random.default_rng(seed)
    scene = cv2.resize(rng.integers(0, 256, (3, 40, 3), dtype=np.uint8), (1600, 96), interpolation=cv2.INTER_CUBIC)
    for frame in range(num):
        left = round(frame * shift)
        noisy = scene[:, left : left + 96].astype(int) + rng.integers(-3, 4, (96, 96, 3))
        save(folder / f"{name}_frame{frame}.png", np.clip(noisy, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_frames_of_a_clip_lie_on_one_side_of_every_split(shift: float, tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        for clip in range(6):
            save_clip(tmp_path / name, f"clip{clip}", 20, seed=100 * label + clip, shift=shift)
    train, test = both(tmp_path)
    kept, validation = split_validation(train, 40, seed=1)
    sides = [{name.split("_")[0] for name in names(data)} for data in (kept, validation, test)]
    assert [len(side) > 1 for side in sides] == [True] * 3
    assert sum(len(side) for side in sides) == len(set().union(*sides)) == 12


def test_pictures_that_differ_are_no_copies_and_stand_for_themselves(tmp_path: Path) -> None:
    data = load_dataset(str(photos(tmp_path, num=60)), "train")
    assert data.groups_N is None


def test_a_class_of_near_copies_alone_is_still_divided_and_the_run_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos(tmp_path)
    save_clip(tmp_path / "bird", "clip", 30, seed=5)
    train, test = (load_dataset(f"{tmp_path}@16", split) for split in ("train", "test"))
    assert 0 < (test.labels_N == 0).sum() < 15 < (train.labels_N == 0).sum()
    assert "30 of the 30 images of class bird are near copies of one another" in caplog.text


@pytest.mark.parametrize(("folder", "part"), [("val", "validation"), ("test", "test")])
def test_held_out_images_with_a_near_copy_among_the_training_images_are_counted(
    folder: str, part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a test folder were taken without a word, though every figure is counted on them."""
    root = photos(tmp_path, "train", folder)
    for number in range(4):
        shutil.copy(root / "train" / "cat" / f"{number:03d}.png", root / folder / "cat" / f"copy{number}.png")
    (root / folder / "cat" / "broken.png").touch()
    train = load_dataset(str(root), "train", skip_broken=True)
    assert f"4 of the 10 {part} images of class cat have a near copy among the training images" in caplog.text
    assert train.groups_N is None and not any(name.startswith("test") for name in names(train))


def test_a_picture_that_is_trained_on_as_one_class_and_tested_as_another_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = photos(tmp_path, "train", "test")
    shutil.copy(root / "train" / "cat" / "000.png", root / "test" / "dog" / "copy.png")
    load_dataset(str(root), "train")
    assert "1 picture in two classes" in caplog.text and "train/cat/000.png and test/dog/copy.png" in caplog.text


def test_pictures_that_occur_in_two_classes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos(tmp_path)
    load_dataset(str(tmp_path), "train")
    assert "two classes" not in caplog.text
    for number in range(2):
        shutil.copy(tmp_path / "cat" / f"{number:03d}.png", tmp_path / "dog" / f"copy{number}.png")
    load_dataset(str(tmp_path), "train")
    assert "2 pictures in two classes, so one label of each is wrong" in caplog.text
    for number in range(2):
        assert f"cat/{number:03d}.png and dog/copy{number}.png" in caplog.text.replace(os.sep, "/")


def test_classes_of_nearly_one_name_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = photos(tmp_path / "photos")
    with caplog.at_level(logging.WARNING):
        load_dataset(str(root), "train")
        assert not caplog.text
        save_class(root / "Cat ", 6, first=500)
        assert load_dataset(str(root), "train").class_names == ("Cat ", "cat", "dog")
    assert "Cat  and cat are classes of their own, though their names are nearly the same" in caplog.text


def test_pictures_that_are_nearly_black_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """12 bits in files of 16 became 17 levels of 256, and the run trained on them without a word."""
    root = photos(tmp_path / "photos")
    for number in range(6):
        grey = cv2.cvtColor(picture(500 + number), cv2.COLOR_RGB2GRAY).astype(np.uint16)
        assert cv2.imwrite(str(root / "cat" / f"{number:03d}.png"), grey * 257 >> 4)
    with caplog.at_level(logging.WARNING):
        load_dataset(str(root), "train")
    assert "6 of the 12 images are nearly black, up to 16 of 255: where a camera of 10 to 14 bits" in caplog.text


@pytest.mark.parametrize("resize", ["center_crop", "letterbox", "stretch"])
def test_pictures_that_are_enlarged_are_counted(
    resize: Resize, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = photos(tmp_path / "photos", "train", "test")
    save(root / "train" / "dog" / "wide.png", np.hstack((picture(1), picture(2))))
    with caplog.at_level(logging.WARNING):
        load_dataset(f"{root}@{SIDE}", "train", resize=resize)
        assert not caplog.text
        for _ in range(2):  # the second time from the cache
            caplog.clear()
            load_dataset(f"{root}@{SIDE + 1}", "train", resize=resize)
            assert "12 of the 13 images were smaller than the input and are enlarged" in caplog.text


def test_every_picture_that_pillow_knows_is_read_or_named() -> None:
    """Pictures of formats that nobody had listed, such as .mpo and .hif, were left out as `not an image`."""
    others = {".bufr", ".grib", ".gbr", ".h5", ".hdf", ".iim", ".im", ".mpeg", ".mpg", ".msp", ".palm", ".pdf", ".ps"}
    others |= {".ftc", ".ftu", ".icb", ".pxr", ".vda", ".vst"}
    known = {*Image.registered_extensions(), ".heic", ".HIF", ".jxr", ".srw"}
    assert {suffix for suffix in known if not is_picture(Path(f"a{suffix}"))} <= others


def test_groups_are_those_of_all_pairs_and_their_chains() -> None:
    rng = np.random.default_rng(0)
    firsts = rng.integers(0, 256, (12, *near_copies.THUMBNAIL_SHAPE))
    thumbnails = np.clip(firsts[rng.integers(0, 12, 90)] + rng.integers(-12, 13, (90, 8, 9, 3)), 0, 255).astype(
        np.uint8
    )
    hash_N = hashes(thumbnails)
    distance_NN = np.array([[int(a ^ b).bit_count() for b in hash_N] for a in hash_N])
    levels_NN = np.abs(thumbnails[:, None].astype(int) - thumbnails).mean(axis=(2, 3, 4))
    is_near_NN = (distance_NN <= near_copies.MOST_BITS) & (levels_NN <= near_copies.MOST_LEVELS)
    expected = np.arange(90)
    for _ in range(90):
        expected = np.array([expected[is_near].min() for is_near in is_near_NN])
    np.testing.assert_array_equal(group_near_copies(thumbnails, np.arange(90)), expected)
    assert 12 <= len(np.unique(expected)) < 90
    together = np.where(np.arange(90) < 50, 0, np.arange(90))
    assert len(set(group_near_copies(thumbnails, together)[:50].tolist())) == 1


def test_a_hash_of_what_is_flat_has_no_bits_and_levels_tell_flat_pictures_apart() -> None:
    flat = np.stack([thumbnail(np.full((20, 30, 3), level, np.uint8)) for level in (10, 12, 200)])
    assert hashes(flat).tolist() == [0, 0, 0]
    assert group_near_copies(flat, np.arange(3)).tolist() == [0, 0, 2]


def test_faint_pictures_of_one_brightness_are_told_apart_by_their_patterns() -> None:
    faint = 128 + 6 * np.random.default_rng(0).integers(-1, 2, (5, 8, 9, 1)).repeat(3, axis=3)
    thumbnails = np.concatenate([faint, faint + 1]).astype(np.uint8)
    assert np.abs(faint[0] - faint[1]).mean() < near_copies.MOST_LEVELS
    assert group_near_copies(thumbnails, np.arange(10)).tolist() == [0, 1, 2, 3, 4] * 2


def test_a_picture_has_the_same_groups_at_every_side(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        for clip in range(4):
            save_clip(tmp_path / name, f"clip{clip}", 6, seed=100 * label + clip)
    small, large = (load_dataset(f"{tmp_path}@{side}", "test") for side in (8, 64))
    assert names(small) == names(large)


def test_without_pillow_a_tiff_image_is_not_taken_for_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photos(tmp_path)
    monkeypatch.setattr("oat_runtime.extras.find_spec", lambda name: None)
    assert len(load_dataset(str(root), "train")) > 0
    save(root / "cat" / "scan.tif", picture(50)).rename(root / "cat" / "scan.png")  # what it is counts, not its name
    with pytest.raises(ConfigError, match=r"a folder with TIFF images needs PIL: pip install 'oat-robot\[data\]'"):
        load_dataset(str(root), "train", skip_broken=True)
