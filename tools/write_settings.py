"""Write what people read about the nodes' parameters as the code words them: `make settings`.

It writes the comments of the parameter files, whose values stay as they are, and docs/parameters.md. Needs no ROS.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ros2_ws" / "src" / "oat_perception"
sys.path[:0] = [str(ROOT), str(PACKAGE)]

from oat_perception.core.parameters import SPECS, Change, Spec  # noqa: E402
from oat_perception.replay.parameters import CAMERA_SPECS  # noqa: E402

PAGE = ROOT / "docs" / "parameters.md"


@dataclass(frozen=True)
class Node:
    """A node, and the order in which its parameters are written down.

    Attributes:
        name: of the node.
        purpose: of its parameter file, for the file's first line.
        usual: when most parameters may be set; only the others say when.
        file: the parameter file.
        specs: the parameters.
        groups: title and introduction of each group, and the names in it.
    """

    name: str
    purpose: str
    usual: Change
    file: Path
    specs: Sequence[Spec]
    groups: Mapping[tuple[str, str], str]

    def text(self, spec: Spec, range_text: str = "") -> str:
        """Return meaning, range and, where it is not the usual one, time of setting."""
        return f"{spec.meaning}{range_text}{'' if spec.change is self.usual else f' Set it {spec.change.value}.'}"

    def grouped(self) -> dict[tuple[str, str], list[Spec]]:
        """Return the parameters of each group.

        Raises:
            SystemExit: a parameter stands in no group, or in two.
        """
        by_name = {spec.name: spec for spec in self.specs}
        names = " ".join(self.groups.values()).split()
        if lost := {name for name in [*names, *by_name] if names.count(name) != 1 or name not in by_name}:
            raise SystemExit(f"{Path(__file__).name}: put each parameter of {self.name} into one group: {sorted(lost)}")
        return {head: [by_name[name] for name in group.split()] for head, group in self.groups.items()}


NODES = (
    Node("oat_perception", "for a robot", Change.UNCONFIGURED, PACKAGE / "config" / "perception.yaml", SPECS, {
        ("At any time", "These act at once. `ros2 param set /oat_perception lambda 0.8` takes λ by hand from the next "
         "image on, and in int8 between two trained λ once it is compiled; -1 gives it back to the policy."):
            "lambda width safety_lock min_confidence always_process",
        ("The network", ""): "bundle bundle_sha256 backend precision profile estimator num_threads memory_budget_mb "
        "auto_activate",
        ("The camera", ""):
            "image_transport image_reliability image_depth image_bits max_pixels policy_timeout_s camera_timeout_s",
        ("Regions", "A detector names them, as vision_msgs/Detection2DArray on `regions`."):
            "max_regions regions_wait_s regions_queue_s regions_queue_mb regions_top_k regions_min_score "
            "regions_smoothing_s",
        ("Environment confidence", "It comes on `environment_confidence`, or as a bare std_msgs/Float32 on "
         "`environment_confidence_value`, from 0 to 1: 1 is clear and trusted, 0 is hostile or unreadable."):
            "confidence_required confidence_max_age_s",
        ("The battery", "Its charge comes on `battery_state`. It moves width and rate, never λ."):
            "use_battery battery_percentage_full battery_ladder_charge battery_ladder_width battery_ladder_rate_hz "
            "battery_max_age_s battery_hold_s battery_unknown_width battery_unknown_rate_hz battery_capacity_wh "
            "battery_reserve perception_share mission_s",
        ("Limits and budgets", ""):
            "lambda_min lambda_max lambda_floor width_min width_max min_rate_hz max_rate_hz deadline_ms "
            "deadline_probability power_budget_w",
        ("The policy", "docs/policy.md says how it decides."):
            "adaptive default_lambda default_width reference_width hedge credible_mass switch_cost margin settle_s "
            "dwell_s width_dwell_s probe_period_s alert_probe_period_s regime_persistence_s evidence_weight "
            "evidence_cap_nats network_max_age_s false_alarm_drives",
        ("The record", ""): "decision_log decision_log_size_mb decision_log_files",
    }),
    Node("camera_replay", "a camera for a robot without one", Change.AT_START,
         PACKAGE / "config" / "camera_replay.yaml", CAMERA_SPECS, {
        ("What is shown", ""):
            "source data_root bag_topic image_bits frame_side_px frame_id wait_for_subscriber loop rate_hz seed",
        ("An attack", "It needs the network's weights, and images of its input size (frame_side_px: 32)."):
            "bundle perception_node",
        ("A scenario", ""): "scenario seconds_per_phase",
        ("What is kept aside", "True labels are never published."): "truth_file frames_dir",
        ("At any time", "`ros2 param set /camera_replay corruption fog` takes effect on the next image."):
            "playing corruption severity attack confidence battery",
    }),
)  # fmt: skip

PAGE_HEAD = """\
# Parameters

Look up here what a parameter of `oat_perception` or `camera_replay` does, its default and its range. `make settings`
writes this page and the comments of `ros2_ws/src/oat_perception/config/*.yaml` from the code, and `ros2 param describe`
says the same. Set a parameter of `oat_perception` while the node is unconfigured, and one of `camera_replay` at its
start, unless the parameter's row says otherwise. {differs}
"""
PAGE_END = """\
## The policy's settings in a JSON file

