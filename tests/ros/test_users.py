"""Nothing arrives: diagnostics name the cause, and with the documented profile other users are heard."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import oat_perception
import pytest
from oat_perception.core.machine import other_users, user_name
from oat_perception.node.processes import module_command
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from tests.ros.domains import next_domain

CONFIG = Path(oat_perception.__file__).resolve().parents[1] / "config"
NUM = 15
_NODE, _CAMERA = 2001, 2002
"""Ids of two users. They need no account."""


def _cause(peer) -> str:
    return str(peer.diagnoses["camera"].message)


def test_silence_names_its_cause(start_graph, stranger) -> None:
    graph = start_graph(camera_timeout_s=0.1)
    peer = graph.peer
    peer.until(lambda: "a publisher of /image matches, but nothing arrives" in _cause(peer), "it matches")
    peer.destroy_publisher(peer.image)
    peer.destroy_publisher(peer.compressed)
    peer.until(lambda: "nobody publishes /image: start the camera" in _cause(peer), "nobody publishes")
    compressed = peer.create_publisher(CompressedImage, "image/compressed", 1)
    peer.until(lambda: "set image_transport to compressed" in _cause(peer), "the other transport")
    peer.destroy_publisher(compressed)
    with stranger(graph) as node:
        node.create_publisher(String, "image", 1)
        peer.until(lambda: "published as std_msgs/msg/String, not as sensor_msgs/msg/Image" in _cause(peer), "the type")


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_a_remap_to_the_compressed_topic_itself_is_answered_with_the_base_name(
    start_graph, stranger, transport
) -> None:
    """Regression: with compressed, the advice was to set raw; and with raw, that the type is wrong."""
    remap = ["-r", "image:=/cam/image_raw/compressed"]
    graph = start_graph(arguments=remap, image_transport=transport, camera_timeout_s=0.1)
    told = "remap image to /cam/image_raw, and set image_transport to compressed"
    with stranger(graph) as camera:
        camera.create_publisher(CompressedImage, "/cam/image_raw/compressed", 1)
        graph.peer.until(lambda: told in _cause(graph.peer), "the base name")


def test_the_users_of_shared_memory_count_only_if_this_process_has_some(tmp_path: Path) -> None:
    (tmp_path / "fastrtps_port7411").touch()
    (tmp_path / "sem.fastrtps_port7411_mutex").touch()
    assert other_users(tmp_path) == []
    if os.geteuid() == 0:
        (tmp_path / "fastrtps_port7413").touch()
        os.chown(tmp_path / "fastrtps_port7413", _CAMERA, _CAMERA)
        assert other_users(tmp_path) == [user_name(_CAMERA)] == [f"user {_CAMERA}"]
        os.chown(tmp_path / "fastrtps_port7411", _CAMERA, _CAMERA)
        assert other_users(tmp_path) == [], "this process speaks by other means"


def _as_user(uid: int, command: list[str]) -> list[str]:
    """Another user may read where this checkout is, even below a closed home folder, and write only what it owns."""
    able = "-all,+dac_read_search"
    return [
        "setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--inh-caps", able,
        "--ambient-caps", able, "--bounding-set", able, *command,
    ]  # fmt: skip


@contextlib.contextmanager
def _node_of_another_user(bundle: Path, log: Path, env: Mapping[str, str]) -> Iterator[None]:
    given = {"bundle": str(bundle), "auto_activate": True, "backend": "onnxruntime", "precision": "float32"}
    command = module_command("perception_node", given, options=("--log-level", "warn"))
    with log.open("wb") as file:
        process = subprocess.Popen(_as_user(_NODE, command), env=env, stdout=file, stderr=file)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to be two users")
@pytest.mark.parametrize("documented", [False, True], ids=["shared memory", "fastdds_users.xml"])
def test_other_users_are_heard_with_their_profile_and_named_without(
    bundle: Path, tmp_path: Path, documented: bool
) -> None:
    profile = str(CONFIG / ("fastdds_users.xml" if documented else "fastdds.xml"))
    env = os.environ | {
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT" if documented else "LOCALHOST",
        "ROS_DOMAIN_ID": str(next_domain()),
        "HOME": str(tmp_path),
        "ROS_LOG_DIR": str(tmp_path),
    }
    tmp_path.chmod(0o777)
    log = tmp_path / "node.txt"
    camera = [sys.executable, str(Path(__file__).with_name("user_camera.py")), str(NUM), "20" if documented else "0.2"]
    with _node_of_another_user(bundle, log, env):
        done = subprocess.run(_as_user(_CAMERA, camera), env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    words = log.read_text()
    if documented:
        assert done.stdout.strip() == f"{NUM} of {NUM}", words
    elif os.environ.get("ROS_DISTRO") == "kilted":
        # Its Fast DDS falls back to UDP, with buffers that lose most images.
        assert int(done.stdout.split()[0]) < NUM, words
    else:
        assert done.stdout.strip() == f"0 of {NUM}", words
        closed = rf"nothing arrives, likely because .*\buser {_CAMERA} is closed to user {_NODE}\b"
        assert re.search(closed, words), words
        assert "config/fastdds_users.xml" in words
