"""Engines report their use to their makers, over the network, unless they are told not to before they are imported."""

from __future__ import annotations

import logging
import os
import sys

_LOG = logging.getLogger(__name__)
_ONNX_RUNTIME = "ORT_DISABLE_TELEMETRY"


def refuse_telemetry() -> None:
    """Stop the reports of ONNX Runtime and OpenVINO in this process and in those that it starts.

    ONNX Runtime 1.29 and newer writes a device id into the user's cache and looks up a host as soon as it is imported.
    If that has happened already, this says so in a warning: nothing takes it back.
    """
    if "onnxruntime" in sys.modules and os.environ.get(_ONNX_RUNTIME) != "1":
        _LOG.warning(
            "onnxruntime was imported before oat_runtime, so it may have reported to its maker: "
            "import oat_runtime first, or set %s=1 in the environment",
            _ONNX_RUNTIME,
        )
    os.environ[_ONNX_RUNTIME] = "1"
    # openvino takes its own empty stand-in where this package is not there.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
