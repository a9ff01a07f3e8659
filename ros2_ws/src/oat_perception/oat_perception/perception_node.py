"""The managed node `oat_perception`: images in; classes, and the operating point that gave them, out.

Two threads. The executor's receives, checks and answers services; it never computes. The inference thread takes the
newest image, runs it and publishes. They share a one-slot mailbox and a few references that are swapped whole.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.time import Time

from diagnostic_msgs.msg import DiagnosticArray
from oat_msgs.msg import EnvironmentConfidence, OperatingPoint
from oat_msgs.srv import GetTable, SetOperatingPoint
from oat_perception import conversions, messages
from oat_perception.core import DecisionLog, ExternalSignals, Frame, FrameResult, Mailbox, PerceptionCore, Received
from oat_perception.diagnostics import Health, Tally, statuses
from oat_perception.overrides import Overrides
from oat_perception.parameters import ADAPTIVE, OVERRIDES, SPECS, objection, policy_config
from oat_perception.publishers import ResultPublishers
from oat_runtime.errors import ConfigError, InputError, OATError, OperatingPointError
from oat_runtime.operating_point import OperatingPoint as Point
from oat_runtime.runtime import OATRuntime
from policy.config import PolicyConfig
from policy.signals import Override, SignalState
from sensor_msgs.msg import BatteryState, CompressedImage, Image

_THROTTLE_S = 5.0
_Transition = Callable[["PerceptionNode", LifecycleState], TransitionCallbackReturn]


@dataclass(frozen=True, slots=True)
class _Mail:
    """An image message that passed the structural check."""

    message: Any
    received_s: float


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What exists from configure to cleanup."""

    runtime: OATRuntime
    config: PolicyConfig
    core: PerceptionCore
    log: DecisionLog | None
    publishers: ResultPublishers
    subscriptions: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Running:
    """What exists from activate to deactivate."""

    mailbox: Mailbox[_Mail]
    tally: Tally
    thread: threading.Thread
    subscription: Any


