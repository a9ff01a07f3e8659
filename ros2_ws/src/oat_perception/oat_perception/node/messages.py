"""Make messages from results and parameters. Every result carries the header of its image."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
import numpy.typing as npt
from oat_msgs.msg import DecisionRecord, LabelInfo, OperatingPoint, Perception
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from oat_perception.core.answers import UNKNOWN, UNKNOWN_LABEL, is_unknown
from oat_perception.core.decision_log import record
from oat_perception.core.parameters import Change, Spec
from oat_perception.core.perception import FrameResult
from oat_perception.core.regions import RegionSettings
from oat_perception.node.enums import REGIMES, RULE, SOURCE
from oat_runtime.bundle import Bundle
from oat_runtime.runtime import Prediction
from policy.decision import Decision
from policy.signals import Reading

vision: Any
try:
    import vision_msgs.msg

    vision = vision_msgs.msg
except ImportError:  # not among the ROS 2 wheels; on a robot: apt install ros-jazzy-vision-msgs
    vision = None


def perception(result: FrameResult, header: Header, *, min_confidence: float) -> Perception:
    """Return the result for one image, without the times and counts that only its publisher knows."""
    prediction, decision, signals = result.prediction, result.decision, result.signals
    unknown = is_unknown(prediction, min_confidence)
    return Perception(
        header=header,
        label=UNKNOWN_LABEL if unknown else prediction.label,
        class_name=UNKNOWN if unknown else prediction.class_name,
        confidence=prediction.confidence,
        probabilities=array("f", prediction.probabilities_K.tobytes()),
        lambda_value=prediction.point.lam,
        width=prediction.point.width,
        lambda_source=SOURCE[decision.lam_source],
        width_source=SOURCE[decision.width_source],
        regime_posterior=_posterior(decision),
        environment_confidence=_value(signals.confidence),
        environment_confidence_age_ms=_age_ms(signals.confidence),
        battery_fraction=_value(signals.battery),
        battery_age_ms=_age_ms(signals.battery),
        preprocess_ms=result.preprocess_ms,
        inference_ms=prediction.latency_ms,
        max_rate_hz=_or_nan(decision.max_rate_hz),
        max_rate_cause=result.rate_cause,
    )


def operating_point(result: FrameResult, header: Header) -> OperatingPoint:
    """Return the operating point that classified this image, and why."""
    decision, point = result.decision, result.prediction.point
    return OperatingPoint(
        header=header,
        lambda_value=point.lam,
        width=point.width,
        lambda_source=SOURCE[decision.lam_source],
        width_source=SOURCE[decision.width_source],
        lambda_rule=RULE[decision.rule],
        width_rule=RULE[decision.width_rule],
        reason="; ".join(filter(None, [result.note, decision.reason])),
    )


def decision_record(result: FrameResult, header: Header, *, sequence: int) -> DecisionRecord:
    """Return the whole decision, as `oat-replay` reads it."""
    decision = result.decision
    return DecisionRecord(
        header=header,
        sequence=sequence,
        lambda_value=decision.point.lam,
        width=decision.point.width,
        changed=decision.changed,
        lambda_source=SOURCE[decision.lam_source],
        width_source=SOURCE[decision.width_source],
        lambda_rule=RULE[decision.rule],
        width_rule=RULE[decision.width_rule],
        reason=decision.reason,
        regime_posterior=_posterior(decision),
        runner_up_lambda=math.nan if decision.runner_up is None else decision.runner_up.lam,
        runner_up_width=math.nan if decision.runner_up is None else decision.runner_up.width,
        expected_accuracy=decision.expected_accuracy,
        max_rate_hz=_or_nan(decision.max_rate_hz),
        record_json=record(result),
    )


def image_message(image_HWC: npt.NDArray[np.uint8], header: Header) -> Image:
    """Return a uint8 RGB image as sensor_msgs/Image."""
    height, width, channels = image_HWC.shape
    # As bytes: assigning an array would copy it element by element, a thousand times slower.
    return Image(
        header=header, height=height, width=width, encoding="rgb8", step=width * channels, data=image_HWC.tobytes()
    )


def regions(boxes_N4: npt.NDArray[np.int64], header: Header) -> Any:
    """Return boxes (left, top, right, bottom) in pixels as the vision_msgs/Detection2DArray that the node takes."""
    found = []
    for left, top, right, bottom in boxes_N4.tolist():
        box = vision.BoundingBox2D(size_x=float(right - left), size_y=float(bottom - top))
        box.center.position.x, box.center.position.y = (left + right) / 2, (top + bottom) / 2
        found.append(vision.Detection2D(header=header, bbox=box))
    return vision.Detection2DArray(header=header, detections=found)


def stamp_ns(message: Any) -> int:
    """Return the stamp in a message's header, in nanoseconds; a hostile one is negative."""
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def parameter_descriptor(spec: Spec, *, with_range: bool) -> ParameterDescriptor:
    """Describe a parameter. Declare it without the range: rclpy would enforce that without saying why."""
    descriptor = ParameterDescriptor(
        name=spec.name,
        description=spec.meaning,
        additional_constraints="; ".join(filter(None, [spec.range_text, f"set {spec.change.value}"])),
        read_only=spec.change is Change.AT_START,
        # Whoever types 1 means 1.0; rclpy would refuse it for a double. `Spec.objection` checks the type instead.
        dynamic_typing=isinstance(spec.default, (float, list)),
    )
    if not with_range or spec.low is None or spec.high is None:
        return descriptor
    if spec.is_number or isinstance(spec.default, list):
        descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
    if type(spec.default) is int:
        descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
    return descriptor


