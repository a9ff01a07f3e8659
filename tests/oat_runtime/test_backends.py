"""Laws of the engines: each computes the network of its settings in either form, or says why it cannot."""

import errno
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from oat_runtime import backends
from oat_runtime.architecture import ModelConfig
from oat_runtime.backends import BackendName, Plan, Precision, Settings, choice, get_backend
from oat_runtime.backends.plan import powers_of_two
from oat_runtime.bundle import Probe
from oat_runtime.data.roots import BESIDE_PROJECT, data_roots
from oat_runtime.errors import BackendError
from oat_runtime.plain_net import Affine, Convolution, PlainNet, constants, fold, share
from oat_runtime.untrained import static_net
from tests.oat_runtime.engines import HW, images, need

MakeTensors = Callable[..., dict[str, Any]]
Logits = Callable[[PlainNet, npt.NDArray[np.float32]], npt.NDArray[np.float32]]
CPU_ENGINES = ("torch", "openvino", "onnxruntime")
CONFIGS = {
    "wide_resnet": ModelConfig(depth=10, widen_factor=1),
    "resnet": ModelConfig(family="resnet", depth=10, stem="7x7-stride2-pool", widths=(0.25, 0.5)),
}


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("family", CONFIGS)
def test_every_engine_computes_both_forms(
    make_tensors: MakeTensors, plain_logits: Logits, engine: BackendName, family: str
) -> None:
    need(engine)
    config, tensors = CONFIGS[family], make_tensors(CONFIGS[family])
    lam, width, settings = 0.25, config.widths[0], Settings(HW)
    plain = fold(tensors, config, lam=lam, width=width)
    folded = get_backend(engine)(lambda: plain, settings).plan()
    shared = get_backend(engine)(lambda: share(tensors, config, width=width), settings, shared=True)
    plans = [shared.plan(constants(tensors, config, lam=value, width=width)) for value in (lam, 1.0)]
    for num in (1, 3):  # 3 runs in pieces of 2 and 1 where shapes are fixed
        x_NCHW = images(num)
        expected = plain_logits(plain, x_NCHW)
        atol = 2e-5 * float(np.abs(expected).max())
        np.testing.assert_allclose(folded(x_NCHW), expected, atol=atol)
        first = plans[0](x_NCHW)
        kept = first.copy()
        assert np.abs(plans[1](x_NCHW) - expected).max() > 10 * atol  # another λ in the same network
        np.testing.assert_array_equal(first, kept)  # the engine's buffers are its own
        np.testing.assert_allclose(plans[0](x_NCHW), expected, atol=atol)
        plans[0].bare(x_NCHW)()


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("shared", [False, True])
def test_a_warm_plan_compiles_nothing_more_up_to_its_batch(
    make_tensors: MakeTensors, engine: BackendName, shared: bool
) -> None:
    """An engine asks for the network again for each shape that it compiles."""
    need(engine)
    config, num_made = CONFIGS["wide_resnet"], 0
    tensors = make_tensors(config)

    def make_net() -> PlainNet:
        nonlocal num_made
        num_made += 1
        return share(tensors, config, width=0.5) if shared else fold(tensors, config, lam=0.5, width=0.5)

    network = get_backend(engine)(make_net, Settings(HW), shared=shared)
    plan = network.plan(constants(tensors, config, lam=0.5, width=0.5) if shared else None)
    for most in (3, 20):
        plan.warm(most)
        num_before = num_made
        for num in range(1, most + 1):
            plan(images(num))
        assert num_made == num_before


