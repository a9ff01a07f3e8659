"""Draw a bundle's λ–width surface and accuracy–robustness frontier: `python -m training.plots BUNDLE OUTPUT_DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oat_runtime.bundle import Bundle
from oat_runtime.commands import Parser, a_path, command, output_folder
from oat_runtime.data import short_name
from oat_runtime.errors import DataError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.style import (
    Axes,
    Figure,
    Named,
    caption,
    join_over_lambda,
    lam_text,
    lambda_axis,
    name_points,
    new_figure,
    of_255,
    one_scale,
    save,
    show_covered,
    title,
    whole_ticks,
    width_looks,
)
from oat_runtime.text import plain


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy under one condition at one width, over λ; percent, with 95 % Wilson intervals."""

    condition: str
    width: float
    lambdas: tuple[float, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_images: int


def curves(table: OperatingTable, condition: str) -> list[Curve]:
    """Return the curves to draw, the widest first.

    Args:
        table: a bundle's `report` (or `select`) table.
        condition: `clean` or the name of an attack or corruption that was measured at every point.

    Raises:
        DataError: the condition was not measured somewhere.
    """
    found = []
    for width in reversed(table.widths):
        counts = [table.row(OperatingPoint(lam, width)).condition(condition) for lam in table.lambdas]
        if not all(count.num_total for count in counts):
            raise DataError(f"{condition!r} was not measured at every λ of width {width:g}: export the bundle again")
        intervals = [count.interval() for count in counts]
        found.append(
            Curve(
                condition=condition,
                width=width,
                lambdas=table.lambdas,
                accuracy=tuple(100.0 * count.rate for count in counts),
                low=tuple(100.0 * low for low, _ in intervals),
                high=tuple(100.0 * high for _, high in intervals),
                num_images=counts[0].num_total,
            )
        )
    return found


def surface_figure(table: OperatingTable) -> Figure:
    """Draw clean and attacked accuracy over λ side by side, on one scale, with a line for each width."""
    clean, attacked = curves(table, "clean"), curves(table, table.attack.name)
    with new_figure(10.0, 5.6, dpi=180) as figure:
        panels = figure.subplots(1, 2)
        for axes, panel, what in zip(panels, (clean, attacked), ("Clean accuracy", "Robust accuracy"), strict=True):
            _draw_over_lambda(axes, panel)
            statement, figures = _trend(what, panel[0])
            title(axes, statement, below=figures)
        one_scale(*panels)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(clean))
        panels[0].set_ylabel("Clean accuracy, %")
        panels[1].set_ylabel(f"{_attacked(table)}, %")
        caption(figure, _caption(table, clean, attacked) + " Both vertical axes have one scale.")
    return figure


def frontier_figure(table: OperatingTable) -> Figure:
    """Draw attacked against clean accuracy, with a line for each width."""
    clean, attacked = curves(table, "clean"), curves(table, table.attack.name)
    looks = width_looks(table.widths)
    with new_figure(7.5, 5.6, dpi=180) as figure:
        axes = figure.subplots()
        drawn = []
        for x, y in zip(clean, attacked, strict=True):
            look = looks[x.width]
            join_over_lambda(axes, x.lambdas, x.accuracy, y.accuracy, **look, label=f"width {x.width:g}")
            drawn.append(Named(axes, x.lambdas, x.accuracy, y.accuracy, **look))
            axes.errorbar(
                x.accuracy, y.accuracy, xerr=_bars(x), yerr=_bars(y), fmt="none", elinewidth=0.8,
                ecolor=(look["color"], 0.3), zorder=1,
            )  # fmt: skip
        figure.legend(loc="outside upper right", ncols=len(clean))
        axes.set_xlabel("Clean accuracy, %")
        axes.set_ylabel(f"{_attacked(table)}, %")
        axes.margins(x=0.08, y=0.1)
        whole_ticks(axes.xaxis, axes.yaxis)
        trades = all(curve.accuracy[0] > curve.accuracy[-1] for curve in clean) and all(
            curve.accuracy[0] < curve.accuracy[-1] for curve in attacked
        )
        title(axes, "λ trades clean for robust accuracy at every width" if trades else "Accuracy of every λ and width")
        caption(figure, _caption(table, clean, attacked) + " The two axes have different scales.")
        show_covered(figure, drawn)
        name_points(figure, drawn[:1])
    return figure


def draw(bundle: Bundle, folder: Path) -> list[Path]:
    """Write both figures of a bundle's `report` table into `folder`, and return their paths."""
    figures = {"surface.png": surface_figure, "frontier.png": frontier_figure}
    for name, figure in figures.items():
        save(figure(bundle.report), folder / name)
    return [folder / name for name in figures]


def _draw_over_lambda(axes: Axes, panel: list[Curve]) -> None:
    looks = width_looks([curve.width for curve in panel])
    for curve in panel:
        look, x, y = looks[curve.width], curve.lambdas, curve.accuracy
        apart = join_over_lambda(axes, x, x, y, **look, label=f"width {curve.width:g}")
        axes.fill_between(x[apart:], curve.low[apart:], curve.high[apart:], color=look["color"], alpha=0.13, lw=0)
        if apart:
            axes.vlines(0.0, curve.low[0], curve.high[0], color=look["color"], alpha=0.35, linewidth=4)
    lambda_axis(axes, note="0: most accurate, 1: most robust")
    whole_ticks(axes.yaxis)


def _bars(curve: Curve) -> list[list[float]]:
    """Lengths of the error bars, downwards and upwards."""
    below = [at - low for at, low in zip(curve.accuracy, curve.low, strict=True)]
    above = [high - at for at, high in zip(curve.accuracy, curve.high, strict=True)]
    return [below, above]


def _attacked(table: OperatingTable) -> str:
    return f"Accuracy under {plain(table.attack.name.upper())}"


def _trend(what: str, curve: Curve) -> tuple[str, str]:
    """The panel's statement, and the figures it rests on: the widest curve's two ends."""
    first, last = curve.accuracy[0], curve.accuracy[-1]
    statement = (
        f"{what} does not change with λ" if first == last else f"{what} {'rises' if last > first else 'falls'} with λ"
    )
    at_first, at_last = lam_text(curve.lambdas[0]), lam_text(curve.lambdas[-1])
    ends = f"{first:.1f} % at {at_first}, {last:.1f} % at {at_last}"
    return statement, f"{ends} (width {curve.width:g})"


def _caption(table: OperatingTable, clean: list[Curve], attacked: list[Curve]) -> str:
    attack = table.attack
    return (
        f"{plain(short_name(table.dataset))} {table.split} images: {clean[0].num_images:,} clean, "
        f"{attacked[0].num_images:,} under {plain(attack.name.upper())} (L∞, ε = {of_255(attack.epsilon)}, "
        f"step {of_255(attack.step_size)}). "
        "Bands and bars: 95 % intervals. "
        "One network; λ and width are set while it runs. λ=0 has batch norms of its own."
    )


@command("training.plots")
def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = Parser(prog="python -m training.plots", description=__doc__)
    parser.add_argument("bundle", type=a_path)
    parser.add_argument("output_dir", type=output_folder, help="folder for surface.png and frontier.png")
    args = parser.parse_args(argv)
    paths = draw(Bundle.load(args.bundle), args.output_dir)
    for path in paths:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
