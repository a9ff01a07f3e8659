"""Send images to the node at a rate, and time the answer to each image by its stamp."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from oat_msgs.msg import EnvironmentConfidence, Perception
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import BatteryState, Image
from std_msgs.msg import Header

from oat_perception.node.diagnostics import part_of
from oat_perception.node.messages import image_message, stamp_ns
from oat_runtime.errors import OATError

NODE = "oat_perception"
START_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 10.0
_DRAIN_S = 0.5
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered image: milliseconds from sending it to its answer, and the times that the node reports."""

    end_to_end_ms: float
    message: Perception


@dataclass(frozen=True, slots=True)
class Run:
    """The fate of the images that were sent in one stretch at one rate.

    Attributes:
        num_sent: images sent.
        num_replaced: images that the node says it replaced by newer ones, because it was busy.
        num_skipped: images that the node says its rate left out. The rest of the unanswered ones were lost.
        answers: the answered ones.
        camera_cpu_s: CPU time of this process.
        node_cpu_s: CPU time of the answering process.
        seconds: how long it took.
    """

    num_sent: int
    num_replaced: int
    num_skipped: int
    answers: tuple[Answer, ...]
    camera_cpu_s: float
    node_cpu_s: float
    seconds: float

    @property
    def unanswered(self) -> float:
        """The share of images without an answer."""
        return 1 - len(self.answers) / self.num_sent

    @property
    def lost(self) -> float:
        """The share of images that never reached the node."""
        return max(0.0, self.unanswered - (self.num_replaced + self.num_skipped) / self.num_sent)

    def end_to_end_ms(self, percent: float) -> float | None:
        """Return a percentile of the time from sending to answer; None without an answer."""
        values = [answer.end_to_end_ms for answer in self.answers]
        return float(np.percentile(values, percent)) if values else None


class Camera(Node):
    """Send images to the perception node (`prefix` empty) or to the echo node (`prefix` `echo/`)."""

    def __init__(self, image_HWC: np.ndarray, *, prefix: str = "", reliable: bool = False, depth: int = 5) -> None:
        """Connect.

        Args:
            image_HWC: uint8 RGB, what is sent.
            prefix: of the topics.
            reliable: whether images are sent reliably.
            depth: images that the middleware keeps.
        """
        super().__init__("bench_camera_echo" if prefix else "bench_camera")
        self.message = image_message(image_HWC, Header())
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self.images = self.create_publisher(Image, f"{prefix}image", QoSProfile(depth=depth, reliability=reliability))
        self.battery = self.create_publisher(BatteryState, "battery_state", 5)
        self.confidence = self.create_publisher(EnvironmentConfidence, "environment_confidence", 5)
        self.answers: dict[int, Answer] = {}
        self.diagnoses: dict[str, DiagnosticStatus] = {}
        self._sent_s: dict[int, float] = {}
        answers = "echo/perception" if prefix else f"{NODE}/perception"
        self.create_subscription(Perception, answers, self._on_answer, 50)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.spinner = SingleThreadedExecutor()
        self.spinner.add_node(self)

    def destroy_node(self) -> None:
        """Shut the executor down, then destroy the node."""
        self.spinner.shutdown()
        super().destroy_node()

    def run(self, rate_hz: float, seconds: float, *, pid: int) -> Run:
        """Send at a rate, and wait for the answers that are still on their way.

        Args:
            rate_hz: images a second.
            seconds: how long.
            pid: process that answers, whose CPU time counts.
        """
        self.forget()
        before = time.process_time(), cpu_s(pid)
        start_s, count = time.monotonic(), 0
        while count < seconds * rate_hz:
            self.spin_until(start_s + count / rate_hz)
            self.send()
            count += 1
        took_s = time.monotonic() - start_s
        after = time.process_time(), cpu_s(pid)
        self.spin_until(time.monotonic() + _DRAIN_S)
        answers = tuple(self.answers.values())
        dropped = [answer.message.num_dropped for answer in answers] or [0]
        skipped = [answer.message.num_skipped for answer in answers] or [0]
        return Run(
            num_sent=count,
            num_replaced=max(dropped) - min(dropped),
            num_skipped=max(skipped) - min(skipped),
            answers=answers,
            camera_cpu_s=after[0] - before[0],
            node_cpu_s=after[1] - before[1],
            seconds=took_s,
        )

    def forget(self) -> None:
        """Count no more answers to the images so far, which a node may give on its way out."""
        self._sent_s.clear()
        self.answers.clear()

    def send(self, message: Image | None = None) -> int:
        """Send one image with a stamp of its own; returns the stamp in nanoseconds."""
        message = self.message if message is None else message
        message.header.stamp = self.get_clock().now().to_msg()
        key = stamp_ns(message)
        self._sent_s[key] = time.monotonic()
        self.images.publish(message)
        return key

    def ask(self, message: Image | None = None) -> Perception:
        """Send one image and wait for its answer."""
        key = self.send(message)
        self.wait(lambda: key in self.answers, "an answer")
        return self.answers[key].message

    def wait_for_answer(self) -> None:
        """Send until the first answer.

        Raises:
            OATError: there is none.
        """
        until_s = time.monotonic() + START_TIMEOUT_S
        while not self.answers:
            if time.monotonic() > until_s:
                raise OATError(f"no answer within {START_TIMEOUT_S:.0f} s of starting")
            if self.images.get_subscription_count():
                self.send()
            self.spin_until(time.monotonic() + 0.1)

    def wait(self, condition: Callable[[], Any], what: str, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
        """Spin until a condition holds.

        Raises:
            OATError: it does not, in time.
        """
        until_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until_s:
                raise OATError(f"{what}: not within {timeout_s:g} s")
            self.spinner.spin_once(timeout_sec=0.02)

    def spin_until(self, until_s: float) -> None:
        """Spin until a moment of the steady clock."""
        while (left_s := until_s - time.monotonic()) > 0:
            self.spinner.spin_once(timeout_sec=left_s)

    def refused(self) -> int:
        """Number of images that the node says it refused."""
        values = self.diagnoses["camera"].values if "camera" in self.diagnoses else ()
        return sum(int(pair.value) for pair in values if pair.key.startswith("images refused"))

    def _on_answer(self, message: Perception) -> None:
        key = stamp_ns(message)
        if key in self._sent_s:
            self.answers[key] = Answer(1e3 * (time.monotonic() - self._sent_s[key]), message)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        self.diagnoses.update({part_of(status): status for status in array.status})


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used; NaN if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
