"""Run the managed node `oat_perception`: images in; classes, and the operating point that gave them, out.

A frame takes this way, file by file:

    node/subscriptions.py     subscribes to the camera while somebody wants a result
    node/pipeline.py          checks the message, and takes the frame through the files below it
      core/mailbox.py           one slot from the executor's thread to the inference thread; the newest image wins
      core/matching.py          joins an image with the detections made on it, or lets it go without them
      core/regions.py           cuts the boxes of detections out of the image
      core/perception.py        frame and external signals -> policy -> operating point -> network -> result
      core/answers.py           the mean over a region's track; "unknown" below `min_confidence`
      core/decision_log.py      writes the decision as a line of JSON, which `oat-replay` reads
    node/publishers.py        publishes those results that have subscribers
      node/messages.py          writes the messages, with the image's own header; node/enums.py has their constants
      core/annotate.py          draws the image for people

Two files add what the decision needs besides the frame:

    node/external_signals.py  battery (core/battery.py) and environment confidence, with the time of their receipt
    node/commands.py          the operator's λ and width (core/overrides.py), and each change of a parameter

These files do the rest:

    core/parameters.py        every parameter with its meaning, range and check
    core/loading.py           on configure: network, policy and decision log from the parameters, and what the log says
                                of them
    node/parameters.py        describes parameters, and answers a wrong name with the nearest, also at the start
    node/lifecycle.py         transitions that report who asked for them, and why they failed
    node/silence.py           why nothing arrives on a topic, as far as the graph tells
    node/guard.py             whatever raises in a callback is told and counted, and the node goes on
    node/watch.py             /diagnostics and the watchdog; node/diagnostics.py judges each part, from the counts of
                                core/tally.py and the readings of core/machine.py
    middleware.py             the steady clock of all timers, and topics that keep their last message
    node/spin.py              runs a node until it is interrupted or has finished; interrupts.py takes the signals

The executor's thread receives, checks and answers services, and never computes. The inference thread does the rest.
"""

from __future__ import annotations

import copy
import functools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oat_msgs.srv import GetTable, SetOperatingPoint
from rclpy.context import Context
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_parameters

from oat_perception.core.loading import Loaded, about, load
from oat_perception.core.machine import Machine
from oat_perception.core.parameters import BY_NAME, SPECS
from oat_perception.core.perception import ExternalSignals
from oat_perception.core.regions import RegionSettings
from oat_perception.node import messages
from oat_perception.node.commands import Commands
from oat_perception.node.diagnostics import Health, Watched, signal_states
from oat_perception.node.external_signals import SignalSubscriptions
from oat_perception.node.lifecycle import GuardedLifecycleNode, guarded
from oat_perception.node.parameters import SpecifiedParameters
from oat_perception.node.pipeline import Pipeline
from oat_perception.node.publishers import ResultPublishers
from oat_perception.node.spin import node_parser, spin
from oat_perception.node.subscriptions import (
    CameraSubscriptions,
    camera_topic,
    check_qos_overrides,
    qos_override_objection,
)
from oat_perception.node.watch import Watch
from oat_runtime.errors import ConfigError, OATError


@dataclass(frozen=True, slots=True)
class _Configured:
    """What exists from configure to cleanup."""

    loaded: Loaded
    publishers: ResultPublishers
    external: SignalSubscriptions
    regions: RegionSettings


@dataclass(frozen=True, slots=True)
class _Running:
    """What exists from activate to deactivate."""

    pipeline: Pipeline
    subscriptions: CameraSubscriptions


