"""Laws of decoding: OpenCV's pixels to the bit, no memory for a mere claim, no damage taken for a picture."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import simplejpeg

from oat_runtime.data import check_compressed, check_image, read_image
from oat_runtime.data.decoding import REDUCED_ABOVE_PX, decode_rgb
from oat_runtime.data.image_headers import MAX_PARTS, MAX_PIXELS, MAX_SCANS, PNM_HEAD_BYTES, read_header
from oat_runtime.errors import DataError, InputError
from tests.little_work import MOST_CPU_S, little_work
from tests.oat_runtime.data.encoded import frame_header, png, png_chunk, progressive_jpeg, segment

NOISE = np.random.default_rng(0)
SCENE = cv2.resize(NOISE.integers(0, 256, (9, 11, 3), dtype=np.uint8), (61, 47))


def encoded(suffix: str, *flags: int, image: np.ndarray = SCENE) -> bytes:
    return bytes(cv2.imencode(suffix, image, list(flags))[1].tobytes())


IMAGES = {
    "jpeg": encoded(".jpg"),
    "jpeg grey": encoded(".jpg", image=SCENE[..., 0]),
    "jpeg progressive": encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "jpeg 4:4:4": encoded(".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111),
    "png": encoded(".png"),
    "png 16 bits": encoded(".png", image=NOISE.integers(0, 2**16, (47, 61, 4), dtype=np.uint16)),
    "webp": encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
    "webp lossless": encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    "bmp": encoded(".bmp"),
    "ppm": encoded(".ppm"),
    "pgm": encoded(".pgm", image=SCENE[..., 0]),
    "ppm text": b"P3 # a comment\n 4\t\n3 255\n" + b"7 " * 36,
    "tiff": encoded(".tiff"),
    "tiff deflate": encoded(".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 8),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("oriented", [False, True])
def test_every_format_gives_the_pixels_of_opencv_to_the_bit(name: str, oriented: bool) -> None:
    flags = cv2.IMREAD_COLOR | (0 if oriented else cv2.IMREAD_IGNORE_ORIENTATION)
    expected = cv2.imdecode(np.frombuffer(IMAGES[name], np.uint8), flags)[..., ::-1]
    np.testing.assert_array_equal(decode_rgb(IMAGES[name], oriented=oriented), expected)


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
@pytest.mark.parametrize("size_hw", [(480, 640), (1080, 1920), (33, 17)])
def test_camera_frames_give_the_pixels_of_opencv_whether_or_not_large_ones_are_reduced(
    quality: int, size_hw: tuple[int, int]
) -> None:
    image = cv2.resize(SCENE, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    data = encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, quality, image=image)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode_rgb(data, reduced=True), expected)


def test_orientation_and_cmyk_are_opencvs() -> None:
    pillow = pytest.importorskip("PIL.Image")
    turned, cmyk = io.BytesIO(), io.BytesIO()
    exif = pillow.Exif()
    exif[274] = 6
    pillow.fromarray(SCENE).save(turned, "JPEG", exif=exif)
    pillow.fromarray(SCENE).convert("CMYK").save(cmyk, "JPEG")
    for data, flags, oriented in (
        (turned, cv2.IMREAD_COLOR, True),
        (turned, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, False),
        (cmyk, cv2.IMREAD_COLOR, True),
    ):
        expected = cv2.imdecode(np.frombuffer(data.getvalue(), np.uint8), flags)[..., ::-1]
        np.testing.assert_array_equal(decode_rgb(data.getvalue(), oriented=oriented), expected)
    assert decode_rgb(turned.getvalue()).shape == (61, 47, 3)


def test_a_frame_above_4k_may_be_halved_and_one_of_4k_is_not() -> None:
    width, height = 3840, 2160
    assert width * height == REDUCED_ABOVE_PX
    grey = np.full((height + 8, width), 90, np.uint8)
    above, at = encoded(".jpg", image=grey), encoded(".jpg", image=grey[:height])
    assert decode_rgb(above, reduced=True).shape == (height // 2 + 4, width // 2, 3)
    assert decode_rgb(above).shape == (height + 8, width, 3)
    assert decode_rgb(at, reduced=True).shape == (height, width, 3)


def _forged(name: str, width: int, height: int) -> bytes:
    """One of the images with another size in its header."""
    data = bytearray(IMAGES[name])
    if name.startswith("jpeg"):
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif name.startswith("png"):
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif name.startswith("webp"):
        if data[12:16] == b"VP8L":
            data[21:25] = struct.pack("<I", (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14)
        else:
            data[26:30] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    elif name == "bmp":
        data[18:26] = struct.pack("<ii", width, -height)
    elif name.startswith("p"):
        return bytes(data).replace(b"61 47", b"%d %d" % (width, height)).replace(b"4\t\n3", b"%d\n%d" % (width, height))
    else:
        at = struct.unpack_from("<I", data, 4)[0] + 2
        for tag, side in ((256, width), (257, height)):
            while struct.unpack_from("<H", data, at)[0] != tag:
                at += 12
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("name", IMAGES)
def test_a_size_above_the_limit_is_refused_before_a_decoder_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(cv2, "imdecode", decode)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    with pytest.raises(InputError, match=r"bad size: .* got 16000x16000: send it smaller, or raise max_pixels"):
        decode_rgb(_forged(name, 16000, 16000))
    with pytest.raises(InputError, match="bad size"):
        decode_rgb(_forged(name, 60, 40), max_pixels=60 * 40 - 1)
    with pytest.raises(AssertionError):
        decode_rgb(_forged(name, 60, 40), max_pixels=60 * 40)


def test_a_marker_without_length_hides_no_frame_header() -> None:
    # Whoever reads a length behind FF 01 jumps over the true header, 16000x16000, to the one in the comment.
    true = frame_header(16000, 16000)
    jump = int.from_bytes(true[:2], "big")
    comment = bytes(jump - len(true) - 8) + frame_header(8, 8)  # in two segments, each with four bytes before it
    comments = b"".join(segment(0xFE, comment[at : at + 60000]) for at in range(0, len(comment), 60000))
    data = b"\xff\xd8\xff\x01" + true + comments + segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])) + b"\xff\xd9"
    with pytest.raises(InputError, match=r"bad size: .* got 16000x16000"):
        check_compressed(SimpleNamespace(format="jpeg", data=data))


def test_what_claims_two_sizes_is_refused() -> None:
    data = IMAGES["jpeg"]
    two = data[:2] + frame_header(8, 8) + data[2:]
    with pytest.raises(InputError, match=r"undecodable|damaged"):
        read_header(two)
    twice = IMAGES["png"][:33] + IMAGES["png"][8:33] + IMAGES["png"][33:]
    with pytest.raises(InputError, match="damaged: PNG data must begin with one header"):
        read_header(twice)
    tiff = bytearray(IMAGES["tiff"])
    at = struct.unpack_from("<I", tiff, 4)[0] + 2
    tiff[at : at + 12], tiff[at + 12 : at + 24] = tiff[at + 12 : at + 24], tiff[at : at + 12]
    with pytest.raises(InputError, match="the tags of a TIFF image must come once each and in order"):
        read_header(bytes(tiff))


def test_only_stated_formats_are_decoded_whatever_a_file_is_called(tmp_path: Path) -> None:
    for start in (b"GIF89a", b"\0\0\0\x0cjP  ", b"#?RADIANCE", b"Y\xa6j\x95", b"\0\0\0\x20ftypavif"):
        with pytest.raises(InputError, match="unknown format: expected JPEG, PNG, WebP, BMP, PNM, TIFF"):
            decode_rgb(start + bytes(99))
    (tmp_path / "a.png").write_bytes(b"GIF89a" + bytes(99))
    with pytest.raises(DataError, match=r"a\.png cannot be decoded.*unknown format"):
        read_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="expected JPEG or PNG data, got BMP"):
        check_compressed(SimpleNamespace(format="bmp", data=IMAGES["bmp"]))
    animated = bytearray(b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(100))
    animated[20] = 2
    with pytest.raises(InputError, match="got an animation"):
        decode_rgb(bytes(animated))


def test_packed_texts_of_a_png_are_never_unpacked() -> None:
    """OpenCV took 5.6 s for a 64x64 image of 2 MB; this one has 10 MB."""
    text = zlib.compress(bytes(20_000_000), 9)
    data = png(64, 64, beside=b"".join(png_chunk(b"zTXt", b"k%d\0\0" % number + text) for number in range(500)))
    with little_work():
        np.testing.assert_array_equal(decode_rgb(data), np.zeros((64, 64, 3), np.uint8))


def test_a_jpeg_has_a_bounded_number_of_scans() -> None:
    assert decode_rgb(progressive_jpeg(64, 48, scans=MAX_SCANS)).shape == (48, 64, 3)
    with pytest.raises(InputError, match="too many scans: expected at most 64"):
        decode_rgb(progressive_jpeg(64, 48, scans=MAX_SCANS + 1))


@pytest.mark.parametrize("start", [b"\xff\xd8", b"\xff\xd8\xff\xda\x00\x02"], ids=["segments", "scan"])
@pytest.mark.parametrize("filler", [b"\xff", b"\xff\x00", b"\xff\xff\x00"], ids=["FF", "FF 00", "FF FF 00"])
def test_a_jpeg_is_searched_once_however_it_is_filled(start: bytes, filler: bytes) -> None:
    """200 kB of FF took minutes."""
    data = start + filler * (4_000_000 // len(filler)) + b"\x00"
    with little_work(), pytest.raises(InputError, match="no end marker"):
        read_header(data)


def test_filled_markers_are_markers() -> None:
    whole = IMAGES["jpeg progressive"]
    start, end = whole[:2], whole[-2:]
    filled = start + b"\xff" * 100_000 + whole[2:-2] + b"\xff" * 100_000 + end
    assert (read_header(filled).height, read_header(filled).width) == SCENE.shape[:2]
    np.testing.assert_array_equal(decode_rgb(filled), decode_rgb(whole))


@pytest.mark.parametrize("marker", [b"\xff\xe0\x00\x02", b"\xff\x01"], ids=["segment", "without length"])
def test_a_jpeg_has_a_bounded_number_of_segments(marker: bytes) -> None:
    whole = IMAGES["jpeg"]
    assert read_header(whole[:2] + marker * (MAX_PARTS - 100) + whole[2:]).height == SCENE.shape[0]
    with pytest.raises(InputError, match="too many segments: expected at most 65536"):
        read_header(whole[:2] + marker * 1_000_000 + whole[2:])


@pytest.mark.parametrize("filler", [b" ", b"#\n", b"#"])
def test_the_size_of_a_pnm_is_read_from_its_first_bytes(filler: bytes) -> None:
    """Spaces took 130 times their size in memory."""
    room = PNM_HEAD_BYTES - len(b"P6 \n3 2\n")
    filled = b"P6 " + filler * (room // len(filler)) + b"\n3 2\n"
    header = read_header(filled + b"255\n" + bytes(18))
    assert (header.height, header.width) == (2, 3)
    for data in (filled[:-1] + b"0000\n255\n", b"P6 " + filler * (20_000_000 // len(filler)) + b"\n3 2\n255\n"):
        tracemalloc.start()
        with pytest.raises(InputError, match="without a size in the first 4096 bytes"):
            read_header(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


def test_a_message_of_another_format_is_refused_by_its_first_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("a header was read")

    monkeypatch.setattr("oat_runtime.data.camera_messages.read_header", read)
    for name in ("ppm", "tiff", "webp", "bmp"):
        with pytest.raises(InputError, match="unknown format: expected JPEG or PNG data, got"):
            check_compressed(SimpleNamespace(format="jpeg", data=IMAGES[name]))


@pytest.mark.parametrize("cut", ["hole", "cut off", "zeros", "half, then the next"])
def test_a_jpeg_with_a_hole_is_no_picture(cut: str) -> None:
    image = cv2.resize(SCENE, (320, 240), interpolation=cv2.INTER_CUBIC)
    whole = encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 90, image=image)
    n = len(whole)
    damaged = {
        "hole": whole[: n * 4 // 10] + whole[n * 7 // 10 :],
        "cut off": whole[: n * 3 // 10] + b"\xff\xd9",
        "zeros": whole[: n * 4 // 10] + bytes(n * 5 // 10) + whole[n * 9 // 10 :],
        "half, then the next": whole[: n // 2] + whole,
    }[cut]
    with pytest.raises(InputError, match=r"undecodable: Corrupt JPEG data|damaged: a second JPEG image"):
        decode_rgb(damaged)


def test_bytes_behind_an_image_and_a_few_before_its_end_harm_nothing() -> None:
    whole = IMAGES["jpeg"]
    for data in (whole + bytes(100), whole + b"rest of a buffer", whole + whole, whole[:-2] + b"\0\0\0" + whole[-2:]):
        check_compressed(SimpleNamespace(format="jpeg", data=data))
        np.testing.assert_array_equal(decode_rgb(data), decode_rgb(whole))


def _without_tables(data: bytes) -> bytes:
    """A frame of Motion JPEG: the Huffman tables are the standard's, and left out."""
    kept, at = data[:2], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kept += b"" if data[at + 1] == 0xC4 else data[at:end]
        at = end
    return kept + data[at:]


