"""Laws of decoded pictures: decoded once, whole or not at all, shared, and never believed where they do not fit."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from oat_runtime.architecture import InputSpec, Resize
from oat_runtime.commands import text_of
from oat_runtime.data import ImageSet, image_files, load_dataset, read_image
from oat_runtime.data.folders import decode_cache, pictures
from oat_runtime.data.folders.pictures import Picture
from oat_runtime.errors import DataError
from oat_runtime.image import fit_frame

Bytes = npt.NDArray[np.uint8]
NUM = 40


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(decode_cache, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number in range(NUM):
        save(root / ("cat", "dog")[number % 2] / f"{number:02d}.png", number)
    return root


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of pictures that are decoded from now on."""
    seen: list[str] = []

    def count(picture: Picture, spec: InputSpec | None) -> pictures.Decoded:
        seen.append(picture.name)
        return pictures.decode(picture, spec)

    monkeypatch.setattr(decode_cache, "decode", count)
    return seen


def save(path: Path, seed: int, *, height: int = 30, width: int = 40) -> None:
    patches = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.resize(patches, (width, height), interpolation=cv2.INTER_NEAREST))


def load(root: Path, split: str = "train", *, size: str = "16", resize: Resize = "center_crop") -> ImageSet:
    assert split in ("train", "test")
    return load_dataset(f"{root}@{size}", split, resize=resize)  # type: ignore[arg-type]


def same(one: ImageSet, other: ImageSet) -> bool:
    arrays = [(one.images_NHWC[:], other.images_NHWC[:]), (one.labels_N, other.labels_N)]
    return one.names == other.names and all(np.array_equal(a, b) for a, b in arrays)


@pytest.mark.parametrize("resize", ["center_crop", "letterbox", "stretch"])
def test_each_picture_is_what_the_runtime_makes_of_it_at_the_width_and_height_that_are_asked_for(
    resize: Resize, photos: Path
) -> None:
    spec = InputSpec(height=12, width=20, resize=resize)
    for split in ("train", "test"):
        data = load(photos, split, size="20x12", resize=resize)
        assert data.images_NHWC.shape[1:] == (12, 20, 3)
        assert data.name == f"photos@20x12 {split}"
        assert data.names is not None
        for name, image_HWC in zip(data.names, data.images_NHWC, strict=True):
            np.testing.assert_array_equal(image_HWC, fit_frame(read_image(photos / name), spec))


def test_a_second_start_decodes_nothing_and_neither_does_the_other_split(photos: Path, calls: list[str]) -> None:
    first = load(photos)
    assert len(calls) == NUM
    assert same(load(photos), first)
    assert len(load(photos, "test")) + len(first) == NUM
    assert len(calls) == NUM


def test_another_size_or_fit_has_a_cache_of_its_own(photos: Path, home: Path, calls: list[str]) -> None:
    for size, resize in (("16", "center_crop"), ("16", "stretch"), ("16x12", "center_crop")):
        load(photos, size=size, resize=resize)  # type: ignore[arg-type]
    assert len(calls) == 3 * NUM
    assert len(list((home / "pictures").iterdir())) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda path: save(path, 999),
        lambda path: path.chmod(0o600),
        lambda path: (save(path, 999), os.utime(path, ns=(1, 1))),
        lambda path: path.rename(path.with_name("zz.png")),
        lambda path: path.unlink(),
    ],
)
def test_a_change_of_a_picture_is_seen_and_leaves_no_old_cache_behind(
    change: Callable[[Path], object], photos: Path, home: Path, calls: list[str]
) -> None:
    load(photos)
    change(photos / "cat" / "00.png")
    changed = load(photos)
    assert len(calls) >= 2 * NUM - 1
    assert len(list((home / "pictures").iterdir())) == 1
    assert changed.names is not None
    for name, image_HWC in zip(changed.names, changed.images_NHWC, strict=True):
        np.testing.assert_array_equal(image_HWC, fit_frame(read_image(photos / name), InputSpec(height=16, width=16)))


