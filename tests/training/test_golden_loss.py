"""A refactoring gives the same losses and the same network as before, to the bit.

The law: `golden_loss.json` holds the figures of a tiny run for some platforms. On those platforms they are exact.
On any other platform each loss is within 1e-4 of them, because other kernels add in another order; states are not
compared.

`python -m tests.training.test_golden_loss`, run from the root of a checkout, prints this machine's entry. Run it at two
commits on one machine and compare. A change that is meant to alter training replaces all entries of the file.
"""

import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import pytest
import torch

from oat_runtime.data import ImageSet
from training.config import TrainConfig
from training.trainer import Trainer

GOLDEN = Path(__file__).with_name("golden_loss.json")
ATOL_ELSEWHERE = 1e-4
CONFIG = TrainConfig.model_validate(
    {
        "model": {"depth": 10, "widen_factor": 1, "widths": [0.5, 1.0], "lambdas": [0.0, 0.3, 1.0], "dual_bn": True},
        "attack": {"name": "pgd-2", "epsilon": 8 / 255, "step_size": 6 / 255, "num_steps": 2},
        "num_validation": 8,
        "batch_size": 16,
        "epochs": 2,
        "average_decay": 0.9,
        "num_recalibration": 2,
        "seed": 5,
    }
)


class Golden(TypedDict):
    losses: list[str]
    """Of each step, as `float.hex` writes them."""
    state_sha256: str
    """Of names, types, shapes and bytes of the finished network's tensors."""


ENTRIES: dict[str, Golden] = json.loads(GOLDEN.read_bytes())


def this_platform() -> str:
    """Name what decides the bits: torch's build, its vector instructions, and the processor that its libraries see."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    names = [fields[key] for key in ("vendor_id", "cpu family", "model") if key in fields]
    processor = " ".join(names or [platform.machine()])
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {processor}"


def measure(data: ImageSet) -> Golden:
    """Train on one thread, to the end: with weight averaging and recalibration."""
    trainer = Trainer(CONFIG, data)
    losses = [metrics.loss.hex() for metrics in trainer.run()]
    digest = hashlib.sha256()
    for name, tensor in sorted(trainer.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return {"losses": losses, "state_sha256": digest.hexdigest()}


@pytest.fixture(scope="module")
def got(patches: Callable[..., ImageSet]) -> Golden:
    return measure(patches(50))


def test_a_run_gives_the_golden_losses_and_state_to_the_bit(got: Golden) -> None:
    if this_platform() not in ENTRIES:
        pytest.skip(f"{GOLDEN.name} has no entry for this platform: {this_platform()}")
    assert got == ENTRIES[this_platform()]


def test_a_run_gives_nearly_the_golden_losses_of_every_platform(got: Golden) -> None:
    losses = [float.fromhex(loss) for loss in got["losses"]]
    for name, entry in ENTRIES.items():
        expected = [float.fromhex(loss) for loss in entry["losses"]]
        assert len(losses) == len(expected), name
        worst = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        assert worst <= ATOL_ELSEWHERE, f"a loss is {worst:.3g} away from that on {name}"


if __name__ == "__main__":
    from tests.training.conftest import colour_patches

    torch.set_num_threads(1)
    print(json.dumps({this_platform(): measure(colour_patches(50))}, indent=1))