def _changed(data: bytes, *, behind: bytes, at: int, to: bytes) -> bytes:
    place = data.index(behind) + at
    return data[:place] + to + data[place + len(to) :]


WHOLE = encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 90)
ODD = {
    "tables left out": _without_tables(WHOLE),
    "restart markers": encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "frequencies 0 to 0": _changed(WHOLE, behind=b"\xff\xda", at=12, to=b"\0"),
    "frequencies from 1": _changed(WHOLE, behind=b"\xff\xda", at=11, to=b"\1\x3f\x11"),
    "JFIF 2": _changed(WHOLE, behind=b"JFIF\0", at=5, to=b"\2"),
    "both, and bytes before the end": _changed(
        _changed(WHOLE[:-2] + b"\0\0\0" + WHOLE[-2:], behind=b"\xff\xda", at=12, to=b"\0"),
        behind=b"JFIF\0", at=5, to=b"\2",
    ),
    "padded": WHOLE + b"\xff" * 9 + bytes(500),
    "a preview within": WHOLE[:2] + segment(0xE2, WHOLE) + WHOLE[2:],
}  # fmt: skip


@pytest.mark.parametrize("oddity", ODD)
def test_whole_jpegs_of_odd_cameras_are_pictures(oddity: str) -> None:
    """Whatever holds every pixel is taken; a hole in it is still noticed."""
    data = ODD[oddity]
    np.testing.assert_array_equal(decode_rgb(data), decode_rgb(WHOLE))
    start = data.rindex(b"\xff\xda")
    damaged = data[: start + 100] + data[start + 700 :]
    with pytest.raises(InputError, match="undecodable: Corrupt JPEG data"):
        decode_rgb(damaged)


