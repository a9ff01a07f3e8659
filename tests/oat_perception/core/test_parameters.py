"""A setting is worded once: the parameters, the parameter file and the docs say what PolicyConfig and the Specs say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from oat_perception.core.parameters import BY_NAME, SPECS, no_such_parameter, policy_config
from oat_perception.replay.parameters import CAMERA_SPECS

from oat_runtime.backends import BackendName, Precision
from policy.config import BatteryStep, PolicyConfig

ROOT = Path(__file__).parents[3]
DEFAULTS = {spec.name: spec.default for spec in SPECS}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_settings", ROOT / "tools" / "write_settings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["write_settings"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_parameter_file_and_docs_say_what_the_code_says(tool: ModuleType) -> None:
    for path, text in tool.pages().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is not what the code says: run `make settings`"


def test_writing_the_parameter_file_keeps_its_values_and_gives_new_parameters_their_default(tool: ModuleType) -> None:
    old = "/**:\n  ros__parameters:\n    # Old words.\n    margin: 0.01\n    bundle: 'a # b'\n"
    lines = tool.parameter_file(tool.NODES[0], old).splitlines()
    assert {"    margin: 0.01", "    bundle: 'a # b'", "    hedge: 0.25"} <= set(lines)
    assert "    # Old words." not in lines


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("    marign: 0.01\n", r"sets \['marign'\], which oat_perception does not have: remove them"),
        ("    battery_ladder_width:\n      - 1.0\n", r"values of \['battery_ladder_width'\] on one line"),
    ],
)
def test_a_parameter_file_that_would_lose_a_value_is_left_alone(tool: ModuleType, line: str, problem: str) -> None:
    with pytest.raises(SystemExit, match=problem):
        tool.parameter_file(tool.NODES[0], line)


@pytest.mark.parametrize("model", [PolicyConfig, BatteryStep])
def test_every_field_says_what_it_means_and_what_none_stands_for(model: type[PolicyConfig] | type[BatteryStep]) -> None:
    for name, field in model.model_fields.items():
        assert field.description and field.description.endswith("."), name
        assert ("None: " in field.description) == (field.default is None), name


def test_a_name_with_a_unit_carries_that_unit() -> None:
    """Read by a program, `dwell_s` and its `s` must not come apart."""
    suffixes = {
        "s": "s",
        "hours": "h",
        "ms": "ms",
        "hz": "Hz",
        "w": "W",
        "wh": "Wh",
        "nats": "nats",
        "px": "px",
        "mb": "MB",
    }
    for spec in (*SPECS, *(spec for spec in CAMERA_SPECS if spec.name != "seconds_per_phase")):
        assert spec.unit == suffixes.get(spec.name.rpartition("_")[2], ""), spec.name


def test_a_parameter_of_the_policy_has_its_fields_words_and_default() -> None:
    for spec in SPECS:
        if spec.policy_field:
            field = PolicyConfig.model_fields[spec.policy_field]
            if spec.none is None:
                assert (spec.meaning, spec.default) == (field.description, field.default)
            else:
                assert spec.meaning == str(field.description).replace("None:", f"{spec.none:g}:")
                assert (spec.default, field.default) == (spec.none, None)


def test_the_nodes_defaults_are_the_policys_own() -> None:
    assert policy_config(DEFAULTS) == PolicyConfig()


def test_every_setting_of_the_policy_is_a_parameter_and_takes_its_whole_range() -> None:
    offered = [spec for spec in SPECS if spec.policy_field]
    elsewhere = {"confidence_topic", "battery_ladder", "device"}  # two of another form; a profile is always checked
    assert {spec.policy_field for spec in offered} | elsewhere == PolicyConfig.model_fields.keys()
    for spec in offered:
        for bound in {spec.low, spec.high} - {None}:
            policy_config(DEFAULTS | {spec.name: bound})


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
def test_a_value_that_may_be_set_is_one_that_the_policy_takes(value: float) -> None:
    """`default_width: -0.5` was accepted when it was set, and refused when the node was configured."""
    for spec in SPECS:
        if spec.is_number and spec.policy_field and not spec.objection(value):
            policy_config(DEFAULTS | {spec.name: value})
    for name in ("battery_ladder_width", "battery_ladder_rate_hz"):
        if not BY_NAME[name].objection([value] * 3):
            policy_config(DEFAULTS | {"use_battery": True, name: [value] * 3})


def test_a_parameter_has_one_name_and_one_row(tool: ModuleType) -> None:
    rows = re.findall(r"^\| `(\w+)` ", tool.page(), re.MULTILINE)
    assert sorted(rows) == sorted(spec.name for spec in (*SPECS, *CAMERA_SPECS))
    assert len(BY_NAME) == len(SPECS)


@pytest.mark.parametrize(
    ("name", "range_text"),
    [
        ("hedge", "in [0, 1]"),
        ("dwell_s", "in [0.001, 3600] s"),
        ("max_rate_hz", "in [0, 1000] Hz"),
        ("default_lambda", "in [0, 1], or -1"),
        ("default_width", "in (0, 1], or -1"),
        ("width", "in (0, 1], or -1 to leave it to the policy"),
        ("mission_s", "in [1, 10000000] s"),
    ],
)
def test_a_range_is_said_with_its_unit_and_what_stands_for_none(name: str, range_text: str) -> None:
    """An open end of a field is closed where ROS needs it: at 0.001, and at what its `Quantity` says."""
    assert BY_NAME[name].range_text == range_text


def test_engines_and_precisions_are_the_runtimes_own(tool: ModuleType) -> None:
    for name, words in (("backend", BackendName), ("precision", Precision)):
        assert BY_NAME[name].choices == ("auto", *get_args(words))
        assert set(get_args(words)) <= set(re.findall(r"\w+", tool.page())), "the docs name them all"


def test_a_wrong_name_is_named_and_the_nearest_suggested() -> None:
    """Regression: `console lamda=0.8` said "undeclared parameter(s): []"."""
    assert no_such_parameter("lamda", BY_NAME) == "there is no parameter 'lamda': is lambda meant?"
    assert no_such_parameter("zzz", BY_NAME) == "there is no parameter 'zzz'"


def test_every_parameter_that_names_a_file_is_known_as_one() -> None:
    """Regression: what was not made a folder named `~`."""
    for spec in (*SPECS, *CAMERA_SPECS):
        names_one = isinstance(spec.default, str) and re.search(r"\b([Ff]ile|[Ff]older|path|Bundle)\b", spec.meaning)
        assert spec.is_path == bool(names_one), spec.name
