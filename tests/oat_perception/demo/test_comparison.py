"""The comparison attacks each fixed point anew, and answers at full width what the battery had narrowed."""

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
from oat_perception.demo.comparison import other_answers
from oat_perception.demo.run_record import FULL_WIDTH, OWN_POINT, ReplayedFrame
from oat_perception.replay.treatment import disturb

from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime
from policy.config import BatteryStep, PolicyConfig

LEAST, MOST = OperatingPoint(0.0, 1.0), OperatingPoint(1.0, 1.0)


def test_fixed_points_see_recorded_pixels_but_meet_an_attack_of_their_own(tmp_path, tiny_bundle, attacker, images):
    """Recorded attacks were made against λ=1; λ=0 must not be scored on those."""
    seed, truth = 5, []
    for number in range(6):
        corruption = "gaussian_noise" if number % 2 else "none"
        image = disturb(images.images_NHWC[number], corruption, 3, seed=seed, sequence=number)
        attacked = number >= 2
        if attacked:
            image = attacker.attack(image, int(images.labels_N[number]), point=MOST, seed=seed + number)
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        truth.append(
            {"sequence": number, "stamp_ns": number, "index": number, "label": int(images.labels_N[number]),
             "corruption": corruption, "severity": 3, "attack": "pgd-10" if attacked else "none",
             "file": f"{number}.png"}
        )  # fmt: skip
    seen: list[tuple[OperatingPoint, np.ndarray]] = []

    class Recorder(OATRuntime):
        def predict(self, frame_HWC, *, at=None):
            seen.append((at, frame_HWC))
            return super().predict(frame_HWC, at=at)

    runtime = Recorder.load(tiny_bundle, backend="torch", num_threads=1)
    answers = other_answers(
        [ReplayedFrame(0.0, line, None) for line in truth], frames_dir=tmp_path,
        clean=lambda line: images.images_NHWC[line["index"]], runtime=runtime, attacker=attacker, config=PolicyConfig(),
        seed=seed, progress=lambda done: None,
    )  # fmt: skip
    runtime.close()
    assert [(a["stamp_ns"], a["lambda"]) for a in answers] == [(n, lam) for n in range(6) for lam in (0.0, 1.0)]
    for (point, frame), answer in zip(seen, answers, strict=True):
        recorded = cv2.cvtColor(cv2.imread(str(tmp_path / f"{answer['stamp_ns']}.png")), cv2.COLOR_BGR2RGB)
        same_pixels = truth[answer["stamp_ns"]]["attack"] == "none" or point == MOST
        assert np.array_equal(frame, recorded) == same_pixels


LADDER = PolicyConfig(
    battery_ladder=(BatteryStep(min_charge=0.3, max_width=1.0), BatteryStep(min_charge=0.0, max_width=0.5))
)


def test_only_what_the_battery_narrowed_is_answered_at_full_width_too(tmp_path, tiny_bundle, attacker, images):
    """The policy may like a narrow width by itself: that saves nothing that a battery asked for."""
    cases = [(0.1, 0.5, "adaptive"), (0.9, 0.5, "adaptive"), (0.1, 1.0, "adaptive"), (0.1, 0.5, "operator"),
             (None, 0.5, "adaptive")]  # fmt: skip
    frames = []
    for number, (battery, width, source) in enumerate(cases):
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.cvtColor(images.images_NHWC[0], cv2.COLOR_RGB2BGR))
        truth = {"sequence": number, "stamp_ns": number, "index": 0, "label": 0, "attack": "none",
                 "file": f"{number}.png"}  # fmt: skip
        result = {"battery": battery, "lambda": 0.4, "width": width, "width_source": source}
        frames.append(ReplayedFrame(0.0, truth, result))
    runtime = OATRuntime.load(tiny_bundle, backend="torch", num_threads=1)
    answers = other_answers(
        frames, frames_dir=tmp_path, clean=lambda line: images.images_NHWC[0], runtime=runtime, attacker=attacker,
        config=LADDER, seed=0, progress=lambda done: None,
    )  # fmt: skip
    both = [(a["stamp_ns"], a["role"], a["lambda"], a["width"]) for a in answers if a["role"] != "fixed"]
    assert both == [(0, OWN_POINT, 0.4, 0.5), (0, FULL_WIDTH, 0.4, 1.0)]
    assert all(a["latency_ms"] > 0 for a in answers)
    same = runtime.predict(images.images_NHWC[0], at=OperatingPoint(0.4, 1.0)).label
    runtime.close()
    assert [a["labels"] for a in answers if a["role"] == FULL_WIDTH] == [[same]]