@pytest.mark.parametrize("name", IMAGES)
def test_header_and_decoder_agree_on_whatever_is_damaged(name: str) -> None:
    """A damaged image is refused with a reason, or decodes to exactly the size that was checked."""
    rng = np.random.default_rng(7)
    for _ in range(150):
        data = bytearray(IMAGES[name])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 80))] = rng.integers(0, 256)
        try:
            header = read_header(bytes(data), max_pixels=10**6)
            image_HWC = decode_rgb(bytes(data), max_pixels=10**6, oriented=False)
        except InputError:
            continue
        assert image_HWC.shape == (header.height, header.width, 3)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("16UC1; png compressed ", "depth image"),
        ("16UC1; jpeg compressed mono8", "depth image"),
        ("32FC1; compressedDepth png", "depth image"),
        ("16UC1", "depth image"),
        ("mono16; compressedDepth rvl", "depth image"),
        ("bayer_rggb8; jpeg compressed ", "Bayer mosaic"),
        ("bayer_gbrg16;png compressed bayer_gbrg16", "Bayer mosaic"),
        (" bayer_rggb8", "Bayer mosaic"),
    ],
)
def test_a_compressed_message_that_says_it_is_no_picture_is_none(form: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"{reason}: expected a picture, got the format '{form.strip()}'"):
        check_compressed(SimpleNamespace(format=form, data=IMAGES["png"]))


