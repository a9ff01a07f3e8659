"""The pictures of a full evaluation, each drawn from the JSON document of one suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from training.plot_style import COLOURS, FAINT, INK, MARKERS, lambda_colours, new_figure, title

if TYPE_CHECKING:  # matplotlib is heavy, and only drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = dict[str, Any]
Row = dict[str, Any]


def frontier(document: Document) -> Figure:
    """SA against RA over λ, a line a width, a panel an attack (the form of the paper's Figs. 4 to 7)."""
    from matplotlib.ticker import MaxNLocator

    rows = document["rows"]
    names = [name for name in dict.fromkeys(row["condition"] for row in rows) if name != "clean"]
    widths = _descending(rows, "width")
    columns = min(4, len(names))
    with new_figure(3.4 * columns, 3.3 * -(-len(names) // columns)) as figure:
        panels = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, name in zip(panels, names, strict=False):
            for index, width in enumerate(widths):
                clean, attacked = (_over_lambda(rows, condition, width) for condition in ("clean", name))
                x, y = ([100 * row["accuracy"] for row in curve] for curve in (clean, attacked))
                _trained_line(axes, [row["lambda"] for row in clean], x, y, index, f"width {width:g}")
                if index == 0:
                    for row, at_x, at_y in zip(clean, x, y, strict=True):
                        axes.annotate(
                            f"{row['lambda']:g}", (at_x, at_y), (4, 5), textcoords="offset points", fontsize=8.5,
                            color=COLOURS[0],
                        )  # fmt: skip
            title(axes, name.upper() if name != "worst-case" else "Worst case of all")
            axes.margins(0.1)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(names) - columns) : len(names)]:
            axes.tick_params(labelbottom=True)  # nothing is drawn below these
        figure.supxlabel("Clean accuracy, %   (numbers: λ)")
        figure.supylabel("Accuracy under the attack, %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    return figure


def attacks_by_lambda(document: Document) -> Figure:
    """Accuracy under each attack over λ, at the widest and the narrowest width."""
    rows = document["rows"]
    names = list(dict.fromkeys(row["condition"] for row in rows))
    widths = _descending(rows, "width")
    shown = widths if len(widths) == 1 else [widths[0], widths[-1]]
    with new_figure(5.2 * len(shown), 4.0) as figure:
        panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        colours = lambda_colours([float(index) for index in range(len(names))]) | {0.0: INK}
        for axes, width in zip(panels, shown, strict=True):
            for index, name in enumerate(names):
                curve = _over_lambda(rows, name, width)
                x = [row["lambda"] for row in curve]
                axes.plot(x, [100 * row["accuracy"] for row in curve], "o-", color=colours[index], label=name, ms=4)
                low, high = ([100 * row[key] for row in curve] for key in ("low_95", "high_95"))
                axes.fill_between(x, low, high, color=colours[index], alpha=0.12, lw=0)
            title(axes, f"Width {width:g}")
            axes.set_xlabel("λ")
        panels[0].set_ylabel("Accuracy, %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def unseen_lambdas(document: Document) -> Figure:
    """SA and RA over λ, filled where λ was trained and hollow where it was not."""
    rows = document["rows"]
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    with new_figure(10.0, 4.2) as figure:
        for axes, condition in zip(figure.subplots(1, 2), conditions, strict=True):
            for index, width in enumerate(_descending(rows, "width")):
                curve = _over_lambda(rows, condition, width)
                colour, marker = COLOURS[index % 5], MARKERS[index % 5]
                x, y = [row["lambda"] for row in curve], [100 * row["accuracy"] for row in curve]
                _trained_line(axes, x, x, y, index, None, points=False)
                for trained in (True, False):
                    chosen = [n for n, row in enumerate(curve) if row["trained"] == trained]
                    axes.plot(
                        [x[n] for n in chosen], [y[n] for n in chosen], marker, color=colour, ms=6,
                        markerfacecolor=colour if trained else "white", label=f"width {width:g}" if trained else None,
                    )  # fmt: skip
            title(axes, "Clean accuracy" if condition == "clean" else f"Accuracy under {condition.upper()}")
            axes.set_xlabel("λ   (filled: trained, hollow: never seen in training)")
            axes.set_ylabel("Accuracy, %")
            axes.legend(frameon=False)
    return figure


def transfer_map(document: Document) -> Figure:
    """Accuracy of each λ (columns) on attacks made at each λ (rows)."""
    rows = document["rows"]
    lambdas = sorted({row["lambda"] for row in rows})
    table = {(row["made_at"], row["lambda"]): 100 * row["accuracy"] for row in rows}
    values = np.array([[table[source, target] for target in lambdas] for source in lambdas])
    with new_figure(5.6, 4.9) as figure:
        axes = figure.subplots()
        image = axes.imshow(values, cmap="viridis")
        middle = 0.5 * (values.min() + values.max())
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="white" if value < middle else INK)
        ticks = range(len(lambdas))
        axes.set_xticks(ticks, [f"{lam:g}" for lam in lambdas])
        axes.set_yticks(ticks, [f"{lam:g}" for lam in lambdas])
        axes.grid(False)
        axes.set_xlabel("λ of the network")
        axes.set_ylabel("λ at which the attack was made")
        title(axes, f"Accuracy under transferred {document['attacks'][0]['name'].upper()}, %")
        figure.colorbar(image, shrink=0.85).outline.set_visible(False)
    return figure


def corruption_bars(document: Document) -> Figure:
    """Accuracy under each kind of corruption, mean of five severities, a bar a λ."""
    rows = document["rows"]
    lambdas = sorted({row["lambda"] for row in rows})
    kinds = sorted(dict.fromkeys(row["kind"] for row in rows), key=lambda kind: (_regime(rows, kind), kind))
    colours = lambda_colours(lambdas)
    with new_figure(12.0, 4.4) as figure:
        axes = figure.subplots()
        thickness = 0.84 / len(lambdas)
        for index, lam in enumerate(lambdas):
            means = [
                100 * np.mean([r["accuracy"] for r in rows if r["kind"] == kind and r["lambda"] == lam])
                for kind in kinds
            ]
            places = np.arange(len(kinds)) - 0.42 + thickness * (index + 0.5)
            axes.bar(places, means, thickness, color=colours[lam], label=f"λ={lam:g}")
        axes.set_xticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], rotation=35, ha="right")
        border = sum(_regime(rows, kind) == "high_frequency" for kind in kinds) - 0.5
        axes.axvline(border, color=FAINT, lw=1.0, ls=":")
        for at, text, side in ((border - 0.1, "high-frequency", "right"), (border + 0.1, "low-frequency", "left")):
            axes.annotate(
                text, (at, 1.0), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha=side,
                color=FAINT, fontsize=9.5,
            )  # fmt: skip
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("Accuracy, mean of 5 severities, %")
        axes.margins(x=0.01)
        figure.legend(loc="outside right center", frameon=False)
    return figure


