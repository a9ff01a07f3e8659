"""`oat-replay`: run a recorded decision log through the policy again, compare, and show the timeline."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from oat_runtime.errors import DataError, OATError
from policy.decision import Decision
from policy.record import plain_decision, policy_of, signals_of
from policy.signals import Signals


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """One step as recorded and as decided again; `equal` means equal in every bit of the decision."""

    signals: Signals
    recorded: dict[str, Any]
    decision: Decision

    @property
    def equal(self) -> bool:
        """Whether the replayed decision is the recorded one."""
        return plain_decision(self.decision) == self.recorded


def replay(path: Path) -> list[ReplayStep]:
    """Replay one log from its first line.

    Raises:
        DataError: the file is missing, empty, or not a decision log.
        ConfigError: the log's table and configuration contradict each other.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the decision log {path}: {error}") from error
    if not lines:
        raise DataError(f"{path} is empty: expected a decision log, one JSON object a line")
    policy = policy_of(lines[0])
    steps = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            signals, recorded = signals_of(line)
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        steps.append(ReplayStep(signals, recorded, policy.step(signals)))
    return steps


def timeline(steps: list[ReplayStep], *, every_step: bool) -> Table:
    """The steps as a table for people: all of them, or the first, the last and those that changed the point."""
    table = Table(title=f"{len(steps)} decisions")
    for column in ("s", "λ", "width", "source", "regime", "equal", "reason"):
        table.add_column(column, justify="right" if column in ("s", "λ", "width") else "left")
    start_s = steps[0].signals.now_s if steps else 0.0
    for number, step in enumerate(steps):
        decision = step.decision
        if not (every_step or decision.changed or not step.equal or number in (0, len(steps) - 1)):
            continue
        regime, mass = max(decision.posterior.items(), key=lambda item: item[1])
        table.add_row(
            f"{step.signals.now_s - start_s:.2f}",
            f"{decision.point.lam:g}",
            f"{decision.point.width:g}",
            decision.source.value,
            f"{regime.value} {mass:.2f}",
            "yes" if step.equal else "NO",
            decision.reason,
        )
    return table


def main(argv: list[str] | None = None) -> int:
    """Command line: 0 where every decision was equal, 1 where one was not, 2 where the log cannot be read."""
    parser = argparse.ArgumentParser(prog="oat-replay", description=__doc__)
    parser.add_argument("log", type=Path, help="decision log (JSON lines) as the node writes it")
    parser.add_argument("--all", action="store_true", help="show every step, not only the changes")
    options = parser.parse_args(argv)
    try:
        steps = replay(options.log)
    except OATError as error:
        print(f"oat-replay: {error}", file=sys.stderr)
        return 2
    Console().print(timeline(steps, every_step=options.all))
    num_equal = sum(step.equal for step in steps)
    num_switches = sum(step.decision.changed for step in steps)
    print(json.dumps({"name": "replay", "num_steps": len(steps), "num_equal": num_equal, "num_switches": num_switches}))
    return 0 if num_equal == len(steps) else 1


if __name__ == "__main__":
    sys.exit(main())
