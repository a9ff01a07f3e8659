"""The ament_python package of the perception node, its launch files and parameter files."""

from glob import glob
from xml.etree import ElementTree

from setuptools import find_packages, setup

NAME = "oat_perception"

setup(
    name=NAME,
    version=ElementTree.parse("package.xml").findtext("version"),
    description="Perception node whose robustness (lambda) and width are set while it runs",
    author="OAT maintainers",
    maintainer="OAT maintainers",
    maintainer_email="oat@example.org",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{NAME}/config", sorted(glob("config/*"))),
        (f"share/{NAME}/robot", sorted(glob("robot/*"))),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            f"perception_node = {NAME}.perception_node:main",
            f"camera_replay_node = {NAME}.camera_replay_node:main",
            f"console = {NAME}.console:main",
            f"demo = {NAME}.demo.__main__:main",
            f"bench = {NAME}.bench.__main__:main",
        ]
    },
)
