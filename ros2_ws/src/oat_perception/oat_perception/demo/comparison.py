"""After a run, classify exactly the same images with a fixed λ. Needs no rclpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from oat_perception.demo.day_record import Record
from oat_perception.replay.attacker import Attacker
from oat_perception.replay.treatment import disturb
from oat_runtime.data import ImageSet, read_image
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime


def fixed_answers(
    truth: Sequence[Record],
    *,
    frames_dir: Path,
    images: ImageSet,
    runtime: OATRuntime,
    attacker: Attacker,
    points: Sequence[OperatingPoint],
    seed: int,
    progress: Callable[[int], None],
) -> list[Record]:
    """Return the labels that fixed operating points give the recorded images, with the runtime that the node uses.

    An attacked image was made against the node's operating point, so it would flatter any other point. Therefore each
    point gets its own attack on the same clean image, with the same random start.

    Args:
        truth: lines of truth.jsonl.
        frames_dir: folder of the recorded images.
        images: where the clean images came from.
        runtime: a runtime of the node's bundle.
        attacker: of the same bundle.
        points: fixed operating points, one for each λ.
        seed: the camera's seed.
        progress: told the number of images done.

    Returns:
        Records of stamp_ns, lambda, width and label.
    """
    runtime.prepare(points)
    answers = []
    for done, line in enumerate(truth, start=1):
        recorded_HWC = read_image(frames_dir / line["file"])
        for point in points:
            frame_HWC = recorded_HWC
            if line["attack"] != "none":
                number = line["sequence"]
                clean_HWC = disturb(
                    images.images_NHWC[line["index"]], line["corruption"], line["severity"], seed=seed, sequence=number
                )
                frame_HWC = attacker.attack(clean_HWC, line["label"], point=point, seed=seed + number)
            label = runtime.predict(frame_HWC, at=point).label
            answers.append({"stamp_ns": line["stamp_ns"], "lambda": point.lam, "width": point.width, "label": label})
        progress(done)
    return answers
