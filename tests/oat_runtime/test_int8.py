"""Laws of int8: it computes the network to within its rounding, at every λ and width, or says why it cannot."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from oat_runtime.architecture import ModelConfig
from oat_runtime.backends import BackendName, Settings, compile_graph, get_backend
from oat_runtime.backends.int8_graph import quantized_weights, scale_and_zero, to_int8_onnx
from oat_runtime.bundle import Bundle, outcome_key
from oat_runtime.bundle.writer import attach_file, attach_quantization
from oat_runtime.errors import BackendError, BundleError
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.plain_net import Convolution, PlainNet, fold
from oat_runtime.quantization import Quantization, activation_sites, as_range
from oat_runtime.runtime import OATRuntime
from oat_runtime.untrained import static_net, untrained_int8_net
from tests.oat_runtime.engines import HW, images, need
from tests.oat_runtime.forged import plant

P, Floats = OperatingPoint, npt.NDArray[np.float32]
ENGINES: tuple[BackendName, ...] = ("onnxruntime", "openvino")
CONFIGS = {
    "wide_resnet": ModelConfig(depth=10, widen_factor=1, lambdas=(0.2, 1.0), widths=(0.5, 1.0)),
    "resnet": ModelConfig(family="resnet", depth=10, stem="7x7-stride2-pool", lambdas=(0.2, 1.0), widths=(0.125, 0.25)),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", CONFIGS)
def test_int8_computes_the_network_at_every_lambda_and_width(
    make_tensors: Callable[..., Any],
    plain_logits: Callable[..., Floats],
    quantization_of: Callable[..., Quantization],
    family: str,
    engine: BackendName,
) -> None:
    need(engine)
    config, tensors, x_NCHW = CONFIGS[family], make_tensors(CONFIGS[family]), images(2)
    quantization = quantization_of(tensors, config, x_NCHW)
    seen = dict[OperatingPoint, Floats]()
    points = [P(lam, width) for lam in (*config.lambdas, 0.6) for width in config.widths]
    for point in points if engine == "onnxruntime" else points[1::3]:  # OpenVINO compiles for longer
        net = fold(tensors, config, lam=point.lam, width=point.width, quantization=quantization)
        plan = get_backend(engine)(lambda net=net: net, Settings(HW, "int8")).plan()
        expected = plain_logits(net, x_NCHW)
        largest = float(np.abs(expected).max())
        seen[point] = np.concatenate([plan(x) for x in (x_NCHW[:1], x_NCHW[1:])])
        difference = np.abs(seen[point] - expected).max()
        assert 1e-4 * largest < difference <= 0.05 * largest, f"{point}: {difference:g} of {largest:g}"
    np.testing.assert_allclose(plan(x_NCHW), seen[point], atol=1e-3)
    plan.bare(x_NCHW)()
    assert all(np.abs(seen[point] - got).max() > 1e-3 for other, got in seen.items() if other != point)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_of_any_size_gives_what_each_image_gives_alone(engine: BackendName) -> None:
    """Sizes around the pieces of eight; on OpenVINO those between one and eight share one network."""
    need(engine)
    plan = get_backend(engine)(lambda: untrained_int8_net(CONFIGS["wide_resnet"], 0.5), Settings(HW, "int8")).plan()
    x_NCHW = images(17)
    expected = np.concatenate([plan(x_NCHW[at : at + 1]) for at in range(len(x_NCHW))])
    for num in (5, 7, 8, 9, 17, 2):
        np.testing.assert_allclose(plan(x_NCHW[:num]), expected[:num], atol=1e-3 * np.abs(expected).max())
    plan.bare(x_NCHW)()
    if engine == "openvino":
        assert sorted(plan.network._requests) == [-1, 1, 8]  # type: ignore[attr-defined]


def test_a_warm_point_has_all_networks_that_its_batches_need() -> None:
    need("openvino")
    plan = get_backend("openvino")(lambda: untrained_int8_net(CONFIGS["wide_resnet"], 0.5), Settings(HW, "int8")).plan()
    for most, sizes in ((1, [1]), (2, [-1, 1]), (7, [-1, 1]), (8, [-1, 1, 8])):
        plan.warm(most)
        assert sorted(plan.network._requests) == sizes  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", CONFIGS)
def test_onnxruntime_fuses_all_convolutions_but_the_first_and_all_additions_but_the_last(
    family: str, tmp_path: Path
) -> None:
    need("onnxruntime")
    import onnx
    import onnxruntime

    net = untrained_int8_net(CONFIGS[family], 0.5)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(to_int8_onnx(net, input_hw=HW), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert ops.count("QLinearConv") == num_block_convolutions(net)
    assert ops.count("QLinearAdd") == len(net.blocks) - 1
    assert ops.count("Conv") + ops.count("FusedConv") == 1


@pytest.mark.parametrize("family", CONFIGS)
def test_openvino_runs_all_convolutions_but_the_first_in_int8(family: str) -> None:
    need("openvino")
    import openvino

    net, core = untrained_int8_net(CONFIGS[family], 0.5), openvino.Core()
    model = core.read_model(to_int8_onnx(net, input_hw=HW), b"")
    model.reshape({"x_NCHW": [1, 3, *HW]})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": openvino.Type.f32})
    ran = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = {name: value.astype(str) for name, value in node.get_rt_info().items() if hasattr(value, "astype")}
        if about["layerType"] == "Convolution":
            ran.append(about["runtimePrecision"])
    assert ran.count("u8") == num_block_convolutions(net) and len(ran) == num_block_convolutions(net) + 1


def num_block_convolutions(net: PlainNet) -> int:
    return sum(2 + (block.shortcut is not None) for block in net.blocks)


@pytest.mark.parametrize("family", CONFIGS)
def test_sites_are_where_activations_are_rounded(family: str) -> None:
    pytest.importorskip("onnx")
    import onnx

    config = CONFIGS[family]
    graph = onnx.load_from_string(to_int8_onnx(untrained_int8_net(config, 0.5), input_hw=HW)).graph
    rounded = [node.name.removesuffix(".int8") for node in graph.node if node.op_type == "QuantizeLinear"]
    assert tuple(rounded) == activation_sites(config)


@pytest.mark.parametrize("family", CONFIGS)
def test_torch_measures_the_range_of_every_site(
    make_tensors: Callable[..., Any], quantization_of: Callable[..., Quantization], family: str
) -> None:
    torch = pytest.importorskip("torch")
    from oat_runtime.backends.torch_net import TorchNet, activation_ranges

    config, tensors = CONFIGS[family], make_tensors(CONFIGS[family])
    expected = quantization_of(tensors, config, images(4))
    for point in (P(config.lambdas[0], config.widths[0]), P(1.0, config.widths[1])):
        net = TorchNet(fold(tensors, config, lam=point.lam, width=point.width))
        found = activation_ranges(net, torch.from_numpy(images(4)).split(3))
        assert tuple(found) == activation_sites(config)
        for site, values in expected.at(point, config).items():
            assert found[site] == pytest.approx(values, rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match="got none"):
        activation_ranges(net, [])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("bad", [0, 2])
def test_an_activation_that_is_not_finite_is_refused_in_any_batch(
    make_tensors: Callable[..., Any], bad: int, value: float
) -> None:
    """Regression: only the first batch was looked at, because the union of (0, 3) and (NaN, NaN) is (0, 3)."""
    torch = pytest.importorskip("torch")
    from oat_runtime.backends.torch_net import TorchNet, activation_ranges

    config, x_NCHW = CONFIGS["wide_resnet"], images(3)
    x_NCHW[bad, 0, 5, 5] = value
    net = TorchNet(fold(make_tensors(config), config, lam=1.0, width=0.5))
    with pytest.raises(ValueError, match=r"expected finite activations, got .* at stem"):
        activation_ranges(net, torch.from_numpy(x_NCHW).split(1))


def test_a_lambda_between_two_knots_takes_what_holds_for_both(
    make_tensors: Callable[..., Any], quantization_of: Callable[..., Quantization]
) -> None:
    config = CONFIGS["wide_resnet"]
    quantization = quantization_of(make_tensors(config), config, images(2))
    low, high = (quantization.at(P(lam, 0.5), config) for lam in (0.2, 1.0))
    between = quantization.at(P(0.6, 0.5), config)
    assert any(low[site][1] > high[site][1] for site in low) and any(low[site][1] < high[site][1] for site in low)
    for site, (smallest, largest) in between.items():
        assert smallest == min(low[site][0], high[site][0]) and largest == max(low[site][1], high[site][1])
    assert quantization.at(P(0.2, 1.0), config) != low


@pytest.mark.parametrize("values", [(0.0, 6.0), (-3.0, 5.0), (-2.0, 0.0), as_range(0.5, 2.0), as_range(0.0, 0.0)])
def test_256_values_hold_zero_and_reach_both_ends(values: tuple[float, float]) -> None:
    scale, zero = scale_and_zero(values)
    reached = (np.array([0, 255]) - int(zero)) * float(scale)
    np.testing.assert_allclose(reached, values, atol=float(scale) / 2 * 1.001)
    assert values[0] <= 0.0 <= values[1]


def test_weights_are_rounded_to_the_nearest_step_and_a_dead_channel_keeps_its_bias() -> None:
    rng, step = np.random.default_rng(0), np.float32(0.02)
    weight_OIHW = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    weight_OIHW[1] *= 1e-12
    weight_OIHW[2] = 0.0
    bias_O = np.array([0.3, -0.7, 0.0, -2.0], np.float32)
    rounded, biases, scale_O = quantized_weights(Convolution(weight_OIHW, bias_O, 1, 1), step)
    assert biases is not None and rounded.dtype == np.int8 and biases.dtype == np.int32
    assert (np.abs(rounded * scale_O[:, None, None, None] - weight_OIHW) <= scale_O[:, None, None, None] * 0.501).all()
    np.testing.assert_allclose(biases * scale_O.astype(np.float64) * step, bias_O, rtol=1e-5, atol=2e-4)
    assert np.abs(rounded[[0, 3]]).max() == 127


@pytest.mark.parametrize("engine", ("torch", *ENGINES))
def test_what_does_not_run_in_int8_is_refused(engine: BackendName) -> None:
    need(engine)
    config = CONFIGS["wide_resnet"]
    says = "torch engine does not run in int8" if engine == "torch" else "this network has none"
    with pytest.raises(BackendError, match=says):
        get_backend(engine)(lambda: static_net(config, 0.5), Settings(HW, "int8"))
    says = "torch engine does not run in int8" if engine == "torch" else "compile it folded"
    with pytest.raises(BackendError, match=says):
        get_backend(engine)(lambda: untrained_int8_net(config, 0.5), Settings(HW, "int8"), shared=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_refuses_a_graph_names_a_way_out_that_exists(engine: BackendName) -> None:
    """Regression: in int8 both named the torch engine, which does not run in it."""
    need(engine)
    with pytest.raises(BackendError, match=r"(?s)refused the network .*: use precision='float32'"):
        compile_graph(engine, b"no graph", Settings(HW, "int8"))


def test_a_cpu_on_which_int8_crashes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from oat_runtime.backends import trials

    need("openvino")
    try:
        for script, works in (("", True), ("import os; os.abort()", False)):
            trials.int8_works.cache_clear()
            monkeypatch.setattr(trials, "shows", lambda feature: feature == "amx_int8")
            monkeypatch.setattr(trials, "_INT8", script)
            assert trials.int8_works() is works
        with pytest.raises(BackendError, match="int8 crashes OpenVINO on this CPU: use backend='onnxruntime'"):
            get_backend("openvino")(lambda: untrained_int8_net(CONFIGS["resnet"], 0.5), Settings(HW, "int8"))
        trials.int8_works.cache_clear()
        monkeypatch.setattr(trials, "shows", lambda feature: False)
        assert trials.int8_works()  # nothing to try
    finally:
        trials.int8_works.cache_clear()


def broken(document: dict[str, Any], change: str) -> str:
    point = document["points"][0]
    match change:
        case "too many sites":
            document["sites"] += ["more"]
        case "another order":
            document["sites"][:2] = reversed(document["sites"][:2])
        case "a range missing":
            point["ranges"].pop()
        case "a point missing":
            document["points"].pop()
        case "a point twice":
            document["points"][1] = point
        case "no zero in it":
            point["ranges"][0] = [0.5, 1.0]
        case "upside down":
            point["ranges"][0] = [1.0, -1.0]
        case "empty":
            point["ranges"][0] = [0.0, 0.0]
        case "too large":
            point["ranges"][0] = [0.0, 1e30]
        case "another form":
            document["form"] = "something else"
        case "a later schema":
            document["schema_version"] = 2
        case "infinite":
            return json.dumps(document).replace("[[", "[[-1e999, 1.0], [", 1)
    return json.dumps(document)


CHANGES = (
    "too many sites", "another order", "a range missing", "a point missing", "a point twice", "no zero in it",
    "upside down", "empty", "too large", "another form", "a later schema", "infinite",
)  # fmt: skip


@pytest.fixture
def folder(int8_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8_bundle, tmp_path / "tiny"))


def test_attached_ranges_come_back_and_leave_the_rest_as_it_was(tiny_bundle: Path, int8_bundle: Path) -> None:
    before, after = Bundle.load(tiny_bundle), Bundle.load(int8_bundle)
    quantization = after.quantization()
    assert quantization is not None and len(quantization.points) == 18 and before.quantization() is None
    assert after.manifest.quantization == "quantization.json" and after.sha256 != before.sha256
    assert after.manifest.tolerance("int8", 7.0) == pytest.approx(0.7)  # whatever was stated
    for name in before.manifest.files.keys() - {"outcomes.safetensors"}:
        assert (int8_bundle / name).read_bytes() == (tiny_bundle / name).read_bytes()
    assert after.manifest.figures == before.manifest.figures
    assert all(np.array_equal(hits, after.outcomes()[key]) for key, hits in before.outcomes().items())


def test_figures_of_int8_come_back_and_go_when_ranges_are_measured_anew(folder: Path) -> None:
    bundle = Bundle.load(folder)
    figures, quantization = bundle.manifest.figures["float32"], bundle.quantization()
    outcomes = {
        outcome_key(m.condition, row.point, precision="int8"): np.arange(m.num_total) < m.num_correct
        for row in figures.report.rows
        for m in row.measurements
    }
    assert quantization is not None
    counted = attach_quantization(bundle, quantization, probe_atol=0.5, figures=figures, outcomes=outcomes)
    assert counted.counted_in("int8") == "int8" and counted.counted_in("bfloat16") == "float32"
    assert all(hits.sum() > 0 for hits in counted.outcomes("int8").values())
    again = attach_quantization(counted, quantization, probe_atol=0.5)
    assert again.counted_in("int8") == "float32" and again.outcomes().keys() == bundle.outcomes().keys()


def test_published_suites_of_int8_go_when_the_ranges_are_others_and_the_log_names_them(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: a bundle with other ranges still held, and pages still showed, what was counted with the old ones."""
    of_float32, of_int8 = {"machine": {"threads": 1}}, {"machine": {"arithmetic": "int8 on an engine"}}
    content = json.dumps({"attacks": of_float32, "int8/attacks": of_int8}).encode()
    bundle = attach_file(Bundle.load(folder), "evaluation.json", content)
    quantization = bundle.quantization()
    assert quantization is not None
    elsewhere = quantization.model_copy(update={"measured": "elsewhere"})
    same = attach_quantization(bundle, elsewhere, probe_atol=0.5)
    assert (folder / "evaluation.json").read_bytes() == content and not caplog.text
    first, *others = quantization.points
    wider = tuple((2 * low, 2 * high) for low, high in first.ranges)
    other = quantization.model_copy(update={"points": (first.model_copy(update={"ranges": wider}), *others)})
    made = attach_quantization(same, other, probe_atol=0.5)
    assert json.loads((made.path / "evaluation.json").read_bytes()) == {"attacks": of_float32}
    assert "no longer holds int8/attacks, counted in int8 with other activation ranges" in caplog.text
    for damaged in (b"[]", b"{", b'{"attacks": 3}', b'{"attacks": {}}'):
        again = attach_quantization(attach_file(made, "evaluation.json", damaged), quantization, probe_atol=0.5)
        assert (again.path / "evaluation.json").read_bytes() == damaged
        made = attach_quantization(again, other, probe_atol=0.5)


