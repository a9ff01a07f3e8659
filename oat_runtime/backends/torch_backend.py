"""Run networks with torch: the reference engine on the CPU; on CUDA, with a CUDA graph for each batch size."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from oat_runtime.backends.plan import Compiled, Floats, MakeNet, Plan, Settings, powers_of_two
from oat_runtime.backends.torch_net import TorchNet
from oat_runtime.backends.trials import bfloat16_works, multiplies_bfloat16
from oat_runtime.errors import BackendError

_LOG = logging.getLogger(__name__)
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PID = os.getpid()
_LARGEST_GRAPH = 256
"""More images replay the graph of this batch size."""


def compile_network(make_net: MakeNet, settings: Settings, *, shared: bool = False) -> Compiled:
    """Prepare a network for torch; see `oat_runtime.backends.plan.CompileFn`.

    Below float32, pixel normalization and the classifier stay in float32.

    Raises:
        BackendError: the precision does not work on this device, there is no such device, or this process is a fork of
            one that used torch.
    """
    if os.getpid() != _PID:
        raise BackendError(
            "torch's threads are not there in a fork of the process that used it, and a call would wait for them: use "
            "backend='onnxruntime' there, or start processes with the method 'spawn' or 'forkserver'"
        )
    if settings.precision == "int8":
        raise BackendError("the torch engine does not run in int8: use backend='openvino' or 'onnxruntime'")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BackendError("torch sees no CUDA device: use device='cpu', or install a build of torch with CUDA")
    if settings.device == "cpu" and settings.precision == "float16":
        raise BackendError("the torch engine runs in float32 or bfloat16 on the cpu, got 'float16'")
    if settings.device == "cpu" and settings.precision == "bfloat16" and not bfloat16_works("torch-inference"):
        raise BackendError("bfloat16 crashes torch on this CPU: use precision='float32'")
    if settings.device == "cpu" and settings.precision == "bfloat16" and not multiplies_bfloat16():
        _warn_of_slow_bfloat16()
    net = TorchNet(make_net()).to(settings.device)
    if settings.precision != "float32":
        _lower(net, _TYPES[settings.precision])
    return _CUDANetwork(net, settings) if settings.device == "cuda" else _Network(net, settings)


@functools.cache
def _warn_of_slow_bfloat16() -> None:
    """Say it once a process: OpenVINO refuses bfloat16 on such a CPU, and torch takes it without a word."""
    _LOG.warning(
        "this CPU has no instructions for bfloat16, so torch takes several times as long in it as in float32: use "
        "precision='float32', or 'auto'"
    )


def _lower(net: TorchNet, dtype: torch.dtype) -> None:
    """Run all between normalization and classifier in `dtype`: bf16 near 1 is as coarse as an eighth of ε = 8/255."""
    for name, child in net.named_children():
        if name not in ("normalize", "classifier"):
            child.to(dtype)
    net.normalize.register_forward_hook(lambda module, inputs, out: out.to(dtype))
    net.classifier.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))


class _Network:
    """A network on the CPU that all its plans share. A plan writes its constants if another plan ran last."""

    def __init__(self, net: TorchNet, settings: Settings) -> None:
        self.net, self._settings = net, settings
        self._sites = net.constants()
        # Of a plan only this is held: a plan holds its network, and a circle of the two would stay in memory.
        self._held_V: Tensor | None = None

    def enter(self, constants_V: Tensor | None) -> None:
        """Set the constants of the next calls: some kilobytes, written only after a switch."""
        if constants_V is None or self._held_V is constants_V:
            return
        parts = torch.split(constants_V, [site.numel() for site in self._sites])
        for site, values in zip(self._sites, parts, strict=True):
            site.copy_(values.view_as(site))
        self._held_V = constants_V

    def plan(self, constants_V: Floats | None = None) -> Plan:
        return TorchPlan(self, constants_V, self._settings.num_threads)


class TorchPlan:
    """A network in inference mode, channels last."""

    def __init__(self, network: _Network, constants_V: Floats | None, num_threads: int) -> None:
        """Store the constants of one λ, if the network is shared."""
        self._network, self._num_threads = network, num_threads
        self._constants_V = None if constants_V is None else torch.from_numpy(constants_V)

    @torch.inference_mode()
    def __call__(self, x_NCHW: Floats) -> Floats:
        """Return the logits of a batch, and set torch's thread count, which belongs to the whole process."""
        if torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)
        self._network.enter(self._constants_V)
        x = torch.from_numpy(x_NCHW).to(memory_format=torch.channels_last)
        logits_NK: Floats = self._network.net(x).numpy()
        return logits_NK

    def warm(self, max_batch: int) -> None:
        """Do nothing: a module takes any number of images."""

    def bare(self, x_NCHW: Floats) -> Callable[[], object]:
        """Run only the module's forward on an input that is already channels last."""
        net, x = self._network.net, torch.from_numpy(x_NCHW).to(memory_format=torch.channels_last)
        self._network.enter(self._constants_V)
        torch.set_num_threads(self._num_threads)
        return torch.inference_mode()(lambda: net(x))


