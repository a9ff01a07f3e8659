"""The comparison attacks each fixed point anew."""

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
from oat_perception.demo.comparison import fixed_answers
from oat_perception.replay.treatment import disturb

from oat_runtime.operating_point import OperatingPoint
from oat_runtime.runtime import OATRuntime

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
    answers = fixed_answers(
        truth, frames_dir=tmp_path, images=images, runtime=runtime, attacker=attacker, points=(LEAST, MOST), seed=seed,
        progress=lambda done: None,
    )  # fmt: skip
    runtime.close()
    assert [(a["stamp_ns"], a["lambda"]) for a in answers] == [(n, lam) for n in range(6) for lam in (0.0, 1.0)]
    for (point, frame), answer in zip(seen, answers, strict=True):
        recorded = cv2.cvtColor(cv2.imread(str(tmp_path / f"{answer['stamp_ns']}.png")), cv2.COLOR_BGR2RGB)
        same_pixels = truth[answer["stamp_ns"]]["attack"] == "none" or point == MOST
        assert np.array_equal(frame, recorded) == same_pixels
