"""Give every figure and every HTML page one look, and one way to write λ and ε. Loads matplotlib only to draw."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from oat_runtime.extras import require
from oat_runtime.files import write_whole
from oat_runtime.operating_point import Regime
from oat_runtime.text import html_text, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:  # matplotlib is heavy: it is loaded when something is drawn, and these names are annotations only
    Axes = Figure = Any

INK, FAINT, LINE, BAND = "#1f2328", "#57606a", "#dde1e5", "#f3f5f6"
BLUE, VERMILION, GREEN, PURPLE, UMBER = COLOURS = ("#0a4480", "#d55e00", "#009e73", "#b5508c", "#5c4a00")
MARKERS = ("o", "s", "^", "D", "v")
MANY_COLOURS = (*COLOURS, "#a078f0", "#f0a000", "#f00050", "#7800c8")
_MANY_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p")
_OWN_PLACES = {1.0: 0, 0.75: 1, 0.5: 2, 0.25: 3}
"""Widths that have the same colour in every figure, whichever others are drawn."""
_MARKER_PT, _COVERED_PT = 5.5, 3.0
"""Size of a point's marker, and how near another one has to be to cover it."""
_NAME_PT = (34.0, 14.0)
"""Width and height of the name of a point."""
REGIME_COLOURS = {
    Regime.CLEAN: "#a9d5ee",
    Regime.HIGH_FREQUENCY: "#e69f00",
    Regime.LOW_FREQUENCY: GREEN,
    Regime.ADVERSARIAL: VERMILION,
    Regime.UNKNOWN: "#9aa2a9",
}
REGIME_NAMES = {
    Regime.CLEAN: "clean",
    Regime.HIGH_FREQUENCY: "noise, blur",
    Regime.LOW_FREQUENCY: "fog, contrast",
    Regime.ADVERSARIAL: "adversarial",
    Regime.UNKNOWN: "unknown",
}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11.0,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is one
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.labelsize": "medium",
    "grid.color": LINE,
    "legend.frameon": False,
    "legend.fontsize": 10.0,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def lam_text(lam: float) -> str:
    """Return λ as every figure and page writes it: `λ=0.4`."""
    return f"λ={lam:g}"


def of_255(value: float) -> str:
    """Return an ε or a step size as every figure and page writes it: `8/255`."""
    return f"{255.0 * value:.3g}/255"


@contextmanager
def new_figure(width_in: float, height_in: float, *, dpi: int = 120) -> Iterator[Figure]:
    """Yield a white figure in this style with automatic layout; write it with `save`.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require("matplotlib", extra="plots", by="a figure")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width_in, height_in), dpi=dpi, facecolor="white", layout="constrained")


def drawn(figure: Figure, form: str, options: Mapping[str, Any] | None = None) -> bytes:
    """Return a figure as the content of a file of the form `png`, `svg`, `pdf` or `webp`.

    Args:
        figure: the figure.
        form: the form.
        options: more of the arguments of `Figure.savefig`.
    """
    content = io.BytesIO()
    figure.savefig(content, format=form, **(options or {}))
    return content.getvalue()


def save(figure: Figure, path: Path, options: Mapping[str, Any] | None = None) -> None:
    """Write a figure whole or not at all, in the form that the file's ending names; folders are made as needed.

    Raises:
        OSError: it cannot be written; it names the file, and what was there stays.
    """
    write_whole(path, drawn(figure, path.suffix[1:].lower(), options))


def width_looks(widths: Sequence[float]) -> dict[float, dict[str, Any]]:
    """Return colour and marker of each width, as keywords of `Axes.plot`, the widest first.

    Widths 1, 0.75, 0.5 and 0.25 look the same in every figure. Others take what these leave, in order.
    """
    ordered = sorted(set(widths), reverse=True)
    free = [place for place in range(len(COLOURS)) if place not in {_OWN_PLACES.get(width) for width in ordered}]
    others = [width for width in ordered if width not in _OWN_PLACES]
    places = _OWN_PLACES | {width: free[index % len(free)] for index, width in enumerate(others)}
    return {width: {"color": COLOURS[places[width]], "marker": MARKERS[places[width]]} for width in ordered}


def many_looks(num: int) -> list[dict[str, Any]]:
    """Return colour and marker of things without an order, as keywords of `Axes.plot`: nine of them can be told apart.

    The tenth looks like the first.
    """
    return [{"color": MANY_COLOURS[at % 9], "marker": _MANY_MARKERS[at % 9]} for at in range(num)]


def lambda_colours(lambdas: Sequence[float]) -> dict[float, Any]:
    """Return one colour for each λ, from dark to light, for bars and lines of many λ."""
    import matplotlib

    scale = matplotlib.colormaps["viridis"]
    last = max(1, len(lambdas) - 1)
    return {lam: scale(0.05 + 0.82 * index / last) for index, lam in enumerate(lambdas)}


def title(axes: Axes, text: str, *, below: str = "") -> None:
    """Write a panel's title, bold and left, and a faint line below it."""
    axes.set_title(plain(text), loc="left", fontsize=12.0, fontweight="bold", pad=25 if below else 10)
    if below:
        axes.text(0.0, 1.03, below, transform=axes.transAxes, color=FAINT, va="bottom")


