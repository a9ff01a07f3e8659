"""A running graph for one test: the node on its own thread, and a peer that acts as camera, battery and operator."""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState
from oat_msgs.msg import EnvironmentConfidence, LabelInfo, OperatingPoint, Perception
from oat_msgs.srv import GetTable, SetOperatingPoint
from oat_perception.node.guard import GuardedExecutor
from oat_perception.perception_node import PerceptionNode
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import BatteryState, CompressedImage, Image
from std_msgs.msg import Float32

from oat_runtime.architecture import InputSpec
from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import attach_file
from oat_runtime.image import network_input
from oat_runtime.operating_point import MEASURED_REGIMES, Regime
from policy.belief.constants import PRIOR, EstimatorConstants, ImageKind
from policy.image import image_statistics
from tests.ros.domains import next_domain

NAME = "/oat_perception"
TIMEOUT_S = 60.0
"""Generous: a busy machine is slow. A law that is broken only fails later."""
_START_TIMEOUT_S = 180.0
_LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def clear_image() -> np.ndarray:
    """An image that the bundle's estimator takes for clean."""
    ramp = np.linspace(40, 215, 32, dtype=np.uint8)
    return np.ascontiguousarray(
        np.stack([ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None], 255 - ramp[:, None] + 0 * ramp], -1)
    )


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with an estimator that knows one image, and takes it for clean."""
    mean = np.array(image_statistics(network_input(clear_image(), InputSpec())))
    identity = tuple(np.eye(12)[np.tril_indices(12)].tolist())
    constants = EstimatorConstants(
        statistics=image_statistics(network_input(clear_image(), InputSpec()))._fields,
        kinds=tuple(
            ImageKind(
                name=regime.value,
                regime=regime,
                mean=tuple((mean + (0.0 if regime is Regime.CLEAN else 9.0)).tolist()),
                whitening=identity,
            )
            for regime in MEASURED_REGIMES
        ),
        outlier_log_density=-40.0,
        prior=PRIOR,
    )
    copied = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bundles") / "tiny")
    return attach_file(Bundle.load(copied), "estimator.json", constants.model_dump_json().encode()).path


class Peer(Node):
    """Everything around the node under test. Messages are collected in lists, oldest first."""

    def __init__(self, context: Context) -> None:
        super().__init__("peer", context=context)
        self.results: list[Perception] = []
        self.points: list[OperatingPoint] = []
        self.labels: list[LabelInfo] = []
        self.diagnoses: defaultdict[str, DiagnosticStatus] = defaultdict(DiagnosticStatus)
        self.image = self.create_publisher(Image, "image", 5)
        self.compressed = self.create_publisher(CompressedImage, "image/compressed", 5)
        self.battery = self.create_publisher(BatteryState, "battery_state", 5)
        self.confidence = self.create_publisher(EnvironmentConfidence, "environment_confidence", 5)
        self.confidence_value = self.create_publisher(Float32, "environment_confidence_value", 5)
        self.create_subscription(OperatingPoint, f"{NAME}/operating_point", self.points.append, _LATCHED)
        self.create_subscription(LabelInfo, f"{NAME}/label_info", self.labels.append, _LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)
        self._stamp = itertools.count(1)

    def destroy_node(self) -> None:
        """Shut its executor down first: one that the garbage collector finds may complain that it is gone already."""
        self._spinner.shutdown()
        super().destroy_node()

    def listen(self) -> None:
        """Subscribe to results."""
        self.create_subscription(Perception, f"{NAME}/perception", self.results.append, 50)

    def until(self, condition: Callable[[], Any], what: str, *, timeout_s: float = TIMEOUT_S) -> Any:
        """Spin until the condition holds; fail otherwise."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if found := condition():
                return found
            self._spinner.spin_once(timeout_sec=0.02)
        pytest.fail(f"not within {timeout_s} s: {what}")

    def spin(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self._spinner.spin_once(timeout_sec=0.02)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.create_client(kind, f"{NAME}/{name}")
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.until(future.done, f"answer of {name}", timeout_s=_START_TIMEOUT_S)
        self.destroy_client(client)
        return future.result()

    def set(self, **values: Any) -> list[Any]:
        """`ros2 param set`, one by one."""
        parameters = [Parameter(name.rstrip("_"), value=value).to_parameter_msg() for name, value in values.items()]
        return list(self.call(SetParameters, "set_parameters", SetParameters.Request(parameters=parameters)).results)

    def set_together(self, **values: Any) -> Any:
        parameters = [Parameter(name.rstrip("_"), value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        return self.call(SetParametersAtomically, "set_parameters_atomically", request).result

    def set_point(self, **fields: float) -> SetOperatingPoint.Response:
        return self.call(SetOperatingPoint, "set_operating_point", SetOperatingPoint.Request(**fields))

    def table(self) -> GetTable.Response:
        return self.call(GetTable, "get_table", GetTable.Request())

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(ChangeState, "change_state", request).success)

    def make_image(self, pixels: np.ndarray | None = None, *, frame_id: str = "camera") -> Image:
        pixels = clear_image() if pixels is None else pixels
        height, width, channels = pixels.shape
        message = Image(height=height, width=width, encoding="rgb8", step=width * channels, data=pixels.tobytes())
        message.header.stamp.sec = next(self._stamp)
        message.header.frame_id = frame_id
        return message

    def ask(self, message: Any = None) -> Perception:
        """Send one image and wait for its result; sent again where it was sent before the graph was connected."""
        message = self.make_image() if message is None else message
        publisher = self.image if isinstance(message, Image) else self.compressed
        self.until(publisher.get_subscription_count, "the node subscribes to images")
        self.until(lambda: self.count_publishers(f"{NAME}/perception"), "the node publishes results")
        publisher.publish(message)
        return self.until(
            lambda: next((r for r in self.results if r.header.stamp == message.header.stamp), None), "a result"
        )

    def say(self, *, charge: float | None = None, confidence: float | None = None) -> None:
        if charge is not None:
            self.battery.publish(BatteryState(percentage=charge, present=True))
        if confidence is not None:
            self.confidence.publish(EnvironmentConfidence(confidence=confidence))

    def ask_until(
        self,
        wanted: Callable[[Perception], bool],
        what: str,
        *,
        charge: float | None = None,
        confidence: float | None = None,
    ) -> Perception:
        """Send images, and these signals before each, until a result is as wanted."""
        until_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until_s:
            self.say(charge=charge, confidence=confidence)
            self.spin(0.05)
            if wanted(result := self.ask()):
                return result
        pytest.fail(f"never: {what}; the last result was {result}")

    def value(self, part: str, key: str) -> int:
        """A number in the diagnostics; 0 where it is not given."""
        return int({pair.key: pair.value for pair in self.diagnoses[part].values}.get(key, 0))

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        self.diagnoses.update({status.name.split(": ")[1]: status for status in array.status})


@contextlib.contextmanager
def spinning(node: Node) -> Iterator[threading.Thread]:
    """Spin a node on a thread of its own; it is destroyed afterwards."""
    executor = GuardedExecutor(context=node.context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        yield thread
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()


@pytest.fixture
def on_a_thread() -> Callable[[Node], contextlib.AbstractContextManager[threading.Thread]]:
    """`with on_a_thread(node):` spins it."""
    return spinning


class Graph:
    """The node and its peer in one domain."""

    def __init__(self, bundle: Path, parameters: dict[str, Any], arguments: Sequence[str] = ()) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=next_domain())
        given = {"backend": "onnxruntime", "precision": "float32", "num_threads": 1, "bundle": str(bundle)}
        given |= {"auto_activate": True, **parameters}
        self.node = PerceptionNode(
            context=self.context,
            cli_args=["--ros-args", *arguments],
            parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
        )
        self._spinning = contextlib.ExitStack()
        self.thread = self._spinning.enter_context(spinning(self.node))
        self.peer = Peer(self.context)

    def close(self) -> None:
        self._spinning.close()
        self.peer.destroy_node()
        rclpy.shutdown(context=self.context)
        # A lifecycle node is part of a cycle. Until it is collected it stays in its domain, under the name of the next.
        del self.node, self.peer, self.thread
        gc.collect()


StartGraph = Callable[..., Graph]


@contextlib.contextmanager
def stranger_in(graph: Graph) -> Iterator[Node]:
    """Add a node with a DDS participant of its own: on one participant, a topic has one type."""
    context = Context()
    rclpy.init(context=context, domain_id=graph.context.get_domain_id())
    node = rclpy.create_node("stranger", context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.fixture
def stranger() -> Callable[[Graph], contextlib.AbstractContextManager[Node]]:
    """`with stranger(graph) as node:` has a node that may publish another type on a topic of the graph."""
    return stranger_in


@pytest.fixture
def start_graph(bundle: Path) -> Iterator[StartGraph]:
    """Start the node with these parameters in a domain of its own; active, with a subscriber, unless told otherwise.

    `arguments` are the node's ROS arguments, as ["-r", "image:=/cam/image"].
    """
    graphs: list[Graph] = []

    def start(*, listen: bool = True, arguments: Sequence[str] = (), **parameters: Any) -> Graph:
        graph = Graph(bundle, {name.rstrip("_"): value for name, value in parameters.items()}, arguments)
        graphs.append(graph)
        if listen:
            graph.peer.listen()
        if parameters.get("auto_activate", True):
            graph.peer.until(lambda: graph.node.state == "active", "active", timeout_s=_START_TIMEOUT_S)
        return graph

    yield start
    for graph in graphs:
        graph.close()


@pytest.fixture(scope="module")
def shared_graph(bundle: Path) -> Iterator[Graph]:
    """One active node for all tests of a module that can share it, with quick reactions."""
    graph = Graph(bundle, {"dwell_s": 0.05, "width_dwell_s": 0.05, "probe_period_s": 0.0})
    graph.peer.listen()
    graph.peer.until(lambda: graph.node.state == "active", "active", timeout_s=_START_TIMEOUT_S)
    yield graph
    graph.close()


@pytest.fixture
def peer(shared_graph: Graph) -> Iterator[Peer]:
    """The shared node's peer; overrides are given back afterwards."""
    yield shared_graph.peer
    assert shared_graph.peer.set_together(lambda_=-1.0, width=-1.0).successful
