"""Ends a run of the commands with the list of them: what ran, what is marked and why, what failed."""

from __future__ import annotations

import pytest

from tests.commands.marked import MARKED, ON_THE_GRAPH
from tests.commands.reading import documented

_TEST = "::test_it_runs_as_it_is_typed["


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ended = {
        how: [report.nodeid for report in terminalreporter.getreports(how) if _TEST in report.nodeid]
        for how in ("passed", "failed")
    }
    if not any(ended.values()):
        return
    commands = documented()
    marked = [command for command in commands if command.text in MARKED]
    on_the_graph = sum(command.text in ON_THE_GRAPH for command in commands)
    terminalreporter.section("documented commands")
    for command in marked:
        terminalreporter.line(f"marked   {command.page}: {command.text[:70]}  ({MARKED[command.text]})")
    terminalreporter.line(
        f"{len(commands)} stand in the pages: {len(ended['passed'])} ran here, {len(ended['failed'])} failed here, "
        f"{on_the_graph} run on a graph (tests/ros), {len(marked)} are marked"
    )
