"""When a better setting may be taken: at once if it is strictly safer, else by margin and dwell time."""

from __future__ import annotations

from collections.abc import Mapping

from policy.decision import Rule

_Rank = tuple[float, float, float]


class Hysteresis:
    """One knob with a bounded number of changes.

    Only a move to a higher rank in a fixed total order is immediate. Each change puts the next waiting move off by one
    dwell time more (a leaky bucket), so in time T there are at most `len(ranks) + T / dwell_s` changes on any input:
    up to a waiting move at time t there were at most t / dwell_s changes, and from there on it can only climb.
    """

    def __init__(self, ranks: Mapping[float, _Rank], *, start: float | None, dwell_s: float, margin: float) -> None:
        """Start at `start` and dwell there once; where None, start at the first target."""
        self.ranks = dict(ranks)
        self._current = start
        self._dwell_s = dwell_s
        self._margin = margin
        self._earliest_s = 0.0 if start is None else dwell_s

    @property
    def current(self) -> float:
        """The setting in force."""
        assert self._current is not None, "read before the first step"
        return self._current

    def step(self, scores: Mapping[float, float], *, elapsed_s: float) -> tuple[float, Rule]:
        """Move, or hold and say why.

        Args:
            scores: worth of each admissible setting, not empty; a current setting that is absent may be left
                without a margin.
            elapsed_s: time so far; never decreases.

        Returns:
            The best setting (ties go to the higher rank), and what was done about it.
        """
        target = max(scores, key=lambda setting: (scores[setting], self.ranks[setting]))
        if self._current is None:
            self._current = target
            return target, Rule.START
        if target == self._current:
            return target, Rule.KEEP
        if self.ranks[target] > self.ranks[self._current]:
            self._move(target, elapsed_s)
            return target, Rule.RAISE
        if self._current in scores and scores[target] - scores[self._current] < self._margin:
            return target, Rule.HOLD_MARGIN
        if elapsed_s < self._earliest_s:
            return target, Rule.HOLD_DWELL
        self._move(target, elapsed_s)
        return target, Rule.SWITCH

    def _move(self, target: float, elapsed_s: float) -> None:
        self._current = target
        self._earliest_s = max(self._earliest_s, elapsed_s) + self._dwell_s
