"""Say what is told of a prediction: its class, or "unknown", and for a region the mean over its track."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from oat_runtime.prediction import Floats, Prediction

UNKNOWN, UNKNOWN_LABEL = "unknown", 65535
"""Answer below `min_confidence`. vision_msgs/LabelInfo reserves its largest class id for what has no label."""
MAX_TRACKS = 1024
"""Tracks that are remembered; a track's mean is a few hundred bytes."""


def is_unknown(prediction: Prediction, min_confidence: float) -> bool:
    """Return whether the most probable class is too improbable to be told.

    Args:
        prediction: whose confidence is the calibrated probability of its most probable class, at the operating point
            that ran. The policy and its record see it as it is.
        min_confidence: in [0, 1]; 0: everything is told.
    """
    return prediction.confidence < min_confidence


class TrackMeans:
    """Means of the calibrated probabilities over the images of each track, by the ids that a tracker gives its boxes.

    An image's weight falls by `exp(-age / time_constant_s)`, and all weights are divided by their sum.
    """

    def __init__(self, time_constant_s: float, class_names: Sequence[str]) -> None:
        """Start without tracks.

        Args:
            time_constant_s: time after which an image's weight has fallen to 37 %; 0: no means are taken.
            class_names: by label.
        """
        self._time_constant_s, self._class_names = time_constant_s, class_names
        # By the id's hash, since an id from outside may be long: time, sum of weights, mean.
        self._tracks: OrderedDict[int, tuple[float, float, Floats]] = OrderedDict()

    def smoothed(
        self, ids: Sequence[str], seen: Sequence[Prediction | None], *, now_s: float
    ) -> tuple[Prediction | None, ...]:
        """Return the regions of one image with the means of their tracks. Their logits stay this image's own.

        A region without an id, or with one that another region of this image has, too, stays as it is.

        Args:
            ids: of the regions.
            seen: what the network saw in each; None: it has no pixels.
            now_s: steady time of the image.
        """
        if not self._time_constant_s:
            return tuple(seen)
        times = Counter(ids)
        found = [
            self._mean(hash(name), prediction, now_s)
            if prediction is not None and name and times[name] == 1
            else prediction
            for name, prediction in zip(ids, seen, strict=True)
        ]
        while len(self._tracks) > MAX_TRACKS:
            self._tracks.popitem(last=False)
        return tuple(found)

    def _mean(self, track: int, prediction: Prediction, now_s: float) -> Prediction:
        before_s, weights, mean_K = self._tracks.pop(track, (now_s, 0.0, prediction.probabilities_K))
        weights = 1.0 + weights * math.exp((before_s - now_s) / self._time_constant_s)
        mean_K = mean_K + (prediction.probabilities_K - mean_K) * np.float32(1 / weights)
        self._tracks[track] = now_s, weights, mean_K
        label = int(mean_K.argmax())
        return replace(
            prediction,
            label=label,
            class_name=self._class_names[label],
            confidence=float(mean_K[label]),
            probabilities_K=mean_K,
        )
