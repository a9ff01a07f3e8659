"""Draw malformed images from a seed, such as a broken driver or an attacker may send. For tests and the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from sensor_msgs.msg import Image

_Break = Callable[[Image, np.random.Generator], None]


def _truncate(message: Image, rng: np.random.Generator) -> None:
    message.data = bytes(int(rng.integers(0, len(message.data))))


def _lengthen(message: Image, rng: np.random.Generator) -> None:
    message.data = bytes(len(message.data) + int(rng.integers(1, 5000)))


def _rename(message: Image, rng: np.random.Generator) -> None:
    length = int(rng.integers(0, 30))
    message.encoding = "?" + "".join(map(chr, rng.integers(32, 127, length)))


def _flatten(message: Image, rng: np.random.Generator) -> None:
    setattr(message, str(rng.choice(["height", "width"])), 0)


def _stretch(message: Image, rng: np.random.Generator) -> None:
    setattr(message, str(rng.choice(["height", "width"])), int(rng.integers(16385, 2**32)))


def _narrow(message: Image, rng: np.random.Generator) -> None:
    message.step = int(rng.integers(0, message.step))


def _widen(message: Image, rng: np.random.Generator) -> None:
    message.step = int(rng.integers(message.step + 1, 2**32))


def _promise(message: Image, rng: np.random.Generator) -> None:
    """Claim an encoding that needs more bytes a row than there are."""
    message.encoding = str(rng.choice(["rgba8", "bgra8"]))


def _depth(message: Image, rng: np.random.Generator) -> None:
    message.encoding = str(rng.choice(["16UC1", "32FC1", "64FC3", "8UC5", "RGB8", "bayer_rggb12"]))


_BREAKS: tuple[_Break, ...] = (
    _truncate, _lengthen, _rename, _flatten, _stretch, _narrow, _widen, _promise, _depth,
)  # fmt: skip


def malformed_images(*, seed: int, num: int) -> Iterator[Image]:
    """Return small images of varying size that must be refused, each broken in one or two ways."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        height, width = (int(side) for side in rng.integers(2, 40, 2))
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=bytes(3 * width * height))
        message.header.stamp.sec = int(rng.integers(0, 2**31))
        message.header.frame_id = "".join(map(chr, rng.integers(32, 127, int(rng.integers(0, 20)))))
        for index in rng.permutation(len(_BREAKS))[: rng.integers(1, 3)]:
            # The second break may find nothing left to break.
            if message.step and message.height and message.width and len(message.data):
                _BREAKS[index](message, rng)
        yield message
