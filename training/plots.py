"""Draw a bundle's λ–width surface and accuracy–robustness frontier: `python -m training.plots BUNDLE OUTPUT_DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oat_runtime.bundle import Bundle
from oat_runtime.commands import Parser, a_path, command, output_folder
from oat_runtime.errors import DataError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.text import plain
from training.evaluation.plot_style import COLOURS, FAINT, MARKERS, Axes, Figure, join_over_lambda, new_figure

_TOUCHING = (0.07, 0.05)
"""Distance, as a share of the axes, within which the names of two points would overlap."""


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
    """Draw clean and attacked accuracy over λ side by side, with a line for each width."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    clean, attacked = curves(table, "clean"), curves(table, table.attack.name)
    layout = ConstrainedLayoutEngine(rect=(0.0, 0.1, 1.0, 0.89), w_pad=0.12)  # leaves room for the caption
    with new_figure(10.0, 4.9, dpi=180, layout=layout) as figure:
        left, right = figure.subplots(1, 2)
        for axes, panel, what in ((left, clean, "Clean accuracy"), (right, attacked, "Robust accuracy")):
            _draw_over_lambda(axes, panel)
            statement, figures = _trend(what, panel[0])
            axes.set_title(statement, loc="left", fontsize=13.0, fontweight="bold", pad=25)
            axes.text(0.0, 1.03, figures, transform=axes.transAxes, color=FAINT, va="bottom")
        left.set_ylabel("Clean accuracy, %")
        right.set_ylabel(f"{_attacked(table)}, %")
        figure.text(0.012, 0.02, _caption(table, clean, attacked), fontsize=9.0, color=FAINT, va="bottom")
    return figure


def frontier_figure(table: OperatingTable) -> Figure:
    """Draw attacked against clean accuracy, with a line for each width."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    clean, attacked = curves(table, "clean"), curves(table, table.attack.name)
    layout = ConstrainedLayoutEngine(rect=(0.0, 0.1, 1.0, 0.89))
    with new_figure(7.5, 5.4, dpi=180, layout=layout) as figure:
        axes = figure.subplots()
        for index, (x, y) in enumerate(zip(clean, attacked, strict=True)):
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            join_over_lambda(axes, x.lambdas, x.accuracy, y.accuracy, colour=colour, dotted=1.4, solid=2.0)
            axes.errorbar(
                x.accuracy, y.accuracy, xerr=_bars(x), yerr=_bars(y), color=colour, fmt=marker, markersize=6,
                elinewidth=0.8, ecolor=(colour, 0.35), label=f"width {x.width:g}",
            )  # fmt: skip
        axes.legend(loc="lower left", frameon=False)
        axes.set_xlabel("Clean accuracy, %")
        axes.set_ylabel(f"{_attacked(table)}, %")
        axes.margins(x=0.08, y=0.1)
        _name_points(axes, clean[0], attacked[0])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        trades = all(curve.accuracy[0] > curve.accuracy[-1] for curve in clean) and all(
            curve.accuracy[0] < curve.accuracy[-1] for curve in attacked
        )
        title = "λ trades clean for robust accuracy at every width" if trades else "Accuracy of every λ and width"
        axes.set_title(title, loc="left", fontsize=13.0, fontweight="bold", pad=12)
        figure.text(0.015, 0.02, _caption(table, clean, attacked), fontsize=8.5, color=FAINT, va="bottom")
    return figure


def draw(bundle: Bundle, folder: Path) -> list[Path]:
    """Write both figures of a bundle's `report` table into `folder`, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"surface.png": surface_figure, "frontier.png": frontier_figure}
    for name, figure in figures.items():
        figure(bundle.report).savefig(folder / name)
    return [folder / name for name in figures]


def _draw_over_lambda(axes: Axes, panel: list[Curve]) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, curve in enumerate(panel):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        x, y = curve.lambdas, curve.accuracy
        apart = join_over_lambda(axes, x, x, y, colour=colour, dotted=1.4, solid=2.0)
        axes.plot(
            x, y, marker, color=colour, markersize=6, markeredgecolor="white",
            label=f"width {curve.width:g}", zorder=3,
        )  # fmt: skip
        axes.fill_between(x[apart:], curve.low[apart:], curve.high[apart:], color=colour, alpha=0.13, lw=0)
        if apart:
            axes.vlines(0.0, curve.low[0], curve.high[0], color=colour, alpha=0.35, linewidth=4)
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(-0.03, 1.03)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("λ   (0: most accurate, 1: most robust)")
    _label_ends(axes, panel)


def _name_points(axes: Axes, x: Curve, y: Curve) -> None:
    """Write λ beside each point of a curve; points so close that their names would touch share one."""
    axes.autoscale_view()
    place_P2 = axes.transLimits.transform(np.c_[x.accuracy, y.accuracy])
    groups: list[list[int]] = []
    for index, place in enumerate(place_P2):
        if groups and bool(np.all(np.abs(place - place_P2[groups[-1][0]]) < _TOUCHING)):
            groups[-1].append(index)
        else:
            groups.append([index])
    for group in groups:
        lambdas = "–".join(f"{x.lambdas[index]:g}" for index in dict.fromkeys((group[0], group[-1])))
        axes.annotate(
            f"λ={lambdas}", (x.accuracy[group[0]], y.accuracy[group[0]]), (7, 7), textcoords="offset points",
            fontsize=10, color=COLOURS[0], zorder=5,
        )  # fmt: skip


def _label_ends(axes: Axes, panel: list[Curve]) -> None:
    """Name each curve at its right end; labels that would touch are moved apart."""
    low, high = axes.get_ylim()
    gap = 0.062 * (high - low)
    order = sorted(range(len(panel)), key=lambda index: panel[index].accuracy[-1])
    heights: list[float] = []
    for index in order:
        heights.append(max(panel[index].accuracy[-1], heights[-1] + gap if heights else low))
    shift = (heights[-1] - panel[order[-1]].accuracy[-1]) / 2.0
    for index, height in zip(order, heights, strict=True):
        axes.annotate(
            f"width {panel[index].width:g}", (1.0, panel[index].accuracy[-1]), (1.045, height - shift),
            textcoords="data", color=COLOURS[index % len(COLOURS)], fontweight="bold", va="center",
            annotation_clip=False,
        )  # fmt: skip


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
    ends = f"{first:.1f} % at λ={curve.lambdas[0]:g}, {last:.1f} % at λ={curve.lambdas[-1]:g}"
    return statement, f"{ends} (width {curve.width:g})"


def _caption(table: OperatingTable, clean: list[Curve], attacked: list[Curve]) -> str:
    attack = table.attack
    return (
        f"{plain(table.dataset)} {table.split} images: {clean[0].num_images:,} clean, {attacked[0].num_images:,} under "
        f"{plain(attack.name.upper())} (L∞, ε = {_of_255(attack.epsilon)}, step {_of_255(attack.step_size)}). "
        "Bands and bars: 95 % intervals.\n"
        "One network; λ and width are set while it runs. λ = 0 has batch norms of its own."
    )


def _of_255(value: float) -> str:
    return f"{255.0 * value:g}/255"


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
