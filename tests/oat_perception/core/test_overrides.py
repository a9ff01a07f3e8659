"""Both knobs change at once, and each end is named once."""

from __future__ import annotations

from oat_perception.core.overrides import Overrides, what_changed

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


def test_the_log_says_what_changed_and_nothing_else() -> None:
    before = {"lambda": Override(0.2), "width": Override(0.5, expires_s=40.0)}
    assert what_changed(before, dict(before), now_s=10.0) == ""
    assert what_changed({}, before, now_s=10.0) == "lambda set to 0.2, width set to 0.5 for 30 s"
    assert what_changed(before, {"lambda": Override(1.0)}, now_s=10.0) == (
        "lambda set to 1, width given back to the policy"
    )
