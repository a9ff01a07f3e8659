"""Marks tests/ros, leaves it out where there is no ROS 2 in the environment, and skips GPU tests without a GPU."""

from importlib.util import find_spec
from pathlib import Path

import pytest

ROS_TESTS = Path(__file__).parent / "ros"
HAS_ROS = all(find_spec(name) for name in ("rclpy", "oat_msgs", "oat_perception"))

collect_ignore = [] if HAS_ROS else [str(ROS_TESTS)]


def pytest_report_header() -> str:
    return "ROS 2: found" if HAS_ROS else "ROS 2: not in this environment, tests/ros left out (`. tools/ros_env.sh`)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROS_TESTS):
            item.add_marker(pytest.mark.ros)
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle around a tiny network with random weights; its tables are made up, but have a real frontier."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def make_tiny_bundle(path: Path) -> Path:
    import numpy as np
    import torch

    from oat_runtime.bundle import Provenance, Temperature, outcome_key, save_bundle
    from oat_runtime.image import InputSpec
    from oat_runtime.model import ModelConfig, OATNet
    from oat_runtime.operating_point import AttackSpec, Measurement, OperatingRow, OperatingTable, Regime

    config = ModelConfig(depth=10, widen_factor=1)
    torch.manual_seed(0)
    model = OATNet(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norms" in name:  # fresh norms are the same for every λ
                parameter.add_(0.3 * torch.randn_like(parameter))
    attack = AttackSpec(name="pgd-20", epsilon=8 / 255, step_size=2 / 255, num_steps=20)
    num_total = 1000

    def row(lam: float, width: float) -> OperatingRow:
        loss = 0.06 * (1.0 - width)
        shares = {
            "clean": (Regime.CLEAN, 0.85 - 0.10 * lam - loss),
            "gaussian_noise-3": (Regime.HIGH_FREQUENCY, 0.50 + 0.25 * lam - loss),
            "fog-3": (Regime.LOW_FREQUENCY, 0.75 - 0.25 * lam - loss),
            "pgd-20": (Regime.ADVERSARIAL, 0.05 + 0.35 * lam - loss / 2),
        }
        return OperatingRow(
            lam=lam,
            width=width,
            measurements=tuple(
                Measurement(condition=c, regime=r, num_correct=round(share * num_total), num_total=num_total)
                for c, (r, share) in shares.items()
            ),
        )

    rows = tuple(row(lam, width) for lam in config.lambdas for width in config.widths)
    outcomes = {
        outcome_key(m.condition, r.point): np.arange(num_total) < m.num_correct for r in rows for m in r.measurements
    }
    save_bundle(
        path,
        model,
        name=path.name,
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        input_spec=InputSpec(),
        provenance=Provenance(
            dataset="none", dataset_sha256="", recipe={}, seed=0, commit="none", hardware="none", train_minutes=0.0
        ),
        temperatures=tuple(Temperature(lam=r.lam, width=r.width, temperature=1.0 + r.lam) for r in rows),
        select=OperatingTable(name="select", dataset="none", split="validation", attack=attack, rows=rows),
        report=OperatingTable(name="report", dataset="none", split="test", attack=attack, rows=rows),
        outcomes=outcomes,
    )
    return path