def flip(path: Path, at: int) -> None:
    """Change one byte and nothing that a listing shows."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "pixels.npy", 5000),
        lambda folder: flip(folder / "pixels.npy", -1),
        lambda folder: flip(folder / "pixels.npy", 30),
        lambda folder: flip(folder / "beside.npz", 700),
        lambda folder: os.truncate(folder / "pixels.npy", 9000),
        lambda folder: os.truncate(folder / "pixels.npy", 0),
        lambda folder: os.truncate(folder / "beside.npz", 100),
        lambda folder: (folder / "record.json").write_text("{"),
        lambda folder: os.truncate(folder / "record.json", decode_cache._MOST_BYTES + 1),
        lambda folder: (folder / "pixels.npy").unlink(),
        lambda folder: (folder / "beside.npz").unlink(),
    ],
)
def test_a_damaged_cache_is_noticed_and_made_again(
    damage: Callable[[Path], object], photos: Path, home: Path, calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = load(photos)
    expected = first.images_NHWC[:].copy()
    del first
    damage(next((home / "pictures").iterdir()))
    again = load(photos)
    assert "decoded again" in caplog.text
    assert len(calls) == 2 * NUM
    np.testing.assert_array_equal(again.images_NHWC[:], expected)


def test_pixels_in_another_shape_are_not_believed(photos: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = load(photos).images_NHWC[:].copy()
    pixels = next((home / "pictures").iterdir()) / "pixels.npy"
    whole = pixels.read_bytes()
    pixels.write_bytes(whole.replace(b"16, 16, 3)", b"8, 32, 3) ", 1))
    np.testing.assert_array_equal(load(photos).images_NHWC[:], expected)
    assert "decoded again" in caplog.text


@pytest.mark.parametrize("name", ["thumbnails", "digests", "small", "checksums"])
@pytest.mark.parametrize(
    "change", [lambda a: a[:0], lambda a: a[1:], lambda a: a.astype(np.float32), lambda a: a.sum()]
)
def test_what_lies_beside_the_pixels_must_fit_the_pictures(
    name: str, change: Callable[..., Any], photos: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: a cache without thumbnails whose record vouched for them ended in an IndexError."""
    expected = load(photos).images_NHWC[:].copy()
    folder = next((home / "pictures").iterdir())
    with np.load(folder / "beside.npz") as archive:
        arrays = dict(archive)
    np.savez(folder / "beside.npz", **{**arrays, name: change(arrays[name])})
    record = json.loads((folder / "record.json").read_bytes())
    record["beside_sha256"] = hashlib.sha256((folder / "beside.npz").read_bytes()).hexdigest()
    (folder / "record.json").write_text(json.dumps(record))
    np.testing.assert_array_equal(load(photos).images_NHWC[:], expected)
    assert "decoded again" in caplog.text


def test_fewer_images_than_pictures_are_not_believed(photos: Path, home: Path, calls: list[str]) -> None:
    expected = load(photos).images_NHWC[:].copy()
    folder = next((home / "pictures").iterdir())
    np.save(folder / "pixels.npy", np.load(folder / "pixels.npy")[1:])
    with np.load(folder / "beside.npz") as archive:
        arrays = {name: array[1:] for name, array in archive.items()}
    np.savez(folder / "beside.npz", **arrays)
    record = json.loads((folder / "record.json").read_bytes())
    record["beside_sha256"] = hashlib.sha256((folder / "beside.npz").read_bytes()).hexdigest()
    (folder / "record.json").write_text(json.dumps(record))
    np.testing.assert_array_equal(load(photos).images_NHWC[:], expected)


PROGRAM = """
import os, sys
from pathlib import Path
from oat_runtime.data import load_dataset
from oat_runtime.data.folders import decode_cache, pictures

num = 0
def decode(picture, spec):
    global num
    num += 1
    if num == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return pictures.decode(picture, spec)

decode_cache.decode = decode
decode_cache._num_threads = lambda: 1
data = load_dataset(sys.argv[1] + "@16", "train")
print(num, data.images_NHWC[:].sum(), "torch" in sys.modules)
"""


