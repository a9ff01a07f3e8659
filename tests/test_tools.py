"""Set-up chooses a torch that fits the machine, and says which and why; a shell for ROS loads the Fast DDS profile."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"


@pytest.fixture(scope="module")
def torch_index() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_index", TOOLS / "torch_index.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["torch_index"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def fresh_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No NVIDIA driver, and no settings of pip."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index on the loopback interface that offers torch 2.13.0+cpu."""
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "torch-2.13.0+cpu-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "torch-2.13.0+cpu.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n"
        )
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent_index() -> Iterator[str]:
    """One that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _choose(
    torch_index: ModuleType, cpu_index: str, *, named: str = "", driver: Path = Path("/none"), timeout_s: float = 30.0
):
    return torch_index.choose(named, driver_file=driver, cpu_index=cpu_index, timeout_s=timeout_s)


def test_without_a_gpu_the_cpu_index_goes_before_pips_default(torch_index, index) -> None:
    choice = _choose(torch_index, index)
    assert choice.options == ("--extra-index-url", index)
    assert "no NVIDIA driver" in choice.reason


def test_an_index_that_never_answers_is_not_waited_for(torch_index, silent_index) -> None:
    choice = _choose(torch_index, silent_index, timeout_s=1.0)
    assert choice.options == ()
    assert silent_index in choice.reason and "TORCH_INDEX" in choice.reason


def test_an_index_without_torch_is_not_taken(torch_index, index, tmp_path) -> None:
    (tmp_path / "index" / "torch" / "torch-2.13.0+cpu-py3-none-any.whl").unlink()
    assert _choose(torch_index, index).options == ()


def test_with_an_nvidia_driver_pip_takes_its_default(torch_index, index, tmp_path, monkeypatch) -> None:
    driver = tmp_path / "version"
    driver.touch()
    assert _choose(torch_index, index, driver=driver).options == ()
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    choice = _choose(torch_index, index)
    assert choice.options == ()
    assert "NVIDIA driver" in choice.reason


@pytest.mark.parametrize("setting", ["index-url", "extra-index-url", "find-links"])
def test_a_source_that_the_environment_gives_pip_is_left_alone(torch_index, index, monkeypatch, setting) -> None:
    monkeypatch.setenv(f"PIP_{setting.upper().replace('-', '_')}", "http://127.0.0.1:1")
    choice = _choose(torch_index, index)
    assert choice.options == ()
    assert choice.reason.endswith(f"set {setting}")


def test_a_source_in_a_settings_file_of_pip_is_left_alone(torch_index, index, monkeypatch, tmp_path) -> None:
    (tmp_path / "pip.conf").write_text("[install]\nfind-links = http://127.0.0.1:1\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    choice = _choose(torch_index, index)
    assert choice.options == ()
    assert "pip's own settings" in choice.reason


def test_other_settings_of_pip_are_no_source(torch_index, index, monkeypatch) -> None:
    monkeypatch.setenv("PIP_TRUSTED_HOST", "index-url=a.b")
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    assert _choose(torch_index, index).options == ("--extra-index-url", index)


def test_a_source_for_another_command_of_pip_is_no_source(torch_index, index, monkeypatch, tmp_path) -> None:
    (tmp_path / "pip.conf").write_text("[download]\nindex-url = http://127.0.0.1:1\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert _choose(torch_index, index).options == ("--extra-index-url", index)


def test_settings_that_pip_cannot_read_are_said_in_one_line(torch_index, index, monkeypatch, tmp_path) -> None:
    (tmp_path / "pip.conf").write_text("garbage")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    with pytest.raises(SystemExit, match="pip cannot read its settings"):
        _choose(torch_index, index)


@pytest.mark.parametrize("named", ["   ", "\t"])
def test_an_index_of_spaces_is_none(torch_index, index, named) -> None:
    assert _choose(torch_index, index, named=named).options == ("--extra-index-url", index)
    with pytest.raises(SystemExit, match="Expected one URL"):
        _choose(torch_index, index, named="http://a http://b")


def test_the_index_that_somebody_names_wins(torch_index, silent_index, tmp_path) -> None:
    named = _choose(torch_index, silent_index, named="http://127.0.0.1:1/named", driver=tmp_path)
    assert named.options == ("--extra-index-url", "http://127.0.0.1:1/named")


def test_the_command_prints_options_for_pip_and_one_line_for_people() -> None:
    done = subprocess.run(
        [sys.executable, TOOLS / "torch_index.py", "http://127.0.0.1:1"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "--extra-index-url http://127.0.0.1:1\n"
    assert done.stderr.count("\n") == 1


def _profile_after_ros_env(**environment: str) -> str:
    done = subprocess.run(
        ["bash", "-c", '. tools/ros_env.sh && printf %s "$FASTRTPS_DEFAULT_PROFILES_FILE"'],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_checkout_whose_path_ros_would_cut_is_refused_before_set_up(tmp_path: Path) -> None:
    (tmp_path / "größe").mkdir()
    ended = subprocess.run(
        [ROOT / "tools" / "check_system.sh", sys.executable],
        cwd=tmp_path / "größe",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Expected a path of ASCII letters"), ended.stderr


def test_a_shell_for_ros_loads_the_shipped_dds_profile_unless_it_has_one() -> None:
    shipped = ROOT / "ros2_ws" / "src" / "oat_perception" / "config" / "fastdds.xml"
    assert shipped.is_file()
    assert _profile_after_ros_env() == str(shipped)
    assert _profile_after_ros_env(FASTRTPS_DEFAULT_PROFILES_FILE="/mine.xml") == "/mine.xml"
    assert _profile_after_ros_env(FASTRTPS_DEFAULT_PROFILES_FILE="") == "", "empty: Fast DDS's own"
    assert _profile_after_ros_env(FASTDDS_DEFAULT_PROFILES_FILE="/mine.xml") == "", "the newer name of the same setting"


@pytest.mark.parametrize(
    ("shell", "environment", "status", "says"),
    [
        (["bash", "-c", "set -eu; . tools/ros_env.sh; case $- in *u*) exit 7 ;; esac"], {}, 7, ""),
        (["sh", "-c", ". tools/ros_env.sh"], {"BASH_VERSION": ""}, 1, "expected bash"),
        (["bash", "-c", ". tools/ros_env.sh"], {"OAT_VENV": "/nope"}, 1, "got /nope"),
        (["bash", "-c", ". tools/ros_env.sh"], {"PYTHONPATH": "/other/ros"}, 0, "leaves out PYTHONPATH=/other/ros"),
    ],
)
def test_a_shell_that_ros_env_cannot_serve_is_told(shell, environment, status, says) -> None:
    if shell[0] == "sh" and "bash" in os.path.realpath("/bin/sh"):
        pytest.skip("sh is bash here")
    env = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run(shell, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