def test_nothing_is_attached_where_others_counted_in_int8_meanwhile(folder: Path) -> None:
    bundle, again = Bundle.load(folder), Bundle.load(folder)
    figures, quantization = bundle.manifest.figures["float32"], bundle.quantization()
    assert quantization is not None
    outcomes = {
        outcome_key(m.condition, row.point, precision="int8"): np.arange(m.num_total) < m.num_correct
        for row in figures.report.rows
        for m in row.measurements
    }
    counted = attach_quantization(again, quantization, probe_atol=0.5, figures=figures, outcomes=outcomes)
    with pytest.raises(BundleError, match=r"changed meanwhile: .*: run the command again"):
        attach_quantization(bundle, quantization, probe_atol=0.5)
    assert Bundle.load(folder).sha256 == counted.sha256


def test_figures_that_do_not_fit_leave_the_bundle_as_it_was(folder: Path) -> None:
    bundle, before = Bundle.load(folder), {path.name: path.read_bytes() for path in folder.iterdir()}
    figures, quantization = bundle.manifest.figures["float32"], bundle.quantization()
    assert quantization is not None
    with pytest.raises(BundleError):
        attach_quantization(bundle, quantization, probe_atol=0.5, figures=figures, outcomes={})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("change", CHANGES)
def test_hostile_ranges_are_refused_in_one_line(folder: Path, change: str) -> None:
    path = folder / "quantization.json"
    plant(folder, path.name, broken(json.loads(path.read_bytes()), change).encode())
    with pytest.raises(BundleError, match="measure them again") as refused:
        Bundle.load(folder).quantization()
    assert len(str(refused.value)) < 600 and "\n" not in str(refused.value)
    with pytest.raises(BundleError):
        OATRuntime.load(folder, backend="onnxruntime", precision="int8")


