"""What a policy remembers from step to step, as plain JSON values: taken down, and given back bit for bit."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from oat_runtime.errors import DataError, quoted
from oat_runtime.operating_point import OperatingPoint

Plain = dict[str, Any]


class Remembering:
    """A part of the policy that names all of its attributes that a step may change, in `_REMEMBERED`.

    They are finite numbers, None, operating points, arrays of a fixed shape, or parts like this one.
    """

    _REMEMBERED: ClassVar[tuple[str, ...]]

    def snapshot(self) -> Plain:
        """Return what is remembered now, by name; `restore` brings it back in every bit."""
        return {name.lstrip("_"): _plain(getattr(self, name)) for name in self._REMEMBERED}

    def restore(self, saved: Any) -> None:
        """Remember what `snapshot` took down of a part that was built in the same way.

        Raises:
            DataError: it was taken down from another kind of part, or is damaged; this part is then of no more use.
        """
        names = [name.lstrip("_") for name in self._REMEMBERED]
        if not isinstance(saved, dict) or set(saved) != set(names):
            raise DataError(f"expected a state of {', '.join(names)}, got {quoted(saved)}")
        for name in self._REMEMBERED:
            before, value = getattr(self, name), saved[name.lstrip("_")]
            if isinstance(before, Remembering):
                before.restore(value)
                continue
            try:
                setattr(self, name, _remembered(name, before, value))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise DataError(f"the state of {name.lstrip('_')} cannot be read: got {quoted(value)}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Remembering):
        return value.snapshot()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return {"lam": value.lam, "width": value.width} if isinstance(value, OperatingPoint) else value


def _remembered(name: str, before: Any, value: Any) -> Any:
    """Return a plain value as what it was; `before`, as built, tells an array and its shape."""
    if isinstance(before, np.ndarray):
        array = np.array([_finite(number) for number in value])
        if array.shape != before.shape:
            raise ValueError(f"expected {before.shape}, got {array.shape}")
        return array
    if name.endswith("_point"):
        return None if value is None else OperatingPoint(_finite(value["lam"]), _finite(value["width"]))
    if value is None and isinstance(before, float):
        raise ValueError("expected a number")
    return None if value is None else _finite(value)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("expected a finite number")
    return float(value)
