"""Both knobs change at once, and each end is named once."""

from __future__ import annotations

from oat_perception.core.overrides import Overrides

from policy.signals import Override


def test_overrides_are_swapped_whole_and_name_what_ended() -> None:
    overrides = Overrides()
    assert overrides.put({"lambda": Override(0.2), "width": Override(0.5, expires_s=10.0)}) == []
    seen = overrides.held
    assert overrides.put({"lambda": None}) == ["lambda"]
    assert set(seen) == {"lambda", "width"}, "a reader's view never changes under it"
    assert overrides.expire(9.9) == []
    assert overrides.expire(10.0) == ["width"]
    assert overrides.put({"lambda": None}) == [], "nothing ends twice"
    overrides.put({"lambda": Override(0.2), "width": Override(0.5, expires_s=10.0)})
    assert overrides.end_timed() == ["width"]
