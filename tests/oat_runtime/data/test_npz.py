"""NumPy archives of images come back with their labels, or are refused by what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oat_runtime.data import read_images_npz, read_labelled_npz
from oat_runtime.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


def test_images_and_labels_come_back_as_far_as_they_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "validation.npz"
    np.savez(path, images=IMAGES, labels=np.arange(5, dtype=np.uint8))
    data = read_labelled_npz(path)
    np.testing.assert_array_equal(data.images_NHWC, IMAGES)
    assert data.labels_N.tolist() == [0, 1, 2, 3, 4] and data.labels_N.dtype == np.int64
    assert (data.name, data.class_names) == ("validation", ())
    np.testing.assert_array_equal(read_labelled_npz(path, limit=2).images_NHWC, IMAGES[:2])
    np.testing.assert_array_equal(read_images_npz(path, limit=2), IMAGES[:2])


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": IMAGES}, "expected an .npz with `images` and `labels` at .*: it lacks `labels`$"),
        ({"images": IMAGES / 255, "labels": np.arange(5)}, r"expected `images` of uint8 \(N, H, W, 3\), got float64"),
        ({"images": IMAGES[..., 0], "labels": np.arange(5)}, r"got uint8 \(5, 4, 6\)"),
        ({"images": IMAGES, "labels": np.arange(4)}, "expected a label for each of 5 images, got 4$"),
        ({"images": IMAGES, "labels": np.ones(5)}, "got float64"),
        ({"images": np.array([{}]), "labels": np.arange(1)}, "expected an .npz .*: it is damaged, or not of plain"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(DataError, match=says):
        read_labelled_npz(tmp_path / "other.npz")


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_refused_in_our_own_words(tmp_path: Path, content: bytes | None) -> None:
    """Regression: NumPy's advice to load the file unsafely was passed on."""
    path = tmp_path / "broken.npz"
    if content is not None:
        path.write_bytes(content)
    says = "no such file" if content is None else r"it is not an \.npz file"
    with pytest.raises(DataError, match=rf"expected an \.npz with `images` at .*broken\.npz: {says}$"):
        read_images_npz(path)
    with pytest.raises(DataError, match=r"Is a directory$"):
        read_images_npz(tmp_path)


def test_a_member_that_is_no_array_is_said_in_one_line(tmp_path: Path) -> None:
    """Regression: zipfile's and NumPy's own errors came through, a dozen kinds of them."""
    import zipfile

    path = tmp_path / "images.npz"
    for content in (b"raw", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<u1', "):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
        with pytest.raises(DataError, match=r"images\.npz"):
            read_images_npz(path)


def test_labels_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labelled.npz"
    np.savez(path, images=np.zeros((1, 2, 2, 3), np.uint8), labels=np.array([2**64 - 1], np.uint64))
    with pytest.raises(DataError, match="`labels`: expected whole numbers along 1 axes, got uint64"):
        read_labelled_npz(path)


def test_an_array_that_unpacks_to_far_more_than_it_takes_is_refused(tmp_path: Path) -> None:
    """Regression: an archive of 0.4 MB took 760 MB."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((3000, 96, 96, 3), np.uint8))
    assert path.stat().st_size < 10**6
    with pytest.raises(DataError, match="unpacks from"):
        read_images_npz(path)