def _guarded(transition: _Transition) -> _Transition:
    """Report what went wrong in a transition: rclpy swallows it. What people can put right is no error state."""

    @functools.wraps(transition)
    def run(node: PerceptionNode, state: LifecycleState) -> TransitionCallbackReturn:
        node.problem = ""
        try:
            return transition(node, state)
        except (OATError, OSError) as error:
            node.problem = f"{transition.__name__}: {error}"
            node.get_logger().error(node.problem)
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            node.problem = f"{transition.__name__}: {error!r}"
            node.get_logger().error(f"{transition.__name__} failed unexpectedly\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR

    return run


class PerceptionNode(LifecycleNode):
    """See `oat_perception.parameters` for its parameters and `docs/ros.md` for its topics."""

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
        self.problem = ""
        self._loaded: _Loaded | None = None
        self._running: _Running | None = None
        self._overrides = Overrides()
        self._timed: dict[str, Override] = {}
        self._confidence = Received()
        self._battery = Received()
        # Ages and expiries must not follow a simulated or corrected clock.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._declare_parameters()
        self.create_service(SetOperatingPoint, "~/set_operating_point", self._on_set_operating_point)
        self.create_service(GetTable, "~/get_table", self._on_get_table)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.create_timer(1.0, self._publish_diagnostics, clock=self._steady)
        self._guard_change_state()
        if self.get_parameter("auto_activate").value:
            self._once(0.0, self._auto_activate)

    # Lifecycle -----------------------------------------------------------------------------------------------------

    def _guard_change_state(self) -> None:
        """Answer a request for an impossible transition: the stock service raises into the executor, which dies."""
        service = self._service_change_state
        stock = service.callback

        def change_state(request: Any, response: Any) -> Any:
            try:
                return stock(request, response)
            except Exception as error:
                wanted = request.transition.label or request.transition.id
                self.get_logger().error(f"transition {wanted} is not possible while {self.state}: {error}")
                response.success = False
                return response

        service.callback = change_state

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        return str(self._state_machine.current_state[1])

    def _auto_activate(self) -> None:
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    @_guarded
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle, prepare every point of its table, and listen to the outside signals."""
        values = {spec.name: self.get_parameter(spec.name).value for spec in SPECS}
        if not values["bundle"]:
            raise ConfigError("parameter bundle is empty: set it to the folder of a trained network")
        config = policy_config(values)
        runtime = OATRuntime.load(
            values["bundle"],
            backend=values["backend"],
            precision=values["precision"],
            num_threads=values["num_threads"] or None,
        )
        log = None
        try:
            core = PerceptionCore(runtime, config)
            if problem := objection({knob: values[knob] for knob in OVERRIDES}, current={}, offered=_offer(runtime, config)):
                raise OperatingPointError(problem)
            runtime.prepare()
            if values["lambda"] != ADAPTIVE:
                widths = runtime.table.widths if values["width"] == ADAPTIVE else [values["width"]]
                runtime.prepare(Point(float(values["lambda"]), float(width)) for width in widths)
            core.warm()
            log = DecisionLog(Path(values["decision_log"]), core.policy) if values["decision_log"] else None
        except BaseException:
            runtime.close()
            raise
        subscriptions = (
            self.create_subscription(BatteryState, "battery_state", self._on_battery, qos_profile_sensor_data),
            self.create_subscription(
                EnvironmentConfidence, "environment_confidence", self._on_confidence, qos_profile_sensor_data
            ),
        )
        self._loaded = _Loaded(runtime, config, core, log, ResultPublishers(self, runtime.bundle), subscriptions)
        self.get_logger().info(f"loaded {runtime.bundle.manifest.name} on {runtime.backend}, {runtime.precision}")
        return TransitionCallbackReturn.SUCCESS

    @_guarded
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the inference thread, then let images in."""
        loaded = self._loaded
        assert loaded is not None, "the state machine activates what is configured"
        mailbox: Mailbox[_Mail] = Mailbox()
        tally = Tally()
        loaded.publishers.begin(loaded.runtime.active, self.get_clock().now().to_msg())
        thread = threading.Thread(
            target=self._infer, args=(loaded, mailbox, tally), name="oat-inference", daemon=True
        )
        self._running = _Running(mailbox, tally, thread, self._subscribe_images())
        thread.start()
        return TransitionCallbackReturn.SUCCESS

    @_guarded
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let no more images in, and finish the one in work."""
        self._stop()
        return TransitionCallbackReturn.SUCCESS

    @_guarded
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back all that configure took."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    @_guarded
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back everything, from whatever state."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    @_guarded
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back everything, so that the node can be configured again."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    def release(self) -> None:
        """Stop, and give back all that configure took; harmless where there is nothing."""
        self._stop()
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        for subscription in loaded.subscriptions:
            self.destroy_subscription(subscription)
        for publisher in loaded.publishers.all:
            self.destroy_publisher(publisher)
        loaded.runtime.close()
        if loaded.log is not None:
            loaded.log.close()
        self._confidence = self._battery = Received()

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        self.destroy_subscription(running.subscription)
        running.mailbox.close()
        running.thread.join()
        held = self._overrides.held
        self._overrides.end_timed()
        if held and self._loaded is not None and self.context.ok():
            kept = [knob for knob in held if knob in self._overrides.held]
            reason = f"deactivated: the override of {' and '.join(held)} ended"
            if kept:
                reason += f"; parameter {' and '.join(kept)} still asks for it at the next activation"
            self._loaded.publishers.announce(reason)

    # Parameters and services ---------------------------------------------------------------------------------------

    def _declare_parameters(self) -> None:
        self.add_on_set_parameters_callback(self._on_set)
        for spec in SPECS:
            self.declare_parameter(spec.name, spec.default, spec.descriptor())
        unknown = [
            name
            for name in self._parameter_overrides
            if not self.has_parameter(name) and not name.startswith("qos_overrides.")
        ]
        if unknown:
            self.get_logger().warning(f"unknown parameters are ignored: {', '.join(sorted(unknown))}")
        self.add_post_set_parameters_callback(self._post_set)
        self._post_set([self.get_parameter(knob) for knob in OVERRIDES])

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Check without any effect."""
        loaded = self._loaded
        reason = objection(
            {parameter.name: parameter.value for parameter in parameters},
            current={name: parameter.value for name, parameter in self._parameters.items()},
            offered=None if loaded is None else _offer(loaded.runtime, loaded.config),
        )
        return SetParametersResult(successful=not reason, reason=reason)

    def _post_set(self, parameters: list[Parameter]) -> None:
        """Apply the operator's λ and width; all other parameters are read where they are used."""
        wanted = {parameter.name: parameter.value for parameter in parameters if parameter.name in OVERRIDES}
        held = {knob: None if value == ADAPTIVE else Override(float(value)) for knob, value in wanted.items()}
        self._announce_end(self._overrides.put({**held, **self._timed}), "released")

    def _announce_end(self, knobs: list[str], how: str) -> None:
        if knobs and self._running is not None and self._loaded is not None:
            ended = f"the override of {' and '.join(knobs)} {how}: the policy chooses from the next image on"
            self._loaded.publishers.announce(ended)

    def _on_set_operating_point(self, request: Any, response: Any) -> Any:
        """Both knobs at once. What expires is not written to the parameters, so no dumped file makes it last."""
        asked = {"lambda": request.lambda_value, "width": request.width}
        wanted = {knob: v for knob, v in asked.items() if not math.isnan(v) and v != request.KEEP}
        expiry_s = request.expiry_s
        if self._running is None or self._loaded is None:
            response.message = f"the node is {self.state}: activate it first"
        elif not (math.isfinite(expiry_s) and expiry_s >= 0):
            response.message = f"expiry_s must be 0 (never) or more seconds, got {expiry_s}"
        else:
            offered = _offer(self._loaded.runtime, self._loaded.config)
            response.message = objection(wanted, current={}, offered=offered)
        if response.message:
            return response
        if expiry_s > 0:
            until_s = time.monotonic() + expiry_s
            self._timed = {knob: Override(v, until_s) for knob, v in wanted.items() if v != ADAPTIVE}
            self._once(expiry_s, self._expire)
        lasting = {knob: ADAPTIVE if knob in self._timed else value for knob, value in wanted.items()}
        if lasting:
            result = self.set_parameters_atomically([Parameter(knob, value=value) for knob, value in lasting.items()])
            response.message = result.reason
        self._timed = {}
        response.success = not response.message
        response.operating_point = self._coming_point(self._loaded.runtime.active)
        return response

    def _coming_point(self, active: Point) -> OperatingPoint:
        """The active point with the operator's knobs, as the next image will find it."""
        held = self._overrides.held
        knobs = {"lambda": active.lam, "width": active.width} | {knob: o.value for knob, o in held.items()}
        source = {
            knob: OperatingPoint.SOURCE_OPERATOR if knob in held else OperatingPoint.SOURCE_ADAPTIVE for knob in OVERRIDES
        }
        return OperatingPoint(
            lambda_value=knobs["lambda"],
            width=knobs["width"],
            lambda_source=source["lambda"],
            width_source=source["width"],
            reason="from the next image on",
        )

    def _expire(self) -> None:
        self._announce_end(self._overrides.expire(time.monotonic()), "expired")

    def _on_get_table(self, request: Any, response: Any) -> Any:
        if self._loaded is None:
            response.message = f"the node is {self.state}: configure it first"
            return response
        bundle, table = self._loaded.runtime.bundle, self._loaded.runtime.table
        response.success = True
        response.bundle_name, response.bundle_sha256 = bundle.manifest.name, bundle.sha256
        response.device, response.table_json = table.device, table.model_dump_json()
        return response

    def _once(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back once, on the executor, after a delay of the steady clock."""

        def fire() -> None:
            self.destroy_timer(timer)
            callback()

        timer = self.create_timer(delay_s, fire, clock=self._steady)

    # Inputs --------------------------------------------------------------------------------------------------------

    def _subscribe_images(self) -> Any:
        reliability = ReliabilityPolicy[str(self.get_parameter("image_reliability").value).upper()]
        qos = QoSProfile(depth=qos_profile_sensor_data.depth, reliability=reliability)
        if self._compressed:
            # As image_transport does it: the base name is remapped, then the transport's name is added.
            return self.create_subscription(
                CompressedImage, f"{self.resolve_topic_name('image')}/compressed", self._on_image, qos
            )
        return self.create_subscription(Image, "image", self._on_image, qos)

    @property
    def _compressed(self) -> bool:
        return bool(self.get_parameter("image_transport").value == "compressed")

    def _on_image(self, message: Any) -> None:
        """Check before the mailbox, so that a bad message never replaces a good one."""
        running, loaded = self._running, self._loaded
        if running is None or loaded is None:
            return
        now_s = time.monotonic()
        running.tally.received(now_s)
        try:
            (conversions.check_compressed if self._compressed else conversions.check_image)(message)
        except InputError as error:
            self._refuse(running.tally, error)
            return
        if not self._idle(loaded):
            running.mailbox.put(_Mail(message, now_s))

    def _refuse(self, tally: Tally, error: InputError) -> None:
        tally.refuse(str(error), time.monotonic())
        self.get_logger().warning(f"image dropped: {error}", throttle_duration_sec=_THROTTLE_S)

    def _idle(self, loaded: _Loaded) -> bool:
        return not (loaded.publishers.wanted or loaded.log is not None or self.get_parameter("always_process").value)

    def _on_battery(self, message: BatteryState) -> None:
        full = float(self.get_parameter("battery_percentage_full").value)
        charge, complaint = conversions.battery_charge(message, percentage_full=full)
        if complaint:
            self.get_logger().warning(complaint, throttle_duration_sec=_THROTTLE_S)
        self._battery = Received(charge, time.monotonic(), "battery_state")

    def _on_confidence(self, message: EnvironmentConfidence) -> None:
        self._confidence = Received(message.confidence, time.monotonic(), message.source or "environment_confidence")

    # Inference thread ----------------------------------------------------------------------------------------------

    def _infer(self, loaded: _Loaded, mailbox: Mailbox[_Mail], tally: Tally) -> None:
        """Run images until the mailbox closes, no faster than the policy grants. One bad image never ends it."""
        not_before_s, sequence = 0.0, 0
        while (mail := mailbox.take(not_before_s=not_before_s)) is not None:
            try:
                result = self._process(loaded, mail)
                self._publish(loaded, mail, result, tally, num_dropped=mailbox.num_dropped, sequence=sequence)
                sequence += 1
                rate_hz = result.decision.max_rate_hz
                not_before_s = result.signals.now_s + 1 / rate_hz if rate_hz else 0.0
            except InputError as error:
                self._refuse(tally, error)
            except Exception:
                if not self.context.ok():
                    return
                tally.failed()
                self.get_logger().error(
                    f"an image failed unexpectedly\n{traceback.format_exc()}", throttle_duration_sec=_THROTTLE_S
                )

    def _process(self, loaded: _Loaded, mail: _Mail) -> FrameResult:
        image_HWC = (conversions.rgb_compressed if self._compressed else conversions.rgb_image)(mail.message)
        held = self._overrides.held
        now_s = time.monotonic()
        external = ExternalSignals(
            confidence=self._confidence.reading(now_s),
            battery=self._battery.reading(now_s),
            override_lam=held.get("lambda"),
            override_width=held.get("width"),
            safety_lock=bool(self.get_parameter("safety_lock").value),
        )
        return loaded.core.process(Frame(image_HWC, mail.received_s), external=external, now_s=now_s)

    def _publish(
        self, loaded: _Loaded, mail: _Mail, result: FrameResult, tally: Tally, *, num_dropped: int, sequence: int
    ) -> None:
        total_ms = 1e3 * (time.monotonic() - mail.received_s)
        loaded.publishers.publish(
            result,
            mail.message.header,
            image_age_ms=self._image_age_ms(mail.message.header.stamp),
            total_ms=total_ms,
            num_dropped=num_dropped,
            sequence=sequence,
        )
        tally.processed(result, now_s=time.monotonic(), total_ms=total_ms)
        if loaded.log is not None:
            loaded.log.write(result)

    def _image_age_ms(self, stamp: Any) -> float:
        """NaN for an unset stamp, and where the camera's clock is ahead of ours."""
        if not (stamp.sec or stamp.nanosec):
            return math.nan
        age_ns = (self.get_clock().now() - Time.from_msg(stamp)).nanoseconds
        return age_ns / 1e6 if age_ns >= 0 else math.nan

    # Diagnostics ---------------------------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        loaded, running, now_s = self._loaded, self._running, time.monotonic()
        bundle: dict[str, str] = {}
        states: dict[str, SignalState] = {}
        ages: dict[str, float | None] = {}
        if loaded is not None:
            runtime, config = loaded.runtime, loaded.config
            bundle = {"bundle": runtime.bundle.manifest.name, "bundle sha256": runtime.bundle.sha256,
                      "back end": runtime.backend, "precision": runtime.precision}  # fmt: skip
            for name, received, max_age_s in (
                ("environment confidence", self._confidence, config.confidence_max_age_s),
                ("battery", self._battery, config.battery_max_age_s),
            ):
                reading = received.reading(now_s)
                ages[name] = None if reading.value is None else reading.age_s
                states[name] = reading.state(low=0.0, high=1.0, max_age_s=max_age_s)
            if not config.battery_ladder:
                del states["battery"]
            if config.confidence_topic == "absent" and states["environment confidence"] is SignalState.MISSING:
                del states["environment confidence"]
        health = Health(
            node=self.get_fully_qualified_name(),
            state=self.state,
            problem=self.problem,
            idle=loaded is not None and self._idle(loaded),
            bundle=bundle,
            tally=None if running is None else running.tally.snapshot(now_s),
            num_dropped=0 if running is None else running.mailbox.num_dropped,
            age_s=ages,
            states=states,
            camera_timeout_s=float(self.get_parameter("camera_timeout_s").value),
            now_s=now_s,
        )
        array = DiagnosticArray(status=statuses(health))
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def _offer(runtime: OATRuntime, config: PolicyConfig) -> Callable[[float | None, float | None], None]:
    """A check of the operator's λ and width against the bundle and the hard limits."""

    def check(lam: float | None, width: float | None) -> None:
        active = runtime.active
        runtime.effective(lam=active.lam if lam is None else lam, width=active.width if width is None else width)
        for knob, value, low, high in (
            ("lambda", lam, config.lam_min, config.lam_max),
            ("width", width, config.width_min, config.width_max),
        ):
            if value is not None and not low <= value <= high:
                raise OperatingPointError(
                    f"{knob} must be within this node's hard limits [{low:g}, {high:g}], got {value:g}: "
                    f"change {knob}_min and {knob}_max where that is safe"
                )

    return check


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted: 0 then, 2 where a parameter is refused at start."""
    rclpy.init(args=args)
    try:
        node = PerceptionNode()
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.logging.get_logger("oat_perception").fatal(str(error))
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.release()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
