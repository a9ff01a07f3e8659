"""Laws of the readers: small files in the official formats come back pixel by pixel, damaged ones are refused."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("PIL")
from PIL import Image

from oat_runtime.data import SOURCES, ImageSet, Split, cifar, load_dataset, stl10
from oat_runtime.errors import DataError

Bytes = npt.NDArray[np.uint8]
NUM = 10
LABELS = np.arange(NUM)[::-1]  # not class by class: such sets are shuffled


def pixels(side: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (NUM, side, side, 3), dtype=np.uint8)


def write_cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    planes = pixels(32).transpose(0, 3, 1, 2).reshape(NUM, -1)
    (folder / "test_batch.bin").write_bytes(np.c_[LABELS.astype(np.uint8), planes].tobytes())


def write_cifar100(root: Path) -> None:
    folder = root / "cifar-100-binary"
    folder.mkdir()
    planes = pixels(32).transpose(0, 3, 1, 2).reshape(NUM, -1)
    coarse = np.full(NUM, 99, np.uint8)
    (folder / "test.bin").write_bytes(np.c_[coarse, LABELS.astype(np.uint8), planes].tobytes())


def write_svhn(root: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    (root / "svhn").mkdir()
    content = {"X": pixels(32).transpose(1, 2, 3, 0), "y": np.where(LABELS == 0, 10, LABELS)[:, None]}
    scipy_io.savemat(root / "svhn" / "test_32x32.mat", content, do_compression=True)


def write_stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    (folder / "test_X.bin").write_bytes(pixels(96).transpose(0, 3, 2, 1).tobytes())  # channel, column, row
    (folder / "test_y.bin").write_bytes((LABELS + 1).astype(np.uint8).tobytes())


def write_idx(path: Path, values: Bytes) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


def write_fashion_mnist(root: Path) -> None:
    folder = root / "fashion-mnist"
    folder.mkdir()
    write_idx(folder / "t10k-images-idx3-ubyte.gz", pixels(28)[..., 0])
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", LABELS.astype(np.uint8))


def write_gtsrb(root: Path) -> None:
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    test = root / "GTSRB" / "Final_Test" / "Images"
    test.mkdir(parents=True)
    lines = [header]
    for n, image in enumerate(pixels(32)):
        Image.fromarray(image).save(test / f"{n:05d}.ppm")
        lines.append(f"{n:05d}.ppm;32;32;5;5;27;27;{LABELS[n]}")
    (root / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    for label in (0, 1):
        folder = root / "GTSRB" / "Final_Training" / "Images" / f"{label:05d}"
        folder.mkdir(parents=True)
        lines = [header]
        for n in range(NUM // 2):
            Image.fromarray(pixels(32)[label * (NUM // 2) + n]).save(folder / f"{n // 3:05d}_{n % 3:05d}.ppm")
            lines.append(f"{n // 3:05d}_{n % 3:05d}.ppm;32;32;5;5;27;27;{label}")
        (folder / f"GT-{label:05d}.csv").write_text("\n".join(lines) + "\n")


WRITERS: dict[str, Callable[[Path], None]] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "stl10": write_stl10,
    "fashion-mnist": write_fashion_mnist,
    "gtsrb": write_gtsrb,
}
SIDES = {"stl10": 96, "fashion-mnist": 28}
FILES = {
    "cifar10": "cifar-10-batches-bin/test_batch.bin",
    "cifar100": "cifar-100-binary/test.bin",
    "svhn": "svhn/test_32x32.mat",
    "stl10": "stl10_binary/test_X.bin",
    "fashion-mnist": "fashion-mnist/t10k-images-idx3-ubyte.gz",
    "gtsrb": "GTSRB/Final_Test/Images/00003.ppm",
}


@pytest.fixture(params=sorted(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A data set that is complete with ten images a split, in its official format."""
    name: str = request.param
    num: dict[Split, int] = {"train": NUM, "test": NUM}
    locations = tuple(replace(at, num_images=num) for at in SOURCES[name].locations)
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], locations=locations))
    for module in (cifar, stl10):
        monkeypatch.setattr(module, "_NUM", num)
    WRITERS[name](tmp_path)
    return name, tmp_path


