"""Laws of figures and pages: every eye tells the colours apart, a width keeps its look, nothing is overprinted."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from oat_runtime import style
from oat_runtime.operating_point import Regime

Floats = npt.NDArray[np.float64]

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009.
EYES = {
    "all cones": np.eye(3),
    "protan": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "deutan": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
    "tritan": np.array([[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]]),
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def linear(colour: str) -> Floats:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: Floats) -> Floats:
    x, y, z = np.cbrt(TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.0888])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize(
    "colours",
    [style.COLOURS, tuple(style.REGIME_COLOURS.values()), (style.INK, *style.MANY_COLOURS)],
    ids=["widths", "regimes", "attacks"],
)
def test_every_eye_tells_the_colours_apart(colours: tuple[str, ...], eye: str) -> None:
    """Purple and blue lay 4 apart for a deutan eye; just noticeable is 2.3."""
    seen = [lab(EYES[eye] @ linear(colour)) for colour in colours]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 15.0


def test_nine_things_without_an_order_have_colours_and_markers_of_their_own() -> None:
    """The attacks of a page had neighbouring greens of one scale."""
    looks = style.many_looks(9)
    assert {look["color"] for look in looks} == set(style.MANY_COLOURS)
    assert len({look["marker"] for look in looks}) == 9


def test_a_name_in_a_width_s_colour_can_be_read_on_white() -> None:
    assert all(1.05 / (TO_XYZ[1] @ linear(colour) + 0.05) >= 3.0 for colour in style.COLOURS)


def test_a_width_looks_the_same_whichever_others_are_drawn() -> None:
    every = style.width_looks([1.0, 0.75, 0.5, 0.25])
    for count in (1, 2, 3):
        for widths in itertools.combinations(every, count):
            assert style.width_looks(widths) == {width: every[width] for width in widths}
    for widths in ([0.9, 0.6, 0.3], [1.0, 0.8, 0.75, 0.5], [1.0, 0.75, 0.5, 0.25, 0.1]):
        looks = style.width_looks(widths)
        assert list(looks) == sorted(widths, reverse=True)
        assert len({look["color"] for look in looks.values()}) == len(widths)


def test_each_regime_has_a_colour_and_a_name() -> None:
    assert list(style.REGIME_COLOURS) == list(style.REGIME_NAMES) == list(Regime)


@pytest.mark.parametrize("values", [(1.1, 1.9), (2.0, 6.0), (3.0, 800.0), (0.02, 0.9)], ids=str)
def test_a_log_axis_says_where_its_values_lie(values: tuple[float, float]) -> None:
    """Between 2 and 40 ms there was one label, 10."""
    pytest.importorskip("matplotlib")
    with style.new_figure(6.0, 2.0) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], values)
        style.log_axis(axes)
        figure.draw_without_rendering()
        low, high = axes.get_ylim()
        shown = [tick.label1.get_text() for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        assert len([text for text in shown if text]) >= 2


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.03, 0.1, 0.3])
def test_names_of_near_points_are_not_written_over_each_other(
    gap: float, illegible: Callable[[Any], list[str]]
) -> None:
    pytest.importorskip("matplotlib")
    x, y = [0.0, *(1.0 + gap * n for n in range(4)), 3.0], [0.0, 1.0, 1.0, 1.01, 0.98, 0.5]
    with style.new_figure(3.6, 3.4) as figure:
        axes = figure.subplots()
        axes.plot(x, y)
        axes.margins(x=0.22)
        style.name_points(figure, [style.Named(axes, range(6), x, y, style.INK)])
        assert not illegible(figure)


def test_panels_of_one_scale_show_a_point_of_per_cent_equally_high() -> None:
    pytest.importorskip("matplotlib")
    with style.new_figure(6.0, 3.0) as figure:
        panels = figure.subplots(1, 2)
        for axes, values in zip(panels, ([98.0, 99.5], [2.0, 40.0]), strict=True):
            axes.plot(values)
        style.one_scale(*panels)
        (low, high), (other_low, other_high) = (axes.get_ylim() for axes in panels)
        assert high - low == pytest.approx(other_high - other_low)
        assert low <= 98.0 and 99.5 <= high <= 102.0, "nothing is cut off, and no per cent beyond 100"


def test_a_page_has_a_phone_s_width_and_escapes_its_title() -> None:
    page = style.html_page("a < b", "<p>text</p>")
    assert "width=device-width" in page and "<title>a &lt; b</title>" in page and "<p>text</p>" in page
