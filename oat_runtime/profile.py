"""`oat-profile`: measure how long a bundle's widths take on this machine, keep it in a file, put it into a table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, ValidationError, model_validator
from rich.console import Console
from rich.table import Table

from oat_runtime.backends import BackendName, Precision
from oat_runtime.errors import ConfigError, OATError
from oat_runtime.operating_point import OperatingPoint, OperatingTable, StrictModel
from oat_runtime.runtime import OATRuntime
from oat_runtime.timing import interleave, median_ratio, p50_p99

PositiveMs = Annotated[float, Field(gt=0)]


class ProfileRow(StrictModel):
    """Latency of `OATRuntime.infer` for one image at one width, pooled over the λ that were measured."""

    width: float = Field(gt=0, le=1)
    latency_ms_p50: PositiveMs
    latency_ms_p99: PositiveMs
    num_calls: int = Field(ge=1)
    """Timed calls; of fewer than a few hundred, the 99th percentile is close to the slowest one."""
    lambdas: tuple[float, ...] = Field(min_length=1)
    """λ measured in turns. A folded plan has the same shape at every λ, so their pooled figure stands for all."""
    lambda_ratio: float | None = Field(gt=0)
    """Median time at the last of `lambdas` over that at the first: 1 where λ costs nothing; None with only one."""


class DeviceProfile(StrictModel):
    """What was measured on one device, for one bundle, with one engine and its settings."""

    schema_version: Literal[1] = 1
    bundle_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    device: str = Field(min_length=1)
    """Name of the processor, see `processor_name`."""
    backend: BackendName
    precision: Precision
    num_threads: int = Field(ge=1)
    rows: tuple[ProfileRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_row_a_width(self) -> DeviceProfile:
        widths = [row.width for row in self.rows]
        if len(set(widths)) != len(widths):
            raise ValueError(f"each width may occur once, got {widths}")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DeviceProfile:
        """Read a profile file.

        Raises:
            ConfigError: it is missing, damaged, or not a profile.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(
                f"cannot read the device profile {path}: {error}: measure one with oat-profile"
            ) from error
        except ValidationError as error:
            raise ConfigError(f"{path} is not a device profile ({error}): measure one with oat-profile") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile whole or not at all; folders are made as needed."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=f".{target.name}-", delete=False) as file:
            file.write(self.model_dump_json(indent=1) + "\n")
        Path(file.name).chmod(0o644)
        os.replace(file.name, target)

    @property
    def label(self) -> str:
        """What a table that the profile was applied to names as its device."""
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        return f"{self.device}, {self.backend} {self.precision}, {threads}"

    def apply(
        self, table: OperatingTable, *, backend: BackendName, precision: Precision, num_threads: int
    ) -> OperatingTable:
        """A copy of `table` with the latencies of this machine at every point.

        Args:
            table: a table of the profiled bundle, as `Bundle.select` gives it.
            backend: the engine in use (`OATRuntime.backend`).
            precision: its precision (`OATRuntime.precision`).
            num_threads: its threads (`OATRuntime.num_threads`).

        Raises:
            ConfigError: the profile is of something else; every difference is named.
        """
        by_width = {row.width: row for row in self.rows}
        differences = [
            f"{what}: profile {of_profile}, in use {in_use}"
            for what, of_profile, in_use in (
                ("bundle_sha256", self.bundle_sha256, table.bundle_sha256 or "unknown"),
                ("device", self.device, processor_name()),
                ("backend", self.backend, backend),
                ("precision", self.precision, precision),
                ("num_threads", self.num_threads, num_threads),
                ("widths", sorted(by_width), sorted(table.widths)),
            )
            if of_profile != in_use
        ]
        if differences:
            raise ConfigError(
                f"the device profile does not fit ({'; '.join(differences)}): measure this combination with oat-profile"
            )
        rows = tuple(
            row.model_copy(
                update={
                    "latency_ms_p50": by_width[row.width].latency_ms_p50,
                    "latency_ms_p99": by_width[row.width].latency_ms_p99,
                }
            )
            for row in table.rows
        )
        return table.with_rows(rows, device=self.label)


