"""What the tests of evaluation share: a tiny network that differs from λ to λ, and what every suite finds of it."""

import json
from collections.abc import Callable

import pytest
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.data import ImageSet
from training.evaluation.counting import ATTACKS
from training.evaluation.documents import Document, run_suite
from training.evaluation.judged import Judged
from training.evaluation.suite import Job
from training.evaluation.suites import SUITES
from training.network import OATNet

CONFIG = ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 0.3, 1.0))


def shaken() -> OATNet:
    torch.manual_seed(0)
    net = OATNet(CONFIG)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if "norms" in name and tensor.is_floating_point() and "running_var" not in name:
                tensor.add_(0.3 * torch.randn_like(tensor))
            elif "film" in name:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def job(patches: Callable[..., ImageSet]) -> Job:
    torch.set_num_threads(1)  # before the fixture `one_thread`, which is each module's
    judged = Judged("tiny", shaken(), "patches", {}, None)
    return Job(judged, patches(6), CONFIG.lambdas, CONFIG.widths, ATTACKS["pgd-7"], num_steps=2)


@pytest.fixture(scope="session")
def documents(job: Job) -> dict[str, Document]:
    """What the suites that need the network alone write, read again."""
    found = {
        suite.name: run_suite(suite, job, split="validation", command="oat-evaluate tiny")
        for suite in SUITES.values()
        if not suite.needs_more
    }
    return {name: Document.model_validate_json(json.dumps(d.model_dump())) for name, d in found.items()}


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch, patches: Callable[..., ImageSet]) -> None:
    """Whatever is judged is judged on four images."""
    monkeypatch.setattr(Judged, "images", lambda *_, **__: patches(4))
