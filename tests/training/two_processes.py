"""One of several processes of `test_distributed.py`, started as torchrun does: runs the cases, writes what came out."""

import sys
from pathlib import Path

import torch

from oat_runtime.data import ImageSet
from training.config import TrainConfig
from training.distributed import World
from training.trainer import Trainer


def run_case(config: TrainConfig, data: ImageSet, world: World, num_steps: int) -> dict[str, object]:
    """Losses of some steps, the gradients of the first, the state after the last and after recalibration."""
    trainer = Trainer(config, data, world=world)
    losses = [trainer.run_step().loss]
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    losses += [trainer.run_step().loss for _ in range(num_steps - 1)]
    trained = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.recalibrate(1)
    return {
        "losses": losses,
        "gradients": gradients,
        "trained": trained,
        "recalibrated": trainer.model.state_dict(),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    world = World.join("cpu")
    payload = torch.load(folder / "cases.pt", weights_only=True)
    data = ImageSet(payload["images"].numpy(), payload["labels"].numpy(), tuple("abcdefghij"), "patches")
    results = {
        name: run_case(TrainConfig.model_validate_json(text), data, world, payload["num_steps"])
        for name, text in payload["cases"].items()
    }
    # Each process has its own clock, but all must stop at the same step.
    results["stop"] = {"agreed": [world.any(flag) for flag in (world.rank == 1, False)]}
    results["agrees"] = {"found": [world.agrees("the same"), world.agrees(f"step {world.rank}")]}
    world.leave()
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    results["left"] = {"threads": [name for name in threads if "gloo" in name]}
    torch.save(results, folder / f"rank{world.rank}.pt")


if __name__ == "__main__":
    main()