def test_ranges_of_another_network_are_not_attached(tiny_bundle: Path, int8_bundle: Path, tmp_path: Path) -> None:
    quantization = Bundle.load(int8_bundle).quantization()
    assert quantization is not None
    other = quantization.model_copy(update={"points": quantization.points[1:]})
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "tiny"))
    with pytest.raises(BundleError, match="not of tiny: it must hold each trained lambda at each width once"):
        attach_quantization(bundle, other, probe_atol=1.0)
    assert bundle.sha256 == Bundle.load(bundle.path).sha256


@pytest.mark.parametrize("engine", ENGINES)
def test_the_runtime_runs_in_int8_at_any_point(int8_bundle: Path, engine: BackendName) -> None:
    need(engine)
    with closing(OATRuntime.load(int8_bundle, backend=engine, precision="int8", num_threads=1)) as runtime:
        assert (runtime.precision, runtime.plans, runtime.table_precision) == ("int8", "folded", "float32")
        x_NCHW = np.random.default_rng(4).random((1, 3, 32, 32), dtype=np.float32)
        at_start = runtime.infer(x_NCHW)
        for point in (P(0.7, 1.0), P(0.0, 0.5))[: 2 if engine == "onnxruntime" else 1]:  # OpenVINO compiles for longer
            assert runtime.set_point(lam=point.lam, width=point.width) == runtime.active == point
            assert not np.array_equal(runtime.infer(x_NCHW), at_start)


