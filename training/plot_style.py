"""How every figure looks: colours, markers, fonts. Apart in hue and lightness for every eye."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib is heavy, and only drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, LINE = "#1f2328", "#6e7781", "#e4e7eb"
COLOURS = ("#0b4f8a", "#c2410c", "#0f8a6c", "#7a3e9d", "#8a6d00")
"""Blue, vermilion, green, purple, ochre: one a width, the widest first, or one a kind."""
MARKERS = ("o", "s", "^", "D", "v")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11.0,
    "text.color": INK,
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
def new_figure(width_in: float, height_in: float) -> Iterator[Figure]:
    """A white figure in this style, laid out by itself; saved with `figure.savefig`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width_in, height_in), dpi=120, facecolor="white", layout="constrained")


def lambda_colours(lambdas: list[float]) -> dict[float, Any]:
    """One colour a λ along a scale that runs from dark to light, for bars and lines of many λ."""
    import matplotlib

    scale = matplotlib.colormaps["viridis"]
    last = max(1, len(lambdas) - 1)
    return {lam: scale(0.05 + 0.82 * index / last) for index, lam in enumerate(lambdas)}


def title(axes: Axes, text: str) -> None:
    """A panel's title: bold, left."""
    axes.set_title(text, loc="left", fontsize=12.0, fontweight="bold", pad=10)
