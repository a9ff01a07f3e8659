"""Laws of the figures: what is drawn is what the table counted, and it can be written anywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oat_runtime.bundle import Bundle
from oat_runtime.bundle.shipped import find_bundle
from oat_runtime.errors import DataError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from training.plots import curves, frontier_figure, main, surface_figure

pytest.importorskip("matplotlib")


@pytest.fixture
def report(tiny_bundle: Path) -> OperatingTable:
    return Bundle.load(tiny_bundle).report


@pytest.mark.parametrize("condition", ["clean", "pgd-20"])
def test_curves_are_the_counts_of_the_table(report: OperatingTable, condition: str) -> None:
    found = curves(report, condition)
    assert [curve.width for curve in found] == [1.0, 0.75, 0.5]
    for curve in found:
        for lam, accuracy, low, high in zip(curve.lambdas, curve.accuracy, curve.low, curve.high, strict=True):
            counted = report.row(OperatingPoint(lam, curve.width)).condition(condition)
            assert accuracy == pytest.approx(100.0 * counted.num_correct / counted.num_total)
            assert (low, high) == pytest.approx([100.0 * bound for bound in counted.interval()])
            assert curve.num_images == counted.num_total


def test_the_surface_shows_every_point_of_both_conditions(report: OperatingTable) -> None:
    for axes, condition in zip(surface_figure(report).axes, ("clean", "pgd-20"), strict=True):
        drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
        for curve in curves(report, condition):
            expected = np.column_stack([curve.lambdas, curve.accuracy])
            np.testing.assert_array_equal(drawn[f"width {curve.width:g}"], expected)


def test_the_titles_state_what_the_widest_curve_does(report: OperatingTable) -> None:
    clean, attacked = surface_figure(report).axes
    assert clean.get_title(loc="left") == "Clean accuracy falls with λ"
    assert attacked.get_title(loc="left") == "Robust accuracy rises with λ"
    assert "85.0 % at λ=0, 75.0 % at λ=1 (width 1)" in [text.get_text() for text in clean.texts]
    assert "5.0 % at λ=0, 40.0 % at λ=1 (width 1)" in [text.get_text() for text in attacked.texts]


def test_no_title_claims_what_the_table_does_not_show(report: OperatingTable) -> None:
    same = report.row(OperatingPoint(0.3, 0.75)).measurements
    flat = report.model_copy(update={"rows": tuple(r.model_copy(update={"measurements": same}) for r in report.rows)})
    for axes in surface_figure(flat).axes:
        assert axes.get_title(loc="left").endswith("does not change with λ")
    assert "trades" in frontier_figure(report).axes[0].get_title(loc="left")
    assert "trades" not in frontier_figure(flat).axes[0].get_title(loc="left")


def test_the_frontier_pairs_both_accuracies_of_a_point(report: OperatingTable) -> None:
    (axes,) = frontier_figure(report).axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    for clean, attacked in zip(curves(report, "clean"), curves(report, "pgd-20"), strict=True):
        points = drawn[f"width {clean.width:g}"]
        np.testing.assert_array_equal(points, np.column_stack([clean.accuracy, attacked.accuracy]))


def test_points_that_lie_on_each_other_share_one_name(report: OperatingTable) -> None:
    def names(table: OperatingTable) -> list[str]:
        (axes,) = frontier_figure(table).axes
        return [text.get_text() for text in axes.texts]

    lambdas = sorted({row.lam for row in report.rows})
    assert names(report) == [f"λ={lam:g}" for lam in lambdas]
    *rest, before, last = lambdas
    as_last = report.row(OperatingPoint(last, 1.0)).measurements
    moved = tuple(
        row.model_copy(update={"measurements": as_last}) if (row.lam, row.width) == (before, 1.0) else row
        for row in report.rows
    )
    apart = [f"λ={lam:g}" for lam in rest]
    assert names(report.model_copy(update={"rows": moved})) == [*apart, f"λ={before:g}–{last:g}"]


@pytest.mark.parametrize("name", ["cifar10-wrn-16-4", "gtsrb-wrn-16-2", "robocup-wrn-16-2"])
@pytest.mark.parametrize("draw", [surface_figure, frontier_figure])
def test_nothing_is_overprinted(
    name: str, draw: Callable[[OperatingTable], Any], illegible: Callable[[Any], list[str]]
) -> None:
    assert not illegible(draw(Bundle.load(find_bundle(name)).report))


def test_both_panels_of_the_surface_have_one_scale(report: OperatingTable) -> None:
    heights = [high - low for low, high in (axes.get_ylim() for axes in surface_figure(report).axes)]
    assert heights[0] == pytest.approx(heights[1])


def test_a_condition_that_was_not_measured_is_refused(report: OperatingTable) -> None:
    with pytest.raises(DataError, match="'fgsm' was not measured"):
        curves(report, "fgsm")


def test_the_command_writes_both_pictures(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "figures"
    assert main([str(tiny_bundle), str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["frontier.png", "surface.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    assert main([str(tmp_path / "nothing"), str(folder)]) == 2
    assert "no bundle at" in capsys.readouterr().err