def label_info(bundle: Bundle, stamp: Any) -> LabelInfo:
    """Return the class names of a bundle; `stamp` is a builtin_interfaces/Time."""
    return LabelInfo(
        header=Header(stamp=stamp),
        bundle_name=bundle.manifest.name,
        bundle_sha256=bundle.sha256,
        class_names=list(bundle.class_names),
    )


def classification(prediction: Prediction, header: Header, *, min_confidence: float) -> Any:
    """Return the whole image's result as vision_msgs/Classification, the most probable class first."""
    return vision.Classification(header=header, results=_hypotheses(prediction, min_confidence))


def vision_label_info(bundle: Bundle, stamp: Any, *, threshold: float) -> Any:
    """Return the class names, and that of no class, as vision_msgs/LabelInfo.

    Args:
        bundle: whose classes.
        stamp: a builtin_interfaces/Time.
        threshold: least score of a hypothesis of a region.
    """
    classes = [vision.VisionClass(class_id=k, class_name=name) for k, name in enumerate(bundle.class_names)]
    classes.append(vision.VisionClass(class_id=UNKNOWN_LABEL, class_name=UNKNOWN))
    return vision.LabelInfo(header=Header(stamp=stamp), class_map=classes, threshold=threshold)


def detections(
    asked: Any, result: FrameResult, header: Header, *, regions: RegionSettings, min_confidence: float
) -> Any:
    """Return the regions of a vision_msgs/Detection2DArray in their order, each with its id and its classes.

    A region without pixels keeps its place, with no results.
    """
    answered = []
    for region, seen in zip(asked.detections, result.regions, strict=True):
        hypotheses = [] if seen is None else _hypotheses(seen, min_confidence, regions.top_k, regions.min_score)
        results = [vision.ObjectHypothesisWithPose(hypothesis=hypothesis) for hypothesis in hypotheses]
        answered.append(vision.Detection2D(header=header, results=results, bbox=region.bbox, id=region.id))
    return vision.Detection2DArray(header=header, detections=answered)


def _hypotheses(prediction: Prediction, min_confidence: float, top_k: int = 0, min_score: float = 0.0) -> list[Any]:
    """Return the classes as `vision_label_info` numbers them, the most probable first; unknown: that one alone.

    The score of "unknown" is the probability that the most probable class is wrong.
    """
    if is_unknown(prediction, min_confidence):
        return [vision.ObjectHypothesis(class_id=str(UNKNOWN_LABEL), score=1.0 - prediction.confidence)]
    scores_K = prediction.probabilities_K
    best = scores_K.argsort()[::-1][: top_k or None]
    return [
        vision.ObjectHypothesis(class_id=str(k), score=score)
        for k, score in zip(best.tolist(), scores_K[best].tolist(), strict=True)
        if score >= min_score
    ]


def _posterior(decision: Decision) -> list[float]:
    return [decision.posterior[regime] for regime in REGIMES]


def _value(reading: Reading) -> float:
    return _or_nan(reading.value)


def _age_ms(reading: Reading) -> float:
    return math.nan if reading.value is None else 1e3 * reading.age_s


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
