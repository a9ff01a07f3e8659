"""Replay images over ROS in place of a camera, corrupt or attack them, and play a scripted day."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
from oat_msgs.msg import EnvironmentConfidence
from oat_msgs.msg import OperatingPoint as OperatingPointMsg
from rcl_interfaces.msg import SetParametersResult
from rclpy.context import Context
from rclpy.parameter import Parameter
from sensor_msgs.msg import BatteryState, Image
from std_msgs.msg import Header

from oat_perception.middleware import LATCHED, STEADY
from oat_perception.node import messages
from oat_perception.node.messages import image_message, parameter_descriptor, stamp_ns
from oat_perception.node.parameters import SpecifiedParameters
from oat_perception.node.spin import node_parser, spin
from oat_perception.replay.frames import is_session
from oat_perception.replay.parameters import CAMERA_SPECS
from oat_perception.replay.scenario import Moment, Scenario, load_scenario
from oat_perception.replay.sources import SourceImage, SourceImages, open_source
from oat_perception.replay.treatment import Treatment, disturb, fit_square
from oat_runtime.data import Skipped
from oat_runtime.errors import ConfigError, DataError, one_line
from oat_runtime.extras import require
from oat_runtime.files import expanded
from oat_runtime.operating_point import OperatingPoint

if TYPE_CHECKING:  # loads torch; only an attack needs it
    from oat_perception.replay.attacker import Attacker

_SIGNALS_PERIOD_S = 0.2
_THROTTLE_S = 5.0
_SCRIPTED = ("corruption", "severity", "attack", "confidence", "battery")

_SPECS = {spec.name: spec for spec in CAMERA_SPECS}


class CameraReplay(SpecifiedParameters):
    """Publish `image`, `regions` of frames with boxes, `battery_state` and `environment_confidence`.

    True labels go to a file only.
    """

    specs = _SPECS

    def __init__(self, *, context: Context | None = None, parameter_overrides: list[Parameter] | None = None) -> None:
        """Declare parameters, open the source and start the timers.

        Raises:
            OATError: a parameter, the source or the bundle cannot be used.
        """
        super().__init__("camera_replay", context=context, parameter_overrides=parameter_overrides)
        self._declare_parameters()
        self.warn_of_unknown_parameters()
        name = self._text("scenario")
        self._scenario: Scenario | None = load_scenario(name) if name else None
        if self._scenario is not None and (seconds := self._number("seconds_per_phase")) > 0:
            self._scenario = self._scenario.with_seconds_per_phase(seconds)
        self._skipped, self._told_of_skipped = Skipped(self.get_logger().warning), False
        phases = self._scenario.phases if self._scenario is not None else ()
        names = dict.fromkeys(phase.source or self._text("source") for phase in phases) or [self._text("source")]
        self._sources: dict[str, SourceImages] = {name: self._open(name) for name in names}
        self._waiting = bool(self.get_parameter("wait_for_subscriber").value)
        self._sequence = 0
        self._elapsed_s = 0.0
        self._ticked_s: float | None = None
        self._last_frame_s = -math.inf
        self._attacked: OperatingPoint | None = None
        self._attacker: Attacker | None = None
        if self._text("bundle"):
            self._attacker = self._load_attacker()
        elif self._text("attack") != "none" or (
            self._scenario is not None and any(phase.attack != "none" for phase in self._scenario.phases)
        ):
            raise ConfigError("an attack needs the network's weights: set the parameter 'bundle' to the node's bundle")
        self._frames_dir = self._path("frames_dir")
        if self._frames_dir is not None:
            self._frames_dir.mkdir(parents=True, exist_ok=True)
        self._truth_file = self._path("truth_file")
        if self._truth_file is not None:
            self._truth_file.parent.mkdir(parents=True, exist_ok=True)
            self._truth_file.write_text("")
        self.done = False

        # Reliable, since a reliable publisher also serves subscribers that ask for best effort.
        self._image = self.create_publisher(Image, "image", 5)
        self._regions = None
        if any(map(is_session, self._sources)):
            self._regions = self.create_publisher(self._regions_type(), "regions", 5)
        self._battery = self.create_publisher(BatteryState, "battery_state", 5)
        self._confidence = self.create_publisher(EnvironmentConfidence, "environment_confidence", 5)
        attacked = f"{self._text('perception_node')}/operating_point"
        self._attacked_topic = self.resolve_topic_name(attacked)
        self.create_subscription(OperatingPointMsg, attacked, self._on_operating_point, LATCHED)
        self.add_on_set_parameters_callback(self._validate)
        self.create_timer(1.0 / self._number("rate_hz"), self._publish_frame, clock=STEADY)
        self.create_timer(_SIGNALS_PERIOD_S, self._publish_signals, clock=STEADY)

    def _declare_parameters(self) -> None:
        for spec in _SPECS.values():
            descriptor = parameter_descriptor(spec, with_range=True)
            is_source = spec.name == "source"  # a webcam's number may be typed as one
            descriptor.dynamic_typing |= is_source
            value = self.declare_parameter(spec.name, spec.default, descriptor).value
            if reason := spec.objection(str(value) if is_source else value):
                raise ConfigError(reason)

    def _text(self, name: str) -> str:
        return str(self.get_parameter(name).value)

    def _path(self, name: str) -> Path | None:
        """Return the file or folder that a parameter names; None where it is empty."""
        return expanded(self._text(name)) if self._text(name) else None

    def _number(self, name: str) -> float:
        return float(self.get_parameter(name).value)

    def _regions_type(self) -> type:
        if messages.vision is None:
            raise ConfigError(
                "frames with boxes are published with their regions, which needs vision_msgs: install "
                "ros-jazzy-vision-msgs, or run `. tools/vision_env.sh`"
            )
        if self._number("frame_side_px"):
            raise ConfigError("frame_side_px would cut boxes off: leave it at 0 for frames with boxes")
        kind: type = messages.vision.Detection2DArray
        return kind

    def _open(self, source: str) -> SourceImages:
        seed = int(self._number("seed"))
        return open_source(
            source,
            data_root=self._text("data_root"),
            topic=self._text("bag_topic"),
            bits=int(self._number("image_bits")),
            seed=seed,
            skipped=self._skipped,
        )

    def _load_attacker(self) -> Attacker:
        require("torch", extra="torch", by="an attack")
        import torch

        from oat_perception.replay.attacker import Attacker

        torch.set_num_threads(1)  # the node under attack needs the other cores
        return Attacker(expanded(self._text("bundle")))

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            reason = _SPECS[parameter.name].objection(parameter.value) if parameter.name in _SPECS else ""
            if self._scenario is not None and parameter.name in _SCRIPTED:
                reason = f"{parameter.name} is set by the scenario: start the node with scenario:=''"
            if parameter.name == "attack" and parameter.value != "none" and self._attacker is None:
                reason = "an attack needs the network's weights: start the node with bundle:=<path>"
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _on_operating_point(self, message: OperatingPointMsg) -> None:
        self._attacked = OperatingPoint(message.lambda_value, message.width)

    def _moment(self, scenario: Scenario) -> Moment | None:
        """Return the present moment of the script. Its clock runs from the first call on, while playing."""
        now_s = time.monotonic()
        if self._ticked_s is not None:
            self._elapsed_s += now_s - self._ticked_s
        self._ticked_s = now_s
        return scenario.at(self._elapsed_s)

    def _is_playing(self) -> bool:
        if self._waiting and self._image.get_subscription_count():
            self._waiting = False
        playing = bool(self.get_parameter("playing").value) and not (self._waiting or self.done)
        if not playing:
            self._ticked_s = None
        return playing

    def _publish_signals(self) -> None:
        if not self._is_playing():
            return
        confidence, battery = self._number("confidence"), self._number("battery")
        if self._scenario is not None:
            moment = self._moment(self._scenario)
            if moment is None:
                return
            confidence, battery = moment.confidence, moment.battery
        stamp = self.get_clock().now().to_msg()
        if confidence >= 0:
            message = EnvironmentConfidence(confidence=confidence, source="script")
            message.header.stamp = stamp
            self._confidence.publish(message)
        if battery >= 0:
            state = BatteryState(percentage=battery, present=True)
            state.header.stamp = stamp
            state.power_supply_status = BatteryState.POWER_SUPPLY_STATUS_DISCHARGING
            state.voltage = state.current = state.charge = state.capacity = state.design_capacity = math.nan
            state.temperature = math.nan
            self._battery.publish(state)

    def _publish_frame(self) -> None:
        if not self._is_playing():
            return
        if self._sequence == 0:
            self._publish_signals()  # or the first images would be seen with battery and surroundings unknown
        phase, corruption, severity = "", self._text("corruption"), int(self._number("severity"))
        source, attack, now_s = self._text("source"), self._text("attack"), time.monotonic()
        if self._scenario is not None:
            moment = self._moment(self._scenario)
            if moment is None:
                self.done = True
                return
            scripted = moment.phase
            phase, corruption, severity = scripted.name, scripted.corruption, scripted.severity
            source, attack = scripted.source or source, scripted.attack
            # Half a timer period of slack, so that a slower rate is met on average and not undercut.
            slack_s = 0.5 / self._number("rate_hz")
            if scripted.max_rate_hz and now_s - self._last_frame_s < 1 / scripted.max_rate_hz - slack_s:
                return
        self._last_frame_s = now_s
        frame = self._next(source)
        if frame is None:
            self.done = True
            return
        treatment = Treatment(phase, corruption, severity if corruption != "none" else 0)
        self._send(frame, treatment, source=source, attack=attack)

    def destroy_node(self) -> None:
        """Close the sources, then destroy the node."""
        for images in self._sources.values():
            images.close()
        super().destroy_node()

    def _next(self, source: str) -> SourceImage | None:
        frame = next(self._sources[source], None)
        if frame is None and self._skipped.num and not self._told_of_skipped:
            self._told_of_skipped = True  # the next passes leave out the same
            self.get_logger().warning(f"images of {one_line(source)} left out: {self._skipped.num}")
        if frame is None and self._sequence and self.get_parameter("loop").value:
            self._sources[source] = self._open(source)
            frame = next(self._sources[source], None)
        if frame is None and not self._sequence:
            raise DataError(f"the source {source!r} gave no image: is the file damaged or empty?")
        return frame

    def _send(self, frame: SourceImage, treatment: Treatment, *, source: str, attack: str) -> None:
        image_HWC = disturb(
            fit_square(frame.image_HWC, int(self._number("frame_side_px"))),
            treatment.corruption, treatment.severity, seed=int(self._number("seed")), sequence=self._sequence,
        )  # fmt: skip
        target = self._attacked if attack != "none" else None
        if attack != "none" and target is None:
            self.get_logger().warning(
                f"no image is attacked before {self._attacked_topic} says at which operating point: start the attacked "
                "node, or set perception_node to its name",
                throttle_duration_sec=_THROTTLE_S,
                throttle_time_source_type=STEADY,
            )
        if target is not None and self._attacker is not None:
            seed = int(self._number("seed")) + self._sequence
            if frame.boxes_N4 is None or frame.labels_N is None:
                image_HWC = self._attacker.attack(image_HWC, frame.label, point=target, seed=seed)
            else:
                boxes_N4, labels_N = frame.boxes_N4, frame.labels_N
                image_HWC = self._attacker.attack_regions(image_HWC, boxes_N4, labels_N, point=target, seed=seed)
        message = image_message(image_HWC, Header(frame_id=self._text("frame_id")))
        # The stamp is the time at which the finished image leaves the "lens": crafting an attack is not its age.
        message.header.stamp = self.get_clock().now().to_msg()
        record = {
            "sequence": self._sequence,
            "stamp_ns": stamp_ns(message),
            "label": frame.label,
            "index": frame.index,
            **asdict(treatment),
            "attack": attack if target is not None else "none",
            "attacked_lambda": None if target is None else target.lam,
            "attacked_width": None if target is None else target.width,
        }
        if frame.boxes_N4 is not None and frame.labels_N is not None:
            record |= {"source": source, "boxes": frame.boxes_N4.tolist(), "labels": frame.labels_N.tolist()}
        if self._frames_dir is not None:
            record["file"] = f"{self._sequence:05d}.png"
            path = self._frames_dir / record["file"]
            if not cv2.imwrite(str(path), cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)):
                raise OSError(f"{path} cannot be written: make room on the disk, or name another frames_dir")
        if self._truth_file is not None:
            with self._truth_file.open("a") as lines:
                lines.write(json.dumps(record) + "\n")
        if self._regions is not None and frame.boxes_N4 is not None:
            self._regions.publish(messages.regions(frame.boxes_N4, message.header))
        self._image.publish(message)
        self._sequence += 1


def main() -> int:
    """Run the node until Ctrl-C, the end of the scenario, or the end of a source that does not loop."""
    parser = node_parser("camera_replay_node", __doc__, CAMERA_SPECS)
    return spin(CameraReplay, name="camera_replay", parser=parser, outcome=lambda node: 0 if node.done else None)


if __name__ == "__main__":
    sys.exit(main())