def calibration_curves(document: Document) -> Figure:
    """Expected calibration error over λ, as the network is and with the fitted temperatures; and reliability."""
    rows = document["rows"]
    with new_figure(10.0, 4.2) as figure:
        left, right = figure.subplots(1, 2)
        for index, width in enumerate(_descending(rows, "width")):
            for name, line in (("raw", ":"), ("fitted", "-")):
                curve = _over_lambda(rows, name, width)
                x = [row["lambda"] for row in curve]
                y = [100 * row["error"] for row in curve]
                label = f"width {width:g}, {'as trained' if name == 'raw' else 'with temperature'}"
                left.plot(x, y, line, marker=MARKERS[index % 5], color=COLOURS[index % 5], label=label, ms=4)
        left.set_ylim(bottom=0)
        left.set_xlabel("λ")
        left.set_ylabel("Expected calibration error, points")
        left.legend(frameon=False, fontsize=8.5)
        title(left, "Calibration error")
        widest = _over_lambda(rows, "fitted", _descending(rows, "width")[0])
        colours = lambda_colours([row["lambda"] for row in widest])
        for row in widest:
            pairs = [
                (c, a)
                for c, a, share in zip(row["confidence_B"], row["accuracy_B"], row["share_B"], strict=True)
                if c is not None and a is not None and share * row["num_total"] >= 10
            ]
            if pairs:
                right.plot(
                    *zip(*pairs, strict=True), "o-", color=colours[row["lambda"]], label=f"λ={row['lambda']:g}", ms=4
                )
        right.plot([0, 1], [0, 1], ":", color=FAINT)
        right.set_xlabel("Confidence")
        right.set_ylabel("Accuracy")
        if right.get_legend_handles_labels()[0]:
            right.legend(frameon=False, fontsize=8.5)
        title(right, "Reliability, bins of 10 images or more")
    return figure