class _Capture:
    """One batch size on the device: input and output buffers, and the graph between them."""

    def __init__(self, net: TorchNet, batch: int, input_hw: tuple[int, int]) -> None:
        self.host = torch.zeros(batch, 3, *input_hw).pin_memory()
        self.x_NCHW = torch.zeros(batch, 3, *input_hw, device="cuda")
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what libraries set up in their first calls cannot be captured
            for _ in range(3):
                net(self.x_NCHW.to(memory_format=torch.channels_last))
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits_NK = net(self.x_NCHW.to(memory_format=torch.channels_last))


class _CUDANetwork(_Network):
    """On the GPU, with a graph for every batch size that is a power of two, captured when first met."""

    def __init__(self, net: TorchNet, settings: Settings) -> None:
        super().__init__(net, settings)
        self._captures: dict[int, _Capture] = {}

    def capture(self, batch: int) -> _Capture:
        """Return the graph for `batch` images."""
        if batch not in self._captures:
            self._captures[batch] = _Capture(self.net, batch, self._settings.input_hw)
        return self._captures[batch]

    def plan(self, constants_V: Floats | None = None) -> Plan:
        return CUDAGraphPlan(self, constants_V)


class CUDAGraphPlan:
    """Replays captured graphs: one launch a call, whatever the number of layers."""

    def __init__(self, network: _CUDANetwork, constants_V: Floats | None) -> None:
        """Put the constants of one λ on the device, if the network is shared."""
        self._network = network
        self._constants_V = None if constants_V is None else torch.from_numpy(constants_V).cuda()

    @torch.inference_mode()
    def __call__(self, x_NCHW: Floats) -> Floats:
        """Logits of a batch."""
        self._network.enter(self._constants_V)
        start, logits = 0, []
        for size in powers_of_two(len(x_NCHW), largest=_LARGEST_GRAPH):
            capture = self._network.capture(size)
            capture.host.copy_(torch.from_numpy(x_NCHW[start : start + size]))
            capture.x_NCHW.copy_(capture.host, non_blocking=True)
            capture.graph.replay()
            logits.append(capture.logits_NK.cpu().numpy())
            start += size
        result: Floats = logits[0] if len(logits) == 1 else np.concatenate(logits)
        return result

    @torch.inference_mode()
    def warm(self, max_batch: int) -> None:
        """Capture the graph of each batch size."""
        for bit in range(min(max_batch, _LARGEST_GRAPH).bit_length()):
            self._network.capture(1 << bit)

    @torch.inference_mode()
    def bare(self, x_NCHW: Floats) -> Callable[[], object]:
        """For each piece, copy the input to the device, replay, and copy the logits back."""
        self._network.enter(self._constants_V)
        host, pieces, start = torch.from_numpy(x_NCHW).pin_memory(), [], 0
        for size in powers_of_two(len(x_NCHW), largest=_LARGEST_GRAPH):
            pieces.append((self._network.capture(size), host[start : start + size]))
            start += size

        def call() -> None:
            for capture, images in pieces:
                capture.x_NCHW.copy_(images, non_blocking=True)
                capture.graph.replay()
                capture.logits_NK.cpu()

        return torch.inference_mode()(call)
