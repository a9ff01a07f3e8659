"""Decide when a better setting may be taken: at once if it must be, otherwise by margin, settling and dwell time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from oat_runtime.errors import DataError, quoted
from policy.decision import Rule
from policy.snapshot import Remembering

_Rank = tuple[float, ...]
_MAX_BACK_OFF = 8.0


class Hysteresis(Remembering):
    """Move one knob, with a bounded number of moves.

    A move up in a fixed total order is a *climb*, and only a climb can be immediate. Each move makes the next waiting
    move wait one dwell time longer, or more (a leaky bucket). So in time T there are at most `len(ranks) + T / dwell_s`
    moves on any input: before a waiting move at time t there were at most t / dwell_s moves, and after it the setting
    can only climb.

    If a waiting move is taken back within a dwell time, the following dwell times double, up to eightfold. A waiting
    move that lasts halves them again. So it becomes ever harder to provoke moves.
    """

    _REMEMBERED = (
        "_current", "_earliest_s", "_back_off", "_waited_at_s", "_target", "_target_since_s", "_leaving_since_s"
    )  # fmt: skip

    def __init__(
        self,
        ranks: Mapping[float, _Rank],
        *,
        start: float | None,
        dwell_s: float,
        margin: float,
        settle_s: float = 0.0,
        urgent: Literal["climb", "forced climb"] = "climb",
    ) -> None:
        """Set up the knob.

        Args:
            ranks: the total order; higher is safer.
            start: first setting; None: the first target.
            dwell_s: least mean time between moves.
            margin: advantage that a waiting move needs.
            settle_s: how long the target of a waiting move must have stayed the same. So one move goes all the way,
                instead of several that follow a moving target. A target that keeps moving waits for a dwell time.
            urgent: which climbs are immediate: all, or only those that leave a setting that is no longer allowed.
        """
        self.ranks = dict(ranks)
        self._current = start
        self._dwell_s, self._margin, self._settle_s = dwell_s, margin, settle_s
        self._urgent = urgent
        self._earliest_s = 0.0
        self._back_off = 1.0
        self._waited_at_s: float | None = None
        self._target: float | None = None
        self._target_since_s = 0.0
        self._leaving_since_s = 0.0

    @property
    def current(self) -> float:
        """The present setting."""
        assert self._current is not None, "read before the first step"
        return self._current

    def step(self, scores: Mapping[float, float], *, elapsed_s: float) -> tuple[float, Rule]:
        """Move, or hold, and return the rule that applied.

        Args:
            scores: score of each allowed setting, not empty. If the present setting is absent, no margin is needed to
                leave it.
            elapsed_s: time so far; never decreases.

        Returns:
            The best setting (ties go to the higher rank), and what was done about it.
        """
        target = max(scores, key=lambda setting: (scores[setting], self.ranks[setting]))
        if self._current is None:
            self._current = target
            return target, Rule.START
        if self._target is None or self._target == self._current:
            self._leaving_since_s = elapsed_s
        if target != self._target:
            self._target, self._target_since_s = target, elapsed_s
        if target == self._current:
            return target, Rule.KEEP
        forced = self._current not in scores
        if self.ranks[target] > self.ranks[self._current] and (forced or self._urgent == "climb"):
            self._climb(target, elapsed_s)
            return target, Rule.SWITCH if forced else Rule.RAISE
        if not forced and scores[target] - scores[self._current] < self._margin:
            self._leaving_since_s = elapsed_s
            return target, Rule.HOLD_MARGIN
        if elapsed_s < self._earliest_s or not self._is_settled(elapsed_s):
            return target, Rule.HOLD_DWELL
        self._wait_is_over(target, elapsed_s)
        return target, Rule.SWITCH

    def restore(self, saved: Any) -> None:
        """As in `Remembering`; the settings must be among this knob's."""
        super().restore(saved)
        known = {*self.ranks, None}
        if not {self._current, self._target} <= known or not 1.0 <= self._back_off <= _MAX_BACK_OFF:
            raise DataError(f"expected a state of a knob with the settings {list(self.ranks)}, got {quoted(saved)}")

    def _is_settled(self, elapsed_s: float) -> bool:
        settled = elapsed_s - self._target_since_s >= self._settle_s
        return settled or elapsed_s - self._leaving_since_s >= max(self._dwell_s, self._settle_s)

    def _climb(self, target: float, elapsed_s: float) -> None:
        if self._waited_at_s is not None:
            soon = elapsed_s - self._waited_at_s < self._dwell_s
            self._back_off = min(2.0 * self._back_off, _MAX_BACK_OFF) if soon else max(0.5 * self._back_off, 1.0)
            self._waited_at_s = None
        self._move(target, elapsed_s)

    def _wait_is_over(self, target: float, elapsed_s: float) -> None:
        if self._waited_at_s is not None:
            self._back_off = max(0.5 * self._back_off, 1.0)
        self._waited_at_s = elapsed_s
        self._move(target, elapsed_s)

    def _move(self, target: float, elapsed_s: float) -> None:
        self._current = target
        self._earliest_s = max(self._earliest_s, elapsed_s) + self._dwell_s * self._back_off
