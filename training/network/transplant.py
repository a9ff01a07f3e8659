"""Start a network from the weights of another, for other classes, widths and λ, and say what was taken.

Networks must have one name (`wrn-16-2`), so that each layer means the same in both. A bundle holds γ and β at its λ,
and not the MLPs that made them. The MLPs of the new network are fitted to them, at the λ of the new network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oat_runtime.architecture import ADVERSARIAL, CLEAN, ModelConfig, knot_weights
from oat_runtime.errors import ConfigError
from training.network.layers import SlimmableConv2d
from training.network.norm import FiLMTable
from training.network.oat_net import OATNet
from training.split import TrainedOn


@dataclass(frozen=True)
class Source:
    """Weights to start from.

    Attributes:
        name: what they are, with a hash, for people and for the record of the run.
        network: with γ and β at its λ as plain numbers, on the CPU.
        trained_on: the images and classes behind it; None where nothing says so.
    """

    name: str
    network: OATNet
    trained_on: TrainedOn | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of its classifier; empty where they are not known."""
        return () if self.trained_on is None else self.trained_on.class_names


@torch.no_grad()
def begin_from(model: OATNet, source: Source, class_names: Sequence[str]) -> Iterator[str]:
    """Put the weights of a source into a fresh network; the lines that come out say what was taken and what was not.

    Args:
        model: the network; it has changed when the last line has come.
        source: where the weights come from.
        class_names: of the new run. The classifier is taken only for exactly these classes.

    Raises:
        ConfigError: the source is a network of another name.
    """
    check_name(model.config, source)
    ours, theirs = model.config, source.network.config
    yield f"starts from {source.name}, a {theirs.name}:"
    yield f"  convolutions: {_take_convolutions(model, source.network)}"
    yield f"  batch norms: {_take_norms(model, source.network)}"
    yield f"  FiLM: {_take_film(model, source.network)}"
    if class_names and tuple(class_names) == source.class_names:
        _take_classifiers(model, source.network)
        yield f"  classifier: taken, its {len(class_names)} classes are the same"
    else:
        yield f"  classifier: starts anew, for {ours.num_classes} classes"


def check_name(config: ModelConfig, source: Source) -> None:
    """Check that a network can begin from a source, before any image is read for it.

    Raises:
        ConfigError: the source is a network of another name.
    """
    theirs = source.network.config
    if config.name != theirs.name:
        fields = ["family", "depth", *(["widen_factor"] if theirs.family == "wide_resnet" else [])]
        way = " ".join(f"--set model.{field}={getattr(theirs, field)}" for field in fields)
        raise ConfigError(f"{source.name} is a {theirs.name}, and this run trains a {config.name}: add {way}")


def _convolutions(model: OATNet) -> list[tuple[str, SlimmableConv2d]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, SlimmableConv2d)]


def _take_convolutions(model: OATNet, source: OATNet) -> str:
    pairs = list(zip(_convolutions(model), _convolutions(source), strict=True))
    left = []
    for (name, own), (_, other) in pairs:
        if own.weight.shape == other.weight.shape:
            own.weight.copy_(other.weight)
        else:
            left.append(name)
    if "stem" not in left:
        # The same steps of brightness then give the same output; a shift of the mean is left to the batch norms.
        model.stem.weight.mul_(model.std / source.std.to(model.std.device))
    rest = f"; start anew, because their size differs: {', '.join(left)}" if left else ""
    return f"{len(pairs) - len(left)} of {len(pairs)} taken{rest}"


def _sources_of_widths(model: OATNet, source: OATNet) -> list[int]:
    """Return the place of the source's width for each of ours: a new one takes the next wider, which has its channels.

    A width that is wider than all of the source takes the widest.
    """
    theirs = source.config.widths
    return [
        next((k for k, width in enumerate(theirs) if width >= wanted), len(theirs) - 1)
        for wanted in model.config.widths
    ]


def _take_norms(model: OATNet, source: OATNet) -> str:
    ours, theirs = model.config.widths, source.config.widths
    taken_from = _sources_of_widths(model, source)
    single = CLEAN if model.config.lambdas == (0.0,) else ADVERSARIAL
    for site, other in zip(model.norms(), source.norms(), strict=True):
        for index, their_index in enumerate(taken_from):
            num_branches = model.config.num_branches
            for branch in range(num_branches):
                own = site.norm(branch, index)
                norm = other.norm(branch if num_branches > 1 else single, their_index)
                num = min(own.num_features, norm.num_features)
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(own, name)[:num].copy_(getattr(norm, name)[:num])
    new = [
        f"width {wanted:g} from the channels of width {theirs[k]:g}"
        for wanted, k in zip(ours, taken_from, strict=True)
        if wanted != theirs[k]
    ]
    return "taken" + (f"; {', '.join(new)}" if new else "")


def _take_classifiers(model: OATNet, source: OATNet) -> None:
    """Where ours is shared by all widths and theirs is not, the last to come is that of the widest."""
    theirs = source.classifiers()
    for own, k in zip(model.classifiers(), _sources_of_widths(model, source), strict=True):
        num = min(own.in_features, theirs[k].in_features)
        own.weight[:, :num].copy_(theirs[k].weight[:, :num])
        own.bias.copy_(theirs[k].bias)


def _take_film(model: OATNet, source: OATNet) -> str:
    ours, theirs = model.config.lambdas, source.config.lambdas
    rows = [knot_weights(min(max(lam, theirs[0]), theirs[-1]), theirs) for lam in ours]
    weights_KL = torch.tensor(rows, dtype=torch.float64)
    worst = 0.0
    for site, other in zip(model.norms(), source.norms(), strict=True):
        gamma_LC, beta_LC = other.film(source.code_KD)
        gamma_KC, beta_KC = weights_KL @ gamma_LC.double(), weights_KL @ beta_LC.double()
        if isinstance(site.film, FiLMTable):
            site.film.gamma_KC.copy_(gamma_KC)
            site.film.beta_KC.copy_(beta_KC)
            continue
        _fit(site.film.gamma, model.code_KD, gamma_KC - 1.0)
        _fit(site.film.beta, model.code_KD, beta_KC)
        for found_KC, wanted_KC in zip(site.film(model.code_KD), (gamma_KC, beta_KC), strict=True):
            worst = max(worst, float((found_KC.cpu().double() - wanted_KC).abs().max()))
    between = [f"{lam:g}" for lam in ours if lam not in theirs]
    said = "taken as it is" if len(ours) == 1 else f"fitted, γ and β are off by {worst:.1g} at most"
    if len(theirs) == 1:
        return f"{said}; the same at every λ, because the source knows one"
    return said + (f"; λ {', '.join(between)} interpolated between {theirs}" if between else "")


def _fit(mlp: nn.Sequential, code_KD: Tensor, wanted_KC: Tensor) -> None:
    """Change the last layer by as little as makes the MLP give `wanted_KC` at the codes, or come closest to it."""
    *first, last = mlp
    assert isinstance(last, nn.Linear)
    hidden_KC = nn.Sequential(*first)(code_KD).cpu().double()
    hidden_K1 = torch.cat([hidden_KC, torch.ones(len(hidden_KC), 1, dtype=torch.float64)], dim=1)
    missing_KC = wanted_KC - last(hidden_KC.to(code_KD)).cpu().double()
    change = torch.linalg.lstsq(hidden_K1, missing_KC, driver="gelsd").solution.to(last.weight)
    last.weight.add_(change[:-1].T)
    last.bias.add_(change[-1])
