"""A user's program: `test_types.py` checks its types, and `tools/check_wheel.py` does so with the wheel and runs it."""

import json
from typing import assert_type

import numpy as np
import numpy.typing as npt

import oat_runtime
from oat_runtime import Bundle, InputSpec, OATError, OATRuntime, OperatingPoint, OperatingTable, Prediction
from policy import AdaptivePolicy, Decision, PolicyConfig, Signals, image_statistics


def main() -> None:
    bundle = assert_type(Bundle.load("cifar10-wrn-16-4"), Bundle)
    runtime = assert_type(OATRuntime(bundle), OATRuntime)
    policy = AdaptivePolicy(assert_type(runtime.table, OperatingTable), PolicyConfig())
    spec = assert_type(bundle.input, InputSpec)
    frame_HWC = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    statistics = image_statistics((frame_HWC.transpose(2, 0, 1) / 255).astype(np.float32))
    decision = assert_type(policy.step(Signals(now_s=0.0, image=statistics)), Decision)
    runtime.set_point(lam=decision.point.lam, width=decision.point.width)

    assert assert_type(runtime.set_lambda(0.4), OperatingPoint).lam == 0.4
    assert assert_type(runtime.set_width(0.5), OperatingPoint) == runtime.active == OperatingPoint(0.4, 0.5)
    answer = assert_type(runtime.predict(frame_HWC), Prediction)
    assert answer.point == runtime.active and np.isfinite(assert_type(answer.logits_K, npt.NDArray[np.float32])).all()
    try:
        runtime.set_lambda(1.3)
    except OATError as error:
        refusal = str(error)
    runtime.close()
    print(json.dumps({"version": oat_runtime.__version__, "class": answer.class_name, "refusal": refusal}))


if __name__ == "__main__":
    main()
