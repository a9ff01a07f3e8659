"""Hold the operator's λ and width, with their expiries."""

from __future__ import annotations

from collections.abc import Mapping

from policy.signals import Override


class Overrides:
    """At most one override for each knob (`lambda`, `width`). Changed by one thread, read by any.

    All knobs are swapped as one reference, so a reader never sees half of a change.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._held: Mapping[str, Override] = {}

    @property
    def held(self) -> Mapping[str, Override]:
        """The active overrides, by knob; never changed in place."""
        return self._held

    @property
    def next_expiry_s(self) -> float | None:
        """When the first of those in force expires; None where none does."""
        return min((held.expires_s for held in self._held.values() if held.expires_s is not None), default=None)

    def put(self, changes: Mapping[str, Override | None]) -> list[str]:
        """Set or release (None) some knobs at once, and return the knobs that this released."""
        before = self._held
        merged = {**before, **changes}
        self._held = {knob: override for knob, override in merged.items() if override is not None}
        return [knob for knob in before if knob not in self._held]

    def expire(self, now_s: float) -> list[str]:
        """Drop the overrides that have expired, and return their knobs."""
        return self.put({knob: None for knob, override in self._held.items() if not override.active(now_s)})

    def end_timed(self) -> list[str]:
        """Drop all overrides with an expiry, and return their knobs."""
        return self.put({knob: None for knob, override in self._held.items() if override.expires_s is not None})


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
