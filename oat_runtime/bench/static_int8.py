"""Make a static int8 network with the engines' own tool, as an anchor for `oat_runtime.bench.int8`."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np

from oat_runtime.backends.plan import Floats
from oat_runtime.errors import BackendError, one_line
from oat_runtime.plain_net import PlainNet


def quantize_static(net: PlainNet, calibration_NCHW: Floats, *, input_hw: tuple[int, int]) -> bytes:
    """Return a network as ONNX Runtime's `quantize_static` makes it of the float one: ONNX, with rounding marked.

    Weights are signed with a scale a channel, activations unsigned, ranges those of all values: what it offers for x86.

    Raises:
        BackendError: the tool cannot be loaded.
    """
    try:
        from onnxruntime import quantization as tool
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:  # older ones may want sympy
        raise BackendError(
            f"onnxruntime's quantize_static cannot be loaded ({one_line(error)}): pip install onnxruntime sympy"
        ) from None
    from oat_runtime.backends.onnx_graph import INPUT, to_onnx

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(np.array_split(calibration_NCHW, -(-len(calibration_NCHW) // 32)))

        def get_next(self) -> dict[str, Floats] | None:
            x_NCHW = next(self._left, None)
            return None if x_NCHW is None else {INPUT: x_NCHW}

    with tempfile.TemporaryDirectory() as folder:
        whole, fused, rounded = (Path(folder) / f"{name}.onnx" for name in ("whole", "fused", "rounded"))
        whole.write_bytes(to_onnx(net, input_hw=input_hw))
        quant_pre_process(str(whole), str(fused), skip_symbolic_shape=True)
        logging.disable(logging.WARNING)  # it logs advice to the root logger
        try:
            tool.quantize_static(
                str(fused), str(rounded), Reader(), quant_format=tool.QuantFormat.QDQ, per_channel=True,
                activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        return rounded.read_bytes()