@pytest.mark.parametrize("family", CONFIGS)
def test_onnxruntimes_optimized_shared_network_computes_what_the_plain_graph_does(
    make_tensors: MakeTensors, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("onnxruntime")
    from oat_runtime.backends import onnxruntime_backend as backend

    config, tensors = CONFIGS[family], make_tensors(CONFIGS[family])
    width = config.widths[0]
    constants_V = constants(tensors, config, lam=0.25, width=width)

    def plan() -> Plan:
        compiled = backend.compile_network(lambda: share(tensors, config, width=width), Settings(HW), shared=True)
        return compiled.plan(constants_V)

    optimized = plan()
    assert isinstance(optimized, backend.SlottedPlan)
    monkeypatch.setattr(backend, "_optimized", lambda *_: None)
    plain = plan()
    assert isinstance(plain, backend.ONNXRuntimePlan)
    np.testing.assert_allclose(optimized(images(3)), plain(images(3)), atol=1e-5)


@pytest.mark.parametrize("failure", ["refused", "damaged"])
def test_onnxruntime_takes_the_plain_graph_where_the_optimized_one_cannot_be_written(
    make_tensors: MakeTensors, failure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the network did not load."""
    need("onnxruntime")
    from oat_runtime.backends import onnxruntime_backend as backend

    config, tensors = CONFIGS["wide_resnet"], make_tensors(CONFIGS["wide_resnet"])
    real = backend._session

    def session(graph: bytes, settings: Settings, chosen: Any, options: Any = None, without: Any = ()) -> Any:
        if options is not None and without:
            if failure == "refused":
                raise BackendError("ONNX Runtime refused the network (no space left)")
            Path(options.optimized_model_filepath).write_bytes(b"\xff" * 40)
            return None
        return real(graph, settings, chosen, options)

    monkeypatch.setattr(backend, "_session", session)
    with caplog.at_level(logging.INFO):
        compiled = backend.compile_network(lambda: share(tensors, config, width=0.5), Settings(HW), shared=True)
    plan = compiled.plan(constants(tensors, config, lam=0.25, width=0.5))
    assert isinstance(plan, backend.ONNXRuntimePlan)
    assert plan(images(2)).shape == (2, config.num_classes)
    assert "could not be optimized" in caplog.text and all(at.levelno == logging.INFO for at in caplog.records)


def test_the_optimized_network_needs_no_folder_to_write_into(
    make_tensors: MakeTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: on a full disk, or where everything is read-only, plans of one network were up to 9 % slower."""
    need("onnxruntime")
    from oat_runtime.backends import onnxruntime_backend as backend

    def no_folder() -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", no_folder)
    config, tensors = CONFIGS["wide_resnet"], make_tensors(CONFIGS["wide_resnet"])
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    compiled = backend.compile_network(lambda: share(tensors, config, width=0.5), Settings(HW), shared=True)
    assert isinstance(compiled.plan(constants(tensors, config, lam=0.25, width=0.5)), backend.SlottedPlan)
    assert len(list(Path("/proc/self/fd").iterdir())) == num_open


def test_openvinos_shared_network_in_bfloat16_rounds_no_constants() -> None:
    need("openvino")
    from oat_runtime.backends.openvino_backend import has_bfloat16
    from oat_runtime.backends.trials import bfloat16_works

    if not has_bfloat16() or not bfloat16_works("openvino"):
        pytest.skip("bfloat16 does not work on this CPU")
    unit, small = np.ones(3, np.float32), 2.0**-10
    identity, eye = Affine(unit, 0 * unit), np.eye(3, dtype=np.float32)
    net = PlainNet(identity, Convolution(eye[:, :, None, None], None, 1, 0, identity), False, (), None, eye, 0 * unit)
    shared = get_backend("openvino")(lambda: net, Settings(HW, "bfloat16"), shared=True)
    bias_C = small * unit - 1  # bfloat16 would make -1 of it
    plan = shared.plan(np.concatenate([unit, bias_C]))
    np.testing.assert_allclose(plan(np.ones((1, 3, *HW), np.float32)), small, rtol=0.01)


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_the_static_network_runs_on_every_engine(plain_logits: Logits, engine: BackendName) -> None:
    need(engine)
    static = static_net(CONFIGS["wide_resnet"], 1.0)
    got = get_backend(engine)(lambda: static, Settings(HW)).plan()(images(2))
    np.testing.assert_allclose(got, plain_logits(static, images(2)), atol=1e-4)


@pytest.mark.parametrize(
    ("engine", "settings", "says"),
    [
        ("torch", Settings(HW, "float16"), "float32 or bfloat16 on the cpu, got 'float16'"),
        ("onnxruntime", Settings(HW, "bfloat16"), "runs in float32 or int8 on cpu, got 'bfloat16'"),
        ("openvino", Settings(HW, "float16"), "got 'float16'"),
        ("openvino", Settings(HW, device="cuda"), "runs on the cpu, got device 'cuda'"),
        ("tensorrt", Settings(HW), "no provider for tensorrt on cpu"),
    ],
)
def test_settings_that_an_engine_does_not_have_are_refused(
    small: ModelConfig, engine: BackendName, settings: Settings, says: str
) -> None:
    need("onnxruntime" if engine == "tensorrt" else engine)
    net = static_net(small, 0.5)
    with pytest.raises(BackendError, match=says):
        get_backend(engine)(lambda: net, settings)


def test_openvino_refuses_a_bfloat16_that_would_be_float32(monkeypatch: pytest.MonkeyPatch, small: ModelConfig) -> None:
    """Regression: on a CPU without bfloat16 it computed in float32, and `precision` said bfloat16."""
    need("openvino")
    from oat_runtime.backends import openvino_backend

    net = static_net(small, 0.5)
    monkeypatch.setattr(openvino_backend, "bfloat16_works", lambda engine: True)
    compiled = openvino_backend.compile_unchecked(lambda: net, Settings(HW, "bfloat16"))
    plan, exact = compiled.plan(), get_backend("openvino")(lambda: net, Settings(HW)).plan()
    rounds = not np.allclose(plan(images(2)), exact(images(2)), rtol=0.0, atol=1e-6)
    assert openvino_backend.has_bfloat16() == rounds, "what OpenVINO says it can is what it does"
    monkeypatch.setattr(openvino_backend, "has_bfloat16", lambda: False)
    with pytest.raises(
        BackendError, match="no bfloat16 on this CPU and would compute in float32: use precision='auto'"
    ):
        get_backend("openvino")(lambda: net, Settings(HW, "bfloat16"))


def test_torch_in_bfloat16_rounds_between_normalization_and_classifier_only(
    make_tensors: MakeTensors, plain_logits: Logits, small: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("oat_runtime.backends.torch_backend.bfloat16_works", lambda engine: True)
    net = fold(make_tensors(small), small, lam=0.3, width=0.5)
    compiled = get_backend("torch")(lambda: net, Settings(HW, "bfloat16"))
    lowered = compiled.net  # type: ignore[attr-defined]
    assert {p.dtype for p in lowered.blocks.parameters()} == {torch.bfloat16}
    assert lowered.normalize.scale.dtype == lowered.classifier.weight.dtype == torch.float32
    expected = plain_logits(net, images(4))
    got = compiled.plan()(images(4))
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert got.dtype == np.float32
    assert 0 < error < 0.05


@pytest.mark.parametrize("largest", [1, 8])
def test_pieces_are_powers_of_two_and_add_up(largest: int) -> None:
    for num in range(1, 40):
        pieces = powers_of_two(num, largest=largest)
        assert sum(pieces) == num
        assert all(piece & (piece - 1) == 0 and piece <= largest for piece in pieces)


def test_openvino_reports_nothing_to_anyone() -> None:
    need("openvino")
    code = (
        "import sys\nfrom oat_runtime.backends import get_backend\n"
        "get_backend('openvino')\nprint(sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None"]


class Measured:
    """Stands in for the stopwatch of the automatic choice, and counts how often it is asked."""

    def __init__(self, times: dict[choice.Candidate, float]) -> None:
        self.times, self.num_calls = times, 0

    def __call__(
        self, make_net: object, probe: object, settings: object, candidates: object
    ) -> dict[choice.Candidate, float]:
        self.num_calls += 1
        return self.times


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    found = Measured({("torch", "float32"): 3.0, ("openvino", "float32"): 2.0})
    monkeypatch.setattr(choice, "measure", found)
    monkeypatch.setattr(choice, "available", lambda device: ("openvino", "torch"))
    monkeypatch.setattr(choice, "shows", lambda feature: False)
    monkeypatch.setattr(choice, "versions", lambda name: f"{name} 1.0")
    return found


def choose(cache: Path, *, sha: str = "a", threads: int = 1, precision: Precision | None = None) -> choice.Candidate:
    return choice.choose(
        lambda: static_net(CONFIGS["wide_resnet"], 1.0),
        Probe(images(1), np.zeros((1, 10), np.float32)),
        Settings(HW, num_threads=threads),
        backend=None,
        precision=precision,
        bundle_sha256=sha,
        cache=cache,
    )


def test_the_fastest_is_chosen_once_and_remembered(tmp_path: Path, measured: Measured) -> None:
    cache = tmp_path / "deep" / "cache.json"
    assert choose(cache) == choose(cache) == ("openvino", "float32")
    assert measured.num_calls == 1
    choose(cache, sha="b"), choose(cache, threads=2), choose(cache, precision="float32")
    assert measured.num_calls == 4
    assert list(cache.parent.iterdir()) == [cache]


def test_another_version_of_an_engine_is_measured_anew(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(tmp_path / "cache.json")
    monkeypatch.setattr(choice, "versions", lambda name: f"{name} 2.0")
    choose(tmp_path / "cache.json")
    assert measured.num_calls == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff", '{"key": 3}', None])
def test_a_damaged_memory_is_ignored(
    tmp_path: Path, measured: Measured, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache.json"
    if content is None:  # an engine that is not there, as if remembered
        choose(cache)
        cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_bytes()), "abacus float32")))
    else:
        cache.write_text(content, encoding="latin-1")
    with caplog.at_level(logging.WARNING):
        assert choose(cache) == ("openvino", "float32")
    assert measured.num_calls == (2 if content is None else 1)
    assert ("ignoring" in caplog.text) == (content in ("", "{", "[]", "\xff"))
    assert choose(cache) == ("openvino", "float32")


def test_a_remembered_choice_that_is_not_offered_now_is_measured_again(tmp_path: Path, measured: Measured) -> None:
    """Regression: a choice that was copied from another machine, or forged, was taken and refused at each start."""
    cache = tmp_path / "cache.json"
    choose(cache)
    for remembered in ("openvino bfloat16", "torch bfloat16", "openvino int8", "torch float16"):
        cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_bytes()), remembered)))
        before = measured.num_calls
        assert choose(cache) == choose(cache) == ("openvino", "float32")
        assert measured.num_calls == before + 1


