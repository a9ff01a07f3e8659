"""What ships for a robot fits the node: the SROS2 policy its names, the image its files, the unit its environment."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from configparser import RawConfigParser
from pathlib import Path

import pytest
from oat_perception import perception_node

from oat_runtime.backends.choice import cache_path

ROBOT = Path(perception_node.__file__).resolve().parents[1] / "robot"
ROOT = Path(__file__).parents[2]
VISION = {"~/classification", "~/detections", "~/vision_label_info", "regions"}
"""Only there with vision_msgs and max_regions."""


def _allowed(kind: str, permission: str) -> set[str]:
    document = ET.parse(ROBOT / "sros2_policy.xml")
    (profile,) = document.iter("profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", "oat_perception")
    return {
        str(item.text)
        for group in document.iter(f"{kind}s")
        if group.get(permission) == "ALLOW"
        for item in group.iter(kind)
    }


def _relative(names_and_types) -> set[str]:
    """As the policy file writes them."""
    names = [name for name, _ in names_and_types]
    names = [re.sub("^/oat_perception/", "~/", name) for name in names]
    own = {"/image", "/image/compressed", "/battery_state", "/regions"}
    own |= {"/environment_confidence", "/environment_confidence_value"}
    return {name.lstrip("/") if name in own else name for name in names}


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_sros2_policy_names_what_the_node_uses_and_nothing_else(start_graph, transport: str) -> None:
    peer = start_graph(image_transport=transport).peer
    images = {"raw": "image", "compressed": "image/compressed"}
    peer.until(lambda: (peer.image if transport == "raw" else peer.compressed).get_subscription_count(), "it listens")
    used = [
        ("topic", "subscribe", peer.get_subscriber_names_and_types_by_node),
        ("topic", "publish", peer.get_publisher_names_and_types_by_node),
        ("service", "reply", peer.get_service_names_and_types_by_node),
    ]
    unused = {images["compressed" if transport == "raw" else "raw"], "/clock", "/parameter_events"}
    for kind, permission, names in used:
        allowed = _allowed(kind, permission)

        def unseen(names=names, allowed=allowed) -> set[str]:
            return allowed - _relative(names("oat_perception", "/")) - VISION - unused

        # The graph learns of a node's ends one by one.
        peer.until(lambda unseen=unseen: not unseen(), f"the node does {permission} {unseen()}")
        seen = _relative(names("oat_perception", "/"))
        assert seen <= allowed, f"the node may not {permission} {seen - allowed}"


def test_the_image_is_built_from_files_that_are_there_and_not_kept_out() -> None:
    lines = (ROBOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    kept = {line.lstrip("!") for line in (ROBOT / "Dockerfile.dockerignore").read_text().splitlines() if "!" in line}
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(Path(name).is_relative_to(folder) for folder in kept), f"{name} is kept out of the build"


def test_the_unit_gives_the_start_script_what_it_needs(monkeypatch) -> None:
    """Regression: the engines were timed at each boot, since the unit left no folder to remember the fastest in."""
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(ROBOT / "oat_perception.service")
    service = (ROBOT / "oat_perception.service").read_text()
    for name in ("BUNDLE", "WORKSPACE", "VENV"):
        assert re.search(rf"^Environment=.*\b{name}=", service, re.MULTILINE), name
    # The home folder is read-only there: rclpy does not start without a log, and what is not kept is measured anew.
    assert unit["Service"]["ProtectHome"] == "read-only"
    assert re.search(rf"^Environment=.*\bROS_LOG_DIR=/var/log/{unit['Service']['LogsDirectory']}\b", service, re.M)
    cache = re.search(
        rf"^Environment=.*\bXDG_CACHE_HOME=(/var/cache/{unit['Service']['CacheDirectory']})\b", service, re.M
    )
    assert cache
    monkeypatch.setenv("XDG_CACHE_HOME", cache[1])
    assert (choice := cache_path()) and choice.is_relative_to(cache[1])
    assert re.fullmatch(r"\d+[MG]", unit["Service"]["MemoryMax"]), "a process that grows ends before the robot does"
    assert subprocess.run(["bash", "-n", ROBOT / "start.sh"], check=False).returncode == 0
