"""Define the interface of an engine: what a plan is, and how one is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from oat_runtime.operating_point import Precision
from oat_runtime.plain_net import PlainNet

Device = Literal["cpu", "cuda"]
Floats = npt.NDArray[np.float32]
MakeNet = Callable[[], PlainNet]


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine must know besides the network.

    Attributes:
        input_hw: rows and columns of the images.
        precision: of the arithmetic; inputs, constants and logits are float32 always. Of `int8` see
            `oat_runtime.backends.int8_graph`; its networks are folded and hold `PlainNet.ranges`.
        num_threads: CPU threads of one call.
        device: where it runs.
    """

    input_hw: tuple[int, int]
    precision: Precision = "float32"
    num_threads: int = 1
    device: Device = "cpu"

    @property
    def remedy(self) -> str:
        """What to do where an engine refuses a network: torch takes every one, but does not run in int8."""
        return "use precision='float32'" if self.precision == "int8" else "use backend='torch'"


class Plan(Protocol):
    """One operating point, compiled. May be called from one thread at a time."""

    def __call__(self, x_NCHW: Floats) -> Floats:
        """Return logits (N, K) float32, in a new array, of C-contiguous images (N, 3, H, W) float32 in [0, 1]."""

    def warm(self, max_batch: int) -> None:
        """Compile now for what the engine would compile when a batch of up to `max_batch` images first comes."""

    def bare(self, x_NCHW: Floats) -> Callable[[], object]:
        """Make only the engine's own call on this input, for benchmarks to compare with."""


class Compiled(Protocol):
    """A compiled network. Its plans share its memory, so only one of them may run at a time."""

    def plan(self, constants_V: Floats | None = None) -> Plan:
        """Return a plan; of a shared network, with the constants of one λ, without compiling."""


class CompileFn(Protocol):
    """How an engine compiles."""

    def __call__(self, make_net: MakeNet, settings: Settings, *, shared: bool = False) -> Compiled:
        """Compile what `make_net` gives, for any batch size.

        Args:
            make_net: makes a folded network, or with `shared` one of `oat_runtime.plain_net.share`. It is called again
                for each shape that the engine compiles, so that nobody has to store the weights.
            settings: precision and the like.
            shared: take the affines' constants at run time, from each plan.

        Raises:
            BackendError: the engine refuses the network or the settings.
        """


def powers_of_two(num: int, *, largest: int) -> list[int]:
    """Return the sizes of the pieces in which `num` images run with few fixed shapes and no wasted image."""
    pieces = [largest] * (num // largest)
    rest = num % largest
    return pieces + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def full_and_rest(num: int, *, largest: int) -> list[int]:
    """Return the sizes of the pieces in which `num` images run where any size will do: `largest` each, and a rest."""
    return [largest] * (num // largest) + ([num % largest] if num % largest else [])
