"""Damaged bags: containers, metadata, and messages in a whole container; images and decisions are read from them."""

from __future__ import annotations

import random
import shutil
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from damage import damaged_bytes, damaged_tree
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from oat_runtime.data import camera_images
from policy.replay import decision_lines

NUM_CASES, NUM_SHORT = 500, 25
_MESSAGES = Path(__file__).resolve().parents[2] / "ros2_ws" / "src" / "oat_msgs" / "msg"
_IMAGE, _RECORD = "sensor_msgs/msg/Image", "oat_msgs/msg/DecisionRecord"


def prepare(folder: Path) -> dict[str, Path]:
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted(_MESSAGES.glob("*.msg")):
        store.register(get_types_from_msg(file.read_text(encoding="utf-8"), f"oat_msgs/msg/{file.stem}"))
    raw = _raw(store)
    wholes = {}
    for plugin in StoragePlugin:
        for squeezed in (False, True):
            name = f"{plugin.name}-{squeezed}"
            wholes[name] = _write(folder / name, store, raw, plugin=plugin, squeezed=squeezed)
    return wholes | {"store": store, "raw": raw}


def _raw(store: Any) -> dict[str, list[bytes]]:
    types = store.types
    header = types["std_msgs/msg/Header"](stamp=types["builtin_interfaces/msg/Time"](0, 0), frame_id="camera")
    image = types[_IMAGE](
        header=header, height=6, width=8, encoding="rgb8", is_bigendian=0, step=24, data=np.arange(144, dtype=np.uint8)
    )
    record = types[_RECORD](
        header=header, sequence=0, lambda_value=0.0, width=1.0, changed=False, lambda_source=1, width_source=1,
        lambda_rule=1, width_rule=1, reason="", regime_posterior=np.zeros(5, np.float32), runner_up_lambda=0.0,
        runner_up_width=1.0, expected_accuracy=0.5, max_rate_hz=1.0, record_json="{}",
    )  # fmt: skip
    messages = {_IMAGE: image, _RECORD: record}
    return {name: [bytes(store.serialize_cdr(message, name))] * 4 for name, message in messages.items()}


def _write(path: Path, store: Any, raw: dict[str, list[bytes]], *, plugin: Any, squeezed: bool) -> Path:
    writer = Writer(path, version=9, storage_plugin=plugin)
    if squeezed:
        mode = CompressionMode.STORAGE if plugin is StoragePlugin.MCAP else CompressionMode.MESSAGE
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        for topic, (name, messages) in enumerate(raw.items()):
            connection = writer.add_connection(f"/t{topic}", name, typestore=store)
            for number, message in enumerate(messages):
                writer.write(connection, number, message)
    return path


def damage(whole: dict[str, Any], rng: random.Random, folder: Path) -> Path:
    bag = folder / "bag"
    name = rng.choice([name for name in whole if "-" in name])
    way = rng.randrange(5)
    if way == 0:  # hostile messages
        raw = {kind: [damaged_bytes(m, rng) for m in messages] for kind, messages in whole["raw"].items()}
        plugin = rng.choice(list(StoragePlugin))
        return _write(bag, whole["store"], raw, plugin=plugin, squeezed=rng.random() < 0.5)
    shutil.copytree(whole[name], bag)
    (storage,) = (file for file in bag.iterdir() if file.name != "metadata.yaml")
    if way in (1, 2):
        storage.write_bytes(damaged_bytes(storage.read_bytes(), rng))
        return bag if rng.random() < 0.5 else storage
    metadata = bag / "metadata.yaml"
    if way == 3 or storage.suffix == ".mcap":
        if rng.random() < 0.4:
            metadata.write_bytes(damaged_bytes(metadata.read_bytes(), rng))
        else:
            metadata.write_text(yaml.safe_dump(damaged_tree(yaml.safe_load(metadata.read_text()), rng, _shallow)))
        return bag
    with sqlite3.connect(storage) as connection:
        connection.executescript(rng.choice(_STATEMENTS))
    connection.close()
    return bag


def _shallow(rng: random.Random) -> object:
    return rng.choice((None, -1, "x", 1e308, float("nan"), [], {}, [[1]], "x" * 5000, True, 10**30, "zstd", "FILE"))


_STATEMENTS = (
    "UPDATE messages SET data = 'text'", "UPDATE messages SET data = 3", "UPDATE topics SET type = 7",
    "UPDATE topics SET type = 'x/msg/Y'", "UPDATE messages SET timestamp = 'x'", "UPDATE messages SET topic_id = 99",
    "UPDATE message_definitions SET encoded_message_definition = 'x y z'", "DROP TABLE messages", "DROP TABLE topics",
    "UPDATE message_definitions SET encoding = 'x'", "UPDATE topics SET offered_qos_profiles = '{'",
    "DELETE FROM schema",
    "UPDATE topics SET offered_qos_profiles = '[[[[[[[[[[[[[[[1]]'", "UPDATE schema SET schema_version = 99",
    "ALTER TABLE messages RENAME TO old; CREATE TABLE messages AS SELECT * FROM old LIMIT 1",
    "ALTER TABLE message_definitions RENAME TO old; CREATE VIEW message_definitions AS WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id, topic_type, encoding, encoded_message_definition, "
    "type_description_hash FROM n, old",
    "ALTER TABLE messages ADD COLUMN big BLOB GENERATED ALWAYS AS (zeroblob(400000000)) VIRTUAL",
    "CREATE TABLE big AS SELECT zeroblob(1000000) AS z; UPDATE messages SET data = (SELECT z FROM big)",
)  # fmt: skip


def read(whole: dict[str, Any], damaged: Path) -> None:
    errors = []
    for way in (_images, _decisions):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                way(damaged)
        except Exception as error:
            errors.append(error)
    foreign = [error for error in errors if not type(error).__module__.startswith("oat_runtime")]
    if errors:
        raise (foreign or errors)[0]


def _images(path: Path) -> None:
    for image in camera_images(path):
        assert image.dtype == np.uint8 and image.ndim == 3, "no image"


def _decisions(path: Path) -> None:
    assert all(isinstance(line, str) for line in decision_lines(path))