def norm_curves(document: Document) -> Figure:
    """Mean and variance of four channels at the last norm over λ (the form of the paper's Fig. 2)."""
    rows = [row for row in document["rows"] if row["part"] == "norm"]
    mixed = sorted(
        (row for row in rows if (row["images"] == "mixed") == (row["lambda"] > 0)), key=lambda r: r["lambda"]
    )
    spread = np.ptp([row["mean_C"] for row in mixed], axis=0) / np.sqrt(
        np.mean([row["var_C"] for row in mixed], axis=0)
    )
    channels = np.sort(np.argsort(spread)[-4:])
    x = [row["lambda"] for row in mixed]
    with new_figure(10.0, 4.0) as figure:
        for axes, key, name in zip(figure.subplots(1, 2), ("mean_C", "var_C"), ("Mean", "Variance"), strict=True):
            for index, channel in enumerate(channels):
                y = [row[key][channel] for row in mixed]
                _trained_line(axes, x, x, y, index, f"channel {channel}")
            axes.set_xlabel("λ")
            title(axes, f"{name} at the last batch norm")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def saliency_maps(document: Document) -> Figure:
    """Images and the gradients of their loss for each network, and how much the two are alike."""
    rows = [row for row in document["rows"] if row["part"] == "saliency"]
    images = np.array(next(row for row in document["rows"] if row["part"] == "images")["images_NHWC"], dtype=np.uint8)
    with new_figure(1.05 * (len(rows) + 1) + 5.0, 1.05 * len(images) + 0.6) as figure:
        halves = figure.subfigures(1, 2, width_ratios=[1.05 * (len(rows) + 1), 5.0], squeeze=False)
        left, right = halves[0]
        panels = left.subplots(len(images), len(rows) + 1, squeeze=False)
        for line, image in zip(panels, images, strict=True):
            line[0].imshow(image)
        panels[0][0].set_title("image", fontsize=9.5)
        for column, row in enumerate(rows, start=1):
            panels[0][column].set_title(row["network"], fontsize=9.5)
            for line, found in zip(panels, row["maps_NHW"], strict=False):
                line[column].imshow(np.array(found), cmap="magma")
        for axes in panels.ravel():
            axes.set_axis_off()
        axes = right.subplots()
        for index, row in enumerate(rows):
            colour = COLOURS[0] if row["lambda"] is not None else COLOURS[1]
            axes.barh(index, row["alignment"], xerr=row["half_95"], color=colour, ecolor=FAINT, height=0.62)
        axes.set_yticks(range(len(rows)), [row["network"] for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"Alignment |cos(image, gradient)|, mean of {rows[0]['num_total']}, 95 %")
        title(axes, "How much saliency looks like the image")
    return figure


def cost_bars(document: Document) -> Figure:
    """Multiply-adds and parameters of the deployed network by width."""
    rows = sorted((row for row in document["rows"] if row["part"] == "cost"), key=lambda row: row["width"])
    places = np.arange(len(rows))
    with new_figure(9.0, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        scale, unit = (1e9, "G") if rows[-1]["folded"] >= 1e9 else (1e6, "M")
        for axes, values, label, text in (
            (left, [row["folded"] / scale for row in rows], f"Multiply-adds an image, {unit}", "Folded, at any λ"),
            (right, [row["parameters"] / 1e6 for row in rows], "Numbers stored, M", "Size of one folded point"),
        ):
            bars = axes.bar(places, values, 0.6, color=COLOURS[0])
            axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=2)
            axes.set_xticks(places, [f"width {row['width']:g}" for row in rows])
            axes.grid(axis="x", visible=False)
            axes.margins(y=0.15)
            axes.set_ylabel(label)
            title(axes, text)
    return figure


FIGURES: dict[str, dict[str, Callable[[Document], Figure]]] = {
    "attacks": {"attack-frontier": frontier, "attacks-by-lambda": attacks_by_lambda},
    "unseen": {"unseen-lambda": unseen_lambdas},
    "transfer": {"transfer": transfer_map},
    "corruptions": {"corruptions": corruption_bars},
    "calibration": {"calibration": calibration_curves},
    "inside": {"batch-norm": norm_curves, "saliency": saliency_maps, "cost": cost_bars},
}
"""Pictures by suite and file name."""


def _descending(rows: list[Row], key: str) -> list[float]:
    return sorted({row[key] for row in rows}, reverse=True)


def _over_lambda(rows: list[Row], condition: str, width: float) -> list[Row]:
    chosen = [row for row in rows if row["condition"] == condition and row["width"] == width]
    return sorted(chosen, key=lambda row: float(row["lambda"]))


def _regime(rows: list[Row], kind: str) -> str:
    return str(next(row["regime"] for row in rows if row["kind"] == kind))


def _trained_line(
    axes: Axes, lambdas: list[float], x: list[float], y: list[float], index: int, label: str | None, points: bool = True
) -> None:
    """Join points over λ; dotted between λ=0 and the next one, which have batch norms of their own."""
    colour, marker = COLOURS[index % 5], MARKERS[index % 5] if points else ""
    apart = 1 if lambdas[0] == 0.0 and len(lambdas) > 1 else 0
    axes.plot(x[: apart + 1], y[: apart + 1], ":", color=colour, lw=1.3)
    axes.plot(x[apart:], y[apart:], "-", color=colour, lw=1.8)
    if points:
        axes.plot(x, y, marker, color=colour, ms=5, label=label)
