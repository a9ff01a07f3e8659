"""The shipped bundles stay as they are, and every engine computes their networks."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from oat_runtime import SHIPPED_BUNDLE, Bundle, OATRuntime, OperatingPoint
from oat_runtime.backends import BackendName, available
from oat_runtime.backends.trials import bfloat16_works
from oat_runtime.bundle.loss import DEFAULT_LOSS, objection
from oat_runtime.errors import BundleError
from oat_runtime.operating_point import Precision

BUNDLES = SHIPPED_BUNDLE.parent
SHA256 = {
    "cifar10-wrn-16-4": "9011ea6be1d279f6e670e639b3372005edf2711740f2553b7f538e6f57d8b4d0",
    "gtsrb-wrn-16-2": "ff287a4a7823540332a6a68a76ae6ddeebf4a2758e2fe0f2a279c13da1cf6159",
    "robocup-wrn-16-2": "f70d8af4ab15bbe12b5894d983627b7eb78739f5fc8a68b6ac2a41b1ebe33243",
}
"""Of each manifest, which holds the hashes of the other files."""


def replay(runtime: OATRuntime, *, at: OperatingPoint | None = None, precision: Precision = "float32") -> float:
    """The largest difference from the probe, with every point of the probe answered by itself or by `at`."""

    def logits_at(x_NCHW: npt.NDArray[np.float32], point: OperatingPoint) -> npt.NDArray[np.float32]:
        asked = at or point
        assert runtime.set_point(lam=asked.lam, width=asked.width) == asked
        return runtime.infer(x_NCHW)

    return runtime.bundle.replay_probe(logits_at, precision=precision)


@pytest.mark.parametrize("name", SHA256)
def test_no_file_of_a_bundle_changes(name: str) -> None:
    bundle = Bundle.load(BUNDLES / name)
    assert bundle.sha256 == SHA256[name]
    assert {path.name for path in bundle.path.iterdir()} == {"manifest.json", "manifest.sha256", *bundle.manifest.files}


@pytest.mark.parametrize(
    ("engine", "plans"),
    [
        ("torch", "shared"),
        ("torch", "folded"),
        ("onnxruntime", "shared"),
        ("onnxruntime", "folded"),
        ("openvino", "shared"),
        pytest.param("openvino", "folded", marks=pytest.mark.slow),  # it compiles 18 networks for 8 s
    ],
)
@pytest.mark.parametrize("name", SHA256)
def test_every_engine_passes_the_probe_at_every_point(
    name: str, engine: BackendName, plans: Literal["shared", "folded"]
) -> None:
    if engine not in available():
        pytest.skip(f"{engine} is not installed")
    runtime = OATRuntime.load(BUNDLES / name, backend=engine, precision="float32", plans=plans, num_threads=1)
    # The manifest allows 2e-3, in which twice the batch norms' epsilon would hide: it makes 8e-4.
    assert replay(runtime) < 1e-4
    runtime.close()


@pytest.mark.parametrize(("engine", "trial"), [("openvino", "openvino"), ("torch", "torch-inference")])
@pytest.mark.parametrize("name", SHA256)
def test_bfloat16_has_a_tolerance_of_its_own(
    name: str, engine: BackendName, trial: Literal["openvino", "torch-inference"]
) -> None:
    """Regression: bfloat16 was held to float32's tolerance, and no engine passed."""
    if engine not in available() or not bfloat16_works(trial):
        pytest.skip(f"{engine} has no bfloat16 here")
    if engine == "openvino":
        from oat_runtime.backends.openvino_backend import has_bfloat16

        if not has_bfloat16():
            pytest.skip("OpenVINO has no bfloat16 on this CPU")
    runtime = OATRuntime.load(BUNDLES / name, backend=engine, precision="bfloat16", num_threads=1)
    assert (runtime.table_precision, runtime.table) == ("float32", runtime.bundle.select)
    with pytest.raises(BundleError, match=r"allowed 0\.002 in float32"):
        replay(runtime)
    assert replay(runtime, precision="bfloat16") < 0.3  # up to 0.2, of logits up to 13
    runtime.close()


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SHA256)
def test_int8_passes_the_probe_at_every_point_and_has_figures_of_its_own(name: str, engine: BackendName) -> None:
    if engine not in available():
        pytest.skip(f"{engine} is not installed")
    runtime = OATRuntime.load(BUNDLES / name, backend=engine, precision="int8", num_threads=1)
    assert (runtime.table_precision, runtime.table) == ("int8", runtime.bundle.table("select", "int8"))
    assert runtime.table != runtime.bundle.select
    assert replay(runtime, precision="int8") > 0.0
    assert objection(runtime.bundle, "int8", DEFAULT_LOSS) == ""
    runtime.close()


@pytest.mark.parametrize("plans", ["shared", "folded"])
@pytest.mark.parametrize("name", SHA256)
def test_the_probe_fails_where_one_point_answers_for_all(
    name: str, plans: Literal["shared", "folded"], engine: BackendName
) -> None:
    runtime = OATRuntime.load(BUNDLES / name, backend=engine, precision="float32", plans=plans, num_threads=1)
    with pytest.raises(BundleError, match="probe"):
        replay(runtime, at=runtime.active)
    runtime.close()
