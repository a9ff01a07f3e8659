"""The node cuts out of a frame what training cut out of it, for a network that was trained on boxes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from oat_perception.core.perception import CameraFrame, ExternalSignals, PerceptionCore
from oat_perception.core.regions import box_of

from oat_runtime.architecture import InputSpec
from oat_runtime.data.boxes import BoxFrame
from oat_runtime.data.boxes.crops import cut_out
from oat_runtime.runtime import OATRuntime
from policy.config import PolicyConfig
from tests.conftest import make_tiny_bundle

HEIGHT, WIDTH = 48, 64


def shares(num: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    size_N2 = rng.uniform(0.02, 0.6, (num, 2)).round(5)
    return np.concatenate((rng.uniform(size_N2 / 2, 1 - size_N2 / 2).round(5), size_N2), axis=1)


def frame_of(shares_N4: np.ndarray) -> BoxFrame:
    none_N = np.zeros(len(shares_N4), np.int64)
    return BoxFrame(Path("a.png"), "a.png", ".", "train", none_N, shares_N4, none_N)


def test_a_box_in_a_text_file_and_a_detection_of_it_are_the_same_pixels() -> None:
    shares_N4 = shares(500)
    for height, width in ((600, 456), (480, 640), (HEIGHT, WIDTH)):
        for (x, y, w, h), box in zip(shares_N4.tolist(), frame_of(shares_N4).boxes(height, width), strict=True):
            centre = SimpleNamespace(position=SimpleNamespace(x=x * width, y=y * height), theta=0.0)
            detection = SimpleNamespace(center=centre, size_x=w * width, size_y=h * height)
            assert box_of(detection, height=height, width=width) == tuple(box)


def test_the_node_sees_the_crops_of_training_to_the_bit(tmp_path: Path, engine: str) -> None:
    spec = InputSpec(region_margin=0.2)
    runtime = OATRuntime.load(make_tiny_bundle(tmp_path / "net", spec), backend=engine, num_threads=1)
    runtime.prepare()
    image_HWC = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes_N4 = frame_of(shares(5)).boxes(HEIGHT, WIDTH)
    frame = CameraFrame(image_HWC, received_s=0.0, boxes=tuple(tuple(box) for box in boxes_N4.tolist()))
    result = PerceptionCore(runtime, PolicyConfig()).process(frame, external=ExternalSignals(), now_s=0.0)
    crops = runtime.predict_batch([image_HWC, *cut_out(image_HWC, boxes_N4, spec)], at=result.prediction.point)
    for seen, crop in zip(result.regions, crops[1:], strict=True):
        assert seen is not None
        np.testing.assert_array_equal(seen.logits_K, crop.logits_K)
    runtime.close()
