"""Laws of the recipe `robocup`: what its bundle may weigh, and that no session is on two sides."""

from pathlib import Path

import numpy as np
import pytest

from oat_runtime.architecture import InputSpec
from oat_runtime.data import data_roots, load_dataset
from oat_runtime.data.boxes import BOX_SOURCES
from tests.oat_runtime.data.test_boxes import robocup
from training.network import OATNet, probe_of, tensors_of
from training.recipes import RECIPES
from training.train import load_data


def sessions(names: tuple[str, ...] | None) -> set[str]:
    assert names is not None
    return {name.split("/")[0] for name in names}


def test_a_bundle_of_robots_has_five_classes_and_weighs_at_most_6_mb() -> None:
    config = RECIPES["robocup"]().model.model_copy(update={"num_classes": 5})
    model = OATNet(config).eval()
    arrays = [*tensors_of(model).values(), *probe_of(model.with_film_tables(), InputSpec(height=64, width=64)).values()]
    assert sum(array.nbytes for array in arrays) < 5.5e6  # tables and outcomes take about a quarter of a megabyte
    assert BOX_SOURCES["robocup"].description.class_names == ("ball", "robot", "human", "goal post", "background")
    assert BOX_SOURCES["robocup"].description.rules.min_side_px == 16


@pytest.mark.parametrize("is_real", [False, True], ids=["made up", "real"])
def test_no_session_is_on_two_sides_and_none_in_poor_light_is_trained_on(
    is_real: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_real and not any((root / "robocup" / "sessions.csv").is_file() for root in data_roots()):
        pytest.skip("no robocup data")
    config = RECIPES["robocup"]()
    assert config.dataset == "robocup@64" and config.resize == "stretch"  # what stands beside a box is not shown
    if not is_real:
        monkeypatch.setenv("OAT_DATA", str(robocup(tmp_path)))
        config, training, validation = load_data(config, download=False)
        parts = [training, validation, load_dataset(config.dataset, "test")]
        dark = load_dataset("robocup-poor-light@64", "test")
        sides = [sessions(part.names) for part in (*parts, dark)]
        assert config.model.num_classes == 5 and all(data.images_NHWC.shape[1:] == (64, 64, 3) for data in parts)
    else:  # without decoding a frame
        frames = BOX_SOURCES["robocup"].index(data_roots()).frames
        dark_frames = BOX_SOURCES["robocup-poor-light"].index(data_roots()).frames
        sides = [{f.session for f in frames if f.part == part} for part in ("train", "validation", "test")]
        sides.append({frame.session for frame in dark_frames})
        assert np.array([len(side) for side in sides]).tolist() == [39, 7, 20, 6]
    assert all(sides) and len(set.union(*sides)) == sum(map(len, sides))
    assert max(sides[0] | sides[1]) < "20260312" <= min(sides[2])
    assert "20190706_r5" in sides[3]
