"""Decode the pictures of a folder once, in parallel, into a file that later starts and other processes map.

A cache lies in `pictures/NAME-SIZE-PART-HASH/` of the user's cache:

| file | holds |
| -- | -- |
| `pixels.npy` | uint8 (N, H, W, 3), memory-mapped: pages of it come from the disk and go back as the system likes |
| `beside.npz` | of each picture: thumbnail, digest, whether it was enlarged, and a checksum of its pixels |
| `record.json` | the key of all that decided the pixels, and the pictures that cannot be read; written last |

Only one process at a time writes or checks a folder's cache. What does not fit its record, or its own checksums, is
made again. Pictures that changed are decoded again in the same place, so old pixels do not pile up. A file that could
not be read, which may pass, is tried again at every start; once it can be read, all are decoded again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from rich.filesize import decimal

from oat_runtime.architecture import InputSpec
from oat_runtime.data.folders.near_copies import THUMBNAIL_SHAPE
from oat_runtime.data.folders.pictures import Picture, decode
from oat_runtime.data.npz import read_arrays
from oat_runtime.errors import DataError, FileReadError, OATError, one_line
from oat_runtime.files import held, read_model, sha256_of, user_cache, whole_file, write_whole
from oat_runtime.operating_point import StrictModel
from oat_runtime.report import progress_bar
from oat_runtime.text import count_of

_LOG = logging.getLogger(__name__)
_FORMAT = 3
"""To be counted up whenever the same files give other pixels, thumbnails, digests or keys."""
_DECODERS = f"{_FORMAT} opencv {cv2.__version__} simplejpeg {simplejpeg.__version__}"
_MOST_THREADS = 8
"""Each may hold one picture of `MAX_PIXELS`, which takes 100 MB."""
_AT_A_TIME = 16
_PIXELS, _BESIDE, _RECORD = "pixels.npy", "beside.npz", "record.json"
_MOST_BYTES = 64 * 2**20
"""Of a record, which names each broken picture."""


@dataclass(frozen=True, slots=True)
class DecodedPictures:
    """The images of some pictures, in their order.

    Attributes:
        images_NHWC: uint8 RGB, memory-mapped, read-only.
        thumbnails_NHWC: uint8, of the images before they were fitted.
        digests_N: uint64, `image_digest` of each.
        small_N: bool, whether a picture was smaller than its image, and was enlarged.
        broken: name to reason of each picture that cannot be read; its image is black.
        unread: names of those that may be read another time, because it is not their bytes that do not decode.
    """

    images_NHWC: npt.NDArray[np.uint8]
    thumbnails_NHWC: npt.NDArray[np.uint8]
    digests_N: npt.NDArray[np.uint64]
    small_N: npt.NDArray[np.bool_]
    broken: dict[str, str]
    unread: tuple[str, ...] = ()


class _Record(StrictModel):
    key: str
    beside_sha256: str
    broken: dict[str, str]
    unread: tuple[str, ...] = ()


def decoded(root: Path, pictures: Sequence[Picture], spec: InputSpec | None, *, part: str) -> DecodedPictures:
    """Return the images of pictures, from the cache if they are there as they are now.

    Args:
        root: folder of the data set.
        pictures: at least one.
        spec: what images are fitted to; None: all have one size.
        part: of the folder, as in `train`; each has a cache of its own.

    Raises:
        DataError: sizes that differ without a `spec`, no picture that can be read, or one that changed meanwhile.
        OSError: the cache cannot be written, say on a full disk; it names the file.
    """
    with _place(root, spec, part) as folder, held(folder, by="reader of these pictures", waits=True):
        key = _key(pictures, spec)
        found = _opened(folder, key, pictures, spec)
        if found is not None:
            _LOG.info("%d images of %s come from the cache %s", len(found.images_NHWC), root, folder)
            return found
        (folder / _RECORD).unlink(missing_ok=True)  # nothing is believed without it
        found = _made(folder, pictures, spec)
        if _key(pictures, spec) != key:
            raise DataError(f"{root}: pictures changed while they were read: start again when nothing writes there")
        return _kept(folder, found, key)


@contextmanager
def _place(root: Path, spec: InputSpec | None, part: str) -> Iterator[Path]:
    """The folder of a cache. Who may keep none gets one that is gone afterwards; what is mapped stays."""
    place, cache = root.resolve(), user_cache()
    if cache is not None:
        size = "as-they-are" if spec is None else f"{spec.width}x{spec.height}"
        name = re.sub(r"[^\w.-]", "_", place.name, flags=re.ASCII)[:40]
        which = hashlib.sha256(os.fsencode(place) + f"\n{spec}".encode()).hexdigest()[:8]
        folder = cache / "pictures" / f"{name}-{size}-{part}-{which}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            is_writable = os.access(folder, os.W_OK | os.X_OK)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise
            is_writable = False
        if is_writable:
            yield folder
            return
    with tempfile.TemporaryDirectory(prefix="oat-pictures-") as passing:
        _LOG.warning("decoded pictures are not kept: no user's cache can be written (set XDG_CACHE_HOME to a folder)")
        yield Path(passing)


def _key(pictures: Sequence[Picture], spec: InputSpec | None) -> str:
    """Hash all that decides the images: names, sizes, times and classes of the files, and what reads them."""
    digest = hashlib.sha256(f"{_DECODERS}\n{spec}\n".encode())
    for picture in pictures:
        try:
            status = picture.path.stat()
            state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)  # ctime: rights, and times set back
        except OSError as error:
            state = (-1, error.errno or 0, 0)
        digest.update(json.dumps([picture.name, state, picture.class_name]).encode())
    return digest.hexdigest()


def _opened(folder: Path, key: str, pictures: Sequence[Picture], spec: InputSpec | None) -> DecodedPictures | None:
    """What is kept, if it belongs to `key`, is whole, and lacks no picture that can be read by now."""
    if not (folder / _RECORD).is_file():
        return None
    try:
        record = read_model(
            _Record, folder / _RECORD, what="a record of decoded pictures", error=DataError, max_bytes=_MOST_BYTES
        )
        if record.key != key:
            _LOG.info("pictures or decoders changed since %s was written: they are decoded again", folder)
            return None
        if _can_read_one(pictures, set(record.unread), spec):
            _LOG.info("a picture that could not be read when %s was written can be: all are decoded again", folder)
            return None
        if sha256_of(folder / _BESIDE) != record.beside_sha256:
            raise DataError(f"{_BESIDE} is not the file that was written")
        beside = read_arrays(folder / _BESIDE, ("thumbnails", "digests", "small", "checksums"))
        images_NHWC, num = _mapped(folder), len(pictures)
        size = images_NHWC.shape[1:3] if spec is None else (spec.height, spec.width)
        for name, array, dtype, shape in (
            (_PIXELS, images_NHWC, np.uint8, (num, *size, 3)),
            (f"`thumbnails` of {_BESIDE}", beside["thumbnails"], np.uint8, (num, *THUMBNAIL_SHAPE)),
            (f"`digests` of {_BESIDE}", beside["digests"], np.uint64, (num,)),
            (f"`small` of {_BESIDE}", beside["small"], np.bool_, (num,)),
        ):
            if array.dtype != dtype or array.shape != shape:
                raise DataError(f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
        if not np.array_equal(_checksums(images_NHWC), beside["checksums"]):
            raise DataError(f"{_PIXELS} is not the file that was written")
    except (OATError, OSError, ValueError, EOFError) as error:
        _LOG.warning("pictures are decoded again, because the cache %s is damaged: %s", folder, one_line(error))
        return None
    return DecodedPictures(
        images_NHWC, beside["thumbnails"], beside["digests"], beside["small"], record.broken, record.unread
    )


def _can_read_one(pictures: Sequence[Picture], names: set[str], spec: InputSpec | None) -> bool:
    for picture in pictures:
        if picture.name in names:
            try:
                decode(picture, spec)
            except FileReadError:
                continue
            except DataError:  # read, and broken
                pass
            return True
    return False


def _kept(folder: Path, found: DecodedPictures, key: str) -> DecodedPictures:
    """Make what was decoded into a cache that later starts believe."""
    with whole_file(folder / _BESIDE) as file:
        checksums_N = _checksums(found.images_NHWC)
        np.savez(
            file,
            thumbnails=found.thumbnails_NHWC,
            digests=found.digests_N,
            small=found.small_N,
            checksums=checksums_N,
        )
    record = _Record(key=key, beside_sha256=sha256_of(folder / _BESIDE), broken=found.broken, unread=found.unread)
    write_whole(folder / _RECORD, record.model_dump_json() + "\n")
    return found


def _made(folder: Path, pictures: Sequence[Picture], spec: InputSpec | None) -> DecodedPictures:
    """Decode everything into a file that takes its place when it is whole."""
    num = len(pictures)
    height, width = (spec.height, spec.width) if spec is not None else _size_of_first(pictures)
    thumbnails, digests = np.zeros((num, *THUMBNAIL_SHAPE), np.uint8), np.zeros(num, np.uint64)
    small = np.zeros(num, np.bool_)
    broken: dict[str, str] = {}
    unread: list[str] = []
    half = folder / f"{_PIXELS}.part"
    _LOG.info(
        "decoding %s once into %s (%s), from which later starts and other processes read them",
        count_of(num, "picture"), folder, decimal(num * height * width * 3),
    )  # fmt: skip
    try:
        with half.open("wb", buffering=0) as file, progress_bar() as progress:
            output = _Output(file, (num, height, width, 3))
            bar = progress.add_task("decoding pictures", total=num)
            for done in _in_parallel(pictures, spec, output):
                progress.advance(bar)
                if done.beside is None:
                    broken[pictures[done.row].name] = done.reason
                    unread += [] if done.is_lasting else [pictures[done.row].name]
                else:
                    thumbnails[done.row], digests[done.row], small[done.row] = done.beside
        os.replace(half, folder / _PIXELS)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(folder / _PIXELS)) from error
    finally:
        half.unlink(missing_ok=True)
    return DecodedPictures(_mapped(folder), thumbnails, digests, small, broken, tuple(unread))


class _Output:
    """A .npy file whose rows are written in any order, by any thread; its room on the disk is taken at once."""

    def __init__(self, file: FileIO, shape: tuple[int, ...]) -> None:
        self._file, self.shape = file, shape
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._start = file.tell()
        try:
            os.posix_fallocate(file.fileno(), 0, self._start + math.prod(shape))
        except OSError as error:  # a file system that cannot do so refuses a write when it comes to that
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise

    def write(self, row: int, image_HWC: npt.NDArray[np.uint8]) -> None:
        """Write one image."""
        left = np.ascontiguousarray(image_HWC).data.cast("B")
        at = self._start + row * len(left)
        while left:
            num = os.pwrite(self._file.fileno(), left, at)
            left, at = left[num:], at + num


@dataclass(frozen=True, slots=True)
class _Done:
    """What lies beside a picture whose image is written at `row`, or the reason why there is no image."""

    row: int
    beside: tuple[npt.NDArray[np.uint8], int, bool] | None = None
    reason: str = ""
    is_lasting: bool = True


def _in_parallel(pictures: Sequence[Picture], spec: InputSpec | None, output: _Output) -> Iterator[_Done]:
    """Decode in threads: decoders and resizing run beside each other, and nothing has to be sent to a process."""
    pool = ThreadPoolExecutor(_num_threads())
    try:
        waiting = [
            pool.submit(_decode_some, pictures[at : at + _AT_A_TIME], at, spec, output)
            for at in range(0, len(pictures), _AT_A_TIME)
        ]
        for future in as_completed(waiting):
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_some(pictures: Sequence[Picture], start: int, spec: InputSpec | None, output: _Output) -> list[_Done]:
    done = []
    for row, picture in enumerate(pictures, start):
        try:
            made = decode(picture, spec)
        except DataError as error:
            done.append(_Done(row, reason=str(error), is_lasting=not isinstance(error, FileReadError)))
            continue
        if made.image_HWC.shape != output.shape[1:]:
            height, width = made.image_HWC.shape[:2]
            raise DataError(
                f"{picture.path}: expected images of one size ({output.shape[2]}x{output.shape[1]}), got "
                f"{width}x{height}: put the size to fit them to behind the folder's name, as in photos@64 or "
                "photos@128x96"
            )
        output.write(row, made.image_HWC)
        done.append(_Done(row, (made.thumbnail_HWC, made.digest, made.was_small)))
    return done


def _size_of_first(pictures: Sequence[Picture]) -> tuple[int, int]:
    """Height and width of the first image that can be read; of the smallest one where none can."""
    for picture in pictures:
        try:
            height, width = decode(picture, None).image_HWC.shape[:2]
        except DataError:
            continue
        return height, width
    return 1, 1


def _checksums(images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """A CRC-32 of each image."""
    starts = range(0, len(images_NHWC), _AT_A_TIME)
    with ThreadPoolExecutor(_num_threads()) as pool:
        parts = pool.map(lambda at: [zlib.crc32(image) for image in images_NHWC[at : at + _AT_A_TIME]], starts)
        return np.array([checksum for part in parts for checksum in part], np.uint32)


def _mapped(folder: Path) -> npt.NDArray[np.uint8]:
    mapped: npt.NDArray[np.uint8] = np.load(folder / _PIXELS, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return mapped


def _num_threads() -> int:
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))
