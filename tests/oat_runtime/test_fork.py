"""After `os.fork` a runtime says that it cannot run, and does not wait for threads that are not there."""

import subprocess
import sys
from pathlib import Path

import pytest

from oat_runtime.backends import BackendName, available

CHILD = """
import os, signal, sys
import numpy as np
from oat_runtime import OATRuntime, OperatingPoint
from oat_runtime.errors import OATError

bundle, engine = sys.argv[1:]
x_NCHW, frame = np.zeros((1, 3, 32, 32), np.float32), np.zeros((32, 32, 3), np.uint8)
runtime = OATRuntime.load(bundle, backend=engine, num_threads=2)
expected = runtime.infer(x_NCHW)
OATRuntime.load(bundle, backend=engine, num_threads=2).close()  # leaves threads behind that an engine would use again
child = os.fork()
if child == 0:
    signal.alarm(60)  # what waits for good ends by a signal
    calls = {
        "infer": lambda: runtime.infer(x_NCHW),
        "predict": lambda: runtime.predict(frame),
        "predict at": lambda: runtime.predict(frame, at=runtime.active),
        "predict_batch": lambda: runtime.predict_batch([frame]),
        "predict_regions": lambda: runtime.predict_regions(frame, [(0, 0, 9, 9)]),
        "predict_inputs": lambda: runtime.predict_inputs(x_NCHW),
        "set_lambda": lambda: runtime.set_lambda(0.0),
        "set_width": lambda: runtime.set_width(0.5),
        "set_point": lambda: runtime.set_point(lam=0.0, width=0.5, wait=False),
        "prepare": lambda: runtime.prepare(),
    }
    for name, call in calls.items():
        try:
            call()
            print(name, "ran")
        except OATError as error:
            if "fork" not in str(error):
                print(name, error)
    runtime.close()
    try:
        again = OATRuntime.load(bundle, backend=engine, num_threads=2)
        same = np.allclose(again.infer(x_NCHW), expected, atol=1e-4)
        print("loaded anew:", "same" if same else "other")
    except OATError as error:
        print("loaded anew:", "refused" if "fork" in str(error) else error)
    sys.stdout.flush()
    os._exit(0)
status = os.waitpid(child, 0)[1]
print("status", status, np.array_equal(runtime.infer(x_NCHW), expected))
"""


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_a_fork_is_told_so_and_what_was_forked_goes_on(tiny_bundle: Path, engine: BackendName) -> None:
    """Regression: a fork waited for threads that were not there: `predict` for torch's, and `load` for OpenVINO's."""
    if engine not in available():
        pytest.skip(f"{engine} is not installed")
    command = [sys.executable, "-c", CHILD, str(tiny_bundle), engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    anew = "same" if engine == "onnxruntime" else "refused"
    assert done.stdout.splitlines() == [f"loaded anew: {anew}", "status 0 True"], done.stderr
