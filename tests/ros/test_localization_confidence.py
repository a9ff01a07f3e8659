"""The example that makes a confidence of a robot's localisation, up to the node that takes it, over DDS."""

from __future__ import annotations

import math
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped

from tests.ros.domains import next_domain
from tests.ros.test_signals import QUICK

LIMITS = {"good_m": 0.1, "lost_m": 1.0, "max_age_s": 10.0}


@pytest.fixture(scope="module")
def example() -> Any:
    spec = spec_from_file_location("example", Path(__file__).parents[2] / "examples" / "localization_confidence.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pose(variance: float) -> PoseWithCovarianceStamped:
    message = PoseWithCovarianceStamped()
    message.pose.covariance[0] = message.pose.covariance[7] = variance
    return message


def test_the_less_sure_the_place_and_the_older_the_pose_the_lower_the_confidence(example) -> None:
    by_place = [example.confidence(std_m, 0.0, **LIMITS) for std_m in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 9.0)]
    assert by_place == sorted(by_place, reverse=True)
    assert (by_place[0], by_place[2], by_place[-2], by_place[-1]) == (1.0, 1.0, 0.0, 0.0)
    by_age = [example.confidence(0.1, age_s, **LIMITS) for age_s in (0.0, 1.0, 5.0, 10.0)]
    assert by_age == sorted(by_age, reverse=True)


@pytest.mark.parametrize("std_m,age_s", [(math.nan, 0.0), (0.1, 10.1), (0.1, math.inf), (0.1, -1.0)])
def test_what_is_not_known_is_no_confidence(example, std_m: float, age_s: float) -> None:
    assert math.isnan(example.confidence(std_m, age_s, **LIMITS))


@pytest.mark.parametrize(
    "wrong", [{"lost_m": 0.05}, {"lost_m": 0.1}, {"good_m": 0}, {"good_m": "near"}, {"max_age_s": 0.0}]
)
def test_limits_that_would_trust_a_lost_robot_are_refused(example, wrong: dict[str, Any]) -> None:
    assert example.limits(LIMITS | {"lost_m": 1}) == LIMITS
    with pytest.raises(ValueError, match=r"expected numbers with 0 < good_m < lost_m and 0 < max_age_s, got .*"):
        example.limits(LIMITS | wrong)


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["--ros-args", "-p", "goodm:=0.5"], "there is no parameter 'goodm': expected good_m, lost_m, max_age_s", 0),
        (["--good_m", "0.5"], "expected --ros-args and what follows it, got '--good_m 0.5'", 2),
    ],
)
def test_what_has_no_effect_is_told(example, monkeypatch, capfd, arguments: list[str], told: str, status: int) -> None:
    """Regression: it ran with its defaults, and no line told so."""
    monkeypatch.setattr(sys, "argv", [example.__file__, *arguments])
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next_domain()))
    monkeypatch.setattr(rclpy, "spin", lambda node: None)
    assert example.main() == status
    assert told in capfd.readouterr().err


def test_the_worst_direction_counts_and_zeros_are_no_covariance(example) -> None:
    stretched = [0.0] * 36
    stretched[0], stretched[1], stretched[6], stretched[7] = 0.5, 0.5, 0.5, 0.5  # a metre along the diagonal
    assert example.uncertainty_m(stretched) == pytest.approx(1.0)
    for nothing in ([0.0] * 36, [math.nan] * 36):
        assert math.isnan(example.uncertainty_m(nothing))


def test_a_robot_that_loses_its_place_runs_at_the_safest_lambda_and_back(start_graph, on_a_thread, example) -> None:
    graph = start_graph(**QUICK)
    poses = graph.peer.create_publisher(PoseWithCovarianceStamped, "pose", 5)

    def told(variance: float, wanted: Any, what: str) -> Any:
        def so(result: Any) -> bool:
            poses.publish(_pose(variance))
            return bool(wanted(result))

        return graph.peer.ask_until(so, what)

    with on_a_thread(example.LocalizationConfidence(context=graph.context)):
        sure = told(0.01**2, lambda r: r.lambda_value == 0.0, "it knows its place: the most accurate")
        assert sure.environment_confidence == pytest.approx(1.0, abs=0.1)
        lost = told(5.0**2, lambda r: r.lambda_value == 1.0, "it is lost: the safest")
        assert lost.environment_confidence == 0.0
        told(0.01**2, lambda r: r.lambda_value == 0.0, "found again")
