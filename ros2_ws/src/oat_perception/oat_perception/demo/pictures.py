"""Show what the camera saw with the node's answers: images or regions of each phase, and parts of two frames.

Nobody is shown: no region of a person and none that touches one, and a part of a frame only where nobody is.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from oat_perception.demo.days import Day
from oat_perception.demo.run_record import ReplayedFrame, Run
from oat_perception.replay.frames import Bytes
from oat_runtime import style
from oat_runtime.architecture import InputSpec
from oat_runtime.data import read_image
from oat_runtime.image import enlarged
from oat_runtime.style import Axes, Figure, lam_text
from oat_runtime.text import html_text as escape

_IMAGES_PER_PHASE, _REGIONS_PER_PHASE = 4, 6
_RIGHT, _WRONG = "#00b88f", "#ff6a1a"
_PICTURED = 2
_ASPECT = 1.5
"""Width of a shown part of a frame, as a multiple of its height."""


class Shown:
    """Choose what the report shows of a day, and draw it.

    Attributes:
        note: how samples were chosen, for people.
    """

    def __init__(self, day: Day, frames_dir: Path, spec: InputSpec) -> None:
        """Set up.

        Args:
            day: what may be shown.
            frames_dir: folder of the recorded images.
            spec: of the bundle; regions are cut out as the network sees them.
        """
        self._day, self._frames_dir, self._spec = day, frames_dir, spec
        self.note = (
            f"Up to {_REGIONS_PER_PHASE} {day.things} from each phase, evenly spaced among those that show neither a "
            "person nor background, not picked."
            if day.has_regions
            else f"{_IMAGES_PER_PHASE} images from each phase, evenly spaced in time, not picked."
        )

    def samples(self, run: Run) -> str:
        """Return a strip of samples for each phase, as HTML."""
        rows, kind = [], "strip regions" if self._day.has_regions else "strip"
        for phase in run.scenario.phases:
            found = [
                (frame, number)
                for frame in run.of(phase)
                if frame.result is not None
                for number in self._showable(frame)
            ]
            most = _REGIONS_PER_PHASE if self._day.has_regions else _IMAGES_PER_PHASE
            places = dict.fromkeys(len(found) * (2 * i + 1) // (2 * most) for i in range(most))
            figures = "".join(self._sample(*found[place]) for place in places if found)
            rows.append(f'<section class="{kind}"><h3>{escape(phase.title)}</h3><div>{figures}</div></section>')
        return "".join(rows)

    def picture(self, run: Run) -> Figure | None:
        """Draw a part of a frame from each of two phases with all answers in it; None if nothing may be shown."""
        chosen = [
            (phase.title, frame)
            for phase in run.scenario.phases
            if phase.name in self._day.pictured and (frame := self._clearest(run.of(phase))) is not None
        ][:_PICTURED]
        if not chosen:
            return None
        with style.new_figure(9.0, 3.6) as figure:
            panels = figure.subplots(1, len(chosen), squeeze=False)[0]
            for axes, (title, frame) in zip(panels, chosen, strict=True):
                self._draw(axes, title, frame)
            return figure

    def _showable(self, frame: ReplayedFrame) -> Iterator[int]:
        """Yield the numbers of the answers whose pixels may be shown."""
        names = [self._day.class_names[label] for label in frame.truths]
        if not self._day.has_regions:
            yield from range(len(names))
            return
        people = [box for name, box in zip(names, frame.truth["boxes"], strict=True) if name == self._day.hidden]
        height, width = self._image(frame).shape[:2]
        for number, (name, box) in enumerate(zip(names, frame.truth["boxes"], strict=True)):
            seen = enlarged(tuple(box), height=height, width=width, spec=self._spec)
            if name in self._day.shown and not any(_touch(seen, person) for person in people):
                yield number

    def _clearest(self, frames: tuple[ReplayedFrame, ...]) -> ReplayedFrame | None:
        """Return the frame without people that shows the most kinds of things, and these the largest in its part.

        What the node said of it plays no part.
        """
        best: tuple[tuple[int, float], ReplayedFrame] | None = None
        for frame in frames:
            names = {self._day.class_names[label] for label in frame.truths}
            kept = self._kept(frame)
            if frame.result is None or self._day.hidden in names or not kept:
                continue
            left, _, right, _ = _part(frame, kept, *self._image(frame).shape[:2])
            sides = [max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (frame.truth["boxes"][n] for n in kept)]
            key = len(names & set(self._day.shown)), sum(sides) / len(sides) / (right - left)
            if best is None or key > best[0]:
                best = key, frame
        return best and best[1]

    def _sample(self, frame: ReplayedFrame, number: int) -> str:
        image_HWC = self._image(frame)
        if self._day.has_regions:
            height, width = image_HWC.shape[:2]
            box = tuple(frame.truth["boxes"][number])
            left, top, right, bottom = enlarged(box, height=height, width=width, spec=self._spec)
            image_HWC = image_HWC[top:bottom, left:right]
        truth, answer = self._day.class_names[frame.truths[number]], frame.answer["answers"][number]
        right_ = frame.truths[number] == answer["label"]
        mark, kind = ("✓", "right") if right_ else ("✗", "wrong")
        return (
            f'<figure><img alt="{escape(truth)}" src="{_data(image_HWC)}"><figcaption>'
            f"<span class={kind}>{mark} {escape(answer['class_name'])}</span> <small>{_percent(answer)}</small><br>"
            f"<small>{f'is {escape(truth)}<br>' if not right_ else ''}{lam_text(frame.point.lam)}, "
            f"width&nbsp;{frame.point.width:g}</small></figcaption></figure>"
        )

    def _draw(self, axes: Axes, title: str, frame: ReplayedFrame) -> None:
        image_HWC = self._image(frame)
        left, top, right, bottom = _part(frame, self._kept(frame), *image_HWC.shape[:2])
        axes.imshow(image_HWC[top:bottom, left:right], extent=(left, right, bottom, top), interpolation="lanczos")
        axes.set_axis_off()
        point, answers = frame.point, frame.answer["answers"]
        right_answers = sum(answers[n]["label"] == frame.truths[n] for n in self._kept(frame))
        style.title(
            axes, f"{title}: {right_answers} of {len(self._kept(frame))} right",
            below=f"{lam_text(point.lam)}, width {point.width:g}",
        )  # fmt: skip
        taken: list[tuple[float, float, float, float]] = []
        for number in sorted(self._kept(frame), key=lambda n: frame.truth["boxes"][n][0]):
            box, answer = frame.truth["boxes"][number], answers[number]
            colour = _RIGHT if answer["label"] == frame.truths[number] else _WRONG
            _name(axes, box, f"{answer['class_name']} {_percent(answer)}", colour, taken, (left, top, right, bottom))

    def _kept(self, frame: ReplayedFrame) -> list[int]:
        return [n for n, label in enumerate(frame.truths) if self._day.class_names[label] in self._day.shown]

    def _image(self, frame: ReplayedFrame) -> Bytes:
        return read_image(self._frames_dir / frame.truth["file"])


def save_picture(figure: Figure, to: Path) -> None:
    """Write a picture as WebP, without empty borders."""
    style.save(figure, to, {"dpi": 110, "bbox_inches": "tight", "pad_inches": 0.08})


def to_html(figure: Figure) -> str:
    """Return a figure as a picture that stands in a page."""
    content = style.drawn(figure, "webp", {"dpi": 110})
    return style.wide(figure, f'<img alt="parts of two frames" src="data:image/webp;base64,{_base64(content)}">')


def _name(
    axes: Axes, box: Any, text: str, colour: str, taken: list[tuple[float, float, float, float]], part: Any
) -> None:
    """Draw a box, and its answer above or below it: the nearest place where no other answer stands."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.8))
    unit = (part[2] - part[0]) / 100  # a hundredth of the part's width
    long, high = 1.8 * unit * len(text), 4.4 * unit
    x = min(max(left, part[0] + unit), part[2] - long - unit)
    above, below = top - unit, bottom + unit + high
    places = [place for n in range(8) for place in (above - n * high, below + n * high)]
    words = [(x, y - high, x + long, y) for y in places if part[1] + high < y < part[3]]
    free = [place for place in words if not any(_touch(place, other) for other in taken)]
    taken.append(free[0] if free else (x, above - high, x + long, above))
    y = taken[-1][3]
    if y < above:
        axes.plot((x + unit, x + unit), (y, top), color=colour, linewidth=1.4)
    elif y > below:
        axes.plot((x + unit, x + unit), (bottom, y - high), color=colour, linewidth=1.4)
    edge = [withStroke(linewidth=2.5, foreground="black")]
    axes.text(x, y, text, color="white", fontsize=9.5, va="bottom", path_effects=edge)


