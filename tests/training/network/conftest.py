"""What the tests of the network share: quick threads, and networks in which every part matters."""

from collections.abc import Callable

import pytest
import torch

from oat_runtime.architecture import ModelConfig
from training.network import OATNet


def shaken_net(config: ModelConfig, *, seed: int = 0) -> OATNet:
    """A network whose batch norms, their statistics and FiLM are all away from their fresh values."""
    torch.manual_seed(seed)
    net = OATNet(config)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand_like(tensor))
            elif "norms" in name and tensor.is_floating_point():
                tensor.add_(0.3 * torch.randn_like(tensor))
            elif "film" in name:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return net


@pytest.fixture(scope="session")
def make_net() -> Callable[..., OATNet]:
    return shaken_net
