"""Operating points and their tables: ranges, counts, intervals; and that none of it needs torch."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from oat_runtime.errors import OperatingPointError
from oat_runtime.operating_point import (
    AttackSpec,
    Measurement,
    OperatingPoint,
    OperatingRow,
    OperatingTable,
    Proportion,
    Regime,
)

ATTACK = AttackSpec(name="pgd-20", epsilon=8 / 255, step_size=2 / 255, num_steps=20)


def row(lam: float, width: float, *measurements: Measurement) -> OperatingRow:
    return OperatingRow(lam=lam, width=width, measurements=measurements)


def measured(condition: str, regime: Regime, num_correct: int, num_total: int = 100) -> Measurement:
    return Measurement(condition=condition, regime=regime, num_correct=num_correct, num_total=num_total)


def table(*rows: OperatingRow) -> OperatingTable:
    return OperatingTable(name="select", dataset="none", split="validation", attack=ATTACK, rows=rows)


def test_import_loads_no_torch() -> None:
    code = (
        "import sys, oat_runtime, oat_runtime.errors, oat_runtime.operating_point\n"
        "oat_runtime.OperatingPoint, oat_runtime.OATError, oat_runtime.Regime, dir(oat_runtime)\n"
        "print(sorted({'torch', 'cv2', 'openvino'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    """Regression: `fold`, both a function and its module, was the function at first and the module ever after."""
    import oat_runtime

    for _ in range(2):
        classes = set(oat_runtime.__all__) - {"SHIPPED_BUNDLE"}
        assert all(getattr(oat_runtime, name).__name__ == name for name in classes)
    assert (oat_runtime.SHIPPED_BUNDLE / "manifest.json").is_file()
    assert dir(oat_runtime) == oat_runtime.__all__ == sorted(oat_runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = oat_runtime.Nothing


def test_every_error_is_public() -> None:
    import oat_runtime
    from oat_runtime import errors

    raised = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert len(raised) == 9
    assert raised <= set(oat_runtime.__all__)


@pytest.mark.parametrize("lam", [-0.01, 1.01, math.nan, math.inf])
def test_lambda_out_of_range_is_refused(lam: float) -> None:
    with pytest.raises(OperatingPointError, match=rf"lambda must be in \[0, 1\], got {lam}"):
        OperatingPoint(lam, 1.0)


@pytest.mark.parametrize("width", [0.0, -0.5, 1.01, math.nan, math.inf])
def test_width_out_of_range_is_refused(width: float) -> None:
    with pytest.raises(OperatingPointError, match=rf"width must be in \(0, 1\], got {width}"):
        OperatingPoint(0.5, width)


@pytest.mark.parametrize(
    "change",
    [{"epsilon": math.nan}, {"epsilon": math.inf}, {"epsilon": -0.1}, {"num_steps": 0}, {"strength": 1.0}],
)
def test_what_is_read_from_a_file_is_strict(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AttackSpec.model_validate(ATTACK.model_dump() | change)


def test_what_was_read_never_changes() -> None:
    with pytest.raises(ValidationError):
        ATTACK.epsilon = 0.5


@given(num_total=st.integers(1, 10_000), data=st.data())
def test_interval_solves_the_score_equation(num_total: int, data: st.DataObject) -> None:
    num_correct = data.draw(st.integers(0, num_total))
    share = Proportion(num_correct, num_total)
    low, high = share.interval(z=1.96)
    assert 0.0 <= low <= share.rate + 1e-12
    assert share.rate - 1e-12 <= high <= 1.0
    for p in (low, high):
        assert (share.rate - p) ** 2 == pytest.approx(1.96**2 * p * (1 - p) / num_total, abs=1e-9)


def test_nothing_counted_says_nothing() -> None:
    assert math.isnan(Proportion(0, 0).rate)
    assert Proportion(0, 0).interval() == (0.0, 1.0)


@pytest.mark.parametrize(("regime", "num_correct"), [(Regime.CLEAN, 101), (Regime.UNKNOWN, 50), (Regime.CLEAN, -1)])
def test_impossible_measurement_is_refused(regime: Regime, num_correct: int) -> None:
    with pytest.raises(ValidationError):
        measured("clean", regime, num_correct)


def test_counts_of_a_regime_are_pooled_not_averaged() -> None:
    noise = measured("noise-1", Regime.HIGH_FREQUENCY, 10, 10), measured("noise-5", Regime.HIGH_FREQUENCY, 0, 90)
    pooled = row(0.0, 1.0, *noise).accuracy(Regime.HIGH_FREQUENCY)
    assert (pooled.num_correct, pooled.num_total) == (10, 100)
    assert row(0.0, 1.0, *noise).condition("noise-1").rate == 1.0


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(1, 5))
def test_an_image_under_several_conditions_counts_once_for_the_interval(hits: list[int], num_others: int) -> None:
    counts = [Proportion(num, 20) for num in hits]
    pooled = Proportion.pooled(counts)
    assert pooled.num_images == 20
    assert pooled.interval() == Proportion.pooled(counts * num_others).interval()
    assert Proportion.pooled([pooled, pooled]).interval() == pooled.interval()
    assert Proportion.pooled([Proportion(hits[0], 20)]).interval() == Proportion(hits[0], 20).interval()


def test_minimax_is_the_worst_regime_and_zero_where_one_was_not_measured() -> None:
    parts = [
        measured("clean", Regime.CLEAN, 90),
        measured("noise", Regime.HIGH_FREQUENCY, 60),
        measured("fog", Regime.LOW_FREQUENCY, 70),
        measured("pgd-20", Regime.ADVERSARIAL, 30),
    ]
    assert row(0.0, 1.0, *parts).minimax() == Proportion(30, 100).interval()[0]
    assert row(0.0, 1.0, *parts[:3]).minimax() == 0.0


def test_table_is_a_grid_in_any_order() -> None:
    rows = [row(1.0, 1.0), row(0.0, 0.5), row(1.0, 0.5), row(0.0, 1.0)]
    grid = table(*rows)
    assert grid.lambdas == (0.0, 1.0)
    assert grid.widths == (0.5, 1.0)
    assert all(grid.row(r.point) is r for r in rows)
    with pytest.raises(OperatingPointError, match=r"no row for λ=0.5 width=1.*\[0.0, 1.0\]"):
        grid.row(OperatingPoint(0.5, 1.0))


@pytest.mark.parametrize(
    "rows",
    [
        (),
        (row(0.0, 1.0), row(0.0, 1.0)),
        (row(0.0, 1.0), row(1.0, 0.5)),
        (row(0.0, 1.0), row(1.0, 1.0), row(0.0, 0.5)),
    ],
)
def test_table_with_holes_or_repeats_is_refused(rows: tuple[OperatingRow, ...]) -> None:
    with pytest.raises(ValidationError):
        table(*rows)


def test_other_rows_change_nothing_else() -> None:
    before = table(row(0.0, 1.0)).model_copy(update={"bundle_sha256": "ab"})
    timed = before.rows[0].model_copy(update={"latency_ms_p50": 2.0})
    after = before.with_rows((timed,), device="cpu")
    assert (after.rows, after.device) == ((timed,), "cpu")
    assert after.with_rows(before.rows, device="") == before
