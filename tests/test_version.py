"""One version: the module's is the distribution's, and the ROS packages and the changelog have the same."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from oat_runtime import __version__

ROOT = Path(__file__).parents[1]
ROS_PACKAGES = sorted((ROOT / "ros2_ws" / "src").glob("*/package.xml"))


def test_the_distribution_has_the_modules_version() -> None:
    metadata = pytest.importorskip("hatchling.metadata.core")
    plugins = pytest.importorskip("hatchling.plugin.manager")
    assert metadata.ProjectMetadata(str(ROOT), plugins.PluginManager()).version == __version__


@pytest.mark.parametrize("path", ROS_PACKAGES, ids=lambda path: path.parent.name)
def test_each_ros_package_has_that_version(path: Path) -> None:
    assert ElementTree.parse(path).findtext("version") == __version__


def test_it_is_the_newest_section_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[:2] == ["Unreleased", __version__]
