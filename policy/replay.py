"""`oat-replay`: run recorded decisions through the policy again, and through others, and show what they do.

A recording is a decision log (JSON lines) or a rosbag2 with the node's ~/decision topic. Another policy gets the inputs
that the robot had, even where it would have caused other inputs.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from oat_runtime.bundle import Bundle
from oat_runtime.commands import FIGURES, Parser, a_path, command, output_file
from oat_runtime.data.bags import bag_messages, is_bag, open_bag
from oat_runtime.errors import ConfigError, DataError, one_line, quoted
from oat_runtime.extras import require
from oat_runtime.files import MAX_JSON_BYTES, read_model
from oat_runtime.operating_point import OperatingTable
from oat_runtime.report import wide_console
from policy.belief.constants import EstimatorConstants, FittedFor, constants_of, read_estimator
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.decision import Decision
from policy.records.record import Gap, TornLineError, plain_decision, policy_of, signals_of
from policy.records.timeline import comparison_table, save_figure, timeline_table
from policy.signals import Signals

_HEADER, _GAP = '{"kind": "policy"', '{"kind": "gap"'
_DECISION = "oat_msgs/msg/DecisionRecord"
_DEFINITIONS = Path(__file__).resolve().parents[1] / "ros2_ws" / "src" / "oat_msgs" / "msg"


_DIGITS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_MOST_APART = 1e-9
"""Processors add up in different orders, and last bits differ: by 6e-16 in 300 steps, SSE or AVX2 against AVX512."""


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """One step as recorded and as decided again."""

    signals: Signals
    recorded: dict[str, Any]
    decision: Decision

    @property
    def equal(self) -> bool:
        """Whether the replayed decision is the recorded one: the same choices and words, and numbers within 1e-9.

        Numbers within the words are rounded ones of other fields, and do not count.
        """
        return _alike(plain_decision(self.decision), self.recorded)


def _alike(ours: Any, recorded: Any) -> bool:
    if isinstance(ours, dict) and isinstance(recorded, dict):
        return ours.keys() == recorded.keys() and all(_alike(ours[name], recorded[name]) for name in ours)
    if isinstance(ours, list) and isinstance(recorded, list):
        return len(ours) == len(recorded) and all(map(_alike, ours, recorded))
    if isinstance(ours, float) and isinstance(recorded, float):
        return math.isclose(ours, recorded, rel_tol=0.0, abs_tol=_MOST_APART)
    if isinstance(ours, str) and isinstance(recorded, str):
        return _DIGITS.sub("", ours) == _DIGITS.sub("", recorded)
    return bool(ours == recorded)


@dataclass(frozen=True, slots=True)
class Recording:
    """Inputs and decisions of a robot's policy; `header` is empty if the recording has none.

    At each step number in `restarts`, the node had built its policy anew in the same way. `gaps` are the missing steps,
    by the number of the step after them. `num_torn` lines were cut short, because their writer was stopped.
    """

    header: str
    steps: tuple[tuple[Signals, dict[str, Any]], ...]
    restarts: frozenset[int] = frozenset()
    gaps: Mapping[int, Gap] = field(default_factory=dict)
    num_torn: int = 0

    def policy(self) -> AdaptivePolicy:
        """Build a fresh policy like the recorded one.

        Raises:
            DataError: the recording does not describe it, or the description cannot be read.
            ConfigError: table and configuration contradict each other.
        """
        if not self.header:
            raise DataError(
                "this recording does not say which policy made it: pass --bundle (and --config) to replay it"
            )
        return policy_of(self.header)


def decision_lines(path: Path, *, topic: str = "") -> Iterator[str]:
    """Give the lines of a decision log from one node's DecisionRecord messages in a bag, in their order.

    Args:
        path: the bag.
        topic: the node's ~/decision; empty: the bag's only one.

    Raises:
        DataError: not a bag, no decisions in it, or those of several nodes and no topic.
    """
    # For a bag that does not carry the definitions itself.
    definitions = {f"oat_msgs/msg/{file.stem}": file.read_text(encoding="utf-8") for file in _DEFINITIONS.glob("*.msg")}
    with open_bag(path, definitions=definitions) as reader:
        connections = [c for c in reader.connections if c.msgtype == _DECISION]
        if not connections:
            topics = sorted({c.topic for c in reader.connections})
            raise DataError(
                f"{path} holds no {_DECISION}: expected the node's ~/decision topic among {one_line(topics)}"
            )
        topics = sorted({c.topic for c in connections})
        wanted = [topic] if topic else topics
        if len(wanted) > 1 or wanted[0] not in topics:
            got = f"no decisions on {quoted(topic)}" if topic else f"decisions of {len(topics)} nodes"
            raise DataError(f"{path} holds {got}: choose with --topic one of {one_line(', '.join(topics))}")
        connections = [c for c in connections if c.topic == wanted[0]]
        for _, _, message in bag_messages(path, reader, connections):
            yield from (f"{line}\n" for line in str(message.record_json).splitlines())


def read_recording(path: Path, *, topic: str = "") -> Recording:
    """Read a decision log or a bag, up to the first line that is wrong.

    Args:
        path: the file or the bag's folder.
        topic: of the node whose decisions are read, where a bag holds those of several; empty: its only one.

    Raises:
        DataError: the file is missing, empty, or not a recording of decisions.
    """
    if topic and not is_bag(path):
        raise DataError(f"{path} is no bag, so it has no topic {quoted(topic)}: leave --topic out")
    lines = decision_lines(path, topic=topic) if is_bag(path) else _log_lines(path)
    header, restarts, num_torn = "", set(), 0
    gaps: dict[int, Gap] = {}
    steps: list[tuple[Signals, dict[str, Any]]] = []
    for number, (line, behind) in enumerate(pairwise(chain(lines, [""])), start=1):
        try:
            if line.startswith(_HEADER):
                if header not in ("", line.rstrip()):
                    raise DataError("from here on another policy decides: cut the recording in two")
                header = line.rstrip()
                restarts.add(len(steps))
            elif line.startswith(_GAP):
                gap, before = Gap.of(line), gaps.get(len(steps))
                gaps[len(steps)] = gap if before is None else before.and_then(gap)
            else:
                steps.append(signals_of(line))
        except TornLineError as error:
            # Steps behind it were decided with a state that nobody knows, unless a policy or a state follows.
            if line.endswith("\n") and not behind.startswith((_HEADER, _GAP)):
                raise DataError(f"{path}, line {number}: {error}") from error
            num_torn += 1
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return Recording(header, tuple(steps), frozenset(restarts), gaps, num_torn)


def _log_lines(path: Path) -> Iterator[str]:
    """Lines of a decision log with their ends, from its header on; what is no text shows as such in its line."""
    number = 0
    try:
        with path.open("rb") as file:
            while data := file.readline(MAX_JSON_BYTES + 1):
                number += 1
                if len(data) > MAX_JSON_BYTES:
                    raise DataError(f"{path}, line {number}: expected at most {MAX_JSON_BYTES} bytes a line")
                line = data.decode(errors="backslashreplace")
                if number == 1:
                    policy_of(line)
                yield line
    except OSError as error:
        raise DataError(f"cannot read the decision log {path}: {error.strerror}") from error
    if number == 0:
        raise DataError(f"{path} is empty: expected a decision log, one JSON object a line")


def replay(path: Path) -> list[ReplayStep]:
    """Replay one recording from its first line with the policy that made it.

    Raises:
        DataError: the file is missing, empty, or not a recording of decisions.
        ConfigError: the log's table and configuration contradict each other.
    """
    recording = read_recording(path)
    return play(recording, recording.policy(), recorded=True)


def play(recording: Recording, policy: AdaptivePolicy, *, recorded: bool = False) -> list[ReplayStep]:
    """Run the recorded inputs through a fresh policy, and start afresh wherever the node did.

    Args:
        recording: what a robot's policy was told.
        policy: a fresh one.
        recorded: whether it is the recorded policy. After a gap, that one goes on from its recorded state, and any
            other from its own.

    Raises:
        DataError: a state or a step cannot be replayed with this policy.
    """
    steps = []
    for number, (signals, decided) in enumerate(recording.steps):
        gap = recording.gaps.get(number) if recorded else None
        if gap is not None or (number and number in recording.restarts):
            policy = AdaptivePolicy(policy.table, policy.config, policy.constants)
        try:
            if gap is not None:
                policy.restore(gap.state)
            steps.append(ReplayStep(signals, decided, policy.step(signals)))
        except DataError as error:
            raise DataError(f"the gap before step {number + 1} cannot be replayed: {error}") from error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise DataError(f"step {number + 1} cannot be replayed: {quoted(error)}") from error
    return steps


def read_bundle(folder: Path) -> tuple[OperatingTable, EstimatorConstants | None, FittedFor]:
    """Read a bundle's table, its estimator's constants, and which network they are of. It is verified first.

    Raises:
        BundleError: no bundle there, or it cannot be trusted.
        DataError: its constants are not of this version.
    """
    bundle = Bundle.load(folder)
    constants = None if bundle.estimator is None else constants_of(bundle.estimator, where=folder)
    return bundle.select, constants, FittedFor.of(bundle)


def _policies(options: argparse.Namespace, recording: Recording) -> dict[str, AdaptivePolicy]:
    """Return the recorded policy if it is known, and one for each named configuration, bundle and calibration.

    A bundle or a calibration is tried with the recorded settings, or with the defaults where they are not known. A
    bundle's table gets the recorded latencies and energies, which a bundle does not hold and settings may need.
    """
    policies: dict[str, AdaptivePolicy] = {}
    if recording.header or options.bundle is None:  # without both, it says what is missing
        policies["recorded"] = recording.policy()
    if options.bundle is None:
        table, constants = policies["recorded"].table, policies["recorded"].constants
        network = None if constants is None else constants.fitted_for
    else:
        table, constants, network = read_bundle(options.bundle)
        if "recorded" in policies:
            table = _timed_like(table, policies["recorded"].table)
    if options.estimator is not None:
        constants = read_estimator(options.estimator, network=network)
    configs = {path: read_model(PolicyConfig, path, what="a policy configuration") for path in options.config}
    remedy = ""
    if not configs and (changed := options.estimator or options.bundle):
        configs[changed] = policies["recorded"].config if "recorded" in policies else PolicyConfig()
        remedy = "; these settings are the recorded ones: name others by --config"
    for path, config in configs.items():
        name = one_line(path) if path.stem in policies else path.stem
        try:
            policies[name] = AdaptivePolicy(table, config, constants)
        except ConfigError as error:
            raise ConfigError(f"{one_line(path)}: {error}{remedy}") from None
    return policies


def _timed_like(table: OperatingTable, recorded: OperatingTable) -> OperatingTable:
    names = "latency_ms_p50", "latency_ms_p99", "energy_j"
    times = {row.point: {name: getattr(row, name) for name in names} for row in recorded.rows}
    rows = tuple(row.model_copy(update=times.get(row.point, {})) for row in table.rows)
    return table.with_rows(rows, device=recorded.device)


@command("oat-replay")
def main(argv: list[str] | None = None) -> int:
    """Run from the command line; return 0 if all decisions are equal, 1 if one is not, 2 if nothing can be read."""
    parser = Parser(prog="oat-replay", description=__doc__)
    parser.add_argument("log", type=a_path, help="decision log (JSON lines), rosbag2 folder, or .mcap file")
    parser.add_argument("--topic", default="", help="~/decision of one node, where a bag holds those of several")
    parser.add_argument("--all", action="store_true", help="show every step, not only the changes")
    parser.add_argument("--config", type=a_path, nargs="+", default=[], help="policy configurations (JSON) to compare")
    parser.add_argument("--bundle", type=a_path, help="table and constants of this bundle instead of the recorded ones")
    parser.add_argument("--estimator", type=a_path, help="estimator constants (JSON) of oat-calibrate instead")
    parser.add_argument(
        "--plot", type=output_file(*FIGURES), help="draw the timelines into this file (.png, .svg, .pdf)"
    )
    options = parser.parse_args(argv)
    console = wide_console()
    if options.plot is not None:
        require("matplotlib", extra="plots", by="--plot")
    recording = read_recording(options.log, topic=options.topic)
    played = {
        name: play(recording, policy, recorded=name == "recorded")
        for name, policy in _policies(options, recording).items()
    }
    if options.plot is not None:
        save_figure({name: _pairs(steps) for name, steps in played.items()}, options.plot)
    for name, steps in played.items():
        if name == "recorded" or len(played) == 1:
            equal = [step.equal for step in steps]
            console.print(timeline_table(_pairs(steps), equal=equal, every_step=options.all))
    for number, gap in recording.gaps.items():
        words = f"before step {number + 1}: {gap.num_lost} decisions are not in this file ({gap.reason})"
        console.print(words, markup=False)
    if recording.num_torn:
        console.print(f"{recording.num_torn} lines are cut short: their writer was stopped in them")
    if len(played) > 1:
        console.print(comparison_table({name: _pairs(steps) for name, steps in played.items()}))
    steps = played.get("recorded") or next(iter(played.values()))
    num_equal = sum(step.equal for step in steps)
    summary: dict[str, Any] = {"name": "replay", "num_steps": len(steps), "num_equal": num_equal}
    summary |= {"num_lost": sum(gap.num_lost for gap in recording.gaps.values()), "num_torn": recording.num_torn}
    summary["num_switches"] = sum(step.decision.changed for step in steps)
    if len(played) > 1:
        summary["policies"] = {
            name: {"num_switches": sum(s.decision.changed for s in of), "num_equal": sum(s.equal for s in of)}
            for name, of in played.items()
        }
    print(json.dumps(summary))
    return 0 if num_equal == len(steps) or "recorded" not in played else 1


def _pairs(steps: list[ReplayStep]) -> list[tuple[Signals, Decision]]:
    return [(step.signals, step.decision) for step in steps]


if __name__ == "__main__":
    sys.exit(main())