`oat-replay --config` and `python -m policy.bench --config` read the settings of the policy from a JSON file. It differs
from a parameter file:

- {renamed}.
- `null` stands where {stand_ins} are 0, and where {shares} are -1.
- `confidence_topic` is `"required"` or `"absent"` in place of `confidence_required`.
- `battery_ladder` is a list of steps, in place of `use_battery` and the three lists, such as
  `[{{"min_charge": 0.3, "max_width": 1.0, "max_rate_hz": null}}, {{"min_charge": 0.0, "max_width": 0.5}}]`.
- `device` names the device on which the table's latencies must have been measured. The node takes it from `profile`.
- A time, a rate or a power has no upper end.
"""


def main() -> None:
    """Write all files, and say which of them changed."""
    for path, text in pages().items():
        same = path.is_file() and path.read_text() == text
        path.write_text(text)
        print(f"{path.relative_to(ROOT)}: {'as it was' if same else 'written'}")


def pages() -> dict[Path, str]:
    """Return what each file must hold."""
    return {**{node.file: parameter_file(node, node.file.read_text()) for node in NODES}, PAGE: page()}


def parameter_file(node: Node, old: str) -> str:
    """Return the parameter file with the values of `old`; a parameter that is new has its default.

    Raises:
        SystemExit: `old` sets something that is no parameter, or a value that does not stand on its name's line.
    """
    values = dict(re.findall(r"^    (\w+): *(.*)$", old, re.MULTILINE))
    if spread := [name for name, value in values.items() if not value]:
        raise SystemExit(f"{node.file.name}: write the values of {spread} on one line, as in `name: [1.0, 0.5]`")
    if unknown := values.keys() - {spec.name for spec in node.specs}:
        raise SystemExit(f"{node.file.name} sets {sorted(unknown)}, which {node.name} does not have: remove them")
    blocks = []
    for (title, about), specs in node.grouped().items():
        blocks.append(f"    # ---- {title} ----\n" + _comment(about))
        for spec in specs:
            range_text = f" {spec.range_text[0].upper()}{spec.range_text[1:]}." if spec.range_text else ""
            if not spec.choices:
                range_text = range_text[:3] + range_text[3:].replace(" ", "\u00a0")  # a range is not torn apart
            value = values.get(spec.name, json.dumps(spec.default))
            blocks.append(f"{_comment(node.text(spec, range_text))}    {spec.name}: {value}\n")
    return (
        f"# Every parameter of {node.name}, {node.purpose}: set one {node.usual.value}, unless its\n"
        "# comment says otherwise. Write values by hand; `make settings` writes the comments.\n\n"
        "/**:\n  ros__parameters:\n"
    ) + "\n".join(blocks)


def _comment(text: str) -> str:
    lines = textwrap.fill(text, 114, break_on_hyphens=False).replace("\u00a0", " ")
    return textwrap.indent(lines, "    # ") + "\n" if text else ""


def page() -> str:
    """Return the page in Markdown."""
    renamed = [f"`{s.name}` is `{s.policy_field}`" for s in SPECS if s.policy_field not in ("", s.name)]
    policys = [spec for spec in SPECS if spec.policy_field]
    end = PAGE_END.format(
        renamed=_listed(renamed),
        stand_ins=_listed([f"`{spec.name}`" for spec in policys if spec.none == 0.0]),
        shares=_listed([f"`{spec.name}`" for spec in policys if spec.none == -1.0]),
    )
    tables = [
        f"## `{node.name}`\n\n" + "\n".join(_table(node, *head, specs) for head, specs in node.grouped().items())
        for node in NODES
    ]
    head, _, words = PAGE_HEAD.format(differs=_differences()).partition("\n\n")
    opening = f"{head}\n\n{textwrap.fill(words, 120, break_on_hyphens=False)}\n"
    return "\n".join([opening, *tables, _wrapped(end)])


def _differences() -> str:
    """Say what the launch files set otherwise than the defaults, since a robot's parameter file does."""
    node = NODES[0]
    values = yaml.safe_load(node.file.read_text())["/**"]["ros__parameters"]
    others = [
        f"`{s.name}: {json.dumps(values[s.name])}`" for s in node.specs if values.get(s.name, s.default) != s.default
    ]
    return f"The launch files load `config/{node.file.name}`, which differs from the defaults in {_listed(others)}."


def _table(node: Node, title: str, about: str, specs: Sequence[Spec]) -> str:
    rows = "".join(f"| `{spec.name}` | {_default(spec)} | {_range(spec)} | {node.text(spec)} |\n" for spec in specs)
    about = f"{textwrap.fill(about, 120)}\n\n" if about else ""
    return f"### {title}\n\n{about}| parameter | default | range | what it does |\n| -- | -- | -- | -- |\n{rows}"


def _default(spec: Spec) -> str:
    return f"`{json.dumps(spec.default)}`" if spec.default != "" else "empty"


def _range(spec: Spec) -> str:
    if spec.choices:
        return ", ".join(f"`{choice}`" for choice in spec.choices)
    return f"`{spec.range_text.removeprefix('in ')}`" if spec.range_text else ""


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _wrapped(text: str) -> str:
    """Wrap the items of lists, which are filled in, at the width of all pages."""
    return "\n".join(
        textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) if line.startswith("- ") else line
        for line in text.split("\n")
    )


if __name__ == "__main__":
    main()