def test_the_official_format_comes_back_pixel_by_pixel_in_order(written: tuple[str, Path]) -> None:
    name, root = written
    data = load_dataset(name, "test", root=root)
    expected = pixels(SIDES.get(name, 32))
    if name == "fashion-mnist":
        expected = np.repeat(expected[..., :1], 3, axis=3)
    np.testing.assert_array_equal(data.images_NHWC, expected)
    assert data.images_NHWC.dtype == np.uint8 and data.images_NHWC.flags.c_contiguous
    assert data.labels_N.tolist() == LABELS.tolist() and data.labels_N.dtype == np.int64
    assert len(data.class_names) == {"cifar100": 100, "gtsrb": 43}.get(name, 10) == len(set(data.class_names))


def test_what_was_put_there_by_hand_is_read_without_a_download(
    written: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these holds the test split alone."""
    pooch = pytest.importorskip("pooch")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    name, root = written
    assert len(load_dataset(name, "test", root=root, download=True)) == NUM
    if name == "fashion-mnist":
        for path in (root / name).iterdir():
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    elif name == "gtsrb":
        (root / "GT-final_test.csv").rename(root / "GTSRB" / "GT-final_test.csv")
    assert len(load_dataset(name, "test", root=root, download=True)) == NUM


@pytest.mark.parametrize("damage", ["cut", "remove", "spoil", "empty"])
def test_a_damaged_or_missing_file_is_refused_by_name(written: tuple[str, Path], damage: str) -> None:
    name, root = written
    path = root / FILES[name]
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "spoil": content + b"x" * 97, "empty": b""}[damage])
    if damage == "spoil" and name in ("svhn", "gtsrb", "fashion-mnist"):
        path.write_bytes(b"\x00" * 200 + content[200:])  # these formats know where they end
    with pytest.raises(DataError, match=path.name.removesuffix(".gz").split(".")[0]):
        load_dataset(name, "test", root=root)


@pytest.mark.parametrize("limit", [1, 4, NUM, 99])
def test_a_limit_gives_the_beginning_of_the_set(written: tuple[str, Path], limit: int) -> None:
    name, root = written
    whole, part = load_dataset(name, "test", root=root), load_dataset(name, "test", root=root, limit=limit)
    np.testing.assert_array_equal(part.images_NHWC, whole.images_NHWC[:limit])
    assert part.labels_N.tolist() == whole.labels_N[:limit].tolist()
    assert part.images_NHWC.flags.c_contiguous


def test_a_binary_file_of_another_size_is_refused_also_where_few_images_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / FILES["cifar10"]
    path.parent.mkdir()
    path.write_bytes(bytes(10_000 * 3073 - 1))
    with pytest.raises(DataError, match="expected 30730000 bytes"):
        load_dataset("cifar10", "test", root=tmp_path, limit=10)


def test_training_images_of_gtsrb_carry_their_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCES["gtsrb"]
    locations = tuple(replace(at, num_images={"train": NUM, "test": NUM}) for at in source.locations)
    monkeypatch.setitem(SOURCES, "gtsrb", replace(source, locations=locations))
    write_gtsrb(tmp_path)
    data = load_dataset("gtsrb", "train", root=tmp_path)
    assert data.groups_N is not None
    sizes = [int((data.groups_N == group).sum()) for group in data.groups_N]
    expected = zip([image.tobytes() for image in pixels(32)], [0] * 5 + [1] * 5, [3, 3, 3, 2, 2] * 2, strict=True)
    assert set(zip(names_of(data), data.labels_N.tolist(), sizes, strict=True)) == set(expected)


def test_labels_out_of_range_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num: dict[Split, int] = {"train": NUM, "test": NUM}
    locations = tuple(replace(at, num_images=num) for at in SOURCES["cifar10"].locations)
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], locations=locations))
    monkeypatch.setattr(cifar, "_NUM", num)
    write_cifar10(tmp_path)
    path = tmp_path / FILES["cifar10"]
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"expected classes 0..9, got 0..10: the labels are damaged"):
        load_dataset("cifar10", "test", root=tmp_path)


def save_photos(folder: Path, names: tuple[str, ...], num: int, *, side: int = 8) -> None:
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for n in range(num):
            Image.fromarray(pixels(side, seed=100 * label + n)[0]).save(folder / name / f"{n:03d}.png")


def names_of(data: ImageSet) -> list[bytes]:
    return [image.tobytes() for image in data.images_NHWC]


def test_a_folder_with_official_splits_has_its_classes_in_alphabetical_order(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos" / "train", ("dog", "cat"), 3)
    save_photos(tmp_path / "photos" / "test", ("cat", "dog"), 2)
    data = load_dataset("photos", "train", root=tmp_path)
    assert data.class_names == ("cat", "dog")
    expected = {pixels(8, seed=seed)[0].tobytes(): int(seed < 100) for seed in (100, 101, 102, 0, 1, 2)}
    assert dict(zip(names_of(data), data.labels_N.tolist(), strict=True)) == expected
    assert len(load_dataset(str(tmp_path / "photos"), "test")) == 4


def test_a_folder_without_splits_holds_out_a_fifth_that_never_changes_sides(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos", ("cat", "dog"), 40)
    before = {split: set(names_of(load_dataset("photos", split, root=tmp_path))) for split in ("train", "test")}
    assert not before["train"] & before["test"]
    assert len(before["train"] | before["test"]) == 80
    assert 6 <= len(before["test"]) <= 28
    Image.fromarray(pixels(8, seed=999)[0]).save(tmp_path / "photos" / "cat" / "new.png")
    for split in ("train", "test"):
        assert before[split] <= set(names_of(load_dataset("photos", split, root=tmp_path)))


def test_photos_of_many_sizes_are_fitted_to_the_side_that_is_asked_for(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos" / "train", ("cat", "dog"), 1, side=30)
    save_photos(tmp_path / "photos" / "test", ("cat", "dog"), 1, side=16)
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "photos" / "train" / "dog" / "wide.png")
    with pytest.raises(DataError, match=r"images of one size \(.*\), got .*: .* as in photos@64"):
        load_dataset("photos", "train", root=tmp_path)
    data = load_dataset("photos@10", "train", root=tmp_path)
    assert data.images_NHWC.shape == (3, 10, 10, 3)
    assert max(image.min() for image in data.images_NHWC) == 200  # the largest centred square


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda folder: (folder / "cat" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing"),
            "cannot be read.*cat/000.png",
        ),
        (
            lambda folder: (folder / "cat" / "000.png").write_bytes(b"plain text"),
            "1 of 24 images cannot be read.*: cat/000.png",
        ),
        (lambda folder: (folder / "empty").mkdir(), "found none in empty:"),
        (
            lambda folder: [path.unlink() for path in (folder / "dog").iterdir()],
            "found none in dog:",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, spoil: Callable[[Path], object], says: str) -> None:
    save_photos(tmp_path / "photos", ("cat", "dog"), 12)
    spoil(tmp_path / "photos")
    with pytest.raises(DataError, match=says):
        for split in ("train", "test"):
            load_dataset("photos", split, root=tmp_path)


def test_a_folder_needs_classes_that_agree(tmp_path: Path) -> None:
    save_photos(tmp_path / "one", ("cat",), 2)
    with pytest.raises(DataError, match="a folder for each of at least 2 classes"):
        load_dataset("one", "train", root=tmp_path)
    save_photos(tmp_path / "two" / "train", ("cat", "dog"), 2)
    save_photos(tmp_path / "two" / "test", ("cat", "fox"), 2)
    with pytest.raises(DataError, match="dog is missing in test, fox is missing in train"):
        load_dataset("two", "train", root=tmp_path)
