"""A decision log replays to the same decisions, bit for bit."""

import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import attach_file
from oat_runtime.errors import BundleError, DataError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from policy.belief.constants import EstimatorConstants, FittedFor
from policy.config import BatteryStep, PolicyConfig
from policy.controller import AdaptivePolicy
from policy.image import UNUSABLE, ImageStatistics
from policy.records.record import Gap, header_line, plain_decision, policy_of, signals_of, step_line
from policy.replay import main, read_bundle, replay
from policy.signals import NetworkSignals, Override, Reading, Signals
from tests.conftest import room

DEFINITIONS = Path(__file__).parents[2] / "ros2_ws" / "src" / "oat_msgs" / "msg"
LADDER = (BatteryStep(min_charge=0.3, max_width=1.0), BatteryStep(min_charge=0.0, max_width=0.5))


def _policy(table: OperatingTable, constants: EstimatorConstants | None) -> AdaptivePolicy:
    return AdaptivePolicy(table, PolicyConfig(battery_ladder=LADDER, dwell_s=0.5, deadline_ms=7.3), constants)


def _write_log(path: Path, table: OperatingTable, constants: EstimatorConstants | None) -> list[Signals]:
    rng = np.random.default_rng(3)
    policy = _policy(table, constants)
    now_s, lines, sent = 0.1, [header_line(policy)], []
    for step in range(300):
        now_s += float(rng.uniform(0.01, 0.1)) * (-1 if step == 150 else 1)
        image = ImageStatistics(*rng.normal(2 * (step // 50 % 2), 1, 12).tolist())
        signals = Signals(
            now_s if step != 77 else math.nan,
            UNUSABLE if step % 37 == 0 else image,
            NetworkSignals(OperatingPoint(0.4, 1.0), float(rng.random()), bool(rng.random() < 0.5), math.nan, 0.03),
            Reading(float(rng.random()) if step % 11 else math.inf, 0.05, "confidence"),
            Reading(1 - step / 300 if step % 13 else 87.0, 0.4, "battery"),
            Override(0.8, now_s + 1.0) if 200 <= step < 220 else None,
            Override(0.75) if 210 <= step < 230 else None,
            safety_lock=240 <= step < 245,
        )
        if step >= 270:  # a network that judges regions; in every fifth frame there are none
            network = NetworkSignals(OperatingPoint(0.4, 1.0), None if step % 5 == 1 else 0.4, step % 4 / 4, 5.0, 0.03)
            image = None if step % 5 == 0 else image
            signals = replace(signals, image=image, network=network, num_regions=0 if step % 5 == 0 else 3)
        lines.append(step_line(signals, policy.step(signals)))
        sent.append(signals)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sent


@pytest.mark.parametrize("fitted", [True, False])
def test_replay_is_equal_in_every_bit(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants, fitted: bool
) -> None:
    log = tmp_path / "decisions.jsonl"
    sent = _write_log(log, profiled_table, constants if fitted else None)
    steps = replay(log)
    assert [repr(step.signals) for step in steps] == [repr(signals) for signals in sent]
    assert all(step.equal and plain_decision(step.decision) == step.recorded for step in steps)
    assert len({step.decision.point for step in steps}) > 2


def test_a_replay_on_another_processor_is_equal_and_any_other_choice_is_not(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants
) -> None:
    """Regression: where sums end in other bits than on the robot, half of the decisions counted as different."""
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    (step, *_) = [step for step in replay(log) if step.decision.rejected and step.decision.runner_up]

    def equal_to(**changes: object) -> bool:
        return replace(step, recorded=json.loads(json.dumps(step.recorded | changes))).equal

    accuracy, posterior = step.decision.expected_accuracy, step.recorded["posterior"]
    assert equal_to(expected_accuracy=accuracy + 1e-12, posterior={k: v - 1e-12 for k, v in posterior.items()})
    assert equal_to(reason=step.decision.reason.replace("unknown 1.00", "unknown 0.99"))
    assert not equal_to(expected_accuracy=accuracy + 1e-6)
    assert not equal_to(posterior={k: v - 1e-6 for k, v in posterior.items()})
    assert not equal_to(reason=step.decision.reason + " or not")
    assert not equal_to(rejected=step.recorded["rejected"][1:])
    assert not equal_to(runner_up=None)
    assert not equal_to(changed=not step.decision.changed)
    assert not equal_to(point={"lam": 0.3, "width": 1.0})
    assert not equal_to(more=1)


def test_every_line_is_standard_json(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants
) -> None:
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for line in log.read_text(encoding="utf-8").splitlines():
        assert isinstance(json.loads(line, parse_constant=refuse), dict)


def test_a_changed_decision_is_found(
    tmp_path: Path,
    profiled_table: OperatingTable,
    constants: EstimatorConstants,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    assert main([str(log)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_equal"] == 300

    lines = log.read_text(encoding="utf-8").splitlines()
    step = json.loads(lines[100])
    step["decision"]["expected_accuracy"] = step["decision"]["expected_accuracy"] + 1e-6
    lines[100] = json.dumps(step)
    log.write_text("\n".join(lines), encoding="utf-8")
    assert main([str(log), "--all"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_equal"] == 299


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("not json", "expected one JSON object a line"),
        ('{"kind": "step"}', "of kind 'policy'"),
        ('{"kind": "policy", "schema": 9}', "of schema 1, got 9"),
        ('{"kind": "policy", "schema": 1}', "header of the decision log cannot be read"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "decisions.jsonl"
    log.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        replay(log)
    assert main([str(log)]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot read"):
        replay(tmp_path / "none.jsonl")


def test_a_damaged_step_is_refused_with_its_line(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants
) -> None:
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    lines = log.read_text(encoding="utf-8").splitlines()[:5]
    log.write_text("\n".join([*lines, lines[4][:100], lines[4]]), encoding="utf-8")
    with pytest.raises(DataError, match="line 6"):
        replay(log)
    log.write_text("\n".join([*lines, lines[4][:100], ""]), encoding="utf-8")
    with pytest.raises(DataError, match="line 6"):
        replay(log)
    with pytest.raises(DataError, match="cannot be read"):
        signals_of('{"kind": "step", "signals": {}}')


def test_a_line_that_its_writer_was_stopped_in_is_named_and_the_others_replay(
    tmp_path: Path,
    profiled_table: OperatingTable,
    constants: EstimatorConstants,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    whole = log.read_bytes()
    for num_bytes in (1, 40, 1000):
        log.write_bytes(whole[:-num_bytes])
        assert len(replay(log)) == (300 if num_bytes == 1 else 299)
        assert main([str(log)]) == 0
        out = capsys.readouterr().out
        assert ("cut short" in out) == (num_bytes > 1)
        assert json.loads(out.splitlines()[-1])["num_torn"] == (num_bytes > 1)


def test_a_log_is_read_no_further_than_its_first_wrong_line(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants
) -> None:
    """Regression: 60 MB of newlines took 560 MB and 23 s, all before the first of them was judged."""
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    header = log.read_bytes().splitlines()[0]
    for start, message in ((b"", "expected one JSON object a line"), (header + b"\n", "line 2: expected one JSON")):
        log.write_bytes(start + b"\n" * 5_000_000)
        tracemalloc.start()
        with pytest.raises(DataError, match=message):
            replay(log)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 5_000_000


def _run(policy: AdaptivePolicy, signals: list[Signals]) -> list[str]:
    return [step_line(each, policy.step(each)) for each in signals]


def _values(part: object) -> dict[str, object]:
    """All that a part of the policy holds, without anything that names what is remembered."""
    found: dict[str, object] = {}
    for name, value in vars(part).items():
        if type(value).__module__.startswith("policy.") and hasattr(value, "__dict__"):
            found |= {f"{name}.{inner}": inside for inner, inside in _values(value).items()}
        elif name != "_told":  # of the last belief alone
            found[name] = repr(value.tolist()) if isinstance(value, np.ndarray) else repr(value)
    return found


@pytest.mark.parametrize("fitted", [True, False])
def test_a_policys_state_comes_back_in_every_bit(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants, fitted: bool
) -> None:
    log = tmp_path / "decisions.jsonl"
    sent = _write_log(log, profiled_table, constants if fitted else None)
    for num in (0, 1, 60, 151, 215):
        policy, again = (policy_of(header_line(_policy(profiled_table, constants if fitted else None))) for _ in "ab")
        _run(policy, sent[:num])
        again.restore(json.loads(json.dumps(policy.snapshot(), allow_nan=False)))
        assert _values(again) == _values(policy), "whatever a step may change is among what is remembered"
        assert _run(again, sent[num:]) == _run(policy, sent[num:])


def test_a_damaged_state_is_refused(profiled_table: OperatingTable, constants: EstimatorConstants) -> None:
    state = _policy(profiled_table, constants).snapshot()
    for part, name, value in (
        ("filter", "belief_K", [1.0]),
        ("filter", "belief_K", [-1.0, *[0.0] * (len(state["filter"]["belief_K"]) - 1)]),
        ("filter", "drift_S", ["deep"] * 12),
        ("lam_rule", "current", 0.77),
        ("lam_rule", "back_off", 1e9),
        ("width_rule", "target", {"lam": 1.0}),
        ("budget", "known_charge", 7),
        ("budget", "slowdown", {"mean": 1e308, "variance": 0.0}),
        ("budget", "known_s", None),
    ):
        with pytest.raises(DataError):
            _policy(profiled_table, constants).restore(state | {part: state[part] | {name: value}})
    for damaged in ({}, None, [], state | {"more": 1.0}, state | {"last_point": 3.0}, state | {"elapsed_s": 10**400}):
        with pytest.raises(DataError):
            _policy(profiled_table, constants).restore(damaged)


@pytest.mark.parametrize("fitted", [True, False])
def test_behind_a_gap_every_decision_replays(
    tmp_path: Path,
    profiled_table: OperatingTable,
    constants: EstimatorConstants,
    capsys: pytest.CaptureFixture[str],
    fitted: bool,
) -> None:
    log = tmp_path / "decisions.jsonl"
    sent = _write_log(log, profiled_table, constants if fitted else None)
    whole = log.read_text(encoding="utf-8").splitlines()
    policy = policy_of(whole[0])
    lines, gap = [whole[0]], None
    for number, signals in enumerate(sent):
        line = step_line(signals, policy.step(signals))
        if 100 <= number < 180 or number in (0, 220):
            lost = Gap(1, "the disk is full [bold]", policy.snapshot())
            gap = lost if gap is None else gap.and_then(lost)
            continue
        lines += [line] if gap is None else [gap.line(), line]
        gap = None
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    steps = replay(log)
    assert len(steps) == 300 - 82
    assert all(step.equal for step in steps)
    assert main([str(log)]) == 0
    out = capsys.readouterr().out
    assert "before step 100: 80 decisions are not in this file (the disk is full [bold])" in out
    assert json.loads(out.splitlines()[-1])["num_lost"] == 82

    log.write_text("\n".join(line for line in lines if '"gap"' not in line[:20]), encoding="utf-8")
    assert not fitted or main([str(log)]) == 1, "the state is needed"

    other = tmp_path / "careful.json"
    other.write_text(PolicyConfig(lambda_floor=0.4).model_dump_json())
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main([str(log), "--config", str(other)]) == 0, "another policy goes on from its own state"


def test_what_is_inside_a_line_is_refused_in_words(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants
) -> None:
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    header, step, *_ = log.read_text(encoding="utf-8").splitlines()
    for damaged in (
        "[" * 100_000,
        '{"kind": "gap"}',
        '{"kind": "gap", "num_lost": -1, "reason": "", "state": {}}',
        '{"kind": "gap", "num_lost": 1, "reason": "", "state": {"deep": 1}}',
        step.replace('"safety_lock": false', '"safety_lock": "no"'),
        step.replace('"disagrees": ', '"disagrees": 7, "was": '),
        step.replace('"lam": 0.4', '"lam": "x"', 1),
        step.replace('"now_s": ', '"now_s": 1' + "0" * 5000 + ', "was": '),
        step.replace('"now_s": ', '"now_s": 1' + "0" * 400 + ', "was": '),
    ):
        assert damaged != step
        log.write_text(f"{header}\n{damaged}\n{step}\n", encoding="utf-8")
        with pytest.raises(DataError) as refused:
            replay(log)
        assert len(str(refused.value)) < 1000 and "\n" not in str(refused.value)


def _write_bag(folder: Path, lines: list[str], *, topics: tuple[str, ...] = ("/oat_perception/decision",)) -> None:
    """A rosbag2 (MCAP) of the same decisions of each node, written as ROS would."""
    types = get_typestore(Stores.ROS2_JAZZY)
    for file in DEFINITIONS.glob("*.msg"):
        types.register(get_types_from_msg(file.read_text(), f"oat_msgs/msg/{file.stem}"))
    stamp = types.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    header = types.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
    name = "oat_msgs/msg/DecisionRecord"
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = [writer.add_connection(topic, name, typestore=types) for topic in topics]
        for number, line in enumerate(lines):
            message = types.types[name](
                header=header, sequence=number, lambda_value=0.0, width=1.0, changed=False, lambda_source=1,
                width_source=1, lambda_rule=1, width_rule=1, reason="", regime_posterior=np.zeros(5, np.float32),
                runner_up_lambda=0.0, runner_up_width=1.0, expected_accuracy=0.5, max_rate_hz=math.nan,
                record_json=line,
            )  # fmt: skip
            for connection in connections:
                writer.write(connection, number * 10**8, types.serialize_cdr(message, name))


def test_a_bag_replays_like_the_log_that_it_holds(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    header, *steps = log.read_text(encoding="utf-8").splitlines()
    _write_bag(tmp_path / "whole", [f"{header}\n{steps[0]}", *steps[1:]])
    assert [repr(step.signals) for step in replay(tmp_path / "whole")] == [repr(step.signals) for step in replay(log)]
    assert all(step.equal for step in replay(next((tmp_path / "whole").glob("*.mcap"))))

    _write_bag(tmp_path / "twice", [f"{header}\n{steps[0]}", *steps[1:], f"{header}\n{steps[0]}", *steps[1:]])
    assert [step.equal for step in replay(tmp_path / "twice")] == [True] * 2 * len(steps), "a node that was restarted"
    other = json.dumps(json.loads(header) | {"config": PolicyConfig(hedge=0.9).model_dump(mode="json")})
    _write_bag(tmp_path / "two", [f"{header}\n{steps[0]}", f"{other}\n{steps[0]}"])
    with pytest.raises(DataError, match="another policy"):
        replay(tmp_path / "two")

    _write_bag(tmp_path / "steps", steps)
    assert main([str(tmp_path / "steps")]) == 2
    assert "pass --bundle" in capsys.readouterr().err


def test_the_decisions_of_two_cameras_in_one_bag_are_asked_for_by_topic(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: they were read as those of one node, which no policy decides."""
    log, bag = tmp_path / "decisions.jsonl", tmp_path / "both"
    _write_log(log, profiled_table, constants)
    header, *steps = log.read_text(encoding="utf-8").splitlines()
    front, rear = "/front/oat_perception/decision", "/rear/oat_perception/decision"
    _write_bag(bag, [f"{header}\n{steps[0]}", *steps[1:20]], topics=(front, rear))
    assert main([str(bag)]) == 2
    assert f"holds decisions of 2 nodes: choose with --topic one of {front}, {rear}" in capsys.readouterr().err
    assert main([str(bag), "--topic", rear]) == 0
    capsys.readouterr()
    assert main([str(bag), "--topic", "/left"]) == 2
    assert "no decisions on '/left': choose with --topic" in capsys.readouterr().err
    assert main([str(log), "--topic", rear]) == 2
    assert "is no bag" in capsys.readouterr().err


def test_policies_are_compared_on_the_same_inputs(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    careful = tmp_path / "careful.json"
    careful.write_text(PolicyConfig(lambda_floor=0.4).model_dump_json())
    figure = tmp_path / "figures" / "both.png"
    assert main([str(log), "--config", str(careful), "--plot", str(figure)]) == 0
    out = capsys.readouterr().out
    summary = json.loads(out.splitlines()[-1])
    assert set(summary["policies"]) == {"recorded", "careful"}
    assert summary["policies"]["recorded"]["num_equal"] == 300 > summary["policies"]["careful"]["num_equal"]
    assert "Policies on the same inputs" in out
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main([str(log), "--config", str(log)]) == 2
    assert "is not a policy configuration" in capsys.readouterr().err


def test_every_named_configuration_is_played_under_a_name_of_its_own(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: of equal names the last was played alone, and `recorded.json` took the recorded policy's place."""
    log = tmp_path / "decisions.jsonl"
    _write_log(log, profiled_table, constants)
    configs = [tmp_path / "a" / "mine.json", tmp_path / "b" / "mine.json", tmp_path / "recorded.json"]
    for floor, path in zip((0.2, 0.4, 1.0), configs, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(PolicyConfig(lambda_floor=floor).model_dump_json())
    assert main([str(log), "--config", *map(str, configs)]) == 0
    played = json.loads(capsys.readouterr().out.splitlines()[-1])["policies"]
    assert set(played) == {"recorded", "mine", str(configs[1]), str(configs[2])}
    assert [played[name]["num_equal"] == 300 for name in played] == [True, False, False, False]


def test_a_bundle_and_an_estimator_are_tried_with_the_recorded_settings(
    tmp_path: Path,
    tiny_bundle: Callable[[], Bundle],
    profiled_table: OperatingTable,
    constants: EstimatorConstants,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Regression: a bundle was tried with the defaults, so without the robot's floor, and was compared so."""
    bundle, log = tiny_bundle(), tmp_path / "log.jsonl"
    bundle = attach_file(bundle, "estimator.json", constants.model_dump_json().encode())
    config = PolicyConfig(lambda_floor=0.4, confidence_topic="absent", deadline_ms=4.0)
    policy = AdaptivePolicy(profiled_table, config, constants)
    steps = [Signals(0.1 * number, ImageStatistics(*[0.0] * 12)) for number in range(30)]
    lines = [header_line(policy), *(step_line(signals, policy.step(signals)) for signals in steps)]
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main([str(log), "--bundle", str(bundle.path)]) == 0
    played = json.loads(capsys.readouterr().out.splitlines()[-1])["policies"]
    assert {name: one["num_equal"] for name, one in played.items()} == {"recorded": 30, bundle.path.stem: 30}

    pinned = config.model_copy(update={"bundle_sha256": profiled_table.bundle_sha256})
    log.write_text(header_line(AdaptivePolicy(profiled_table, pinned, constants)) + "\n", encoding="utf-8")
    assert main([str(log), "--bundle", str(bundle.path)]) == 2
    assert "another bundle: expected" in (said := capsys.readouterr().err)
    assert said.endswith("these settings are the recorded ones: name others by --config\n")


def test_a_picture_that_a_full_disk_cannot_take_leaves_the_old_one(
    tmp_path: Path, profiled_table: OperatingTable, constants: EstimatorConstants, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: half a picture took the place of the old one, and the message did not say "disk full"."""
    pytest.importorskip("matplotlib")
    log, picture = tmp_path / "log.jsonl", tmp_path / "figures" / "steps.png"
    _write_log(log, profiled_table, constants)
    assert main([str(log), "--plot", str(picture)]) == 0
    old = picture.read_bytes()
    capsys.readouterr()
    with room(1000):
        assert main([str(log), "--plot", str(picture)]) == 2
    assert capsys.readouterr().err == f"oat-replay: disk full: {picture} could not be written\n"
    assert picture.read_bytes() == old
    assert list(picture.parent.iterdir()) == [picture]


def test_an_estimator_of_another_network_is_not_replayed_with(
    tmp_path: Path,
    tiny_bundle: Callable[[], Bundle],
    profiled_table: OperatingTable,
    constants: EstimatorConstants,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle, log, mine = tiny_bundle(), tmp_path / "log.jsonl", tmp_path / "mine.json"
    other = FittedFor(bundle="other", weights_sha256="ab" * 32)
    _write_log(log, profiled_table, constants.model_copy(update={"fitted_for": other}))
    for network, status in ((other, 0), (FittedFor.of(bundle), 2)):
        mine.write_text(constants.model_copy(update={"fitted_for": network}).model_dump_json())
        assert main([str(log), "--estimator", str(mine)]) == status
        assert main([str(log), "--bundle", str(bundle.path), "--estimator", str(mine)]) == 2 - status
    assert f"expected other (weights {'ab' * 6}), got {bundle.manifest.name} (weights" in capsys.readouterr().err
    assert not caplog.records
    _write_log(log, profiled_table, constants)
    assert main([str(log), "--estimator", str(mine)]) == 0
    assert "since the recording names none: name its bundle (--bundle) if in doubt" in caplog.text


def test_a_bundle_is_verified_before_it_is_replayed_with(
    tiny_bundle: Callable[[], Bundle], constants: EstimatorConstants
) -> None:
    """Regression: its table was read without a look at any hash, so a changed manifest decided."""
    bundle = tiny_bundle()
    table, none, _ = read_bundle(bundle.path)
    assert none is None
    assert table == bundle.select
    attach_file(bundle, "estimator.json", constants.model_dump_json().encode())
    assert read_bundle(bundle.path)[1] == constants
    with (bundle.path / "estimator.json").open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleError, match=r"estimator\.json"):
        read_bundle(bundle.path)
    with pytest.raises(BundleError, match="no bundle at"):
        read_bundle(bundle.path.parent)


def test_constants_of_another_version_are_named(tiny_bundle: Callable[[], Bundle]) -> None:
    bundle = attach_file(tiny_bundle(), "estimator.json", b'{"kinds": 3}')
    with pytest.raises(DataError, match=r"estimator\.json cannot be read"):
        read_bundle(bundle.path)