def test_a_remembered_choice_is_taken_without_a_trial_unless_it_needs_one(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(choice, "shows", lambda feature: True)
    monkeypatch.setattr(choice, "bfloat16_works", lambda name: tried.append(name) or True)
    choose(tmp_path / "cache.json")
    tried.clear()
    assert choose(tmp_path / "cache.json") == ("openvino", "float32")
    assert not tried
    measured.times = {("openvino", "bfloat16"): 1.0}
    choose(tmp_path / "cache.json", sha="b")
    assert choose(tmp_path / "cache.json", sha="b") == ("openvino", "bfloat16")
    assert (measured.num_calls, len(tried)) == (2, 2)


def test_a_memory_that_cannot_be_written_costs_only_time(
    tmp_path: Path, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert choose(tmp_path / "file" / "cache.json") == ("openvino", "float32")
    assert "cannot remember" in caplog.text


def test_an_engine_that_computes_something_else_is_never_chosen(
    make_tensors: MakeTensors, plain_logits: Logits, small: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("onnxruntime")
    net = fold(make_tensors(small), small, lam=0.3, width=0.5)
    probe = Probe(images(2), plain_logits(net, images(2)))
    real = choice._plan

    def lying(make: object, settings: Settings, candidate: choice.Candidate) -> object:
        plan = real(make, settings, ("onnxruntime", "float32"))  # type: ignore[arg-type]
        return (lambda x: -plan(x)) if candidate[0] == "openvino" else plan

    monkeypatch.setattr(choice, "_plan", lying)
    times = choice.measure(lambda: net, probe, Settings(HW), [("openvino", "float32"), ("onnxruntime", "float32")])
    assert list(times) == [("onnxruntime", "float32")]
    with pytest.raises(BackendError, match="computes something else"):
        choice.measure(lambda: net, probe, Settings(HW), [("openvino", "float32")])


@pytest.mark.parametrize(
    ("precision", "share", "is_taken"),
    [("float32", 0.04, True), ("float32", 0.06, False), ("int8", 0.09, True), ("int8", 0.11, False)],
)
def test_an_engine_may_be_off_by_five_per_cent_of_the_largest_logit_and_by_ten_in_int8(
    make_tensors: MakeTensors,
    plain_logits: Logits,
    small: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    share: float,
    is_taken: bool,
) -> None:
    need("onnxruntime")
    net = fold(make_tensors(small), small, lam=0.3, width=0.5)
    probe = Probe(images(2), plain_logits(net, images(2)))
    real, off = choice._plan, share * np.abs(probe.logits_NK).max()

    def inexact(make: object, settings: Settings, candidate: choice.Candidate) -> object:
        plan = real(make, settings, ("onnxruntime", "float32"))  # type: ignore[arg-type]
        return (lambda x: plan(x) + off) if candidate[0] == "openvino" else plan

    monkeypatch.setattr(choice, "_plan", inexact)
    times = choice.measure(lambda: net, probe, Settings(HW), [("openvino", precision), ("onnxruntime", "float32")])
    assert (("openvino", precision) in times) == is_taken


def test_without_an_engine_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "available", lambda device: ())
    with pytest.raises(BackendError, match=r"no engine for cpu is installed: pip install 'oat-robot\[onnxruntime\]'"):
        choose(tmp_path / "cache.json")
    monkeypatch.setattr(backends, "_installed", lambda package: False)
    for name, extra in (("torch", "torch"), ("openvino", "openvino"), ("tensorrt", "onnxruntime")):
        with pytest.raises(BackendError, match=rf"not installed: pip install 'oat-robot\[{extra}\]'"):
            get_backend(name)  # type: ignore[arg-type]


def test_a_trial_of_bfloat16_that_cannot_be_made_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the trial imported torch, and where that was missing its failure was taken for a crash."""
    from oat_runtime.backends import trials

    for code, works in (("", True), ("import os; os.abort()", False)):
        trials.bfloat16_works.cache_clear()
        monkeypatch.setitem(trials._BFLOAT16, "openvino", code)
        assert trials.bfloat16_works("openvino") is works
    trials.bfloat16_works.cache_clear()
    monkeypatch.setitem(trials._BFLOAT16, "openvino", "import a_package_that_is_not_there")
    with pytest.raises(BackendError, match="could not be tried: ModuleNotFoundError"):
        trials.bfloat16_works("openvino")
    with monkeypatch.context() as patch, pytest.raises(BackendError, match=r"could not be tried: \[Errno"):
        patch.setattr(trials.sys, "executable", "")  # as in a program that Python is built into
        trials.bfloat16_works("openvino")
    monkeypatch.setattr(choice, "shows", lambda feature: True)
    with caplog.at_level(logging.WARNING):
        assert choice._precisions("openvino", Settings(HW), None, with_int8=False) == ("float32",)
    assert "bfloat16 is left out of the choice" in caplog.text
    trials.bfloat16_works.cache_clear()


@pytest.mark.parametrize("has_instructions", [False, True])
def test_bfloat16_on_a_cpu_without_its_instructions_is_said_to_be_slow(
    has_instructions: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: torch took 13 times as long for an image as the fastest engine in float32, without a word."""
    need("torch")
    from oat_runtime.backends import torch_backend

    monkeypatch.setattr(torch_backend, "multiplies_bfloat16", lambda: has_instructions)
    torch_backend._warn_of_slow_bfloat16.cache_clear()
    for _ in range(2):
        torch_backend.compile_network(lambda: static_net(CONFIGS["wide_resnet"], 0.5), Settings(HW, "bfloat16"))
    assert caplog.text.count("no instructions for bfloat16") == (not has_instructions)


def test_a_trial_runs_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a `numpy.py` in a folder that was downloaded ran, since the current folder came first in the path."""
    from oat_runtime.backends import trials

    for name in ("numpy", "json", "oat_runtime"):
        (tmp_path / f"{name}.py").write_text("import os; os.abort()")
    monkeypatch.chdir(tmp_path)
    assert trials._ends_well("import json, numpy, oat_runtime.backends", "packages are found")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert trials._ends_well("import oat_runtime.backends", "this package is found")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_no_engine_but_torchs_own_loads_torch(engine: BackendName, tiny_bundle: Path) -> None:
    need(engine)
    code = (
        "import sys\nfrom oat_runtime import OATRuntime\nimport numpy as np\n"
        f"runtime = OATRuntime.load({str(tiny_bundle)!r}, backend={engine!r})\n"
        "runtime.prepare(); runtime.set_lambda(0.25); runtime.set_width(0.5)\n"
        "runtime.predict(np.zeros((40, 50, 3), np.uint8)); runtime.close()\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('torch', 'training')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_plan_compiles_while_torch_runs_in_another_thread(
    engine: BackendName, make_tensors: MakeTensors, small: ModelConfig
) -> None:
    """Regression: a tracer patched torch for the whole process, and 1,584 of 1,846 calls in another thread failed."""
    torch = pytest.importorskip("torch")
    need(engine)
    from oat_runtime.backends.torch_net import TorchNet

    tensors, x = make_tensors(small), torch.from_numpy(images(1))
    net = TorchNet(fold(tensors, small, lam=0.3, width=0.5))
    compiling = threading.Event()
    compiling.set()

    def compile_plans() -> None:
        try:
            for lam in (0.0, 0.1, 0.2, 0.3, 0.4):
                get_backend(engine)(partial(fold, tensors, small, lam=lam, width=0.5), Settings(HW))
                get_backend(engine)(partial(share, tensors, small, width=0.5), Settings(HW), shared=True)
        finally:
            compiling.clear()

    expected, num_calls = net(x), 0
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(compile_plans)
        while compiling.is_set() or num_calls < 10:
            assert torch.equal(net(x), expected)
            num_calls += 1
        done.result()


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "share_of_largest"), [("float32", 2e-3), ("bfloat16", 0.05), ("float16", 0.01)])
def test_cuda_graphs_compute_both_forms(
    make_tensors: MakeTensors, plain_logits: Logits, small: ModelConfig, precision: Precision, share_of_largest: float
) -> None:
    tensors, settings = make_tensors(small), Settings(HW, precision, device="cuda")
    plain = fold(tensors, small, lam=0.25, width=0.5)
    folded = get_backend("torch")(lambda: plain, settings).plan()
    shared = get_backend("torch")(lambda: share(tensors, small, width=0.5), settings, shared=True)
    plans = {lam: shared.plan(constants(tensors, small, lam=lam, width=0.5)) for lam in (0.25, 1.0)}
    for num in (1, 3, 300, 1):
        x_NCHW = images(num)
        expected = plain_logits(plain, x_NCHW)
        atol = share_of_largest * float(np.abs(expected).max())
        np.testing.assert_allclose(folded(x_NCHW), expected, atol=atol)
        plans[1.0](x_NCHW)
        np.testing.assert_allclose(plans[0.25](x_NCHW), expected, atol=atol)


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: in a container whose user has no home, loading with engine `auto` ended in a foreign error."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "OAT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert choice.cache_path() is None and data_roots() == (BESIDE_PROJECT,)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert choice.cache_path() == Path("/caches/oat/backends.json")
