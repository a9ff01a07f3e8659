"""Define the network's result for one image, with calibrated probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oat_runtime.operating_point import OperatingPoint

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The network's result for one frame.

    Attributes:
        point: the operating point that produced it, never a mix of two.
        label: index of the most probable class.
        class_name: its name.
        confidence: its calibrated probability in [0, 1].
        probabilities_K: calibrated probabilities, float32, sum 1.
        logits_K: float32, as the network gave them.
        preprocess_ms: time from frame to network input; if it came in a batch, of the whole batch.
        latency_ms: time of the network alone; if it came in a batch, of the whole batch.
    """

    point: OperatingPoint
    label: int
    class_name: str
    confidence: float
    probabilities_K: Floats
    logits_K: Floats
    preprocess_ms: float
    latency_ms: float


def softmax(logits_K: Floats, temperature: float) -> Floats:
    """Return probabilities (K,) float32 of logits divided by a calibration temperature (Guo et al. 2017)."""
    scaled_K = logits_K / np.float32(temperature)
    exp_K = np.exp(scaled_K - scaled_K.max())
    probabilities_K: Floats = (exp_K / exp_K.sum()).astype(np.float32)
    return probabilities_K
