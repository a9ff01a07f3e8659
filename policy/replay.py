"""`oat-replay`: run recorded decisions through the policy again, and through others, and show what they do.

A recording is a decision log (JSON lines) or a rosbag2 with the node's ~/decision topic. Another policy gets the inputs
that the robot had, even where it would have caused other inputs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oat_runtime.bundle import Bundle
from oat_runtime.data.bags import bag_messages, is_bag, open_bag
from oat_runtime.errors import DataError, OATError
from oat_runtime.files import read_model, reason_of
from oat_runtime.operating_point import OperatingTable
from oat_runtime.report import wide_console
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.decision import Decision
from policy.estimator import EstimatorConstants
from policy.record import plain_decision, policy_of, signals_of
from policy.signals import Signals
from policy.timeline import comparison_table, save_figure, timeline_table

_DECISION = "oat_msgs/msg/DecisionRecord"
_DEFINITIONS = Path(__file__).resolve().parents[1] / "ros2_ws" / "src" / "oat_msgs" / "msg"


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """One step as recorded and as decided again; `equal` means that all bits of the decision are equal."""

    signals: Signals
    recorded: dict[str, Any]
    decision: Decision

    @property
    def equal(self) -> bool:
        """Whether the replayed decision is the recorded one."""
        return plain_decision(self.decision) == self.recorded


@dataclass(frozen=True, slots=True)
class Recording:
    """Inputs and decisions of a robot's policy; `header` is empty if the recording has none.

    At each step number in `restarts`, the node had built its policy anew in the same way.
    """

    header: str
    steps: tuple[tuple[Signals, dict[str, Any]], ...]
    restarts: frozenset[int] = frozenset()

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


def decision_lines(path: Path) -> list[str]:
    """Return the lines of a decision log from the node's DecisionRecord messages in a bag, in their order.

    Raises:
        DataError: not a bag, or no decisions in it.
    """
    # For a bag that does not carry the definitions itself.
    definitions = {f"oat_msgs/msg/{file.stem}": file.read_text(encoding="utf-8") for file in _DEFINITIONS.glob("*.msg")}
    lines: list[str] = []
    with open_bag(path, definitions=definitions) as reader:
        connections = [c for c in reader.connections if c.msgtype == _DECISION]
        if not connections:
            topics = sorted({c.topic for c in reader.connections})
            raise DataError(f"{path} holds no {_DECISION}: expected the node's ~/decision topic among {topics}")
        for _, message in bag_messages(path, reader, connections):
            lines += str(message.record_json).splitlines()
    return lines


def read_recording(path: Path) -> Recording:
    """Read a decision log or a bag.

    Raises:
        DataError: the file is missing, empty, or not a recording of decisions.
    """
    if is_bag(path):
        lines = decision_lines(path)
    else:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the decision log {path}: {error}") from error
        if not lines:
            raise DataError(f"{path} is empty: expected a decision log, one JSON object a line")
        policy_of(lines[0])
    header, restarts = "", set()
    steps: list[tuple[Signals, dict[str, Any]]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith('{"kind": "policy"'):
            if header not in ("", line):
                raise DataError(f"{path}, line {number}: from here on another policy decides: cut the recording in two")
            header = line
            restarts.add(len(steps))
            continue
        try:
            steps.append(signals_of(line))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return Recording(header, tuple(steps), frozenset(restarts))


def replay(path: Path) -> list[ReplayStep]:
    """Replay one recording from its first line with the policy that made it.

    Raises:
        DataError: the file is missing, empty, or not a recording of decisions.
        ConfigError: the log's table and configuration contradict each other.
    """
    recording = read_recording(path)
    return play(recording, recording.policy())


def play(recording: Recording, policy: AdaptivePolicy) -> list[ReplayStep]:
    """Run the recorded inputs through a fresh policy, and start afresh wherever the node did."""
    steps = []
    for number, (signals, recorded) in enumerate(recording.steps):
        if number and number in recording.restarts:
            policy = AdaptivePolicy(policy.table, policy.config, policy.constants)
        steps.append(ReplayStep(signals, recorded, policy.step(signals)))
    return steps


def read_bundle(folder: Path) -> tuple[OperatingTable, EstimatorConstants | None]:
    """Read the table and the estimator's constants of a bundle, which is verified first.

    Raises:
        BundleError: no bundle there, or it cannot be trusted.
        DataError: its constants are not of this version.
    """
    bundle = Bundle.load(folder)
    try:
        constants = None if bundle.estimator is None else EstimatorConstants.model_validate(bundle.estimator)
    except ValidationError as error:
        raise DataError(f"{folder}: estimator.json cannot be read ({reason_of(error)}): fit it again") from error
    return bundle.select, constants


def _policies(options: argparse.Namespace, recording: Recording) -> dict[str, AdaptivePolicy]:
    """Return the recorded policy if it is known, and one for each named configuration, bundle and calibration."""
    policies: dict[str, AdaptivePolicy] = {}
    if recording.header:
        policies["recorded"] = recording.policy()
    if recording.header and options.bundle is None:
        own = policies["recorded"]
        table, constants, base = own.table, own.constants, own.config
    elif options.bundle is not None:
        (table, constants), base = read_bundle(options.bundle), PolicyConfig()
    else:
        recording.policy()  # says what is missing
        raise AssertionError("unreachable")
    if options.estimator is not None:
        constants = read_model(EstimatorConstants, options.estimator, what="a file that oat-calibrate wrote")
    for path in options.config:
        config = read_model(PolicyConfig, path, what="a policy configuration")
        policies[path.stem] = AdaptivePolicy(table, config, constants)
    if not options.config and (options.bundle is not None or options.estimator is not None):
        sources: list[Path] = [path for path in (options.estimator, options.bundle) if path is not None]
        policies[sources[0].stem] = AdaptivePolicy(table, base, constants)
    return policies


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; return 0 if all decisions are equal, 1 if one is not, 2 if nothing can be read."""
    parser = argparse.ArgumentParser(prog="oat-replay", description=__doc__)
    parser.add_argument("log", type=Path, help="decision log (JSON lines), rosbag2 folder, or .mcap file")
    parser.add_argument("--all", action="store_true", help="show every step, not only the changes")
    parser.add_argument("--config", type=Path, nargs="+", default=[], help="policy configurations (JSON) to compare")
    parser.add_argument("--bundle", type=Path, help="table and constants of this bundle instead of the recorded ones")
    parser.add_argument("--estimator", type=Path, help="estimator constants (JSON) of oat-calibrate instead")
    parser.add_argument("--plot", type=Path, help="draw the timelines into this file (.png, .svg, .pdf)")
    options = parser.parse_args(argv)
    console = wide_console()
    try:
        recording = read_recording(options.log)
        played = {name: play(recording, policy) for name, policy in _policies(options, recording).items()}
        if options.plot is not None:
            save_figure({name: _pairs(steps) for name, steps in played.items()}, options.plot)
    except OATError as error:
        print(f"oat-replay: {error}", file=sys.stderr)
        return 2
    for name, steps in played.items():
        if name == "recorded" or len(played) == 1:
            equal = [step.equal for step in steps]
            console.print(timeline_table(_pairs(steps), equal=equal, every_step=options.all))
    if len(played) > 1:
        console.print(comparison_table({name: _pairs(steps) for name, steps in played.items()}))
    steps = played.get("recorded") or next(iter(played.values()))
    num_equal = sum(step.equal for step in steps)
    summary: dict[str, Any] = {"name": "replay", "num_steps": len(steps), "num_equal": num_equal}
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
