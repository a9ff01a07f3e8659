"""The operator's console, in a process of its own: it sets what `ros2 param set` would, prints what the node sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from oat_msgs.msg import OperatingPoint

ADAPTIVE, OPERATOR = OperatingPoint.SOURCE_ADAPTIVE, OperatingPoint.SOURCE_OPERATOR
COMMAND = [sys.executable, "-m", "oat_perception.console"]


@pytest.fixture
def environment(shared_graph) -> dict[str, str]:
    """Of a process in the shared node's domain."""
    return {**os.environ, "ROS_DOMAIN_ID": str(shared_graph.context.get_domain_id()), "OMP_NUM_THREADS": "1"}


def test_it_sets_both_at_once_and_gives_them_back(peer, environment) -> None:
    subprocess.run([*COMMAND, "lambda=1", "width=0.75"], env=environment, timeout=60, check=True)
    result = peer.ask()
    assert (result.lambda_value, result.width) == (1.0, 0.75)
    assert (result.lambda_source, result.width_source) == (OPERATOR, OPERATOR)
    subprocess.run([*COMMAND, "lambda=-1"], env=environment, timeout=60, check=True)
    result = peer.ask()
    assert (result.lambda_source, result.width_source) == (ADAPTIVE, OPERATOR)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["lambda=0.2", "width=0.6"], "0.6"),
        (["lamda=0.2"], "there is no parameter 'lamda': is lambda meant?"),
        (["lambda=0.2", "lambda 0.2"], "got 'lambda 0.2'"),
        (["lambda=0.2", "=0.2"], "got '=0.2'"),
        (["--node", "nobody", "lambda=0.2"], "nobody did not answer"),
    ],
)
def test_what_it_cannot_set_it_says_and_sets_nothing(peer, environment, arguments, why) -> None:
    refused = subprocess.run([*COMMAND, *arguments], env=environment, timeout=60, capture_output=True, text=True)
    assert refused.returncode == 2
    assert why in refused.stderr
    assert peer.ask().lambda_source == ADAPTIVE


def test_it_prints_results_and_each_change_with_its_reason(peer, environment) -> None:
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as process:
        peer.until(lambda: peer.count_subscribers("/oat_perception/perception") > 1, "the console subscribes")
        peer.set(lambda_=0.3)
        for _ in range(30):
            peer.ask()
            peer.spin(0.1)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "now λ 0.3 (operator)" in printed
    assert any("λ 0.3" in line and "images/s" in line for line in printed.splitlines())


def test_it_says_unknown_what_limits_the_rate_and_how_many_images_it_leaves_out(start_graph) -> None:
    graph = start_graph(max_rate_hz=5.0, min_confidence=1.0, probe_period_s=0.0)
    peer = graph.peer
    environment = {**os.environ, "ROS_DOMAIN_ID": str(graph.context.get_domain_id()), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as process:
        peer.until(lambda: peer.count_subscribers("/oat_perception/perception") > 1, "the console subscribes")
        for _ in range(90):
            peer.image.publish(peer.make_image())
            peer.spin(1 / 30)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "now at most 5 images/s: max_rate_hz" in printed
    assert any(line.startswith("unknown ") and "skipped for the rate" in line for line in printed.splitlines()), printed
