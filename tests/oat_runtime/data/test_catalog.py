"""Laws of the data: packs come back or are refused, the split is a partition, statistics are those of the pixels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("PIL")
from PIL import Image

from oat_runtime.data import (
    SOURCES,
    ImageSet,
    fingerprint,
    load_dataset,
    mixed,
    split_validation,
)
from oat_runtime.errors import DataError

Bytes = npt.NDArray[np.uint8]


def random_images(num: int, size: int = 32, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def numbered(num: int) -> ImageSet:
    """Every image holds its own number."""
    number_N = np.arange(num)
    images = np.broadcast_to(number_N[:, None, None, None], (num, 2, 2, 3)).astype(np.uint8)
    return ImageSet(images, number_N % 10, tuple("abcdefghij"), "numbered")


def write_pack(root: Path, images: Bytes, labels: npt.NDArray[np.int64], *, per_file: int) -> Path:
    """Lossless mosaics of 50 tiles a row, black where the last row is not full."""
    folder = root / "cifar10"
    folder.mkdir(parents=True)
    for start in range(0, len(images), per_file):
        part = images[start : start + per_file]
        rows = -(-len(part) // 50)
        tiles = np.zeros((rows * 50, 32, 32, 3), np.uint8)
        tiles[: len(part)] = part
        mosaic = tiles.reshape(rows, 50, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(rows * 32, 50 * 32, 3)
        Image.fromarray(mosaic).save(folder / f"test_{start:05d}.webp", lossless=True)
    np.savez(folder / "labels.npz", y_test=labels.astype(np.uint8))
    return root


def shrink(monkeypatch: pytest.MonkeyPatch, name: str, num: int) -> None:
    """Let a data set be complete with `num` test images."""
    source = SOURCES[name]
    locations = tuple(replace(at, num_images={"train": num, "test": num}) for at in source.locations)
    monkeypatch.setitem(SOURCES, name, replace(source, locations=locations))


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """120 test images in two mosaics."""
    shrink(monkeypatch, "cifar10", 120)
    return write_pack(tmp_path, random_images(120), np.arange(120) % 10, per_file=100)


def test_a_pack_comes_back_pixel_by_pixel_in_order(pack: Path) -> None:
    test_set = load_dataset("cifar10", "test", root=pack)
    np.testing.assert_array_equal(test_set.images_NHWC, random_images(120))
    assert test_set.labels_N.tolist() == (np.arange(120) % 10).tolist()
    assert (test_set.labels_N.dtype, test_set.images_NHWC.dtype) == (np.int64, np.uint8)
    assert (len(test_set), test_set.name) == (120, "cifar10 test")


def cut_mosaic(folder: Path) -> None:
    path = folder / "test_00000.webp"
    path.write_bytes(path.read_bytes()[:1000])


def remove_mosaic(folder: Path) -> None:
    (folder / "test_00000.webp").unlink()


def shrink_mosaic(folder: Path) -> None:
    Image.fromarray(random_images(1, 40)[0]).save(folder / "test_00000.webp", lossless=True)


def cut_labels(folder: Path) -> None:
    path = folder / "labels.npz"
    path.write_bytes(path.read_bytes()[:100])


def spoil_labels(folder: Path) -> None:
    np.savez(folder / "labels.npz", y_test=np.full(120, 10))


def drop_labels(folder: Path) -> None:
    np.savez(folder / "labels.npz", y_train=np.zeros(120))


def shorten_labels(folder: Path) -> None:
    np.savez(folder / "labels.npz", y_test=np.zeros(119))


@pytest.mark.parametrize(
    "damage", [cut_mosaic, remove_mosaic, shrink_mosaic, cut_labels, spoil_labels, drop_labels, shorten_labels]
)
def test_a_damaged_pack_is_refused(pack: Path, damage: Callable[[Path], None]) -> None:
    damage(pack / "cifar10")
    with pytest.raises(DataError):
        load_dataset("cifar10", "test", root=pack)


def test_a_limit_reads_the_same_first_images_and_no_more_mosaics_than_hold_them(pack: Path) -> None:
    whole = load_dataset("cifar10", "test", root=pack)
    for limit in (1, 99, 100, 120, 500):
        part = load_dataset("cifar10", "test", root=pack, limit=limit)
        np.testing.assert_array_equal(part.images_NHWC, whole.images_NHWC[:limit])
        assert part.labels_N.tolist() == whole.labels_N[:limit].tolist()
    (pack / "cifar10" / "test_00100.webp").write_bytes(b"never looked at")
    assert len(load_dataset("cifar10", "test", root=pack, limit=100)) == 100
    with pytest.raises(DataError, match=r"test_00100\.webp cannot be decoded"):
        load_dataset("cifar10", "test", root=pack, limit=101)


def test_a_limit_never_reads_images_under_the_labels_of_a_missing_mosaic(pack: Path) -> None:
    (pack / "cifar10" / "test_00000.webp").unlink()
    with pytest.raises(DataError, match=r"test_00000\.webp is missing"):
        load_dataset("cifar10", "test", root=pack, limit=10)


def test_no_data_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAT_DATA", str(tmp_path / "here"))
    with pytest.raises(DataError, match=r"(?s)no CIFAR-10 under .*here.* there: set OAT_DATA.*--download"):
        load_dataset("cifar10", "test")


def test_a_failed_download_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooch = pytest.importorskip("pooch")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded \(no network\)"):
        load_dataset("cifar10", "test", root=tmp_path, download=True)


@pytest.mark.parametrize("num_validation", [0, 1, 30, 99])
def test_the_split_is_a_partition_in_order(num_validation: int) -> None:
    training, validation = split_validation(numbered(100), num_validation, seed=3)
    kept, held_out = (part.images_NHWC[:, 0, 0, 0].tolist() for part in (training, validation))
    assert len(held_out) == num_validation
    assert sorted(kept + held_out) == list(range(100))
    assert kept == sorted(kept)
    assert held_out == sorted(held_out)
    for part, numbers in ((training, kept), (validation, held_out)):
        assert part.labels_N.tolist() == [number % 10 for number in numbers]


def test_the_split_depends_on_the_seed_alone() -> None:
    def held_out(seed: int) -> list[int]:
        return split_validation(numbered(100), 30, seed=seed)[1].images_NHWC[:, 0, 0, 0].tolist()

    assert held_out(3) == held_out(3)
    assert held_out(3) != held_out(4)


def test_more_validation_images_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="cannot hold out 100 of 100"):
        split_validation(numbered(100), 100, seed=0)


def test_a_fingerprint_sees_every_pixel_and_label() -> None:
    original = numbered(20)
    marks = {fingerprint(original)}
    pixels, labels = original.images_NHWC.copy(), original.labels_N.copy()
    pixels[7, 1, 1, 2] ^= 1
    labels[19] += 1
    marks.add(fingerprint(ImageSet(pixels, original.labels_N, original.class_names, "x")))
    marks.add(fingerprint(ImageSet(original.images_NHWC, labels, original.class_names, "x")))
    marks.add(fingerprint(original.subset(np.arange(19), "x")))
    assert len(marks) == 4
    assert fingerprint(original.subset(np.arange(20), "another name")) in marks


def tracks(num_tracks: int, length: int) -> ImageSet:
    """`length` frames of each track."""
    track_N = np.repeat(np.arange(num_tracks), length)
    images = np.broadcast_to(track_N[:, None, None, None], (len(track_N), 2, 2, 3)).astype(np.uint8)
    return ImageSet(images, track_N % 10, tuple("abcdefghij"), "tracks", groups_N=track_N)


@pytest.mark.parametrize("num_validation", [1, 10, 37])
def test_no_track_lies_on_both_sides(num_validation: int) -> None:
    training, validation = split_validation(tracks(20, 5), num_validation, seed=2)
    kept, held_out = set(training.images_NHWC[:, 0, 0, 0]), set(validation.images_NHWC[:, 0, 0, 0])
    assert not kept & held_out
    assert len(training) + len(validation) == 100
    assert num_validation <= len(validation) < num_validation + 5
    assert training.groups_N is not None and set(training.groups_N) == kept
    assert len(set(validation.labels_N)) == min(10, -(-num_validation // 5))  # one track of each class in turn
    again = split_validation(tracks(20, 5), num_validation, seed=2)[1]
    np.testing.assert_array_equal(again.images_NHWC, validation.images_NHWC)


def test_one_track_cannot_be_split() -> None:
    with pytest.raises(DataError, match="no whole group to train on"):
        split_validation(tracks(1, 20), 3, seed=0)


def test_statistics_are_those_of_all_pixels_in_the_unit_range() -> None:
    data = ImageSet(random_images(7, 5), np.zeros(7, dtype=np.int64), ("a", "b"), "random")
    unit = data.images_NHWC / 255.0
    mean, std = data.statistics()
    np.testing.assert_allclose(mean, unit.mean(axis=(0, 1, 2)), atol=5e-5)
    np.testing.assert_allclose(std, unit.std(axis=(0, 1, 2)), atol=5e-5)
    flat = ImageSet(np.full((2, 4, 4, 3), 7, np.uint8), np.zeros(2, dtype=np.int64), ("a", "b"), "flat")
    assert min(flat.statistics()[1]) > 0.0


def test_every_beginning_of_images_that_lie_class_by_class_is_a_sample() -> None:
    """Regression: traffic signs were judged on the few classes that come first."""
    images, labels = random_images(400), np.repeat(np.arange(4), 100)
    names = ("a", "b", "c", "d")
    mix, again = (mixed(ImageSet(images, labels, names, "signs", groups_N=np.arange(400))) for _ in range(2))
    assert np.bincount(mix.labels_N[:40]).min() >= 4
    assert mix.groups_N is not None and mix.groups_N.tolist() != list(range(400))
    np.testing.assert_array_equal(mix.images_NHWC, images[mix.groups_N])
    np.testing.assert_array_equal(mix.labels_N, labels[mix.groups_N])
    assert fingerprint(mix) == fingerprint(again)
    assert mixed(mix) is mix


def test_a_limited_set_that_lies_class_by_class_is_the_beginning_of_the_mixed_one(
    pack: Path,
) -> None:
    np.savez(pack / "cifar10" / "labels.npz", y_test=np.repeat(np.arange(10), 12))
    whole = load_dataset("cifar10", "test", root=pack)
    part = load_dataset("cifar10", "test", root=pack, limit=30)
    assert fingerprint(part) == fingerprint(whole.first(30))
    assert len(set(part.labels_N.tolist())) > 5


def test_a_pack_with_tracks_is_grouped_by_class_and_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, "gtsrb", 6)
    images, labels = random_images(6), np.array([1, 1, 1, 0, 0, 0])
    write_pack(tmp_path, images, labels, per_file=6)
    (tmp_path / "cifar10").rename(tmp_path / "gtsrb")
    frames = np.array([[0, 0], [0, 1], [1, 0], [0, 0], [1, 0], [1, 1]], dtype=np.uint16)
    np.savez(tmp_path / "gtsrb" / "labels.npz", y_test=labels, track_test=frames)
    groups_N = load_dataset("gtsrb", "test", root=tmp_path).groups_N
    assert groups_N is not None
    same = groups_N[:, None] == groups_N[None]
    assert [int(row.sum()) for row in same] == [2, 2, 1, 1, 2, 2]


def test_an_image_of_another_side_is_asked_for_by_name(pack: Path) -> None:
    small = load_dataset("cifar10@16", "test", root=pack)
    assert small.images_NHWC.shape == (120, 16, 16, 3)
    assert small.name == "cifar10@16 test"
    whole = load_dataset("cifar10", "test", root=pack).images_NHWC.astype(np.float64)
    by_hand = whole.reshape(120, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert np.abs(small.images_NHWC - by_hand).max() <= 0.5


def test_a_folder_with_the_name_of_a_known_set_is_told_that_it_is_not_read(
    pack: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody's own `robocup` was passed over for the known one without a word."""
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    load_dataset("cifar10", "test", root=pack)
    monkeypatch.chdir(pack)  # where data sets lie, a folder of that name is the set
    load_dataset("cifar10", "test", root=pack)
    assert not caplog.text
    (here / "cifar10").mkdir()
    monkeypatch.chdir(here)
    load_dataset("cifar10@16", "test", root=pack)
    assert (
        f"cifar10 is a data set that is known by name; the folder {here}/cifar10 is not read: ./cifar10" in caplog.text
    )


def test_a_folder_that_is_called_like_a_size_is_read_as_it_is(tmp_path: Path) -> None:
    """`scans@2024` was refused as a side of 2024 pixels, and `scans@64` as a missing folder `scans`."""
    for name in ("scans@2024", "scans@64"):
        for label in ("cat", "dog"):
            for number, image in enumerate(random_images(4, seed=ord(label[0]))):
                path = tmp_path / name / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
        assert load_dataset(f"{tmp_path}/{name}", "train").images_NHWC.shape[1:] == (32, 32, 3)
        assert load_dataset(f"{tmp_path}/{name}@16", "train").images_NHWC.shape[1:] == (16, 16, 3)
    (tmp_path / "scans").symlink_to("scans@2024")
    assert load_dataset(f"{tmp_path}/scans@64", "train").images_NHWC.shape[1:] == (64, 64, 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [("cifar11", "unknown data set 'cifar11': expected one of cifar10"), ("cifar10@4", "a side must be 8 to 1024")],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        load_dataset(name, "test", root=tmp_path)
