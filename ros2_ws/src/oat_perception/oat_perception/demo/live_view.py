"""Show the demo in the terminal: a table with a row for each phase, or plain lines without a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from oat_perception.demo.run_record import Record, ReplayedFrame, count
from oat_perception.replay.scenario import Scenario
from oat_runtime.compat import Self
from oat_runtime.operating_point import Proportion, Regime
from oat_runtime.text import plain

_NUM_SWITCHES = 4
_STYLES = {"operator": "magenta", "adaptive": "default"}


class LiveView:
    """Show frames as they are answered. Use it as a context manager."""

    def __init__(self, title: str, scenario: Scenario, console: Console) -> None:
        self._title, self._scenario = title, scenario
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._num_told = 0
        self._switches: list[Text] = []
        self._last_point: tuple[float, float] | None = None
        self._last_phase = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leave the last picture on the screen."""
        if self._live is not None:
            self._live.stop()

    def show(self, frames: Sequence[ReplayedFrame], *, reason: str, elapsed_s: float) -> None:
        """Bring the view up to date.

        Args:
            frames: all published images so far, with the answers that are there.
            reason: of the newest decision.
            elapsed_s: since the start of the day.
        """
        answered = [frame for frame in frames if frame.result is not None]
        for frame in answered[self._num_told :]:
            self._note_switch(frame)
        self._num_told = len(answered)
        if self._live is not None:
            self._live.update(self._table(frames, reason, elapsed_s), refresh=True)
        else:
            self._tell_phase_end(frames)

    def finish(self, frames: Sequence[ReplayedFrame]) -> None:
        """Without a terminal, print the last phase."""
        if self._live is None and self._last_phase:
            self._console.print(_phase_line(self._scenario, frames, self._last_phase), soft_wrap=True)

    def _note_switch(self, frame: ReplayedFrame) -> None:
        point = (frame.point.lam, frame.point.width)
        if self._last_point is not None and point != self._last_point:
            line = Text(f"{frame.t_s:5.1f} s  {_setting(frame.answer)}  ", _STYLES.get(_source(frame.answer), "yellow"))
            line.append(plain(str(frame.answer["reason"])), "dim")
            self._switches = [*self._switches, line][-_NUM_SWITCHES:]
            if self._live is None:
                self._console.print(line, soft_wrap=True)
        self._last_point = point

    def _tell_phase_end(self, frames: Sequence[ReplayedFrame]) -> None:
        phase = frames[-1].truth["phase"] if frames else ""
        if phase != self._last_phase:
            if self._last_phase:
                self._console.print(_phase_line(self._scenario, frames, self._last_phase), soft_wrap=True)
            self._console.print(f"--- {self._scenario.phase(phase).title}")
            self._last_phase = phase

    def _table(self, frames: Sequence[ReplayedFrame], reason: str, elapsed_s: float) -> Group:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")  # 80 columns
        table.add_column("Phase", min_width=11)
        for name in ("regime", "conf", "batt", "λ", "width", "by", "ms", "right"):
            left = name in ("regime", "by", "right")
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
        current = frames[-1].truth["phase"] if frames else ""
        for phase in self._scenario.phases:
            own = [frame for frame in frames if frame.truth["phase"] == phase.name]
            style = "bold" if phase.name == current else ("default" if own else "dim")
            table.add_row(phase.title, *_cells(own), style=style)
        total = count("", frames)
        clock = f"{min(elapsed_s, self._scenario.duration_s):.0f} of {self._scenario.duration_s:.0f} s"
        head = Text(f"{self._title}   {clock}   right so far: {_share(total.adaptive)}", "bold")
        why = Text.assemble(("now  ", "bold"), (plain(reason) or "waiting for the first answer", "default"))
        return Group(head, table, why, Text("switches" if self._switches else "", "dim"), *self._switches)


def _cells(frames: Sequence[ReplayedFrame]) -> list[str]:
    """Return a phase's row: the state at its newest answer, and its counts."""
    answered = [frame for frame in frames if frame.result is not None]
    if not answered:
        return [""] * 8
    counts, last = count("", frames), answered[-1].answer
    return [
        _regime(last["posterior"]),
        _number(last["environment_confidence"]),
        _number(last["battery"]),
        f"{last['lambda']:g}",
        f"{last['width']:g}",
        _source(last),
        f"{counts.latency_ms[1]:.1f}",
        _share(counts.adaptive),
    ]


def _phase_line(scenario: Scenario, frames: Sequence[ReplayedFrame], name: str) -> str:
    own = [frame for frame in frames if frame.truth["phase"] == name]
    names = ("regime", "confidence", "battery", "λ", "width", "by", "median ms", "right")
    cells = ", ".join(f"{key} {cell}" for key, cell in zip(names, _cells(own), strict=True) if cell)
    return f"    {scenario.phase(name).title} ends: {cells}"


def _source(answer: Record) -> str:
    sources = {answer["lambda_source"], answer["width_source"]} - {"adaptive"}
    return (sources.pop() if sources else "adaptive").replace("_", " ")


def _setting(answer: Record) -> str:
    return f"λ={answer['lambda']:g} width={answer['width']:g} ({plain(_source(answer))})"


def _regime(posterior: Sequence[float]) -> str:
    if any(mass is None or math.isnan(mass) for mass in posterior):
        return "–"
    mass, regime = max(zip(posterior, Regime, strict=True))
    return f"{regime.value.replace('_frequency', ' freq.')} {mass:.2f}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _share(share: Proportion) -> str:
    return f"{100 * share.rate:.0f} % ({share.num_correct}/{share.num_total})" if share.num_total else "–"
