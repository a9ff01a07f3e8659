"""What a machine does not measure is left out."""

from __future__ import annotations

from oat_perception.core.machine import Machine


def test_machine_readings_are_left_out_where_there_are_none(tmp_path) -> None:
    assert "hottest sensor (°C)" not in Machine(tmp_path).values()
    for index, text in enumerate(["41500", "300000", "nonsense", "38000"]):
        (tmp_path / f"thermal_zone{index}").mkdir()
        (tmp_path / f"thermal_zone{index}" / "temp").write_text(text)
    values = Machine(tmp_path).values()
    assert values["hottest sensor (°C)"] == "41.5"
    assert float(values["memory (MB)"]) > 1