def processor_name() -> str:
    """Name of the processor, as x86 Linux gives it; else the board's (Jetson, Raspberry Pi), else the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
        return Path("/proc/device-tree/model").read_text().rstrip("\0\n")
    except OSError:
        return platform.processor() or platform.machine()


def measure(runtime: OATRuntime, *, seconds_per_point: float) -> DeviceProfile:
    """Measure every width at the smallest and the largest λ, all in turns, one image at a time.

    Args:
        runtime: prepared for the points as needed; its active point is the same afterwards.
        seconds_per_point: measuring time for each (λ, width).
    """
    config = runtime.bundle.manifest.model
    lambdas = tuple(sorted({config.lambdas[0], config.lambdas[-1]}))
    points = [OperatingPoint(lam, width) for width in config.widths for lam in lambdas]
    runtime.prepare(points)
    spec = runtime.bundle.input
    x_NCHW = np.random.default_rng(0).random((1, 3, spec.height, spec.width), dtype=np.float32)
    before = runtime.active
    try:
        times = interleave(
            dict.fromkeys(points, lambda: runtime.infer(x_NCHW)),
            enter=lambda point: runtime.set_point(lam=point.lam, width=point.width),
            seconds=seconds_per_point * len(points),
        )
    finally:
        runtime.set_point(lam=before.lam, width=before.width)
    rows = []
    for width in config.widths:
        by_lambda = [times[OperatingPoint(lam, width)] for lam in lambdas]
        p50, p99 = p50_p99(np.concatenate(by_lambda))
        rows.append(
            ProfileRow(
                width=width,
                latency_ms_p50=p50,
                latency_ms_p99=p99,
                num_calls=sum(part.size for part in by_lambda),
                lambdas=lambdas,
                lambda_ratio=median_ratio(by_lambda[-1], by_lambda[0]) if len(lambdas) > 1 else None,
            )
        )
    return DeviceProfile(
        bundle_sha256=runtime.bundle.sha256,
        device=processor_name(),
        backend=runtime.backend,
        precision=runtime.precision,
        num_threads=runtime.num_threads,
        rows=tuple(rows),
    )


def text_table(profile: DeviceProfile) -> Table:
    """The profile for people."""
    lambdas = profile.rows[0].lambdas
    table = Table(
        title=profile.label,
        caption=f"One image at a time. Measured in turns at λ = {', '.join(f'{lam:g}' for lam in lambdas)}; "
        "a folded plan is the same network at every λ, so the pooled figure stands for all λ.",
    )
    for column in ("width", "p50 ms", "p99 ms", "calls", f"λ={lambdas[-1]:g} over λ={lambdas[0]:g}"):
        table.add_column(column, justify="right")
    for row in profile.rows:
        ratio = "–" if row.lambda_ratio is None else f"{row.lambda_ratio:.3f}"
        table.add_row(
            f"{row.width:g}", f"{row.latency_ms_p50:.3f}", f"{row.latency_ms_p99:.3f}", str(row.num_calls), ratio
        )
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `oat-profile`."""
    parser = argparse.ArgumentParser(prog="oat-profile", description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle's folder")
    parser.add_argument("--output", type=Path, help="profile file to write (JSON); it also ends the standard output")
    parser.add_argument("--backend", choices=("auto", *get_args(BackendName)), default="auto")
    parser.add_argument("--precision", choices=("auto", *get_args(Precision)), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads of the network (default: all of this process)")
    parser.add_argument("--seconds-per-point", type=float, default=3.0, help="for each width and measured λ")
    args = parser.parse_args(argv)
    try:
        if args.threads is not None and args.threads < 1:
            raise ConfigError(f"--threads must be at least 1, got {args.threads}")
        if not 0.0 < args.seconds_per_point <= 3600.0:
            raise ConfigError(f"--seconds-per-point must be in (0, 3600], got {args.seconds_per_point}")
        runtime = OATRuntime.load(args.bundle, backend=args.backend, precision=args.precision, num_threads=args.threads)
        with Console(stderr=True).status("measuring"):
            profile = measure(runtime, seconds_per_point=args.seconds_per_point)
        runtime.close()
        if args.output is not None:
            profile.save(args.output)
    except OATError as error:
        print(f"oat-profile: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"oat-profile: cannot write {args.output}: {error}", file=sys.stderr)
        return 2
    Console().print(text_table(profile))
    print(profile.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
