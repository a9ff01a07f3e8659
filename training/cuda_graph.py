"""Record each kind of training step once as a CUDA graph and replay it, to save launch costs of small networks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from training.config import TrainConfig
from training.distributed import World
from training.losses import Terms
from training.network import LambdaBatch, OATNet, untracked

_NUM_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    terms: Terms
    noise: Tensor
    figures: Tensor
    gradients: list[Tensor | None]
    """One for each parameter, where a replay writes it."""


class Recorder:
    """Record and replay `training.trainer.gradients`: same arguments, same results; gradients are overwritten.

    A recording fits one choice of widths and one set of shapes. Others are recorded separately.
    """

    def __init__(self, gradients: Callable[..., Tensor]) -> None:
        """Set up. `gradients` is recorded at the first call with its arguments."""
        self.gradients = gradients
        self.recordings: dict[Hashable, _Recording] = {}

    def __call__(
        self,
        model: OATNet,
        terms: Terms,
        noise: Tensor,
        *,
        widths: Sequence[float],
        num: int,
        config: TrainConfig,
        world: World,
    ) -> Tensor:
        """Replay the step on new images. The parameters' gradients are the recording's own tensors."""

        def compute(terms: Terms, noise: Tensor) -> Tensor:
            return self.gradients(model, terms, noise, widths=widths, num=num, config=config, world=world)

        key = (tuple(widths), tuple(noise.shape), terms.lam_M.num_clean, *(t.shape for t in _tensors(terms)))
        if key not in self.recordings:
            self.recordings[key] = self._record(model, terms, noise, compute)
        recording = self.recordings[key]
        for recorded, new in zip(_tensors(recording.terms), _tensors(terms), strict=True):
            recorded.copy_(new)
        recording.noise.copy_(noise)
        recording.graph.replay()
        for parameter, gradient in zip(model.parameters(), recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.figures.clone()

    def _record(
        self, model: OATNet, terms: Terms, noise: Tensor, compute: Callable[[Terms, Tensor], Tensor]
    ) -> _Recording:
        terms, noise = _copied(terms), noise.clone()
        parameters = list(model.parameters())
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), untracked(model):
            for _ in range(_NUM_WARM_UP):
                compute(terms, noise)
        torch.cuda.current_stream().wait_stream(stream)
        for parameter in parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            figures = compute(terms, noise)
        return _Recording(graph, terms, noise, figures, [parameter.grad for parameter in parameters])


def _tensors(terms: Terms) -> list[Tensor]:
    """Return all tensors of the terms, always in the same order; λ of the adversarial terms is a view of all λ."""
    plain = [getattr(terms, field.name) for field in fields(terms) if not field.name.startswith("lam_")]
    return [*plain, terms.lam_M.weights_NK]


def _copied(terms: Terms) -> Terms:
    """Return a copy of the terms in new memory."""
    weights_MK = terms.lam_M.weights_NK.clone()
    plain = {f.name: getattr(terms, f.name).clone() for f in fields(terms) if not f.name.startswith("lam_")}
    return replace(
        terms,
        **plain,
        lam_M=LambdaBatch(weights_MK, terms.lam_M.num_clean),
        lam_B=LambdaBatch(weights_MK[len(terms.clean_A) :], terms.lam_B.num_clean),
    )
