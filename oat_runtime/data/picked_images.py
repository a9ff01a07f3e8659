"""Images that stay where they are until they are asked for: some rows of an array, in any order, mostly of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

_AT_A_TIME = 16 * 2**20
"""Bytes of images that are read at once."""


@dataclass(frozen=True, slots=True, eq=False)
class PickedImages:
    """Rows of an array of images. Indexing reads and copies only the images that are asked for.

    Attributes:
        stored_NHWC: uint8 RGB, memory-mapped, or in memory where a second copy would not fit.
        rows_M: int64, which of its images are picked.
    """

    stored_NHWC: npt.NDArray[np.uint8]
    rows_M: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of picked images, then height, width and channels."""
        return (len(self.rows_M), *self.stored_NHWC.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes: 4."""
        return self.stored_NHWC.ndim

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Always uint8."""
        return self.stored_NHWC.dtype

    def __len__(self) -> int:
        """Number of picked images."""
        return len(self.rows_M)

    def __getitem__(self, where: int | slice | npt.NDArray[np.integer[Any]] | tuple[Any, ...]) -> npt.NDArray[np.uint8]:
        """Read one image (H, W, 3), or several (n, H, W, 3), into memory; `[:]` reads all."""
        if isinstance(where, tuple):
            picked, *within = where
            images = self[picked]
            return images[tuple(within) if images.ndim < self.ndim else (slice(None), *within)]
        found = self.stored_NHWC[self.rows_M[where]]
        return found.copy() if found.ndim < self.ndim else found  # several are a copy already

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Read one image after another."""
        return (self[at] for at in range(len(self)))

    if not TYPE_CHECKING:  # our own code is held to read parts; whoever loads a data set may treat it as an array

        def __getattr__(self, name: str) -> Any:
            """Return what an array of all images has, such as `mean`; all of them are read for it."""
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(self[:], name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Read all, for `numpy.asarray`."""
        if copy is False:
            raise ValueError("images that stay in a file cannot be an array without a copy")
        return self[:] if dtype is None else self[:].astype(dtype)

    def pick(self, where: slice | npt.NDArray[np.int64]) -> PickedImages:
        """Return some of the picked images, without reading them."""
        return PickedImages(self.stored_NHWC, self.rows_M[where])


Images: TypeAlias = npt.NDArray[np.uint8] | PickedImages
"""uint8 RGB (N, H, W, 3), in memory or in a file. `[:]` makes an array of either, and copies only the latter."""


def pick(images: Images, where: slice | npt.NDArray[np.int64]) -> Images:
    """Return some images; those that stay in a file are not read."""
    return images.pick(where) if isinstance(images, PickedImages) else images[where]


def in_parts(images: Images) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield all images, a few at a time, C-contiguous."""
    num = max(1, _AT_A_TIME // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), num):
        yield np.ascontiguousarray(images[start : start + num])
