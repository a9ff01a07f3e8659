"""What the parameters of the node make of the network that it loads."""

from contextlib import closing

import pytest
from oat_perception.core.loading import Loaded, load
from oat_perception.core.parameters import SPECS


def _loaded(**values: object) -> Loaded:
    given = {"bundle": "gtsrb-wrn-16-2", "backend": "onnxruntime", "num_threads": 1, **values}
    return load({spec.name: spec.default for spec in SPECS} | given, check=lambda runtime, config: None)


@pytest.mark.parametrize(("memory_budget_mb", "all_fit"), [(64, True), (1, False)])
def test_points_in_int8_are_held_within_the_memory_budget(memory_budget_mb: int, all_fit: bool) -> None:
    """All 18 points of this network take 8 MB in int8."""
    pytest.importorskip("onnxruntime")
    with closing(_loaded(precision="int8", memory_budget_mb=memory_budget_mb)) as loaded:
        points = [row.point for row in loaded.runtime.table.rows]
        assert all(map(loaded.runtime.is_prepared, points)) is all_fit
        assert any(map(loaded.runtime.is_prepared, points))
