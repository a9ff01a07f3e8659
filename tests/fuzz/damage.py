"""Ways to damage bytes, trees of plain values, and text; each draws all it needs from one generator."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

_NUMBERS = (0, -1, 1, -5, 255, 2**31, 2**32 - 1, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308, -1e308)
_NOT_FINITE = (float("nan"), float("inf"), -float("inf"))


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to four of: flipped bits, cuts, holes, doubles, noise, zeros, a number of all ones."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            return data
        at = rng.randrange(len(data))
        size = rng.choice((1, 2, 4, 8, 64, 1000))
        match rng.randrange(9):
            case 0 | 1 | 2:
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 3:
                data = data[:at]
            case 4:
                data = data[:at] + data[at + size :]
            case 5:
                data = data[:at] + data[at : at + size] * rng.choice((2, 5)) + data[at + size :]
            case 6:
                data = data[:at] + rng.randbytes(size) + data[at + size :]
            case 7:
                data = data[:at] + bytes(size) + data[at + size :]
            case _:
                width = rng.choice((2, 4, 8))
                data = data[:at] + rng.choice((b"\xff", b"\x7f", b"\x80")) * width + data[at + width :]
    return data


def hostile_value(rng: random.Random, *, finite: bool = False) -> Any:
    """Return a value that nobody expects where it will stand."""
    number = rng.choice(_NUMBERS if finite else _NUMBERS + _NOT_FINITE)
    return rng.choice(
        (
            number, number, number, str(number), None, True, False, "", "x", "x" * 10_000, "\x1b[2J\n\0", [], {},
            [number], {"x": number}, [[[[number]]]], {"lam": number}, list(range(1000)), nested(rng.choice((50, 400))),
        )
    )  # fmt: skip


def nested(depth: int) -> list[Any]:
    """Return lists within each other."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def damaged_tree(tree: Any, rng: random.Random, value: Callable[[random.Random], Any] = hostile_value) -> Any:
    """Return a copy of dicts and lists in which one or two places are replaced, removed, doubled or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(tree))
        if not places:
            return value(rng)
        # Every depth alike: else nearly all damage lands in the longest table.
        depth = rng.choice(sorted({place[2] for place in places}))
        holder, key, _ = rng.choice([place for place in places if place[2] == depth])
        match rng.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(("x", "", "__class__", "x" * 5000, f"{key}x"))] = holder.pop(key)
            case 1:
                holder.insert(key, holder[key])
            case _:
                holder[key] = value(rng)
    return tree


def _places(tree: Any, depth: int = 0) -> Any:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in list(pairs):
        yield tree, key, depth
        yield from _places(item, depth + 1)
