"""Marks tests/ros, leaves out what this environment cannot run, and makes networks and bundles without torch."""

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from oat_runtime.architecture import InputSpec, ModelConfig
from oat_runtime.bundle import Provenance, Temperature, outcome_key
from oat_runtime.bundle.writer import save_bundle
from oat_runtime.data.folders import decode_cache
from oat_runtime.operating_point import AttackSpec, Measurement, OperatingPoint, OperatingRow, OperatingTable, Regime
from oat_runtime.plain_net import Affine, Convolution, PlainNet, fold
from oat_runtime.quantization import Quantization, Range, as_range
from oat_runtime.untrained import untrained_tensors

ROS_TESTS, TRAINING_TESTS = Path(__file__).parent / "ros", Path(__file__).parent / "training"
HAS_ROS = all(find_spec(name) for name in ("rclpy", "oat_msgs", "oat_perception"))
HAS_TORCH = find_spec("torch") is not None

Floats = npt.NDArray[np.float32]

# A busy machine is slow, and the first example pays for imports.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")

collect_ignore = [
    *([] if HAS_ROS else [str(ROS_TESTS)]),
    *([] if HAS_TORCH else [str(TRAINING_TESTS)]),
]


def pytest_report_header() -> list[str]:
    return [
        "ROS 2: found" if HAS_ROS else "ROS 2: not in this environment, tests/ros left out (`. tools/ros_env.sh`)",
        "torch: found" if HAS_TORCH else "torch: not in this environment, tests/training and what needs it left out",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROS_TESTS):
            item.add_marker(pytest.mark.ros)
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_cuda() -> bool:
    if not HAS_TORCH:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def _interrupts_count() -> None:
    """Let SIGINT interrupt, which a shell ignores for commands in the background: tests send it to themselves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _picture_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pictures that tests make are not decoded into the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_cache, "user_cache", lambda: tmp_path_factory.getbasetemp() / "cache")
        yield


@pytest.fixture(scope="session")
def engine() -> str:
    """The engine of tests that need just any: torch, or what a robot has."""
    return "torch" if HAS_TORCH else "onnxruntime"


@pytest.fixture(scope="session")
def illegible() -> Callable[[Any], list[str]]:
    """What is written over something else in a figure, beyond its edge, or as the escape of a space."""
    return overprinted


def overprinted(figure: Any) -> list[str]:
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
    edge, found = figure.bbox, []
    for number, (text, box) in enumerate(boxes):
        if box.x0 < edge.x0 - 1 or box.x1 > edge.x1 + 1 or box.y0 < edge.y0 - 1 or box.y1 > edge.y1 + 1:
            found.append(f"{text!r} leaves the figure")
        if r"\xa0" in text:
            found.append(f"{text!r} shows an escape in place of a space")
        for other, beside in boxes[number + 1 :]:
            wide = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            high = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            if wide > 1 and high > 1:
                found.append(f"{text!r} is written over {other!r}")
    return found


def _texts(figure: Any) -> list[Any]:
    """Every text that is shown; ticks beyond an axis's ends are not."""
    texts = list(figure.texts)  # the figure's own labels and captions among them
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title, axes._right_title]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            texts += [axis.label, *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.fixture(scope="session")
def shaken_tensors() -> Callable[..., dict[str, Any]]:
    """A maker of weights in which batch norms, their statistics and FiLM are all away from their fresh values."""
    return make_shaken_tensors


def make_shaken_tensors(config: ModelConfig, *, seed: int = 0) -> dict[str, Any]:
    rng, tensors = np.random.default_rng(seed), untrained_tensors(config, seed=seed)
    for name, tensor in tensors.items():
        if name.endswith("running_var"):
            tensors[name] = rng.uniform(0.5, 1.5, tensor.shape).astype(np.float32)
        elif ("norms" in name and tensor.dtype == np.float32) or "film" in name:
            spread = 0.3 if "norms" in name else 0.1
            tensors[name] = (tensor + spread * rng.standard_normal(tensor.shape)).astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def plain_logits() -> Callable[..., Floats]:
    """A plain network's logits, by definition and without an engine."""
    return logits_of


@pytest.fixture(scope="session")
def quantization_of() -> Callable[..., Quantization]:
    """A maker of what int8 needs: the ranges of every activation over some images."""
    return ranges_over


def ranges_over(tensors: dict[str, Any], config: ModelConfig, x_NCHW: Floats) -> Quantization:
    found: dict[OperatingPoint, dict[str, Range]] = {}
    for point in (OperatingPoint(lam, width) for lam in config.lambdas for width in config.widths):
        seen = found[point] = {}

        def watch(site: str, x: Floats, seen: dict[str, Range] = seen) -> Floats:
            seen[site] = as_range(float(x.min()), float(x.max()))
            return x

        logits_of(fold(tensors, config, lam=point.lam, width=point.width), x_NCHW, watch)
    return Quantization.of(config, found, measured="random images")


def _as_it_is(site: str, x: Floats) -> Floats:
    return x


def logits_of(net: PlainNet, x_NCHW: Floats, at_site: Callable[[str, Floats], Floats] = _as_it_is) -> Floats:
    def affine(x: Floats, by: Affine | None) -> Floats:
        return x if by is None else x * by.scale_C[:, None, None] + by.bias_C[:, None, None]

    def conv(x: Floats, by: Convolution) -> Floats:
        size = by.weight_OIHW.shape[2]
        padded = np.pad(x, ((0, 0), (0, 0), *[(by.padding, by.padding)] * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
        windows = windows[:, :, :: by.stride, :: by.stride]
        out = np.tensordot(windows, by.weight_OIHW, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
        return affine(out if by.bias_O is None else out + by.bias_O[:, None, None], by.affine)

    def relu(x: Floats) -> Floats:
        return np.maximum(x, 0.0)

    x = conv(affine(x_NCHW, net.normalize), net.stem)
    x = relu(x) if net.final is None else x
    if net.pool:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        x = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))
    x = at_site("stem", x)
    for index, block in enumerate(net.blocks):
        name = f"blocks.{index}"
        active = x if block.pre is None else at_site(f"{name}.pre", relu(affine(x, block.pre)))
        skip = x if block.shortcut is None else at_site(f"{name}.shortcut", conv(active, block.shortcut))
        hidden = at_site(f"{name}.conv1", relu(conv(active, block.conv1)))
        x = at_site(f"{name}.conv2", conv(hidden, block.conv2)) + skip
        x = x if block.pre is not None else relu(x)
        x = at_site(name, x) if index + 1 < len(net.blocks) else x
    x = x if net.final is None else relu(affine(x, net.final))
    return (x.mean(axis=(2, 3)) @ net.weight_KC.T + net.bias_K).astype(np.float32)


@contextlib.contextmanager
def room(num_bytes: int) -> Iterator[None]:
    """A disk on which no file may be larger: writing ends in half a line and an error, as on a full one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def make_probe() -> Callable[..., dict[str, Floats]]:
    """A maker of probes: images, and the logits that a bundle's engines must give for them."""
    return probe_of


def probe_of(tensors: dict[str, Any], config: ModelConfig, spec: InputSpec) -> dict[str, Floats]:
    x_NCHW = np.random.default_rng(0).random((2, 3, spec.height, spec.width), dtype=np.float32)
    probe = {"x_NCHW": x_NCHW}
    for lam in config.lambdas:
        for width in config.widths:
            net = fold(tensors, config, lam=lam, width=width)
            probe[outcome_key("logits", OperatingPoint(lam, width))] = logits_of(net, x_NCHW)
    return probe


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle around a tiny network with random weights; its tables are made up, but have a real frontier."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def foggy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fog costs λ=1 more than the attack costs λ=0.4: the safest λ is 0.4, and neither the first nor the last."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "foggy", fog_cost=0.65)


def make_tiny_bundle(path: Path, spec: InputSpec = InputSpec(), *, fog_cost: float = 0.25) -> Path:  # noqa: B008
    config = ModelConfig(depth=10, widen_factor=1)
    tensors = make_shaken_tensors(config)
    attack = AttackSpec(name="pgd-20", epsilon=8 / 255, step_size=2 / 255, num_steps=20)
    num_total = 1000

    def row(lam: float, width: float) -> OperatingRow:
        loss = 0.06 * (1.0 - width)
        shares = {
            "clean": (Regime.CLEAN, 0.85 - 0.10 * lam - loss),
            "gaussian_noise-3": (Regime.HIGH_FREQUENCY, 0.50 + 0.25 * lam - loss),
            "fog-3": (Regime.LOW_FREQUENCY, 0.75 - fog_cost * lam - loss),
            "pgd-20": (Regime.ADVERSARIAL, 0.05 + 0.35 * lam - loss / 2),
        }
        return OperatingRow(
            lam=lam,
            width=width,
            measurements=tuple(
                Measurement(condition=c, regime=r, num_correct=round(share * num_total), num_total=num_total)
                for c, (r, share) in shares.items()
            ),
        )

    rows = tuple(row(lam, width) for lam in config.lambdas for width in config.widths)
    outcomes = {
        outcome_key(m.condition, r.point): np.arange(num_total) < m.num_correct for r in rows for m in r.measurements
    }
    save_bundle(
        path,
        tensors,
        config,
        probe=probe_of(tensors, config, spec),
        name=path.name,
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        input_spec=spec,
        provenance=Provenance(
            dataset="none", dataset_sha256="", recipe={}, seed=0, commit="none", hardware="none", train_minutes=0.0
        ),
        temperatures=tuple(Temperature(lam=r.lam, width=r.width, temperature=1.0 + r.lam) for r in rows),
        select=OperatingTable(name="select", dataset="none", split="validation", attack=attack, rows=rows),
        report=OperatingTable(name="report", dataset="none", split="test", attack=attack, rows=rows),
        outcomes=outcomes,
    )
    return path