def caption(figure: Figure, text: str) -> None:
    """Write a faint note under the whole figure, in lines that are as long as it is wide."""
    lines = textwrap.fill(plain(text), int(13.5 * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=9.0, color=FAINT)


def lambda_axis(axes: Axes, *, note: str = "") -> None:
    """Make the horizontal axis that of λ."""
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel(f"λ   ({note})" if note else "λ")


def share_axis(axes: Axes) -> None:
    """Make the vertical axis that of a share, λ or a width: 0 to 1."""
    axes.set_ylim(-0.06, 1.1)
    axes.set_yticks((0.0, 0.5, 1.0), ("0", "0.5", "1"))


def belief(axes: Axes, seconds_N: Any, masses_RN: Any) -> None:
    """Stack the belief in each regime over time, with labels for a legend."""
    axes.stackplot(
        seconds_N, masses_RN, colors=list(REGIME_COLOURS.values()), labels=list(REGIME_NAMES.values()), linewidth=0
    )  # fmt: skip
    share_axis(axes)
    axes.set_ylim(0.0, 1.0)


def log_axis(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def whole_ticks(*axises: Any) -> None:
    """Put ticks at whole numbers alone, few enough to be read."""
    from matplotlib.ticker import MaxNLocator

    for axis in axises:
        axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def one_scale(*panels: Axes) -> None:
    """Let a point of per cent be as high in every panel: each shows a range of the same length, up to 100 %."""
    ranges = [axes.get_ylim() for axes in panels]
    length = max(high - low for low, high in ranges)
    for axes, (low, high) in zip(panels, ranges, strict=True):
        top = min(0.5 * (low + high + length), max(high, 100.0 + 0.02 * length))
        axes.set_ylim(top - length, top)


def join_over_lambda(
    axes: Axes, lambdas: Sequence[float], x: Sequence[float], y: Sequence[float], *, color: Any, marker: str = "",
    label: str | None = None, line: str = "-",
) -> int:  # fmt: skip
    """Draw points joined over λ, and return the index of the first trained λ>0.

    λ=0 has batch norms of its own, so nothing lies between it and the smallest trained λ>0: that part is dotted.
    """
    apart = 1 if lambdas[0] == 0.0 and len(lambdas) > 1 else 0
    axes.plot(x[: apart + 1], y[: apart + 1], ":", color=color, lw=1.4)
    axes.plot(x[apart:], y[apart:], line, color=color, lw=1.8)
    axes.plot(
        x, y, color=color, marker=marker, ls="none", ms=_MARKER_PT, mec="white", mew=0.6,
        label=label, zorder=3,
    )  # fmt: skip
    return apart


class Named(NamedTuple):
    """A curve over λ as it was drawn: its points can be named, and shown where others cover them."""

    axes: Axes
    lambdas: Sequence[float]
    x: Sequence[float]
    y: Sequence[float]
    color: Any
    marker: str = "o"

    def places_pt(self, figure: Figure) -> Any:
        """Return where the points lie on the paper (N, 2), once the figure is laid out."""
        return self.axes.transData.transform(list(zip(self.x, self.y, strict=True))) * 72.0 / figure.dpi


def show_covered(figure: Figure, curves: Sequence[Named]) -> None:
    """Draw an open marker around each point that points of later curves cover, one further out for each of them.

    It comes after the rest of the figure, as `name_points` does.
    """
    figure.draw_without_rendering()
    places_pt = [curve.places_pt(figure) for curve in curves]
    for at, curve in enumerate(curves):
        later = [places_pt[on] for on in range(at + 1, len(curves)) if curves[on].axes is curve.axes]
        for x, y, place_pt in zip(curve.x, curve.y, places_pt[at], strict=True):
            num = sum(bool((abs(others - place_pt).max(axis=1) < _COVERED_PT).any()) for others in later)
            if num:
                curve.axes.plot(
                    [x], [y], marker=curve.marker, ms=_MARKER_PT + 4.5 * num, mfc="none", mec=curve.color, mew=1.6,
                    ls="none", zorder=4,
                )  # fmt: skip


def name_points(figure: Figure, curves: Sequence[Named]) -> None:
    """Write λ beside each point of these curves; points so close that their names would touch share one name.

    It comes last: where the points lie on the paper is known once the rest of the figure is laid out.
    """
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    for curve in curves:
        axes, lambdas, x, y, color, _ = curve
        places_pt = curve.places_pt(figure)
        groups: list[list[int]] = []
        for index, (right, up) in enumerate(places_pt):
            if groups and all(abs(places_pt[groups[-1][0]] - (right, up)) < _NAME_PT):
                groups[-1].append(index)
            else:
                groups.append([index])
        for group in groups:
            ends = dict.fromkeys((group[0], group[-1]))
            axes.annotate(
                "λ=" + "–".join(f"{lambdas[index]:g}" for index in ends), (x[group[0]], y[group[0]]), (6, 6),
                textcoords="offset points", fontsize=9.5, color=color, zorder=5,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip


_PAGE_STYLE = """
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: break-word;
  text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: clamp(16px, 4vw, 40px) clamp(16px, 4vw, 28px) 64px; }
h1 { font-size: clamp(26px, 6vw, 34px); line-height: 1.15; letter-spacing: -0.01em; margin: 0 0 4px; }
h2 { font-size: 21px; margin: 44px 0 10px; }
.note, footer { color: var(--faint); font-size: 14px; max-width: 60em; }
.warn { background: #fff8e1; padding: 6px 12px; max-width: 60em; }
.wide { overflow-x: auto; }
.wide > svg, .wide > img { display: block; width: 100%; height: auto; }
.wide > img { max-width: max-content; }
table { border-collapse: collapse; font-size: 14.5px; }
th { text-align: left; font-weight: 600; color: var(--faint); font-size: 13px; white-space: nowrap; }
th, td { padding: 7px 14px 7px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
code { font-size: 0.9em; overflow-wrap: anywhere; }
"""


def wide(figure: Figure, image: str) -> str:
    """Return a figure's `<img>` or `<svg>` so that its words stay legible on a phone: it scrolls, the page does not."""
    least_px = 66.0 * figure.get_figwidth()
    tag = image.split(maxsplit=1)[0]
    return f"<div class=wide>{image.replace(tag, f'{tag} style=min-width:{least_px:.0f}px', 1)}</div>"


def html_page(heading: str, body: str, *, more_style: str = "") -> str:
    """Return a page with nothing to load, for a phone and for a screen; `body` is HTML.

    What is wider than a phone (figures, tables) stands in `wide`, or in a `<div class=wide>` of its own.
    """
    colours = f":root {{ --ink: {INK}; --faint: {FAINT}; --line: {LINE}; }}"
    return (
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        f"<title>{html_text(heading)}</title>\n<style>{colours}{_PAGE_STYLE}{more_style}</style>\n"
        f"<main>\n{body}\n</main>\n</html>\n"
    )
