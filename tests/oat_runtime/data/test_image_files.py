"""Laws of image files: frames come as a person counts, pixels are RGB, what cannot be read is named."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat_runtime.data import frame_files, in_frame_order, is_image, read_image
from oat_runtime.errors import DataError

NAMES = st.text("ab._-019", min_size=1, max_size=8).filter(lambda name: name not in (".", ".."))


def ordered(*names: str) -> list[str]:
    return [path.as_posix() for path in in_frame_order(map(Path, names))]


@pytest.mark.parametrize(
    "names",
    [
        ("frame1.png", "frame2.png", "frame10.png"),
        ("2.png", "10.png", "frame1.png"),
        ("cam1_9.png", "cam1_10.png", "cam2_1.png"),
        ("a/frame10.png", "b/frame2.png"),
        ("run2/1.png", "run10/0.png"),
        ("frame.png", "frame1.png", "frame_1.png"),
        ("frame002.png", "frame02.png", "frame2.png", "frame3.png"),
        ("run02/1.png", "run02/3.png", "run2/2.png"),
        ("B1.png", "a1.png"),
    ],
    ids=" < ".join,
)
def test_frames_come_as_a_person_counts(names: tuple[str, ...]) -> None:
    assert ordered(*reversed(names)) == ordered(*names) == list(names)


@given(st.lists(st.integers(0, 10**12), unique=True))
def test_frames_come_in_the_order_of_their_numbers(numbers: list[int]) -> None:
    assert ordered(*(f"frame{n}.png" for n in numbers)) == [f"frame{n}.png" for n in sorted(numbers)]


@given(st.lists(st.tuples(NAMES, st.integers(0, 99999)), unique=True))
def test_numbers_of_one_length_leave_the_order_of_the_names(frames: list[tuple[str, int]]) -> None:
    names = {f"{name.translate(str.maketrans('019', 'xyz'))}{number:05d}.png" for name, number in frames}
    assert ordered(*names) == sorted(names)


@given(st.sets(NAMES), st.randoms())
def test_the_order_does_not_depend_on_the_order_of_listing(names: set[str], random: object) -> None:
    listed = list(names)
    random.shuffle(listed)  # type: ignore[attr-defined]
    assert ordered(*listed) == ordered(*names)


def test_a_folder_gives_its_images_and_nothing_else(tmp_path: Path) -> None:
    for name in ("f10.PNG", "f9.webp", "notes.txt", ".f1.png", "clip.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "f1.png").touch()
    (tmp_path / "empty").mkdir()
    assert [path.name for path in frame_files(tmp_path)] == ["f9.webp", "f10.PNG"]
    assert is_image(tmp_path / "scan.TIFF") and not is_image(tmp_path / "scan.tiff.txt")
    with pytest.raises(DataError, match=r"holds no image: expected files ending in \.bmp"):
        frame_files(tmp_path / "empty")


def test_a_file_gives_the_pixels_that_were_stored(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for suffix in (".png", ".ppm", ".bmp", ".tiff", ".webp"):
        path = tmp_path / f"image{suffix}"
        lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
        assert cv2.imwrite(str(path), pixels[..., ::-1], lossless)
        np.testing.assert_array_equal(read_image(path), pixels)


def test_a_file_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png cannot be decoded: .*: convert it, or copy it again"):
        read_image(tmp_path / "text.png", remedy="copy it again")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png cannot be decoded: empty: .*: replace or remove it"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"none\.png is missing: replace or remove it"):
        read_image(tmp_path / "none.png")


def test_a_number_of_any_length_has_its_place() -> None:
    names = [f"f{'9' * 5000}.png", f"f1{'0' * 5000}.png", "f2.png", "f\u0663.png"]
    assert [path.name for path in in_frame_order(map(Path, names))] == ["f2.png", names[0], names[1], "f\u0663.png"]