def test_a_bundle_without_ranges_says_how_to_get_them(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"tiny holds no activation ranges, .* oat-export --precision int8"):
        OATRuntime.load(tiny_bundle, backend="onnxruntime", precision="int8")


@pytest.mark.parametrize("exchanged", ["weights", "ranges"])
def test_other_weights_and_other_ranges_are_refused_in_int8(folder: Path, exchanged: str) -> None:
    """Their hashes fit; the probe tells. The manifest states a tolerance of 50, which counts as a tenth of a logit."""
    need("onnxruntime")
    if exchanged == "weights":
        name = "weights.safetensors"
        tensors = safetensors.numpy.load_file(folder / name)
        tensors["blocks.1.conv1.weight"] = np.roll(tensors["blocks.1.conv1.weight"], 1, axis=0)
        plant(folder, name, safetensors.numpy.save(tensors))
    else:
        name = "quantization.json"
        document = json.loads((folder / name).read_bytes())
        for point in document["points"]:
            point["ranges"] = [[low / 8, high / 8 + 1e-6] for low, high in point["ranges"]]
        plant(folder, name, json.dumps(document).encode())
    with pytest.raises(BundleError, match=r"probe of .* in int8"):
        OATRuntime.load(folder, backend="onnxruntime", precision="int8", num_threads=1)


