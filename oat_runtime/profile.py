"""`oat-profile`: measure what a bundle's points cost on this machine, and write that to a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
from rich.table import Table

from oat_runtime import style
from oat_runtime.backends import BackendName, Device, Precision
from oat_runtime.commands import FIGURES, Parser, a_count, a_path, command, output_file, real
from oat_runtime.device_profile import DeviceProfile, ProfileRow
from oat_runtime.devices import (
    EnergyCounter,
    device_name,
    energy_counter,
    power_mode,
    resident_mb,
)
from oat_runtime.extras import require
from oat_runtime.plans import PlanForm
from oat_runtime.report import text_table, wide_console
from oat_runtime.runtime import OATRuntime
from oat_runtime.text import PlainConsole, count_of
from oat_runtime.timing import interleave, p50_p99


def measure(runtime: OATRuntime, *, seconds_per_point: float, batches: Sequence[int] = (1, 32)) -> DeviceProfile:
    """Measure every point of the bundle's table at each batch size, in turns, then the energy at each width.

    Args:
        runtime: its active point is the same afterwards.
        seconds_per_point: measuring time for each point and batch, and for the energy of each width.
        batches: images in one call; 1 is needed by `DeviceProfile.apply`.
    """
    before = runtime.active
    points = [row.point for row in runtime.table.rows]
    runtime.prepare()
    counter = energy_counter(runtime.device)
    energies = {} if counter is None else _energies(runtime, counter, seconds_per_point)
    rows = []
    for batch in batches:
        x_NCHW = _images(runtime, batch)
        times = interleave(
            dict.fromkeys(points, partial(runtime.infer, x_NCHW)),
            enter=lambda point: runtime.set_point(lam=point.lam, width=point.width),
            seconds=seconds_per_point * len(points),
        )
        for point, taken_ms in times.items():
            p50, p99 = p50_p99(taken_ms)
            rows.append(
                ProfileRow(
                    lam=point.lam,
                    width=point.width,
                    batch=batch,
                    latency_ms_p50=p50,
                    latency_ms_p99=p99,
                    num_calls=taken_ms.size,
                    images_per_s=1e3 * batch / float(taken_ms.mean()),
                    energy_j=energies.get(point.width) if batch == 1 else None,
                )
            )
    runtime.set_point(lam=before.lam, width=before.width)
    if counter is not None:
        counter.close()
    return DeviceProfile(
        bundle_sha256=runtime.bundle.sha256,
        device=device_name(runtime.device),
        power_mode=power_mode(),
        backend=runtime.backend,
        precision=runtime.precision,
        plans=runtime.plans,
        num_threads=runtime.num_threads,
        resident_mb=resident_mb(),
        energy_source="unavailable" if counter is None else counter.source,
        rows=tuple(rows),
    )


def _energies(runtime: OATRuntime, counter: EnergyCounter, seconds: float) -> dict[float, float]:
    """Return the joules of one image at each width, at the largest λ; every λ runs the same operations."""
    x_NCHW, found = _images(runtime, 1), {}
    for width in runtime.table.widths:
        runtime.set_point(lam=runtime.table.lambdas[-1], width=width)
        runtime.infer(x_NCHW)
        num_images, start_j, end_s = 0, counter.energy_j(), time.monotonic() + seconds
        while num_images == 0 or time.monotonic() < end_s:
            runtime.infer(x_NCHW)
            num_images += 1
        if (spent_j := counter.energy_j() - start_j) > 0.0:  # a counter that stands still says nothing
            found[width] = spent_j / num_images
    return found


def _images(runtime: OATRuntime, batch: int) -> npt.NDArray[np.float32]:
    spec = runtime.bundle.input
    return np.random.default_rng(0).random((batch, 3, spec.height, spec.width), dtype=np.float32)


def profile_table(profile: DeviceProfile) -> Table:
    """Return the profile as a table for people."""
    memory = "memory unavailable" if profile.resident_mb is None else f"{profile.resident_mb:.0f} MB resident"
    caption = f"{profile.plans} plans, {memory}, energy: {profile.energy_source}."
    columns = ("batch", "λ", "width", "p50 ms", "p99 ms", "images/s", "mJ an image", "calls")
    rows = [
        (row.batch, row.lam, row.width, row.latency_ms_p50, row.latency_ms_p99, f"{row.images_per_s:.0f}",
         None if row.energy_j is None else 1e3 * row.energy_j, row.num_calls)
        for row in profile.rows
    ]  # fmt: skip
    table = text_table(profile.label, columns, rows)
    table.caption = caption
    return table


def plot(profile: DeviceProfile, path: Path) -> None:
    """Draw median and 99th percentile of each batch size over λ, with a line for each width.

    Raises:
        ConfigError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    batches = sorted({row.batch for row in profile.rows})
    looks = style.width_looks([row.width for row in profile.rows])
    with style.new_figure(4.8 * len(batches), 4.2) as figure:
        panels = figure.subplots(1, len(batches), squeeze=False)[0]
        for axes, batch in zip(panels, batches, strict=True):
            for width, look in looks.items():
                rows = [row for row in profile.rows if (row.batch, row.width) == (batch, width)]
                rows.sort(key=lambda row: row.lam)
                lambdas = [row.lam for row in rows]
                axes.plot(lambdas, [row.latency_ms_p50 for row in rows], **look, ms=5.5, label=f"width {width:g}")
                axes.plot(lambdas, [row.latency_ms_p99 for row in rows], "--", color=look["color"])
            axes.set_ylim(bottom=0.0)
            style.lambda_axis(axes)
            style.title(axes, f"{count_of(batch, 'image')} a call")
        panels[0].set_ylabel("time of a call, ms")
        style.caption(figure, f"{profile.label}. Solid: median, dashed: 99th percentile. Each panel has its own scale.")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=5)
        style.save(figure, path)


@command("oat-profile")
def main(argv: Sequence[str] | None = None) -> int:
    """Run `oat-profile` from the command line."""
    parser = Parser(prog="oat-profile", description=__doc__)
    parser.add_argument("bundle", type=a_path, help="a bundle's folder, or the name of a shipped one")
    parser.add_argument(
        "--output", type=output_file(), help="profile file to write (JSON); it also ends the standard output"
    )
    parser.add_argument("--backend", choices=("auto", *get_args(BackendName)), default="auto")
    parser.add_argument("--precision", choices=("auto", *get_args(Precision)), default="auto")
    parser.add_argument("--threads", type=a_count, help="CPU threads of the network (default: all of this process)")
    parser.add_argument("--device", choices=get_args(Device), default="cpu")
    parser.add_argument("--plans", choices=get_args(PlanForm), default="shared")
    parser.add_argument(
        "--seconds-per-point", type=real(above=0.0, most=3600.0), default=1.0, help="for each point and batch size"
    )
    parser.add_argument("--plot", type=output_file(*FIGURES), help="picture to write (PNG, SVG or PDF, by its ending)")
    args = parser.parse_args(argv)
    if args.plot is not None:
        require("matplotlib", extra="plots", by="--plot")
    runtime = OATRuntime.load(
        args.bundle,
        device=args.device,
        backend=args.backend,
        precision=args.precision,
        plans=args.plans,
        num_threads=args.threads,
    )
    with PlainConsole(stderr=True).status("measuring"):
        profile = measure(runtime, seconds_per_point=args.seconds_per_point)
    runtime.close()
    if args.output is not None:
        profile.save(args.output)
    if args.plot is not None:
        plot(profile, args.plot)
    wide_console().print(profile_table(profile))
    print(json.dumps(profile.model_dump(mode="json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
