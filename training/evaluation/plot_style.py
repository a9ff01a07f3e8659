"""Give all figures one look: colours, markers, fonts. The colours differ in hue and lightness, for every eye."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from oat_runtime.report import Row
from oat_runtime.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.layout_engine import LayoutEngine
else:  # matplotlib is heavy: it is loaded when something is drawn, and these names are annotations only
    Axes = Figure = Any

INK, FAINT, LINE = "#1f2328", "#6e7781", "#e4e7eb"
COLOURS = ("#0b4f8a", "#c2410c", "#0f8a6c", "#7a3e9d", "#8a6d00")
"""Blue, vermilion, green, purple, ochre: one for each width, the widest first, or one for each kind."""
MARKERS = ("o", "s", "^", "D", "v")
STYLE: dict[Any, Any] = {
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
    "grid.color": LINE,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@contextmanager
def new_figure(
    width_in: float, height_in: float, *, dpi: int = 120, layout: LayoutEngine | Literal["constrained"] = "constrained"
) -> Iterator[Figure]:
    """Yield a white figure in this style with automatic layout; save it with `figure.savefig`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width_in, height_in), dpi=dpi, facecolor="white", layout=layout)


def lambda_colours(lambdas: list[float]) -> dict[float, Any]:
    """Return one colour for each λ, from dark to light, for bars and lines of many λ."""
    import matplotlib

    scale = matplotlib.colormaps["viridis"]
    last = max(1, len(lambdas) - 1)
    return {lam: scale(0.05 + 0.82 * index / last) for index, lam in enumerate(lambdas)}


def title(axes: Axes, text: str) -> None:
    """Set a panel's title: bold, left."""
    axes.set_title(plain(text), loc="left", fontsize=12.0, fontweight="bold", pad=10)


def widths_of(rows: list[Row]) -> list[float]:
    """Return the widths of counted rows, the widest first."""
    return sorted({row["width"] for row in rows}, reverse=True)


def over_lambda(rows: list[Row], condition: str, width: float) -> list[Row]:
    """Return the rows of one curve, in the order of λ."""
    chosen = [row for row in rows if row["condition"] == condition and row["width"] == width]
    return sorted(chosen, key=lambda row: float(row["lambda"]))


def join_over_lambda(
    axes: Axes, lambdas: Sequence[float], x: Sequence[float], y: Sequence[float], *, colour: str,
    dotted: float = 1.3, solid: float = 1.8,
) -> int:  # fmt: skip
    """Join points over λ, and return the index of the first trained λ>0.

    λ=0 has batch norms of its own, so nothing lies between it and the smallest trained λ>0: that part is dotted.
    """
    apart = 1 if lambdas[0] == 0.0 and len(lambdas) > 1 else 0
    axes.plot(x[: apart + 1], y[: apart + 1], ":", color=colour, lw=dotted)
    axes.plot(x[apart:], y[apart:], "-", color=colour, lw=solid)
    return apart
