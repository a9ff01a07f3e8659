"""Count images and times of one activation, for diagnostics."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from oat_perception.core.perception import FrameResult
from oat_runtime.timing import p50_p99

_WINDOW = 300
"""Number of frames for the percentiles."""
_RECENT_S = 5.0
"""Time for the rate, and for which at least a refused image is a warning and a failed one an error."""
_NUM_DARK = 15
"""Images in a row, nearly black, that are a warning: a camera's first ones may be dark."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tally at one moment; times on the steady clock.

    `recent_error` is empty once an image was processed after the last one that failed, and five seconds have passed;
    `recent_refusal` likewise.
    """

    num_received: int
    num_processed: int
    num_errors: int
    recent_error: str
    num_probes: int
    refused: Mapping[str, int]
    num_out_of_order: int
    recent_refusal: str
    brightest: int
    is_nearly_black: bool
    last_received_s: float | None
    in_work_since_s: float | None
    rate_hz: float
    inference_ms: tuple[float, float]
    total_ms: tuple[float, float]
    policy_ms: tuple[float, float]
    last: FrameResult | None


@dataclass(slots=True)
class Tally:
    """Counts of one activation. Written by the receiving and by the inference thread."""

    num_received: int = 0
    num_processed: int = 0
    num_errors: int = 0
    num_probes: int = 0
    num_out_of_order: int = 0
    brightest: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    last_received_s: float | None = None
    in_work_since_s: float | None = None
    _last_stamp_ns: int | None = None
    _num_dark: int = 0
    _last_refusal: tuple[float, str] | None = None
    _last_error: tuple[float, str] | None = None
    _is_failing: bool = False
    _is_refusing: bool = False
    _done_s: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _inference_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _total_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _policy_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _last: FrameResult | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def received(self, now_s: float, stamp_ns: int) -> None:
        """Count an image message, good or bad. A stamp may go back if a bag begins again or a clock is set."""
        with self._lock:
            self.num_received += 1
            self.last_received_s = now_s
            self.num_out_of_order += self._last_stamp_ns is not None and stamp_ns < self._last_stamp_ns
            self._last_stamp_ns = stamp_ns

    def shone(self, brightest: int, *, is_dark: bool) -> None:
        """Note the brightest value of an image, 0 to 255, and whether that is nearly black."""
        with self._lock:
            self.brightest = brightest
            self._num_dark = self._num_dark + 1 if is_dark else 0

    def begin(self, now_s: float | None) -> None:
        """Note that work on an image begins; None: it has ended."""
        self.in_work_since_s = now_s

    def refuse(self, reason: str, now_s: float, *, num: int = 1) -> None:
        """Count a dropped image, or `num` of its regions, by its reason: the text before the colon."""
        with self._lock:
            self.refused[reason.split(":")[0]] += num
            self._last_refusal, self._is_refusing = (now_s, reason), True

    def failed(self, reason: str, now_s: float) -> None:
        """Count an image that failed for a reason other than the image itself."""
        with self._lock:
            self.num_errors += 1
            self._last_error, self._is_failing = (now_s, reason), True

    def processed(self, result: FrameResult, *, now_s: float, total_ms: float) -> None:
        """Count a published result."""
        with self._lock:
            self.num_processed += 1
            self._is_failing = self._is_refusing = False
            self.num_probes += bool(result.probes)
            self._done_s.append(now_s)
            self._inference_ms.append(result.prediction.latency_ms)
            self._total_ms.append(total_ms)
            self._policy_ms.append(result.policy_ms)
            self._last = result

    def snapshot(self, now_s: float) -> Snapshot:
        """Return all counts at one moment."""
        with self._lock:
            recent = [done_s for done_s in self._done_s if now_s - done_s <= _RECENT_S]
            refused_s, refusal = self._last_refusal or (now_s, "")
            failed_s, error = self._last_error or (now_s, "")
            span_s = now_s - recent[0] if recent else 0.0
            return Snapshot(
                num_received=self.num_received,
                num_processed=self.num_processed,
                num_errors=self.num_errors,
                recent_error=error if self._is_failing or now_s - failed_s <= _RECENT_S else "",
                num_probes=self.num_probes,
                num_out_of_order=self.num_out_of_order,
                brightest=self.brightest,
                is_nearly_black=self._num_dark >= _NUM_DARK,
                refused=dict(self.refused),
                recent_refusal=refusal if self._is_refusing or now_s - refused_s <= _RECENT_S else "",
                last_received_s=self.last_received_s,
                in_work_since_s=self.in_work_since_s,
                rate_hz=len(recent) / span_s if span_s > 0 else 0.0,
                inference_ms=_percentiles(self._inference_ms),
                total_ms=_percentiles(self._total_ms),
                policy_ms=_percentiles(self._policy_ms),
                last=self._last,
            )


def _percentiles(values: deque[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    return p50_p99(np.array(values))