class PerceptionNode(SpecifiedParameters, GuardedLifecycleNode):
    """Hold the parts together; the top of this file says what each of them does."""

    specs = BY_NAME

    def __init__(
        self,
        *,
        context: Context | None = None,
        namespace: str = "",
        cli_args: list[str] | None = None,
        parameter_overrides: list[Parameter] | None = None,
    ) -> None:
        """Declare parameters and services; the bundle is loaded on configure.

        Raises:
            InvalidParameterValueException: an initial value is refused; the message says why.
        """
        super().__init__(
            "oat_perception",
            context=context,
            namespace=namespace,
            cli_args=cli_args,
            parameter_overrides=parameter_overrides,
        )
        self._configured: _Configured | None = None
        self._running: _Running | None = None
        self._machine = Machine()
        self._commands = Commands(self, announce=self._announce, changed=self._listen)
        self.warn_of_unknown_parameters()
        # Of a burst of calls, the middleware would keep the last ten and forget the others.
        burst = qos_profile_parameters
        self.create_service(SetOperatingPoint, "~/set_operating_point", self._on_set_operating_point, qos_profile=burst)
        self.create_service(GetTable, "~/get_table", self._on_get_table, qos_profile=burst)
        self._watch = Watch(self, health=self._health, announce=self._announce)
        if self.get_parameter("auto_activate").value:
            self._commands.once(0.0, self._auto_activate)

    @guarded
    def on_configure(self, state: LifecycleState) -> None:
        """Load the bundle, prepare and warm every point of its table, and listen to the external signals."""
        values = self._commands.values
        if values["max_regions"] and messages.vision is None:
            raise ConfigError("max_regions needs vision_msgs: install ros-jazzy-vision-msgs, or set max_regions to 0")
        regions = RegionSettings.of(values)
        check_qos_overrides(self)
        try:
            loaded = load(values, check=self._commands.bind)
        except BaseException:
            self._commands.unbind()
            raise
        try:
            external = SignalSubscriptions(
                self, percentage_full=lambda: float(self.get_parameter("battery_percentage_full").value)
            )
            publishers = ResultPublishers(self, loaded.runtime.bundle, regions=regions, on_demand=self._listen)
        except BaseException:
            loaded.close()
            raise
        self._configured = _Configured(loaded, publishers, external, regions)
        log = self.get_logger()
        for is_warning, line in about(loaded, values):
            if is_warning:
                log.warning(line)
            else:
                log.info(line)

    @guarded
    def on_activate(self, state: LifecycleState) -> None:
        """Start the inference thread, then let images in."""
        configured = self._configured
        assert configured is not None, "only what is configured can be activated"
        loaded, publishers = configured.loaded, configured.publishers
        publishers.begin(loaded.runtime.active, self.get_clock().now().to_msg())
        compressed = self.get_parameter("image_transport").value == "compressed"
        pipeline = Pipeline(
            self,
            loaded.core,
            publishers,
            compressed=compressed,
            external=functools.partial(self._external, configured.external),
            log=loaded.log,
            class_names=loaded.runtime.bundle.class_names,
            regions=configured.regions,
            max_pixels=int(self.get_parameter("max_pixels").value),
            image_bits=int(self.get_parameter("image_bits").value),
        )
        self._running = _Running(
            pipeline, CameraSubscriptions(self, pipeline, compressed=compressed, regions=configured.regions)
        )
        self._listen()
        if self._running.subscriptions.listening_since_s is None:
            self.get_logger().info(f"waiting for a subscriber to a result; then it listens on {camera_topic(self)}")

    @guarded
    def on_deactivate(self, state: LifecycleState) -> None:
        """Let no more images in, and finish the one in work; where that takes too long, the node stays active."""
        self._stop()

    @guarded
    def on_cleanup(self, state: LifecycleState) -> None:
        """Release all that configure took."""
        self.release()

    @guarded
    def on_shutdown(self, state: LifecycleState) -> None:
        """Release everything, in any state."""
        self.release()

    @guarded
    def on_error(self, state: LifecycleState) -> None:
        """Release everything, so that the node can be configured again."""
        self.release()

    def destroy_node(self) -> None:
        """Release everything, then destroy the node. A thread whose image hangs does not keep the process."""
        try:
            self.release()
        except OATError as error:
            self.get_logger().error(f"the node ends all the same: {error}")
        super().destroy_node()

    def release(self) -> None:
        """Stop, and release all that configure took; harmless if there is nothing.

        Raises:
            OATError: an image is still in work, so nothing is released: its thread may come back to all of it.
        """
        if not hasattr(self, "_commands"):  # refused at start; Kilted destroys such a node as well
            return
        self._stop()
        configured, self._configured = self._configured, None
        self._commands.unbind()
        if configured is None:
            return
        configured.external.close()
        for publisher in configured.publishers.all:
            self.destroy_publisher(publisher)
        configured.loaded.close()

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.subscriptions.listen(False)
        try:
            running.pipeline.close()
        except OATError:
            self._running = running
            self._listen()
            raise
        reason = self._commands.suspend()
        if reason and self._configured is not None and self.context.ok():
            self._configured.publishers.announce(reason)

    def _auto_activate(self) -> None:
        self.asked_by = "the parameter auto_activate"
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        finally:
            del self.asked_by

    def unknown_parameter_objection(self, name: str) -> str:
        """Return why a given parameter that is not declared has no effect; a `qos_overrides` may have one."""
        if name.startswith("qos_overrides."):
            return qos_override_objection(self, name)
        return super().unknown_parameter_objection(name)

    def _listen(self) -> None:
        """Subscribe to the camera only while results are wanted."""
        if self._configured is None or self._running is None:
            return
        always = self._configured.loaded.log is not None or bool(self.get_parameter("always_process").value)
        self._running.subscriptions.listen(always or self._configured.publishers.wanted)

    def _external(self, subscribed: SignalSubscriptions, now_s: float) -> ExternalSignals:
        held = self._commands.overrides.at(now_s)
        return ExternalSignals(
            confidence=subscribed.confidence.reading(now_s),
            battery=subscribed.battery.reading(now_s),
            override_lam=held.get("lambda"),
            override_width=held.get("width"),
            safety_lock=bool(self.get_parameter("safety_lock").value),
        )

    def _announce(self, reason: str) -> None:
        if self._running is not None and self._configured is not None:
            self._configured.publishers.announce(reason)

    def _on_set_operating_point(self, request: Any, response: Any) -> Any:
        if self._running is None or self._configured is None:
            response.message = self.refusal("activate")
            return response
        response.operating_point = copy.deepcopy(self._configured.publishers.last_point)
        loaded = self._configured.loaded
        response.message = self._commands.set_operating_point(
            request, active=response.operating_point, runtime=loaded.runtime, safest=loaded.core.policy.safety_point
        )
        response.success = not response.message
        return response

    def _on_get_table(self, request: Any, response: Any) -> Any:
        if self._configured is None:
            response.message = self.refusal("configure")
            return response
        bundle, table = self._configured.loaded.runtime.bundle, self._configured.loaded.core.policy.table
        response.success = True
        response.bundle_name, response.bundle_sha256 = bundle.manifest.name, bundle.sha256
        response.device, response.table_json = table.device, table.model_dump_json()
        return response

    def _health(self) -> Health:
        now_s = time.monotonic()
        configured, running = self._configured, self._running
        bundle: dict[str, str] = {}
        signals: dict[str, Watched] = {}
        causes: dict[str, Callable[[], str]] = {} if running is None else {**running.subscriptions.causes}
        machine = self._machine.values()
        matching = None if running is None else running.pipeline.matching
        if configured is not None:
            runtime, external = configured.loaded.runtime, configured.external
            if math.isfinite(external.battery_power_w):
                machine["battery's power (W)"] = f"{external.battery_power_w:.1f}"
            bundle = {"bundle": runtime.bundle.manifest.name, "bundle sha256": runtime.bundle.sha256}
            bundle |= {"engine": runtime.backend, "precision": runtime.precision}
            bundle |= {"figures counted in": runtime.table_precision}
            causes |= external.causes
            signals = signal_states(configured.loaded.config, self._external(external, now_s))
        return Health(
            node=self.get_fully_qualified_name(),
            state=self.state,
            problem=self.problem,
            listening_since_s=None if running is None else running.subscriptions.listening_since_s,
            incompatible_qos="" if running is None else running.subscriptions.incompatible_qos,
            causes=causes,
            bundle=bundle,
            tally=None if running is None else running.pipeline.tally.snapshot(now_s),
            num_dropped=0 if running is None else running.pipeline.num_dropped,
            num_skipped=0 if running is None else running.pipeline.num_skipped,
            matching=matching,
            detectors=("", 0) if running is None or matching is None else running.subscriptions.detectors,
            signals=signals,
            machine=machine,
            camera_timeout_s=float(self.get_parameter("camera_timeout_s").value),
            policy_timeout_s=float(self.get_parameter("policy_timeout_s").value),
            now_s=now_s,
            log=None if configured is None else configured.loaded.log,
            failures=self.failures,
        )


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted or finalized. Return 0 then, and 2 if a parameter is refused at start."""
    parser = node_parser("perception_node", "Classify camera images, with λ and width chosen for each.", SPECS)
    return spin(PerceptionNode, name="oat_perception", args=args, parser=parser, outcome=PerceptionNode.outcome)


if __name__ == "__main__":
    sys.exit(main())
