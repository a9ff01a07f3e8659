"""After a run, answer exactly the same images at other operating points. Needs no rclpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from oat_perception.demo.run_record import FIXED_LAMBDA, FULL_WIDTH, OWN_POINT, Record, ReplayedFrame
from oat_perception.replay.attacker import Attacker
from oat_perception.replay.frames import Bytes
from oat_perception.replay.treatment import disturb
from oat_runtime.data import read_image
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime
from policy.config import PolicyConfig

_MORE_TRIES = 2


def other_answers(
    frames: Sequence[ReplayedFrame],
    *,
    frames_dir: Path,
    clean: Callable[[Record], Bytes],
    runtime: OATRuntime,
    attacker: Attacker,
    config: PolicyConfig,
    seed: int,
    progress: Callable[[int], None],
) -> list[Record]:
    """Return what other operating points say of the recorded images, with the runtime that the node uses.

    Every image is answered at the least and the greatest λ, at full width. An image of a network that the battery had
    narrowed is answered again at that point and at full width, one after the other, so that their times can be
    compared: each is the least of three.

    An attacked image was made against the node's operating point, so it would flatter any other point. Therefore each
    point gets its own attack on the same clean image, with the same random start.

    Args:
        frames: the published images, with the node's answers.
        frames_dir: folder of the recorded images.
        clean: gives the image of a line of truth.jsonl before it was corrupted or attacked.
        runtime: a runtime of the node's bundle.
        attacker: of the same bundle.
        config: of the policy; its ladder tells when the battery narrows the network.
        seed: the camera's seed.
        progress: told the number of images done.

    Returns:
        Records of stamp_ns, role, lambda, width, labels and latency_ms.
    """
    lambdas, widest = runtime.table.lambdas, runtime.table.widths[-1]
    ends = [OperatingPoint(lam, widest) for lam in (lambdas[0], lambdas[-1])]
    points = [
        [*((FIXED_LAMBDA, point) for point in ends), *_narrowed(frame, widest, runtime, config)] for frame in frames
    ]
    runtime.prepare({point for of_frame in points for _, point in of_frame})
    answers = []
    for done, (frame, of_frame) in enumerate(zip(frames, points, strict=True), start=1):
        truth = frame.truth
        recorded_HWC = read_image(frames_dir / truth["file"])
        for role, point in of_frame:
            frame_HWC = recorded_HWC
            if truth["attack"] != "none":
                frame_HWC = _attacked(truth, clean(truth), attacker, point, seed)
            labels, latency_ms = _answer(runtime, frame_HWC, truth, point)
            if role != FIXED_LAMBDA:  # a busy machine only ever adds
                tries = (_answer(runtime, frame_HWC, truth, point) for _ in range(_MORE_TRIES))
                latency_ms = min(latency_ms, *(again_ms for _, again_ms in tries))
            answers.append(
                {"stamp_ns": truth["stamp_ns"], "role": role, "lambda": point.lam, "width": point.width,
                 "labels": labels, "latency_ms": latency_ms}
            )  # fmt: skip
        progress(done)
    return answers


def _narrowed(
    frame: ReplayedFrame, widest: float, runtime: OATRuntime, config: PolicyConfig
) -> Iterator[tuple[str, OperatingPoint]]:
    """Yield the node's own point and the same λ at full width, if the battery forbade full width."""
    if frame.result is None or frame.answer["width_source"] != "adaptive" or not frame.point.width < widest:
        return
    charge = frame.answer["battery"]
    step = None if charge is None or math.isnan(charge) else config.battery_step(charge)
    if step is None or step.max_width >= widest:
        return
    for role, width in ((OWN_POINT, frame.point.width), (FULL_WIDTH, widest)):
        yield role, runtime.effective(lam=frame.point.lam, width=width)


def _attacked(truth: Record, image_HWC: Bytes, attacker: Attacker, point: OperatingPoint, seed: int) -> Bytes:
    number = truth["sequence"]
    clean_HWC = disturb(image_HWC, truth["corruption"], truth["severity"], seed=seed, sequence=number)
    if "boxes" not in truth:
        return attacker.attack(clean_HWC, truth["label"], point=point, seed=seed + number)
    boxes_N4 = np.array(truth["boxes"], np.int64).reshape(-1, 4)
    labels_N = np.array(truth["labels"], np.int64)
    return attacker.attack_regions(clean_HWC, boxes_N4, labels_N, point=point, seed=seed + number)


def _answer(runtime: OATRuntime, frame_HWC: Bytes, truth: Record, point: OperatingPoint) -> tuple[list[int], float]:
    """(labels, time of the network) of the image, or of its regions."""
    if "boxes" not in truth:
        answer = runtime.predict(frame_HWC, at=point)
        return [answer.label], answer.latency_ms
    answers = runtime.predict_regions(frame_HWC, np.array(truth["boxes"], np.int64).reshape(-1, 4), at=point)
    return [answer.label for answer in answers], answers[0].latency_ms if answers else 0.0
