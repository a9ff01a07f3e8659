"""The policy runs on a robot's control computer without the network."""

import ast
import subprocess
import sys
from pathlib import Path

import policy

NODE = Path(__file__).parents[2] / "ros2_ws" / "src" / "oat_perception" / "oat_perception"


def test_policy_loads_no_torch_and_no_ros() -> None:
    code = (
        "import sys, policy\n"
        "for name in policy.__all__: getattr(policy, name)\n"
        "import policy.replay\n"
        "print(sorted({'torch', 'rclpy', 'openvino'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bare_import_is_light() -> None:
    code = "import sys, policy; print('numpy' in sys.modules, 'cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_no_exported_name_is_hidden_by_a_module_of_that_name() -> None:
    code = (
        "import policy, policy.replay, policy.fitting.rates\n"
        "from types import ModuleType\n"
        "print([name for name in policy.__all__ if isinstance(getattr(policy, name), ModuleType)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_node_takes_from_the_policy_is_public() -> None:
    """All but `policy.replay`, whose function has its module's name."""
    taken = {
        alias.name
        for file in NODE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "policy"
        for alias in node.names
    }
    assert {"AdaptivePolicy", "PolicyConfig"} < taken
    assert taken - {"replay"} <= set(policy.__all__)
    assert dir(policy) == policy.__all__ == sorted(policy.__all__)