def start(photos: Path, home: Path, *, dies_at: int = -1) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(home.parent)}
    command = [sys.executable, "-c", PROGRAM, str(photos), str(dies_at)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache that other processes see as well."""
    monkeypatch.setattr(decode_cache, "user_cache", lambda: tmp_path / "oat")
    return tmp_path / "oat"


def test_a_process_that_is_killed_leaves_nothing_that_is_believed(photos: Path, shared: Path, calls: list[str]) -> None:
    with start(photos, shared, dies_at=NUM // 2) as process:
        assert process.wait() == -9
    (folder,) = (shared / "pictures").iterdir()
    assert not (folder / "pixels.npy").exists()
    assert len(load(photos)) > 0
    assert len(calls) == NUM
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "beside.npz", "pixels.npy", "record.json"]


def test_of_processes_that_start_at_once_one_decodes_and_none_needs_torch(photos: Path, shared: Path) -> None:
    processes = [start(photos, shared) for _ in range(3)]
    outputs = [process.communicate()[0].split() for process in processes]
    assert sorted(int(num) for num, _, _ in outputs) == [0, 0, NUM]
    assert {(total, torch) for _, total, torch in outputs} == {(str(load(photos).images_NHWC[:].sum()), "False")}


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    call: str, photos: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        load(photos)
    (folder,) = (home / "pictures").iterdir()
    assert text_of(caught.value) == f"disk full: {folder / 'pixels.npy'} could not be written"
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_without_a_cache_that_can_be_written_pictures_are_read_and_nothing_stays(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    expected = load(photos)
    for no_cache in (None, tmp_path / "file"):
        monkeypatch.setattr(decode_cache, "user_cache", lambda no_cache=no_cache: no_cache)
        assert same(load(photos), expected)
    assert "not kept" in caplog.text
    assert not list(tmp_path.glob("oat-*"))


def test_pictures_that_change_while_they_are_read_are_refused(
    photos: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    def grow(picture: Picture, spec: InputSpec | None) -> pictures.Decoded:
        save(photos / "cat" / "00.png", len(calls) + 500)
        return pictures.decode(picture, spec)

    with monkeypatch.context() as patch:
        patch.setattr(decode_cache, "decode", grow)
        with pytest.raises(DataError, match="changed while they were read: start again"):
            load(photos)
    load(photos)
    assert len(calls) == NUM


def test_a_broken_picture_is_named_at_every_start_and_read_when_it_is_mended(photos: Path, calls: list[str]) -> None:
    (photos / "cat" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of 40 images cannot be read: .*: cat/00.png"):
            load(photos)
    assert len(calls) == NUM
    save(photos / "cat" / "00.png", 0)
    assert len(load(photos)) + len(load(photos, "test")) == NUM


def failing_open(name: str, error: OSError, *, after: int = 0) -> Callable[..., Any]:
    """`Path.open`, but a file of this name fails after so many times."""
    real, left = Path.open, [after]

    def open_file(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == name:
            left[0] -= 1
            if left[0] < 0:
                raise error
        return real(path, *args, **kwargs)

    return open_file


def out_of_memory(*_: object, **__: object) -> Bytes:
    raise MemoryError


def out_of_opencvs_memory(*_: object, **__: object) -> Bytes:
    error = cv2.error("OpenCV: Insufficient memory")
    error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 1000000 bytes"
    raise error


@pytest.mark.parametrize(
    ("place", "name", "failing"),
    [
        (Path, "open", failing_open("00.png", OSError(errno.EIO, "Input/output error"))),
        (Path, "open", failing_open("00.png", OSError(errno.EIO, "Input/output error"), after=1)),
        (image_files, "decode_file", out_of_memory),
        (cv2, "imdecode", out_of_opencvs_memory),
    ],
)
def test_a_picture_that_could_not_be_read_for_a_time_is_read_afterwards(
    place: Any, name: str, failing: Callable[..., Any], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: an error of a mount was remembered as a broken picture, whose size and times never changed."""
    with monkeypatch.context() as patch:
        patch.setattr(place, name, failing)
        with pytest.raises(DataError, match="images cannot be read"):
            load(photos)
    assert len(load(photos)) + len(load(photos, "test")) == NUM


def test_a_picture_that_cannot_be_read_is_tried_again_alone(
    photos: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: nothing was kept then, so all pictures were decoded at every start."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing_open("00.png", OSError(errno.EIO, "Input/output error")))
        for num in (NUM, 1, 1):
            calls.clear()
            with pytest.raises(DataError, match=r"1 of 40 images cannot be read: .*: cat/00.png"):
                load(photos)
            assert len(calls) == num
        first = load_dataset(f"{photos}@16", "train", skip_broken=True)
        assert same(first, load_dataset(f"{photos}@16", "train", skip_broken=True))
    calls.clear()
    assert len(load(photos)) + len(load(photos, "test")) == NUM
    assert len(calls) == 1 + NUM  # the one, and then all


def test_on_no_terminal_a_start_says_in_a_line_where_the_cache_is_and_how_large(
    photos: Path, home: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        load(photos)
        load(photos)
    (folder,) = (home / "pictures").iterdir()
    assert f"decoding 40 pictures once into {folder} (30.7 kB)" in caplog.text
    assert f"40 images of {photos} come from the cache {folder}" in caplog.text
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_is_far_larger_than_needed_is_decoded_smaller_and_looks_the_same(
    orientation: int, tmp_path: Path
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    smooth = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    large = cv2.resize(smooth, (1600, 1200), interpolation=cv2.INTER_CUBIC)
    exif = image_module.Exif()
    exif[274] = orientation
    image_module.fromarray(large).save(tmp_path / "large.jpg", quality=92, exif=exif)
    whole = read_image(tmp_path / "large.jpg")
    shapes = {needed: read_image(tmp_path / "large.jpg", needed_px=needed).shape for needed in (301, 151, 150, 75, 8)}
    upright = (1200, 1600) if orientation == 1 else (1600, 1200)
    halvings = {needed: round(np.log2(upright[0] / shape[0])) for needed, shape in shapes.items()}
    assert halvings == {301: 0, 151: 0, 150: 1, 75: 2, 8: 3}
    for needed in (150, 75, 37):
        spec = InputSpec(height=needed, width=needed)
        draft = fit_frame(read_image(tmp_path / "large.jpg", needed_px=needed), spec)
        difference = np.abs(draft.astype(int) - fit_frame(whole, spec))
        assert difference.mean() < 1.0
        assert difference.max() <= 8