@pytest.mark.parametrize(
    "form",
    [
        "", "jpeg", "png", "rgb8; jpeg compressed bgr8", "mono16; png compressed ", "bgra8; jpeg compressed bgr8",
        "bayer_rggb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed mono8", "bayer_rggb16;png compressed bgr16",
    ],
)  # fmt: skip
def test_a_compressed_message_of_a_picture_is_one_whatever_its_camera_sent(form: str) -> None:
    """compressed_image_transport interpolates a mosaic, and names behind `compressed` what it made of it."""
    check_compressed(SimpleNamespace(format=form, data=IMAGES["png"]))


def test_one_limit_holds_for_messages_and_files(tmp_path: Path) -> None:
    raw = SimpleNamespace(height=2, width=3, encoding="mono8", is_bigendian=0, step=3, data=bytes(6))
    check_image(raw, max_pixels=6)
    with pytest.raises(InputError, match="at most 5 in all"):
        check_image(raw, max_pixels=5)
    (tmp_path / "a.png").write_bytes(IMAGES["png"])
    assert read_image(tmp_path / "a.png", max_pixels=61 * 47).shape == SCENE.shape
    with pytest.raises(DataError, match=r"a\.png cannot be decoded.*bad size"):
        read_image(tmp_path / "a.png", max_pixels=61 * 47 - 1)
    with pytest.raises(InputError, match="oversize: 10 pixels take at most"):
        decode_rgb(bytes(2**20 + 81), max_pixels=10)


@pytest.mark.parametrize(
    "make", ["png(W, H, bits=16, color=6, pixel_bytes=8)", f"progressive_jpeg(W, H, scans={MAX_SCANS})"]
)
def test_the_largest_bomb_takes_bounded_time_and_memory(make: str) -> None:
    """At the default limit: measured 0.4 and 1.1 s, 192 and 285 MB. A PNG of 16384x16384 took 1.5 GB."""
    code = f"""
import resource, time
from oat_runtime.data.decoding import decode_rgb
from tests.oat_runtime.data.encoded import png, progressive_jpeg
W, H = 7680, 4320
assert W * H == {MAX_PIXELS}
data = {make}
before_kb, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
assert decode_rgb(data).shape == (H, W, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb, time.process_time() - start_s)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    memory_kb, time_s = map(float, done.stdout.split())
    assert memory_kb < 400_000 and time_s < MOST_CPU_S
