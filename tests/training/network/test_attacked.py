"""An attack on a network in training finds it afterwards as it was: modes, statistics, gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oat_runtime.architecture import ModelConfig
from oat_runtime.operating_point import AttackSpec
from oat_runtime.stress.attacks import perturb
from training.network import LambdaBatch, OATNet, frozen


@pytest.mark.parametrize(
    ("name", "num_steps"), [("pgd-5", 5), ("mi-fgsm", 2), ("apgd-ce", 2), ("apgd-t", 2), ("pgd-5-l2", 5)]
)
def test_a_network_in_training_keeps_modes_statistics_and_gradients(
    name: str, num_steps: int, make_net: Callable[..., OATNet]
) -> None:
    config = ModelConfig(depth=10, widen_factor=1)
    net = make_net(config).train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    lam = LambdaBatch.constant(0.3, 2, config.lambdas)
    epsilon = 0.25 if name.endswith("l2") else 8 / 255
    spec = AttackSpec(name=name, epsilon=epsilon, step_size=epsilon / 3, num_steps=num_steps)
    x_NCHW = torch.rand(2, 3, 8, 8)
    with frozen(net):

        def logits_fn(images: Tensor) -> Tensor:
            return net(images, LambdaBatch(lam.weights_NK[: len(images)], 0), width=0.5)

        y_N = logits_fn(x_NCHW).argmax(dim=1)  # an image that is wrong already would be left as it is
        generator = torch.Generator().manual_seed(0)
        adversarial = perturb(logits_fn, x_NCHW, y_N, spec=spec, generator=generator)
    assert not torch.equal(adversarial, x_NCHW)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
