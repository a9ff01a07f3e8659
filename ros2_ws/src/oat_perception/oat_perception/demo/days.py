"""Say in what the demos differ: their day, its images, and the words about them. All else is one program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from oat_perception.demo.run_record import Record
from oat_perception.replay.frames import Bytes, find_robocup, open_session
from oat_perception.replay.scenario import SCENARIOS, Scenario
from oat_perception.replay.sources import find_cifar10, load_cifar10_test, load_foolbox_cifar10
from oat_runtime import SHIPPED_BUNDLE
from oat_runtime.data import CIFAR10, CIFAR10_CLASSES, ImageSet, find_source
from oat_runtime.data.boxes import BOX_SOURCES

Progress = Callable[[int, int], None]


class Images(Protocol):
    """The images that a day shows.

    Attributes:
        origin: from which files they were read, for people.
        camera: parameters of `camera_replay` that make it show them.
    """

    origin: str
    camera: dict[str, Any]

    def clean(self, truth: Record) -> Bytes:
        """Return the image of a line of truth.jsonl, before it was corrupted or attacked."""


@dataclass(frozen=True, slots=True)
class Day:
    """What one demo differs in.

    Attributes:
        name: of its scenario.
        title: of the report.
        dataset: what a bundle must have been trained on, without the size of its input.
        bundle: name of the shipped one that plays it where none is named.
        rate_hz: images a second where no rate is named.
        things: what answers are counted in, for people.
        images: what they are, for people.
        class_names: what true labels mean.
        shown: classes that the report may show; none: all of them.
        hidden: the class that nothing in the report may show, not even a corner of its boxes; empty: none.
        pictured: phases of which the report may show a part of a frame; all people in them have boxes.
        settings: parameters of the node, beside those of every demo.
        limits: what this day does not show, one sentence or two each, as HTML.
        find: finds the images, or fetches them.
    """

    name: str
    title: str
    dataset: str
    bundle: str
    rate_hz: float
    things: str
    images: str
    class_names: tuple[str, ...]
    limits: tuple[str, ...]
    find: Callable[[Progress], Images]
    shown: tuple[str, ...] = ()
    hidden: str = ""
    pictured: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def scenario(self) -> Scenario:
        """The script."""
        return SCENARIOS[self.name]

    @property
    def has_regions(self) -> bool:
        """Whether its frames have boxes."""
        return bool(self.settings.get("max_regions"))


class _Cifar10:
    def __init__(self, root: Path | None, images: ImageSet) -> None:
        found = find_source(CIFAR10, root) if root else None
        self.origin = found.location.form if found else images.name
        self.camera = {"source": "foolbox" if root is None else "cifar10", "data_root": str(root or "")}
        self._images_NHWC = images.images_NHWC

    def clean(self, truth: Record) -> Bytes:
        image_HWC: Bytes = self._images_NHWC[truth["index"]]
        return image_HWC


class _Robocup:
    def __init__(self, root: Path) -> None:
        first = open_session(SCENARIOS["robot"].phases[0].source, root)[0].image_HWC
        height, width = first.shape[:2]
        self.origin = f"{width}x{height}"
        self.camera = {"data_root": str(root)}
        self._session = lru_cache(lambda source: open_session(source, root))

    def clean(self, truth: Record) -> Bytes:
        return self._session(truth["source"])[truth["index"]].image_HWC


def _find_cifar10(_: Progress) -> Images:
    root = find_cifar10()
    return _Cifar10(root, load_cifar10_test(str(root)) if root else load_foolbox_cifar10())


def _find_robocup(progress: Progress) -> Images:
    return _Robocup(find_robocup(progress=progress))


DAYS = {
    "day": Day(
        name="day",
        title="A scripted day",
        dataset="cifar10",
        bundle=SHIPPED_BUNDLE.name,
        rate_hz=10.0,
        things="images",
        images="CIFAR-10 test images",
        class_names=CIFAR10_CLASSES,
        limits=("Corruptions are computed, and the battery and the surroundings are a script. No robot was involved.",),
        find=_find_cifar10,
    ),
    "robot": Day(
        name="robot",
        title="A robot’s day",
        dataset="robocup",
        bundle="robocup-wrn-16-2",
        rate_hz=4.0,
        things="regions",
        images="frames of robots' cameras in RoboCup's Middle Size League (github.com/andrepool/robocup_ml, Copyright "
        "Andre Pool, Apache-2.0)",
        class_names=BOX_SOURCES["robocup"].description.class_names,
        shown=("ball", "robot", "goal post"),
        hidden="human",
        pictured=("bright_hall", "attack", "low_battery"),
        # `auto` times a single image, and here come 4 to 14 regions (docs/log/ros-and-set-up.md).
        settings={"max_regions": 64, "backend": "onnxruntime"},
        limits=(
            "The boxes are drawn by hand and come with two boxes of background a frame, which stand for a detector’s "
            "false alarms. A real detector misses objects, and its boxes are less exact.",
            "Labels of the dark hall are incomplete: boxes that are there count, and no background.",
            "The regions of one session are alike, so the intervals are narrower than they should be. The frames are "
            "stills, seconds to minutes apart, shown four times a second.",
            "The battery and the environment confidence are a script.",
            "The attack changes the pixels inside the regions, and knows network, operating point and boxes.",
            "The pictures show balls, robots and goal posts. Regions of people, regions that touch one, and background "
            "are counted but not shown. The folder <code>frames</code> beside this file holds whole frames with people "
            "in them: do not pass it on.",
        ),
        find=_find_robocup,
    ),
}
"""The demos by the names of their scenarios."""
