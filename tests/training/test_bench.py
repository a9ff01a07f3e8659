"""The yardstick of the benchmark is the network it stands for, and the comparison judges in the right direction."""

import json
import sys

import numpy as np
import pytest
import torch

from oat_runtime.architecture import ModelConfig
from training.bench import __main__ as bench
from training.bench.ordinary_net import OrdinaryNorm, ordinary_net, single
from training.compare import RecipeHits, compare, dual_check, lower_bound
from training.config import TrainConfig
from training.network import LambdaBatch


@pytest.mark.parametrize("family", ["wide_resnet", "resnet"])
def test_the_plain_network_computes_what_an_oat_network_of_one_lambda_computes(family: str) -> None:
    config = ModelConfig(family=family, depth=10, widen_factor=1)
    networks = []
    for make in (ordinary_net, single):
        torch.manual_seed(0)
        networks.append(make(config).train())
    plain, like = networks
    x_NCHW, lam = torch.rand(4, 3, 16, 16), LambdaBatch.constant(0.0, 4, (0.0,))
    expected = like(x_NCHW, lam, width=1.0)
    torch.testing.assert_close(plain(x_NCHW, lam, width=1.0), expected, atol=1e-4, rtol=1e-4)
    assert not plain.norms()
    norms = [module for module in plain.modules() if isinstance(module, OrdinaryNorm)]
    num_norm_parameters = sum(p.numel() for norm in norms for p in norm.parameters())
    assert num_norm_parameters == sum(p.numel() for site in like.norms() for p in site.parameters())


@pytest.mark.slow
def test_the_benchmark_ends_in_one_line_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--side", "8", "--seconds", "0.01", "--device", "cpu"]
    changes = ["precision=float32", "compile_norms=false", "batch_size=6"]
    monkeypatch.setattr(bench, "_BURST", 1)
    monkeypatch.setattr(bench, "measure_norms", lambda device, dtype, seconds: [])
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, *(part for c in changes for part in ("--set", c))])
    assert bench.main() in (0, 1)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    costs = {row["recipe"]: row["clean_steps"] for row in result["rows"]}
    assert min(costs[name] for name in bench.PLAIN) == pytest.approx(1.0)
    assert [check["value"] for check in result["checks"]] == [costs["compare-paper"], costs["compare-fast"]]
    assert [check["ok"] for check in result["checks"]] == [c["value"] <= c["limit"] for c in result["checks"]]


def hits(sa: float, ra: float, *, seed: int = 0) -> RecipeHits:
    """Two seeds, two λ, one width, 4,000 images, of which a share is right."""
    rng = np.random.default_rng(seed)
    shape = (2, 2, 1, 4000)
    shares = [(rng.random(shape) < share).astype(np.float64) for share in (sa, ra)]
    model = ModelConfig(widths=(1.0,), lambdas=(0.0, 1.0))
    return RecipeHits(TrainConfig(model=model, num_random_widths=None), *shares)


def test_a_bound_lies_below_the_mean_and_covers_in_nineteen_of_twenty_samples() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.choice([-1.0, 0.0, 1.0], 400, p=[0.2, 0.5, 0.3]) for _ in range(2000)]
    covered = [lower_bound(sample)[1] <= 0.1 for sample in samples]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("sa", "ra", "expected"), [(0.7, 0.3, [True, True]), (0.6, 0.3, [False, True]),
                                                    (0.7, 0.2, [True, False]), (0.8, 0.4, [True, True])])  # fmt: skip
def test_only_what_is_worse_than_the_reference_fails(sa: float, ra: float, expected: list[bool]) -> None:
    checks = compare("fast", hits(sa, ra, seed=0), hits(0.7, 0.3, seed=0))
    assert [check.ok for check in checks] == expected


def test_dual_norms_must_win_at_lambda_zero() -> None:
    assert dual_check("one", hits(0.6, 0.3), hits(0.7, 0.3)).ok
    assert not dual_check("one", hits(0.7, 0.3), hits(0.6, 0.3)).ok
