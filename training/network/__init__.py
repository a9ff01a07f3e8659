"""The network for training: slimmable layers, dual switchable batch norm, FiLM, λ codes; and its deployed form.

Method: Wang et al., "Once-for-All Adversarial Training", NeurIPS 2020 ("the paper").
"""

from training.network.deployed import folded, network_of, probe_of, tensors_of
from training.network.layers import LambdaBatch, SlimmableConv2d, SlimmableLinear
from training.network.oat_net import OATNet, frozen, untracked
from training.network.rounded import RoundedNet, Rounding

__all__ = [
    "LambdaBatch",
    "OATNet",
    "RoundedNet",
    "Rounding",
    "SlimmableConv2d",
    "SlimmableLinear",
    "folded",
    "frozen",
    "network_of",
    "probe_of",
    "tensors_of",
    "untracked",
]
