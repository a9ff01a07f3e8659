"""Hold the operator's λ and width: what lasts, and over it what has an expiry."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from policy.signals import Override


class Overrides:
    """For each knob (`lambda`, `width`) at most one override that lasts, and one with an expiry that holds over it.

    Changed by one thread, read by any: all is swapped as one reference, so a reader never sees half of a change.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._layers: tuple[Mapping[str, Override], Mapping[str, Override]] = {}, {}

    @property
    def held(self) -> Mapping[str, Override]:
        """The override of each knob that has one, as of the last change."""
        lasting, timed = self._layers
        return {**lasting, **timed}

    def at(self, now_s: float) -> Mapping[str, Override]:
        """Return the same as of a moment: an override that has expired by then covers none that lasts."""
        lasting, timed = self._layers
        return {**lasting, **{knob: override for knob, override in timed.items() if override.active(now_s)}}

    @property
    def next_expiry_s(self) -> float | None:
        """When the next one expires; None where none does."""
        return min((held.expires_s for held in self._layers[1].values() if held.expires_s is not None), default=None)

    def put(self, changes: Mapping[str, Override | None]) -> list[str]:
        """Set or release (None) some knobs at once, and return the knobs that this released.

        One with an expiry is laid over what lasts. One that lasts, and a release, also end what lay over it.
        """
        before = self.held
        lasting, timed = map(dict, self._layers)
        for knob, override in changes.items():
            timed.pop(knob, None)
            if override is not None and override.expires_s is not None:
                timed[knob] = override
            elif override is not None:
                lasting[knob] = override
            else:
                lasting.pop(knob, None)
        self._layers = lasting, timed
        return [knob for knob in before if knob not in self.held]

    def expire(self, now_s: float) -> list[str]:
        """End the overrides that have expired, and return their knobs; what lasts below them holds again."""
        return self._end(lambda override: not override.active(now_s))

    def end_timed(self) -> list[str]:
        """End all overrides with an expiry, and return their knobs; what lasts below them holds again."""
        return self._end(lambda _: True)

    def _end(self, is_over: Callable[[Override], bool]) -> list[str]:
        lasting, timed = self._layers
        ended = [knob for knob, override in timed.items() if is_over(override)]
        self._layers = lasting, {knob: override for knob, override in timed.items() if knob not in ended}
        return ended


def what_changed(before: Mapping[str, Override], after: Mapping[str, Override], *, now_s: float) -> str:
    """Return the difference of two sets of overrides as a clause for the log, or an empty text where there is none."""
    clauses = []
    for knob in sorted({*before, *after}):
        override = after.get(knob)
        if override == before.get(knob):
            continue
        if override is None:
            clauses.append(f"{knob} given back to the policy")
        else:
            until = "" if override.expires_s is None else f" for {override.expires_s - now_s:.3g} s"
            clauses.append(f"{knob} set to {override.value:g}{until}")
    return ", ".join(clauses)
