"""Laws of the data: readers give back what was written or refuse, the split is a partition, crops are windows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from oat_runtime.errors import DataError
from training import data as data_module
from training.data import ImageSet, augment, data_root, fingerprint, load_cifar10, split_validation, to_unit

Bytes = npt.NDArray[np.uint8]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """120 test images in two mosaics."""
    monkeypatch.setitem(data_module._NUM_IMAGES, "test", 120)
    return write_pack(tmp_path, random_images(120), np.arange(120) % 10, per_file=100)


def test_a_pack_comes_back_pixel_by_pixel_in_order(pack: Path) -> None:
    test_set = load_cifar10("test", root=pack)
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
        load_cifar10("test", root=pack)


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """The official test file's layout: a label, then the red, green and blue planes, row by row."""
    records = np.tile(np.arange(256, dtype=np.uint8), 10_000 * 3073 // 256 + 1)[: 10_000 * 3073].reshape(10_000, 3073)
    records[:, 0] = np.arange(10_000) % 10
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records.tofile(folder / "test_batch.bin")
    return tmp_path


def test_the_official_binary_layout_is_read(binary: Path) -> None:
    test_set = load_cifar10("test", root=binary)
    assert test_set.images_NHWC.shape == (10_000, 32, 32, 3)
    assert test_set.labels_N.tolist() == (np.arange(10_000) % 10).tolist()
    for n, row, column, channel in ((0, 0, 0, 0), (0, 0, 1, 0), (3, 5, 7, 1), (9_999, 31, 31, 2)):
        position = n * 3073 + 1 + channel * 1024 + row * 32 + column
        assert test_set.images_NHWC[n, row, column, channel] == position % 256


@pytest.mark.parametrize("size", [0, 3073, 10_000 * 3073 - 1, 10_000 * 3073 + 1])
def test_a_truncated_binary_file_is_refused(binary: Path, size: int) -> None:
    path = binary / "cifar-10-batches-bin" / "test_batch.bin"
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(DataError, match=f"expected 30730000 bytes, got {size}: the file is truncated"):
        load_cifar10("test", root=binary)


def test_a_missing_binary_file_is_named(binary: Path) -> None:
    with pytest.raises(DataError, match=r"data_batch_1\.bin is missing: unpack"):
        load_cifar10("train", root=binary)


def test_no_data_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAT_DATA", str(tmp_path / "here"))
    assert data_root() == tmp_path / "here"
    with pytest.raises(DataError, match=r"no CIFAR-10 under .*here.*set OAT_DATA.*--download"):
        load_cifar10("test")


def test_a_failed_download_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooch = pytest.importorskip("pooch")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded \(no network\)"):
        load_cifar10("test", root=tmp_path, download=True)


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


def test_unit_images_keep_every_value() -> None:
    images = torch.from_numpy(random_images(2, 8))
    x_NCHW = to_unit(images)
    assert (x_NCHW.shape, x_NCHW.dtype) == ((2, 3, 8, 8), torch.float32)
    assert torch.equal((x_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1), images)


def test_every_augmented_image_is_a_window_of_its_padded_original_or_of_its_mirror_image() -> None:
    num, size, padding = 40, 6, 2
    images = torch.from_numpy(random_images(num, size))
    out = augment(images, padding=padding, generator=generator())
    assert (out.shape, out.dtype) == (images.shape, images.dtype)
    assert torch.equal(images, torch.from_numpy(random_images(num, size)))
    padded = np.pad(images.numpy(), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    found = []
    for n in range(num):
        windows = {
            (top, left, flip): padded[n, top : top + size, left : left + size][:, :: -1 if flip else 1]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for flip in (False, True)
        }
        found.append([key for key, window in windows.items() if np.array_equal(window, out[n].numpy())])
    assert all(len(keys) == 1 for keys in found)
    tops, lefts, flips = (set(values) for values in zip(*(keys[0] for keys in found), strict=True))
    assert tops == lefts == set(range(2 * padding + 1))
    assert flips == {False, True}
    assert any(keys[0][0] != keys[0][1] for keys in found)  # rows and columns are drawn apart


def test_augmentation_follows_the_seed() -> None:
    images = torch.from_numpy(random_images(8, 6))
    first = augment(images, padding=2, generator=generator(1))
    torch.manual_seed(77)
    assert torch.equal(augment(images, padding=2, generator=generator(1)), first)
    assert not torch.equal(augment(images, padding=2, generator=generator(2)), first)


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
