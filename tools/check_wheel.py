"""Check what a wheel holds, and that it runs where nothing else of the project is: `check_wheel.py WHEEL`.

The wheel is installed with ONNX Runtime, in the tested versions, into an empty environment outside the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests" / "user_program.py"
PACKAGES = ("oat_runtime", "policy", "training")


def check_files(wheel: Path) -> None:
    """Compare the wheel with the checkout: the three packages with their types, the bundles, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for folder in (*PACKAGES, "bundles") for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts]
    wanted = {f"oat_runtime/{name}" if name.startswith("bundles/") else name for name in names}
    wanted |= {f"{package}/py.typed" for package in PACKAGES}
    if held != wanted:
        raise SystemExit(f"{wheel.name}: lacks {sorted(wanted - held)}, holds {sorted(held - wanted)} for no reason")
    print(f"{wheel.name}: {len(held)} files, {wheel.stat().st_size / 1e6:.1f} MB")


def check_use(wheel: Path, folder: Path) -> None:
    """Install the wheel into `folder`, and run a user's program and the commands there."""
    python, commands = folder / "venv" / "bin" / "python", folder / "venv" / "bin"
    program = shutil.copy(PROGRAM, folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")

    def run(*command: str | Path, status: int = 0) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode != status:
            raise SystemExit(f"{' '.join(map(str, command))}: expected status {status}, got {done.returncode}\n{said}")
        return said.strip()

    run(sys.executable, "-m", "venv", python.parents[1])
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "-qq", "--constraint", constraints, f"{wheel}[onnxruntime]")
    print(f"A user's program: {run(python, program)}")
    run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, program)
    for command in ("oat-profile", "oat-replay", "oat-calibrate"):
        run(commands / command, "--help")
    refusal = run(commands / "oat-train", status=2)
    if "pip install" not in refusal or "\n" in refusal:
        raise SystemExit(f"oat-train without torch: expected one line with what to install, got\n{refusal}")
    print(f"oat-train without torch: {refusal}")


def main() -> None:
    """Check the wheel that the command line names."""
    wheel = Path(sys.argv[1]).resolve()
    check_files(wheel)
    with tempfile.TemporaryDirectory() as folder:
        check_use(wheel, Path(folder))


if __name__ == "__main__":
    main()
