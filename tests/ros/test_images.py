"""Good images are answered under their own header; bad ones are counted and explained, and nothing else happens."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CompressedImage, Image

from oat_runtime.runtime import OATRuntime


def _broken(peer, **changes) -> Image:
    message = peer.make_image()
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_the_header_is_copied(peer) -> None:
    message = peer.make_image(frame_id="front_left")
    message.header.stamp.nanosec = 123456789
    result = peer.ask(message)
    assert result.header == message.header
    assert result.class_name == peer.labels[0].class_names[result.label]
    assert sum(result.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert result.confidence == pytest.approx(max(result.probabilities))
    assert result.total_ms >= result.inference_ms > 0


def test_row_padding_and_channel_order_do_not_change_the_answer(peer) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
    plain = peer.ask(peer.make_image(rgb))
    padded = np.full((40, 128), 99, np.uint8)
    padded[:, : 36 * 3] = rgb[..., ::-1].reshape(40, -1)
    message = peer.make_image(rgb)
    message.encoding, message.step, message.data = "bgr8", 128, padded.tobytes()
    assert peer.ask(message).probabilities == plain.probabilities


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("truncated", {"data": bytes(100)}),
        ("truncated", {"data": b""}),
        ("oversize", {"data": bytes(32 * 32 * 3 + 1)}),
        ("unknown encoding", {"encoding": "nonsense"}),
        ("unknown encoding", {"encoding": ""}),
        ("bad size", {"height": 0, "data": b""}),
        ("bad size", {"width": 2**31, "height": 2**31}),
        ("bad step", {"step": 5}),
    ],
)
def test_a_bad_image_is_counted_and_explained_and_the_next_good_one_answered(peer, kind, changes) -> None:
    peer.ask()

    def count() -> int:
        values = {pair.key: pair.value for pair in peer.diagnoses["camera"].values}
        return int(values.get(f"images refused, {kind}", 0))

    before, num_results = count(), len(peer.results)
    for _ in range(3):
        peer.image.publish(_broken(peer, **changes))
    peer.ask()
    assert len(peer.results) == num_results + 1
    peer.until(lambda: count() == before + 3, f"three more images are refused as {kind}")
    assert peer.diagnoses["camera"].level == DiagnosticStatus.WARN
    assert kind in peer.diagnoses["camera"].message


def test_a_burst_drops_images_and_says_so(start_graph, monkeypatch) -> None:
    peer = start_graph().peer
    peer.ask()
    predict = OATRuntime.predict
    monkeypatch.setattr(OATRuntime, "predict", lambda self, frame: (time.sleep(0.2), predict(self, frame))[1])
    for _ in range(5):
        peer.image.publish(peer.make_image())
        peer.spin(0.01)
    last = peer.make_image()
    result = peer.ask(last)
    assert result.num_dropped >= 4, "the newest image wins"
    assert len(peer.results) + result.num_dropped == 7, "each image was either answered or counted"


def test_compressed_images_and_a_damaged_one(start_graph) -> None:
    peer = start_graph(image_transport="compressed").peer
    ok, png = cv2.imencode(".png", np.full((48, 64, 3), 90, np.uint8))
    assert ok

    def message(data: bytes) -> CompressedImage:
        compressed = CompressedImage(format="png", data=data)
        compressed.header = peer.make_image().header
        return compressed

    assert peer.ask(message(png.tobytes())).confidence > 0
    for bad in (b"", b"GIF89a....", png.tobytes()[:40]):
        peer.compressed.publish(message(bad))
        peer.spin(0.1)
    assert peer.ask(message(png.tobytes())).confidence > 0
    peer.until(
        lambda: (
            {pair.key for pair in peer.diagnoses["camera"].values}
            >= {f"images refused, {kind}" for kind in ("empty", "unknown format", "undecodable")}
        ),
        "each damage is counted by its kind",
    )


def test_nothing_is_classified_while_nobody_listens(start_graph) -> None:
    peer = start_graph(listen=False).peer
    peer.until(peer.image.get_subscription_count, "the node subscribes to images")
    peer.image.publish(peer.make_image())

    def values() -> dict[str, str]:
        return {pair.key: pair.value for name in ("camera", "network") for pair in peer.diagnoses[name].values}

    peer.until(lambda: values().get("images received") == "1", "the image is received")
    assert values()["images processed"] == "0"
    assert "idle" in peer.diagnoses["network"].message
    peer.listen()
    assert peer.ask().class_name