def test_int8_weights_take_a_quarter_of_the_budget(int8_bundle: Path) -> None:
    """All 18 points of a WRN-16-2 would take 31 MB in float32; here a budget that holds 4 of them holds 16."""
    need("onnxruntime")
    net = fold(Bundle.load(int8_bundle).tensors(), Bundle.load(int8_bundle).manifest.model, lam=0.0, width=1.0)
    budget_mb = 4 * 4 * net.num_weights / 1e6
    load = partial(OATRuntime.load, int8_bundle, backend="onnxruntime", num_threads=1, memory_budget_mb=budget_mb)
    with closing(load(precision="int8")) as runtime, closing(load(plans="folded")) as other:
        for one in (runtime, other):
            one.prepare()
        assert all(runtime.is_prepared(row.point) for row in runtime.table.rows)
        assert not all(other.is_prepared(row.point) for row in other.table.rows)


def test_beyond_the_budget_int8_names_a_way_out_that_exists(
    int8_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: it named plans='shared', which int8 ignores."""
    need("onnxruntime")
    load = partial(OATRuntime.load, int8_bundle, backend="onnxruntime", precision="int8", num_threads=1)
    with caplog.at_level("WARNING"), closing(load(memory_budget_mb=0.01)) as runtime:
        runtime.prepare([P(0.0, 1.0), P(1.0, 1.0)])
    assert "raise memory_budget_mb, or use precision='float32'" in caplog.text