def _part(frame: ReplayedFrame, kept: list[int], height: int, width: int) -> tuple[int, int, int, int]:
    """Return the smallest part of the frame around these boxes, with room for words, in a landscape's shape."""
    boxes_N4 = np.array([frame.truth["boxes"][n] for n in kept])
    left, top = boxes_N4[:, :2].min(axis=0)
    right, bottom = boxes_N4[:, 2:].max(axis=0)
    columns = min(width, round(1.15 * max(right - left, _ASPECT * (bottom - top), width / 2)))
    rows = min(height, max(round(columns / _ASPECT), bottom - top))
    at_left = int(np.clip((left + right - columns) // 2, 0, width - columns))
    at_top = int(np.clip((top + bottom - rows) // 2, 0, height - rows))
    return at_left, at_top, at_left + columns, at_top + rows


def _touch(a: Any, b: Any) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def _percent(answer: dict[str, Any]) -> str:
    return "" if answer["confidence"] is None else f"{100 * answer['confidence']:.0f}\N{NO-BREAK SPACE}%"


def _data(image_HWC: Bytes) -> str:
    """Return an image as the address of a PNG; what is larger than people see it is made smaller."""
    most = 160
    if max(image_HWC.shape[:2]) > most:
        scale = most / max(image_HWC.shape[:2])
        image_HWC = np.asarray(cv2.resize(image_HWC, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    _, png = cv2.imencode(".png", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
    return f"data:image/png;base64,{_base64(png.tobytes())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
