"""Laws of image files' values: what a file shows is what is read, at every depth, and what is not known is refused."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("PIL")
from PIL import Image

from oat_runtime.data import read_image
from oat_runtime.data.file_pixels import BACKGROUND, decode_file
from oat_runtime.errors import DataError, InputError

RAMP = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (40, 1))
GREY = np.dstack([RAMP] * 3)
SCENE = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8), (48, 40))
ALPHA = np.repeat(np.array([[0], [85], [255]], np.uint8), [10, 15, 15], axis=0).repeat(48, axis=1)
Pixels = npt.NDArray[Any]


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def by_opencv(suffix: str, image: Pixels) -> bytes:
    return bytes(cv2.imencode(suffix, image)[1].tobytes())


def over_grey(image: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255
    return np.asarray(image * share + BACKGROUND * (1 - share))


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A TIFF file with another short number in one of its tags."""
    changed, (at,) = bytearray(data), struct.unpack_from("<I", data, 4)
    while struct.unpack_from("<H", changed, at + 2)[0] != tag:
        at += 12
    struct.pack_into("<HHIHH", changed, at + 2, tag, 3, 1, value, 0)
    return bytes(changed)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


RGBA = Image.fromarray(np.dstack([SCENE, ALPHA]))
PALETTE = Image.fromarray(SCENE).quantize(16)
CLEAR = np.array(PALETTE) == 3
DEEP = RAMP.astype(np.uint16) * 257
UPRIGHT = np.rot90(SCENE, -1)
READ: dict[str, tuple[bytes, Pixels]] = {
    "grey of 16 bits, PNG": (by_opencv(".png", DEEP), GREY),
    "grey of 16 bits, TIFF": (by_opencv(".tiff", DEEP), GREY),
    "grey of 16 bits, PGM": (by_opencv(".pgm", DEEP), GREY),
    "colour of 16 bits, PNG": (by_opencv(".png", SCENE[..., ::-1].astype(np.uint16) * 257), SCENE),
    "colour of 16 bits, TIFF": (by_opencv(".tiff", SCENE[..., ::-1].astype(np.uint16) * 257), SCENE),
    "PGM that states 12 bits": (b"P5 48 40 4095\n" + (RAMP / 255 * 4095).astype(">u2").tobytes(), GREY),
    "PGM that states 100": (
        b"P5 # by hand\n48 40 100\n" + (RAMP / 255 * 100).round().astype("u1").tobytes(),
        GREY,
    ),
    "PGM in text": (
        b"P2\n48 40\n100\n" + b"\n".join(b"%d" % v for v in (RAMP / 255 * 100).round().ravel()) + b"\n",
        (GREY / 255 * 100).round() * 2.55,
    ),
    "deep PGM in text": (b"P2 48 40 4095\n" + b" ".join(b"%d" % v for v in (RAMP / 255 * 4095).ravel()) + b"\n", GREY),
    "floats, TIFF": (by_opencv(".tiff", RAMP.astype(np.float32) / 255), GREY),
    "floats of colour, TIFF": (by_opencv(".tiff", SCENE[..., ::-1].astype(np.float32) / 255), SCENE),
    "white is 0, 8 bits": (with_tag(saved(Image.fromarray(RAMP), "TIFF"), 262, 0), 255 - GREY),
    "white is 0, 16 bits": (with_tag(saved(Image.fromarray(DEEP), "TIFF"), 262, 0), 255 - GREY),
    "transparent PNG": (saved(RGBA, "PNG"), over_grey(SCENE, ALPHA)),
    "transparent WebP": (saved(RGBA, "WEBP", lossless=True, exact=True), over_grey(SCENE, ALPHA)),
    "transparent TIFF": (saved(RGBA, "TIFF"), over_grey(SCENE, ALPHA)),
    "transparent grey PNG": (
        saved(Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(ALPHA)]), "PNG"),
        over_grey(GREY, ALPHA),
    ),
    "transparent PNG of 16 bits": (
        by_opencv(".png", np.dstack([SCENE[..., ::-1], ALPHA]).astype(np.uint16) * 257),
        over_grey(SCENE, ALPHA),
    ),
    "one clear grey": (
        saved(Image.fromarray(RAMP), "PNG", transparency=int(RAMP[0, 7])),
        np.where(RAMP[..., None] == RAMP[0, 7], BACKGROUND, GREY),
    ),
    "palette": (saved(PALETTE, "PNG"), np.array(PALETTE.convert("RGB"))),
    "palette with a clear colour": (
        saved(PALETTE, "PNG", transparency=3),
        np.where(CLEAR[..., None], BACKGROUND, np.array(PALETTE.convert("RGB"))),
    ),
    "palette of a TIFF": (saved(PALETTE, "TIFF"), np.array(PALETTE.convert("RGB"))),
    "black and white": (saved(Image.fromarray(RAMP > 99), "PNG"), np.where(GREY > 99, 255, 0)),
    "CMYK, TIFF": (saved(Image.fromarray(SCENE).convert("CMYK"), "TIFF"), SCENE),
    "turned PNG": (saved(Image.fromarray(SCENE), "PNG", exif=turned()), UPRIGHT),
    "turned WebP": (saved(Image.fromarray(SCENE), "WEBP", exif=turned(), lossless=True), UPRIGHT),
    "turned TIFF": (saved(Image.fromarray(SCENE), "TIFF", tiffinfo={274: 6}), UPRIGHT),
    "turned and deep TIFF": (saved(Image.fromarray(DEEP), "TIFF", tiffinfo={274: 6}), np.rot90(GREY, -1)),
    "turned and transparent PNG": (saved(RGBA, "PNG", exif=turned()), np.rot90(over_grey(SCENE, ALPHA), -1)),
}


@pytest.mark.parametrize("kind", READ)
def test_a_file_is_read_as_what_it_shows_to_within_a_grey_level(kind: str, tmp_path: Path) -> None:
    data, shown = READ[kind]
    (tmp_path / "image.png").write_bytes(data)
    image = read_image(tmp_path / "image.png")
    assert (image.dtype, image.shape) == (np.uint8, shown.shape)
    assert np.abs(image.astype(float) - shown).max() <= 1.0


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_a_jpeg_is_turned_and_its_colours_are_rgb(mode: str) -> None:
    smooth = cv2.resize(SCENE[:2, :2], (48, 40))
    original = Image.fromarray(smooth).convert(mode)
    image = decode_file(saved(original, "JPEG", quality=100, subsampling=0, exif=turned()))
    shown = np.rot90(np.array(original.convert("RGB")), -1)
    assert np.abs(image.astype(float) - shown).mean() < 2.0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_of_a_png_is_that_of_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(Image.fromarray(SCENE), "PNG", exif=exif)
    from PIL import ImageOps

    shown = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode_file(data), shown)


STILL, OTHER = Image.fromarray(SCENE), Image.fromarray(SCENE[::-1])
REFUSED: dict[str, tuple[bytes, str]] = {
    "floats above 1": (by_opencv(".tiff", RAMP.astype(np.float32)), "expected floats within 0 and 1, got 0 to 255"),
    "floats below 0": (by_opencv(".tiff", RAMP.astype(np.float32) / 255 - 0.5), "expected floats within 0 and 1"),
    "floats with NaN": (
        by_opencv(".tiff", np.where(RAMP > 99, np.nan, 0.5).astype(np.float32)),
        "expected floats within 0 and 1, got nan",
    ),
    "16 bits with a sign": (by_opencv(".tiff", RAMP.astype(np.int16)), "expected 8 or 16 bits, or floats, got int16"),
    "deep and transparent TIFF": (by_opencv(".tiff", np.dstack([DEEP] * 4)), "transparency or CMYK: save it as PNG"),
    "grey and transparent TIFF": (saved(RGBA.convert("LA"), "TIFF"), "transparency or CMYK: save it as PNG"),
    "animated PNG": (saved(STILL, "PNG", save_all=True, append_images=[OTHER]), "expected a still image"),
    "animated WebP": (saved(STILL, "WEBP", save_all=True, append_images=[OTHER]), "expected a still WebP image"),
    "TIFF of two pages": (saved(STILL, "TIFF", save_all=True, append_images=[OTHER]), "expected a TIFF file of one"),
    "GIF": (saved(STILL, "GIF"), "unknown format"),
    "PGM without white": (b"P5 48 40 0\n" + bytes(48 * 40), "damaged"),
    "PGM above its white": (b"P5 48 40 99\n" + bytes(range(120)) * 16, "expected values up to 99, .* got"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_rule_covers_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    data, says = REFUSED[kind]
    with pytest.raises(InputError, match=says):
        decode_file(data)
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(DataError, match=rf"image\.png cannot be decoded: .*({says})"):
        read_image(tmp_path / "image.png")


def test_the_limit_of_pixels_bounds_the_memory_of_wide_ones_too() -> None:
    """Regression: floats of 8 bytes and 3 channels took three times the memory that the limit stands for."""
    num = SCENE.shape[0] * SCENE.shape[1]
    for kind, pixel_bytes in ((np.float32, 12), (np.float64, 24)):
        data = by_opencv(".tiff", SCENE.astype(kind) / 255)
        assert decode_file(data, max_pixels=num * pixel_bytes // 8).shape == SCENE.shape
        with pytest.raises(InputError, match=f"bytes of pixels, got 48x40 of {pixel_bytes} bytes"):
            decode_file(data, max_pixels=num * pixel_bytes // 8 - 1)
    assert decode_file(by_opencv(".tiff", DEEP), max_pixels=num).shape == SCENE.shape


@pytest.mark.parametrize("kind", READ)
def test_a_damaged_file_is_refused_or_decoded_but_never_breaks(kind: str) -> None:
    rng = np.random.default_rng(3)
    whole = READ[kind][0]
    for _ in range(60):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
        for _ in range(rng.integers(0, 4)):
            data[rng.integers(0, min(len(data), 120))] = rng.integers(0, 256)
        try:
            image = decode_file(bytes(data), max_pixels=10**6)
        except InputError:
            continue
        assert image.dtype == np.uint8 and image.shape[2] == 3


def test_the_chunks_of_a_file_are_bounded() -> None:
    filler = b"JUNK\0\0\0\0"
    webp = by_opencv(".webp", SCENE)
    assert decode_file(webp + 1000 * filler).shape == SCENE.shape
    start_s = time.process_time()
    with pytest.raises(InputError, match="too many chunks: expected at most 65536 in a WebP image"):
        decode_file(webp + 500_000 * filler)
    png = by_opencv(".png", SCENE)
    np.testing.assert_array_equal(decode_file(png + 500_000 * filler), decode_file(png))
    assert time.process_time() - start_s < 0.5
